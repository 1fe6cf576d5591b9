//! Streams that are dropped and resumed at any place, joined late, read slowly and filtered: each shows the run, whole
//! and once.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use steadfast_tests::{Settings, SseClient, fresh_prefix, sse::SseError};

use crate::support::{
    Api, Chance, Drops, Frame, Layout, Rider, Stack, Throttle, Transcript, bounded, in_both_modes, read,
};

const DROPS_WANTED: u64 = 1_000;
/// At the same time.
const CLIENTS: u64 = 40;
/// A client lets go after 1 to this many frames.
const FRAMES_MAX: u64 = 9;
const RIDE_MAX: Duration = Duration::from_secs(60);

fn slow_tokens() -> Settings {
    Settings {
        token_ms: 12,
        tokens: 110,
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_drops_at_random_places_lose_and_double_nothing() {
    let stack = Layout::distributed().gateways(2).model(slow_tokens()).start().await;
    let seed = Chance::seed("a_thousand_drops_at_random_places_lose_and_double_nothing");
    let (mut drops, mut inside, mut streams) = (0, 0, 0);
    bounded(150, "a thousand drops", async {
        while drops < DROPS_WANTED {
            for ride in wave(&stack, seed.wrapping_add(streams)).await {
                drops += ride.0;
                inside += ride.1;
                streams += 1;
            }
        }
    })
    .await;
    println!(
        "streams: {drops} drops over {streams} streams at two gateways, {inside} inside a step, none lost or doubled"
    );
    assert!(inside > drops / 4, "too few drops fell inside a step to mean anything");
    stack.check_settled().await;
}

/// One client for each run, beginning at gateways in turn. Answers drops, and drops inside a step, of each.
async fn wave(stack: &Stack, seed: u64) -> Vec<(u64, u64)> {
    let gateways = Arc::new(stack.apis());
    let rides = (0..CLIENTS).map(|n| {
        let faults = ["", "[[fault:cut*1]]", "", "[[fault:503*1]]"][n as usize % 4];
        let text = format!(
            r#"{} [[tool:calculator {{"expression":"{n}*2"}}]] {faults}"#,
            fresh_prefix()
        );
        let rider = Rider {
            gateways: gateways.clone(),
            first: n as usize,
            key: fresh_prefix(),
            body: json!({"input": text, "stream": n % 2 == 0}),
            drops: Drops::Within(FRAMES_MAX, Chance::new(seed.wrapping_add(n))),
        };
        let api = gateways[0].clone();
        tokio::spawn(async move {
            let ride = rider.ride(RIDE_MAX).await;
            assert_eq!(ride.fault, None, "{:?}", ride.run);
            ride.transcript.assert_sound();
            let run = ride.run.expect("a run");
            ride.transcript.assert_same(&api.replay(&run).await);
            (ride.reconnects, ride.inside_steps)
        })
    });
    let rides: Vec<_> = rides.collect();
    let mut counts = vec![];
    for ride in rides {
        counts.push(ride.await.expect("a ride"));
    }
    counts
}

in_both_modes!(
    a_finished_run_replays_from_every_cursor_and_then_has_no_more,
    who_joins_in_the_middle_of_an_answer_gets_the_text_so_far,
    a_reader_that_takes_nothing_for_a_while_loses_nothing,
    a_filter_shows_what_was_asked_for_and_the_end,
);

async fn a_finished_run_replays_from_every_cursor_and_then_has_no_more(stack: &Stack) {
    let api = stack.api();
    let run = api
        .task(json!({"input": r#"[[tool:calculator {"expression":"2*2"}]] [[tokens:12]]"#}))
        .await;
    api.ended(&run).await;
    let whole = api.replay(&run).await;
    whole.assert_sound();
    for (at, frame) in whole.0.iter().enumerate() {
        let rest = api.follow(&run, Some(&frame.id)).await;
        let expected = &whole.0[at + 1..];
        if expected.is_empty() {
            // Nothing will ever follow: 204 is what makes an EventSource stop.
            assert!(
                matches!(rest, Err(SseError::Refused { status: 204, .. })),
                "the tail of a finished run streams on"
            );
            continue;
        }
        assert_eq!(read(rest.expect("a stream")).await.0, expected, "after {}", frame.id);
    }
    // The later of query and header counts, and the header counts alone.
    let path = format!("/v1/runs/{run}/events/stream");
    for (after, seen) in [("1", "3"), ("3", "1"), ("2.1", "3")] {
        let both = SseClient::get(&api.url(&format!("{path}?after={after}")), &[("last-event-id", seen)])
            .await
            .expect("a stream");
        assert!(read(both).await.0[0].id.starts_with('4'), "after {after}, seen {seen}");
    }
    // As a browser comes back to the end of a run.
    let path_after = format!("{path}?after=1");
    let end = whole.0.last().map(|frame| frame.id.clone()).unwrap_or_default();
    let again = SseClient::get(&api.url(&path_after), &[("last-event-id", &end)]).await;
    assert!(
        matches!(again, Err(SseError::Refused { status: 204, .. })),
        "nothing will ever follow"
    );
    let header = SseClient::get(&api.url(&path), &[("last-event-id", "3")])
        .await
        .expect("a stream");
    assert!(read(header).await.0[0].id.starts_with('4'));
}

async fn who_joins_in_the_middle_of_an_answer_gets_the_text_so_far(stack: &Stack) {
    let api = stack.api();
    let mut first = api.stream(json!({"input": "[[tokens:900]]"})).await;
    let mut seen = Transcript::default();
    while seen.count("agent.message.delta") < 30 {
        seen.push(next(&mut first).await);
    }
    let run = seen.0[0].value()["run_id"].as_str().expect("an id").to_owned();
    // At another process, where there is one.
    let mut late = stack
        .apis()
        .pop()
        .expect("a gateway")
        .follow(&run, None)
        .await
        .expect("a stream");
    let mut caught_up = Transcript::default();
    while caught_up.0.len() < seen.0.len() {
        caught_up.push(next(&mut late).await);
    }
    assert_eq!(caught_up.0[..], seen.0[..], "the late reader is shown another story");
    assert_eq!(
        stack.api().run(&run).await["status"],
        "running",
        "the text so far came before the end"
    );
    let (one, two) = tokio::join!(read(first), read(late));
    seen.0.extend(one.0);
    caught_up.0.extend(two.0);
    seen.assert_sound();
    assert_eq!(seen.0, caught_up.0);
}

async fn next(stream: &mut SseClient) -> Frame {
    let frame = tokio::time::timeout(Duration::from_secs(20), stream.next())
        .await
        .expect("the stream goes on");
    Frame::read(frame.expect("a frame").expect("a sound stream")).expect("a frame of ours")
}

async fn a_reader_that_takes_nothing_for_a_while_loses_nothing(stack: &Stack) {
    let throttle = Throttle::before(stack.api().url("").as_str()).await;
    let run = stack.api().task(json!({"input": "[[tokens:1500]]"})).await;
    let slow = tokio::spawn({
        let (api, run) = (Api::new(&throttle.url), run.clone());
        async move { api.replay(&run).await }
    });
    let quick = stack.api().replay(&run).await;
    // The run has ended, and what was said of it is many times what the connection holds.
    let bytes: usize = quick.0.iter().map(|frame| frame.json.len()).sum();
    assert!(bytes > 50_000, "only {bytes} bytes were streamed");
    throttle.open();
    let slow = slow.await.expect("the slow reader");
    slow.assert_sound();
    slow.assert_same(&quick);
}

async fn a_filter_shows_what_was_asked_for_and_the_end(stack: &Stack) {
    let api = stack.api();
    let text = r#"[[tool:calculator {"expression":"2*3"}]] [[fault:cut*1@2]] [[tokens:20]]"#;
    let run = api.task(json!({ "input": format!("{} {text}", fresh_prefix()) })).await;
    let live = read(filtered(&api, &run, "tool_call.succeeded,agent.message.delta").await).await;
    let whole = api.replay(&run).await;
    let wanted = |names: &[&str]| -> Vec<Frame> {
        whole
            .0
            .iter()
            .filter(|frame| names.contains(&frame.name.as_str()) || frame.is_terminal())
            .cloned()
            .collect()
    };
    let replayed = read(filtered(&api, &run, "tool_call.succeeded,agent.message.delta").await).await;
    assert_eq!(replayed.0, wanted(&["tool_call.succeeded", "agent.message.delta"]));
    let settled: Vec<Frame> = live.settled().into_iter().cloned().collect();
    assert_eq!(settled, replayed.0, "live and replayed, the filter shows the same");
    for types in [
        "model.replied",
        "run.requested,run.started",
        "tool_call.requested,tool_call.requested",
    ] {
        let names: Vec<&str> = types.split(',').collect();
        assert_eq!(
            read(filtered(&api, &run, types).await).await.0,
            wanted(&names),
            "{types}"
        );
    }
    let listed = api
        .get(&format!("/v1/runs/{run}/events?types=model.replied,run.completed"))
        .await
        .expect(200);
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(3), "{listed}");
}

async fn filtered(api: &Api, run: &str, types: &str) -> SseClient {
    let url = api.url(&format!("/v1/runs/{run}/events/stream?types={types}"));
    SseClient::get(&url, &[]).await.expect("a stream")
}
