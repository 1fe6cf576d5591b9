//! The example evaluation and the dashboard, against a `dev` that nobody configured.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Layout, bounded, read};

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[tokio::test]
async fn the_example_eval_passes_without_a_key_and_the_dashboard_finds_every_metric() {
    let stack = Layout::embedded().without_provider().start().await;
    bounded(150, "the example eval", async {
        let dataset = repository("evals/examples/assistant.yaml");
        let report = stack.file("report.json");
        let (dataset, report) = (dataset.to_str().expect("a path"), report.to_str().expect("a path"));
        let ran = stack
            .cli(&["eval", "run", dataset, "--report", report])
            .await
            .succeeded();
        println!("{}", ran.stdout);
        let written = std::fs::read_to_string(report).expect("the report was written");
        serde_json::from_str::<Value>(&written).expect("the report is JSON");

        // Some of everything, so that every family has a value.
        let api = stack.api();
        let session = json!({"input": "What is 6 * 7?", "session_id": null, "tools": [{"name": "ask_a_person"}]});
        let run = api
            .task(json!({"input": session["input"], "tools": session["tools"]}))
            .await;
        let calls = api.waits_for(&run, 1).await;
        let output = json!({"outputs": [{"tool_call_id": calls[0], "output": "yes"}]});
        api.post(&format!("/v1/runs/{run}/tool_outputs"), &output)
            .await
            .expect(200);
        read(api.stream(json!({"input": "What time is it?"})).await)
            .await
            .assert_sound();
        api.ended(&run).await;
        let too_dear = json!({"input": "Hello", "budget": {"tokens": 1, "on_breach": "fail"}});
        let failed = api.ended(&api.task(too_dear).await).await;
        assert_eq!(failed["status"], "failed", "{failed}");

        let metrics = stack.file("metrics.txt");
        std::fs::write(&metrics, api.get("/metrics").await.text).expect("a place to write");
        for queries in ["grafana/dashboards/steadfast.json", "deploy/prometheus/alerts.yml"] {
            let checked = tokio::process::Command::new("python3")
                .arg(repository("grafana/check_dashboard.py"))
                .arg(repository(queries))
                .arg(&metrics)
                .output()
                .await
                .expect("python3 starts");
            let said =
                String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
            assert!(
                checked.status.success(),
                "{queries} asks for what is not there:\n{said}"
            );
        }
    })
    .await;
    stack.check_settled().await;
}

#[tokio::test]
async fn the_example_eval_closes_the_gate_on_a_broken_agent() {
    let broken = repository("evals/examples/agents");
    let agents = ["--agents", broken.to_str().expect("a path")];
    let stack = Layout::embedded().without_provider().dev_args(&agents).start().await;
    bounded(150, "the example eval", async {
        let dataset = repository("evals/examples/assistant.yaml");
        let ran = stack
            .cli(&["eval", "run", dataset.to_str().expect("a path")])
            .await
            .exited(1);
        assert!(
            ran.stdout.contains("multiplication"),
            "the summary names what failed: {}",
            ran.stdout
        );
    })
    .await;
}

#[tokio::test]
async fn every_alert_has_its_runbook_and_the_reader_of_queries_reads_them() {
    let mut command = tokio::process::Command::new("python3");
    command.args(["-m", "unittest", "discover", "-s", "grafana"]);
    let ran = command
        .current_dir(repository("."))
        .output()
        .await
        .expect("python3 starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
