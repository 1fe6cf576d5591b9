//! A rolling upgrade: processes of two builds on one database. Yesterday's build is today's, made to forget an event type.

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_tests::Settings;

use crate::support::{Api, Layout, Role, Stack, read};

/// Recorded by a gateway when a person raises a budget. No worker writes it, so one that forgets it never does.
const NEW_EVENT: &str = "budget.raised";
const RAISED: usize = 8;
const ORDINARY: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("in {PATIENCE:?} there was no {what}"));
}

/// A sample of a process's metrics.
async fn metric(role: &Role, name: &str) -> f64 {
    let text = Api::new(&role.url()).get("/metrics").await.text;
    let found = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    found.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
}

async fn waits_for_budget(api: &Api, run: &str) {
    until("run that waits for a budget", async || {
        api.run(run).await["waiting_on"]["type"] == "budget"
    })
    .await;
}

async fn all_completed(api: &Api, runs: &[String]) {
    for run in runs {
        let ended = api.ended(run).await;
        assert_eq!(ended["status"], "completed", "{ended}");
    }
}

async fn ordinary(api: &Api) -> Vec<String> {
    let mut runs = vec![];
    for n in 0..ORDINARY {
        let input = format!(r#"[[tool:calculator {{"expression":"{n} + 1"}}]]"#);
        runs.push(api.task(json!({"input": input})).await);
    }
    runs
}

/// The start of every process by yesterday's build, but for one gateway.
async fn yesterday() -> Stack {
    let model = Settings {
        ttft_ms: 5,
        token_ms: 1,
        ..Settings::default()
    };
    let mut stack = Layout::distributed().gateways(2).model(model).start().await;
    let Stack {
        gateways,
        workers,
        projectors,
        ..
    } = &mut stack;
    for role in [&mut gateways[0], &mut projectors[0]].into_iter().chain(workers) {
        role.pretend_older(NEW_EVENT);
        role.restart().await;
    }
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(debug_assertions), ignore = "only test builds can pretend to be older")]
async fn old_and_new_builds_work_on_one_database_and_nothing_is_dropped() {
    let mut stack = yesterday().await;
    let [old, new] = stack.apis().try_into().unwrap_or_else(|_| panic!("two gateways"));
    let mut raised = vec![];
    for n in 0..RAISED {
        let task = json!({"input": format!("[[say:worth it {n}]]"), "budget": {"tokens": 20}});
        raised.push(old.task(task).await);
    }
    for run in &raised {
        waits_for_budget(&old, run).await;
        let raise = json!({"tokens": 100_000});
        new.post(&format!("/v1/runs/{run}/budget"), &raise).await.expect(200);
    }

    // Yesterday's workers leave these runs as they are, say so, and work on what they know.
    until("worker that says so", async || {
        metric(&stack.workers[0], "steadfast_runs_left_to_newer_total").await
            + metric(&stack.workers[1], "steadfast_runs_left_to_newer_total").await
            >= RAISED as f64
    })
    .await;
    all_completed(&old, &ordinary(&old).await).await;
    for run in &raised {
        let waiting = new.run(run).await;
        assert_eq!(
            (&waiting["status"], &waiting["error"]),
            (&json!("queued"), &Value::Null)
        );
        // Yesterday's gateway passes the event through as it was stored, and cannot say what it makes of the run.
        assert_eq!(old.events(run).await, new.events(run).await);
        let problem = old.get(&format!("/v1/runs/{run}")).await.problem(503);
        assert_eq!(
            (&problem["code"], &problem["retryable"]),
            (&json!("newer_build"), &json!(true))
        );
    }
    // Yesterday's projector stops in front of the first of them, and says at which.
    let projector = Api::new(&stack.projectors[0].url());
    until("projector that stops", async || {
        let ready = projector.get("/readyz").await;
        ready.status == 503 && ready.text.contains(NEW_EVENT) && ready.text.contains("version")
    })
    .await;
    assert!(metric(&stack.projectors[0], "steadfast_projection_stopped").await > 0.0);

    // One worker of today beside one of yesterday: the runs go on. It may be killed in the middle.
    stack.workers[1].pretend_today();
    stack.workers[1].restart().await;
    let more = ordinary(&old).await;
    stack.workers[1].restart().await;
    all_completed(&new, &raised).await;
    all_completed(&old, &more).await;
    // A client of yesterday's gateway sees the same stream as one of today's.
    for run in &raised {
        let (by_old, by_new) = (old.follow(run, None).await, new.follow(run, None).await);
        let (by_old, by_new) = (
            read(by_old.expect("a stream")).await,
            read(by_new.expect("a stream")).await,
        );
        by_old.assert_sound();
        let seen = |transcript: &crate::support::Transcript| -> Vec<(String, Value)> {
            transcript
                .events()
                .map(|frame| (frame.name.clone(), frame.data()))
                .collect()
        };
        assert_eq!(seen(&by_old), seen(&by_new));
        assert!(seen(&by_old).iter().any(|(name, _)| name == NEW_EVENT));
    }

    // The rest follows.
    for role in [&mut stack.projectors[0], &mut stack.gateways[0]] {
        role.pretend_today();
        role.restart().await;
    }
    stack.workers[0].pretend_today();
    stack.workers[0].restart().await;
    until("list of runs that knows all ends", async || {
        let listed = new.get("/v1/runs?limit=100").await.expect(200);
        let runs = listed["data"].as_array().expect("a list");
        runs.len() == RAISED + 2 * ORDINARY && runs.iter().all(|run| run["status"] == "completed")
    })
    .await;
    assert_eq!(metric(&stack.projectors[0], "steadfast_projection_stopped").await, 0.0);
    stack.check_settled().await;
}
