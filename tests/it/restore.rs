//! A backup restored into another cluster: its transaction numbers begin again, and the log goes on after what was
//! restored.

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use steadfast_tests::Settings;

use crate::support::{Api, Layout, Role, Stack};

/// How far the old cluster's counter is ahead of a new one's.
const BURN: &str = "do $$ begin for n in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$";
const RUNS: usize = 12;

async fn connect(stack: &Stack) -> PgConnection {
    let postgres = stack.postgres.as_ref().expect("a Postgres of its own");
    let url = postgres.url("postgres");
    PgConnection::connect(&url).await.expect("a connection")
}

/// The next transaction's number.
async fn next_transaction(stack: &Stack) -> i64 {
    let sql = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let asked = sqlx::query_scalar(sql).fetch_one(&mut connect(stack).await).await;
    asked.expect("a number")
}

async fn completed(api: &Api, n: usize) -> String {
    let run = api
        .task(json!({"input": format!(r#"[[tool:calculator {{"expression":"{n} + 1"}}]]"#)}))
        .await;
    assert_eq!(api.ended(&run).await["status"], "completed");
    run
}

/// Waits until the list of runs knows all of these.
async fn listed(api: &Api, runs: &[String]) {
    let known = async {
        loop {
            let listed = api.listed_runs().await;
            if runs.iter().all(|run| listed.contains(run)) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), known).await;
    waited.expect("the list of runs goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_restored_into_a_fresh_cluster_works_once_it_is_told() {
    let slow = Settings {
        ttft_ms: 20,
        token_ms: 5,
        ..Settings::default()
    };
    let mut stack = Layout::distributed().model(slow).private_servers().start().await;
    connect(&stack).await.execute(BURN).await.expect("burnt");

    let api = stack.api();
    let mut runs = vec![];
    for n in 0..RUNS {
        runs.push(completed(&api, n).await);
    }
    let asking = json!({"input": "[[tool:ask {}]] [[then]] [[say:thank you]]", "tools": [{"name": "ask"}]});
    let waiting = api.task(asking).await;
    let calls = api.waits_for(&waiting, 1).await;
    let streaming = api.task(json!({"input": "[[tokens:2000]]"})).await;
    api.until(&streaming, |frame| frame.name == "agent.message.delta").await;
    runs.extend([waiting.clone(), streaming.clone()]);
    let before: Vec<Vec<String>> = futures::future::join_all(runs[..RUNS].iter().map(|run| api.events(run))).await;
    listed(&api, &runs).await;

    // A backup while it works; then cluster and queue are gone.
    let dump = stack
        .postgres
        .as_ref()
        .expect("ours")
        .dump("postgres")
        .await
        .expect("a backup");
    let old_counter = next_transaction(&stack).await;
    stack.roles().for_each(Role::kill9);
    stack.nats.as_mut().expect("ours").wipe();
    stack
        .nats
        .as_mut()
        .expect("ours")
        .restart()
        .await
        .expect("NATS is back");
    let postgres = stack.postgres.as_mut().expect("ours");
    postgres.renew().await.expect("a fresh cluster");
    postgres.restore("postgres", &dump).await.expect("restored");
    let counter = next_transaction(&stack).await;
    assert!(
        counter < old_counter,
        "the fresh cluster counts from {counter}, the old one came to {old_counter}"
    );

    // Nobody goes on by accident, and everybody says what to do.
    for args in [
        &["gateway", "--port", "0"][..],
        &["worker", "--port", "0"],
        &["projector", "--port", "0"],
        &["migrate"],
    ] {
        let said = stack.cli(args).await.exited(2).stderr;
        assert!(said.contains("steadfast migrate --restored"), "`{args:?}` said {said}");
    }
    let doctor = stack.cli(&["doctor", "--json"]).await.exited(1).stdout;
    let findings: Value = serde_json::from_str(&doctor).expect("JSON");
    let log = findings
        .as_array()
        .expect("a list")
        .iter()
        .find(|found| found["verdict"] == "fail")
        .expect("a finding");
    assert_eq!(log["part"], "log");
    assert!(
        log["remedy"]
            .as_str()
            .is_some_and(|remedy| remedy.contains("--restored")),
        "{log}"
    );

    let told = stack.cli(&["migrate", "--restored"]).await.succeeded().stdout;
    assert!(told.contains("generation 2"), "{told}");
    stack.cli(&["migrate"]).await.succeeded();
    for role in stack.roles() {
        role.launch();
    }
    for role in stack.roles() {
        role.ready().await;
    }
    // What was cut off goes on, what waited goes on, what is new comes after it all; and the read models follow.
    let api = stack.api();
    assert_eq!(api.ended(&streaming).await["status"], "completed");
    let output = json!({"outputs": [{"tool_call_id": calls[0], "output": "yes"}]});
    api.post(&format!("/v1/runs/{waiting}/tool_outputs"), &output)
        .await
        .expect(200);
    assert_eq!(api.ended(&waiting).await["status"], "completed");
    for n in RUNS..RUNS + 4 {
        runs.push(completed(&api, n).await);
    }
    listed(&api, &runs).await;
    assert!(next_transaction(&stack).await < old_counter, "the test proved nothing");
    for (run, before) in runs.iter().zip(&before) {
        assert_eq!(&api.events(run).await, before);
    }
    let lists_show_the_end = async {
        while api.get("/v1/runs?limit=100").await.expect(200)["data"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|run| run["status"] != "completed")
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), lists_show_the_end)
        .await
        .expect("the projections resume");
    // Old and new events were applied once each, in order: the check compares the read models with a fold of the log.
    stack.check_settled().await;
}
