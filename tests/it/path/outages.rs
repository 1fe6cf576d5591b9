//! NATS or Postgres away for a while: what was accepted is done, what cannot be accepted is refused with a time to come
//! back, and everything recovers by itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Layout, Stack, bounded};

/// Roles notice an outage, and its end, within this.
const NOTICED_MAX: Duration = Duration::from_secs(40);

/// Waits until `/readyz` of a role says so.
async fn until_ready(url: &str, ready: bool) -> Value {
    let http = steadfast_tests::http();
    let wanted = if ready { 200 } else { 503 };
    let asked = async {
        loop {
            if let Ok(answer) = http.get(format!("{url}/readyz")).send().await
                && answer.status() == wanted
            {
                return answer.json().await.expect("a report");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(NOTICED_MAX, asked)
        .await
        .unwrap_or_else(|_| panic!("{url}/readyz does not become {wanted}"))
}

async fn urls(stack: &mut Stack) -> Vec<String> {
    stack.roles().map(|role| role.url()).collect()
}

#[tokio::test]
async fn with_nats_away_tasks_are_accepted_and_run_all_the_same() {
    let mut stack = Layout::distributed().private_servers().start().await;
    bounded(120, "the outage of NATS", async {
        let api = stack.api();
        let before = api.task(json!({"input": "[[say:before]]"})).await;
        assert_eq!(api.ended(&before).await["output"], "before");

        stack.nats.as_mut().expect("a NATS of its own").kill9();
        let mut accepted = vec![];
        for n in 0..5 {
            let begun = tokio::time::Instant::now();
            accepted.push(api.task(json!({"input": format!("[[say:meanwhile {n}]]")})).await);
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "an accept waited {:?} for NATS",
                begun.elapsed()
            );
        }
        let report = until_ready(&stack.workers[0].url(), false).await;
        assert!(
            report["parts"]
                .as_array()
                .is_some_and(|parts| parts.iter().any(|part| part["trouble"].is_string())),
            "{report}"
        );
        stack.cli(&["doctor"]).await.exited(1);
        // The database alone is needed: to run, to watch, and to read again.
        for (n, run) in accepted.iter().enumerate() {
            assert_eq!(api.ended(run).await["output"], format!("meanwhile {n}"));
        }
        for run in accepted.iter().chain([&before]) {
            api.replay(run).await.assert_sound();
        }

        stack
            .nats
            .as_mut()
            .expect("a NATS of its own")
            .restart()
            .await
            .expect("NATS is back");
        let after = api.task(json!({"input": "[[say:after]]"})).await;
        assert_eq!(api.ended(&after).await["output"], "after");
        for url in urls(&mut stack).await {
            until_ready(&url, true).await;
        }
    })
    .await;
    stack.check_settled().await;
}

#[track_caller]
fn assert_asked_to_come_back(answer: &Answer) {
    let problem = answer.problem(503);
    assert_eq!(
        (&problem["code"], &problem["retryable"]),
        (&json!("unavailable"), &json!(true))
    );
    assert!(
        answer
            .header("retry-after")
            .and_then(|value| value.parse::<u64>().ok())
            .is_some_and(|s| (1..=120).contains(&s))
    );
}

#[tokio::test]
async fn with_postgres_away_clients_are_told_when_to_come_back_and_everything_recovers() {
    let mut stack = Layout::distributed().private_servers().start().await;
    bounded(150, "the outage of Postgres", async {
        let api = stack.api();
        let slow = api.task(json!({"input": "[[tokens:20]] begun before"})).await;
        api.ended(&slow).await;
        stack.postgres.as_mut().expect("a Postgres of its own").kill9();
        let path = format!("/v1/runs/{slow}");
        let (events, stream) = (format!("{path}/events"), format!("{path}/events/stream"));
        let (task, session) = (json!({"input": "[[say:no]]"}), json!({}));
        let (one, two) = tokio::join!(api.post("/v1/runs", &task), api.post("/v1/sessions", &session));
        let reads = tokio::join!(api.get(&path), api.get(&events), api.get(&stream), api.get("/v1/runs"));
        for answer in [one, two, reads.0, reads.1, reads.2, reads.3] {
            assert_asked_to_come_back(&answer);
        }
        assert_eq!(api.get("/healthz").await.status, 200, "the process itself is well");
        for url in urls(&mut stack).await {
            until_ready(&url, false).await;
        }
        let doctor = stack.cli(&["doctor"]).await.exited(1);
        assert!(
            !doctor.stdout.contains("of-a-test"),
            "a secret was printed: {}",
            doctor.stdout
        );

        stack
            .postgres
            .as_mut()
            .expect("a Postgres of its own")
            .restart()
            .await
            .expect("Postgres is back");
        for url in urls(&mut stack).await {
            until_ready(&url, true).await;
        }
        let after = api.task(json!({"input": "[[say:after]]"})).await;
        assert_eq!(api.ended(&after).await["output"], "after");
    })
    .await;
    let report = stack.check_settled().await;
    assert_eq!(report["runs"], 2, "nothing came of what was refused: {report}");
}
