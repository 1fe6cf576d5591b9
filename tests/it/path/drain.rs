//! SIGTERM: what is under way ends or is handed over, and nobody notices.

use std::time::Duration;

use serde_json::json;

use crate::support::{Layout, Stack, bounded};
use steadfast_tests::Settings;

/// A worker finishes for as long as it may, less the time it keeps for handing back.
const DRAIN_SECONDS: &str = "4";

fn slow() -> Settings {
    Settings {
        token_ms: 20,
        ..Settings::default()
    }
}

async fn begun(stack: &Stack, tokens: usize, runs: usize) -> Vec<String> {
    let api = stack.api();
    let mut ids = vec![];
    for n in 0..runs {
        ids.push(
            api.task(json!({"input": format!("task {n} [[tokens:{tokens}]]")}))
                .await,
        );
    }
    for run in &ids {
        api.until(run, |frame| frame.id.ends_with(".1")).await;
    }
    ids
}

#[tokio::test]
async fn a_worker_told_to_stop_finishes_or_hands_over_and_nothing_is_lost() {
    let layout = Layout::distributed()
        .model(slow())
        .env("STEADFAST_DRAIN_SECONDS", DRAIN_SECONDS);
    let mut stack = layout.start().await;
    bounded(120, "the drain", async {
        // Some would take longer than the drain, some end in time.
        let (mut runs, short) = tokio::join!(begun(&stack, 300, 6), begun(&stack, 10, 4));
        runs.extend(short);
        // The worker that holds the first of the long ones: its name has its process in it.
        let claim = stack
            .api()
            .until(&runs[0], |frame| frame.name == "run.started")
            .await
            .data();
        let name = claim["worker"].as_str().expect("the worker's name");
        let names_it = |pid: u32| name.split('-').any(|word| word == pid.to_string());
        let holder = stack
            .workers
            .iter_mut()
            .find(|worker| worker.pid().is_some_and(names_it));
        let holder = holder.unwrap_or_else(|| panic!("no worker is {name}"));
        holder.sigterm();
        let status = holder
            .wait_exit(Duration::from_secs(20))
            .await
            .expect("the worker ends by itself");
        assert!(status.success(), "{status}");
        let api = stack.api();
        let mut taken_over = 0;
        for run in &runs {
            assert_eq!(api.ended(run).await["status"], "completed");
            let seen = api.replay(run).await;
            seen.assert_sound();
            let orphaned = seen.count("model_call.orphaned");
            assert_eq!(
                orphaned,
                seen.count("run.resumed"),
                "a call cut off by a hand-over is accounted for"
            );
            taken_over += orphaned;
        }
        println!("drain: {} runs, {taken_over} handed over", runs.len());
        assert!(taken_over > 0, "the long run ended before its worker did");
    })
    .await;
    stack.check_settled().await;
}

#[tokio::test]
async fn a_gateway_told_to_stop_ends_its_streams_and_they_go_on_at_another() {
    let mut stack = Layout::distributed().gateways(2).model(slow()).start().await;
    bounded(90, "the drain of a gateway", async {
        let [one, two] = stack.apis().try_into().ok().expect("two gateways");
        let mut stream = one.stream(json!({"input": "[[tokens:150]]"})).await;
        let mut seen = crate::support::Transcript::default();
        while seen.count("agent.message.delta") < 3 {
            let frame = stream.next().await.expect("the stream goes on").expect("a frame");
            seen.push(crate::support::Frame::read(frame).expect("a frame of ours"));
        }
        stack.gateways[0].sigterm();
        while let Some(frame) = stream.next().await {
            seen.push(crate::support::Frame::read(frame.expect("an orderly end")).expect("a frame of ours"));
        }
        let status = stack.gateways[0]
            .wait_exit(Duration::from_secs(20))
            .await
            .expect("the gateway ends by itself");
        assert!(status.success(), "{status}");
        assert!(!seen.ended(), "the run outlives the gateway");
        let run = seen.0[0].value()["run_id"].as_str().expect("an id").to_owned();
        let rest = crate::support::read(two.follow(&run, seen.cursor()).await.expect("a stream")).await;
        seen.0.extend(rest.0);
        seen.assert_sound();
        seen.assert_same(&two.replay(&run).await);
    })
    .await;
    stack.gateways[0].restart().await;
    stack.check_settled().await;
}
