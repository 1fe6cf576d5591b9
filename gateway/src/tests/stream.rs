//! The event stream over a real socket.

use steadfast::{
    feed::{LiveFeed, Signal},
    run::{Command, RunId},
};

use super::{
    house::{House, advance, reply},
    reading::{Reading, Sse, ids, is_terminal},
};
use crate::clock;

async fn read(house: &House, run_id: RunId, query: &str) -> Reading {
    Reading::new(
        house
            .send("GET", &format!("/v1/runs/{run_id}/events/stream{query}"), &[], "")
            .await,
    )
}

/// A run streamed from its request to its end, with three deltas.
async fn played(house: &House) -> (RunId, Vec<Sse>) {
    let response = house
        .send("POST", "/v1/runs", &[], r#"{"input":"a","stream":true}"#)
        .await;
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let run_id = location
        .strip_prefix("/v1/runs/")
        .and_then(|id| id.parse().ok())
        .expect("an id");
    let live = Reading::new(response);
    house.claim(run_id).await;
    for (text, sub) in ["He", "llo", " you"].into_iter().zip(1..) {
        house.delta(run_id, sub, text).await;
    }
    house.act(run_id, reply(&["He", "llo", " you"])).await;
    (run_id, live.rest().await)
}

#[tokio::test]
async fn a_run_is_streamed_as_it_happens_and_replayed_the_same() {
    let house = House::open().await;
    let (run_id, live) = played(&house).await;
    assert_eq!(ids(&live), ["1", "2", "3", "4.1", "4.2", "4.3", "4", "5"]);
    assert_eq!(live[4].data["delta"], "llo");
    assert!(is_terminal(live.last().expect("frames")));
    assert_eq!(read(&house, run_id, "").await.rest().await, live);
}

#[tokio::test]
async fn every_cursor_of_a_finished_run_gives_exactly_what_follows_it() {
    let house = House::open().await;
    let (run_id, live) = played(&house).await;
    for (seen, frame) in live.iter().enumerate().take(live.len() - 1) {
        let by_query = read(&house, run_id, &format!("?after={}", frame.id)).await.rest().await;
        assert_eq!(by_query, live[seen + 1..], "after {}", frame.id);
    }
    let path = format!("/v1/runs/{run_id}/events/stream");
    let by_header = house.send("GET", &path, &[("Last-Event-ID", "4.2")], "").await;
    assert_eq!(ids(&Reading::new(by_header).rest().await), ["4.3", "4", "5"]);
    let both = house
        .send("GET", &format!("{path}?after=4"), &[("Last-Event-ID", "1")], "")
        .await;
    assert_eq!(
        ids(&Reading::new(both).rest().await),
        ["5"],
        "the later of the two counts"
    );
}

#[tokio::test]
async fn cursors_at_the_tail_beyond_it_and_of_no_form_are_told_apart() {
    let house = House::open().await;
    let (run_id, _) = played(&house).await;
    let path = format!("/v1/runs/{run_id}/events/stream");
    let tail = house.call_with("GET", &path, &[("Last-Event-ID", "5")], "").await;
    assert_eq!(tail.status, 204);
    house
        .call("GET", &format!("{path}?after=6"), "")
        .await
        .is_problem(400, "cursor_out_of_range");
    house
        .call("GET", &format!("{path}?after=7.1"), "")
        .await
        .is_problem(400, "cursor_out_of_range");
    for bad in ["-1", "x", "5.", "", "1.2.3"] {
        house
            .call("GET", &format!("{path}?after={bad}"), "")
            .await
            .is_problem(400, "bad_cursor");
    }
    let unknown = house
        .call("GET", &format!("{path}?types=model.replied,model.reply"), "")
        .await;
    unknown.is_problem(400, "unknown_event_type");
    assert!(
        unknown.json["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("tool_call.requested"))
    );
    house
        .call("GET", &format!("/v1/runs/{}/events/stream", RunId::default()), "")
        .await
        .is_problem(404, "run_not_found");
    house
        .call("GET", "/v1/runs/nonsense/events/stream", "")
        .await
        .is_problem(404, "run_not_found");
}

#[tokio::test]
async fn a_filter_hides_frames_and_the_end_still_comes() {
    let house = House::open().await;
    let (run_id, _) = played(&house).await;
    let deltas = read(&house, run_id, "?types=agent.message.delta").await.rest().await;
    assert_eq!(ids(&deltas), ["4.1", "4.2", "4.3", "5"]);
    let one = read(&house, run_id, "?types=run.started").await.rest().await;
    assert_eq!(ids(&one), ["2", "5"]);
}

#[tokio::test]
async fn what_the_feed_loses_comes_from_the_store() {
    let house = House::open().await;
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    let mut reading = read(&house, run_id, "").await;
    assert_eq!(ids(&reading.take(1).await), ["1"]);
    // Nothing of the claim and the first deltas is heard.
    house.commit(run_id, advance).await;
    house.delta(run_id, 3, " you").await;
    assert_eq!(ids(&reading.take(2).await), ["2", "3"]);
    let frames = house.commit(run_id, reply(&["He", "llo", " you"])).await;
    house.feed.publish(frames[1..].to_vec()).await;
    assert_eq!(ids(&reading.rest().await), ["4.1", "4.2", "4.3", "4", "5"]);
}

#[tokio::test]
async fn an_end_that_nobody_told_of_is_found_by_looking_at_the_store() {
    let house = House::open().await;
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    house.claim(run_id).await;
    let mut reading = read(&house, run_id, "").await;
    assert_eq!(ids(&reading.take(3).await), ["1", "2", "3"]);
    house.commit(run_id, reply(&["x"])).await;
    let rest = tokio::time::timeout(std::time::Duration::from_secs(20), reading.rest()).await;
    assert_eq!(ids(&rest.expect("the end is found")), ["4.1", "4", "5"]);
}

#[tokio::test]
async fn a_late_joiner_asks_the_worker_for_the_deltas_so_far() {
    let house = House::open().await;
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    house.claim(run_id).await;
    let mut signals = house.feed.signals().await;
    let mut reading = read(&house, run_id, "?after=4.1").await;
    assert_eq!(signals.recv().await, Some((run_id, Signal::Resend)));
    for (text, sub) in ["He", "llo", " you"].into_iter().zip(1..) {
        house.delta(run_id, sub, text).await;
    }
    assert_eq!(ids(&reading.take(2).await), ["4.2", "4.3"]);
    house.act(run_id, reply(&["He", "llo", " you"])).await;
    assert_eq!(ids(&reading.rest().await), ["4", "5"]);
}

#[tokio::test]
async fn deltas_of_a_worker_that_died_are_taken_back() {
    let house = House::open().await;
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    house.claim(run_id).await;
    let mut reading = read(&house, run_id, "?after=3").await;
    // The follower asks for deltas once it listens: only then is anything streamed.
    house.delta(run_id, 1, "He").await;
    assert_eq!(ids(&reading.take(1).await), ["4.1"]);
    let fail = |_| Command::RecordModelFailure {
        now: clock::now(),
        step: 1,
        attempt: 1,
        class: "timeout".into(),
        message: "it took too long".into(),
        retry_at: None,
        excused: false,
    };
    house.act(run_id, fail).await;
    let rest = reading.rest().await;
    assert_eq!(ids(&rest), ["4.2", "4", "5"]);
    assert_eq!(
        (rest[0].event.as_str(), rest[2].event.as_str()),
        ("step.reset", "run.failed")
    );
}

#[tokio::test]
async fn a_stream_dropped_anywhere_and_resumed_is_whole() {
    let house = House::open().await;
    let response = house
        .send("POST", "/v1/runs", &[], r#"{"input":"a","stream":true}"#)
        .await;
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let run_id: RunId = location
        .strip_prefix("/v1/runs/")
        .and_then(|id| id.parse().ok())
        .expect("an id");
    let mut seen = Reading::new(response).take(1).await;
    house.claim(run_id).await;
    for count in [1, 1, 2] {
        let cursor = seen.last().expect("a frame").id.clone();
        let mut reading = read(&house, run_id, &format!("?after={cursor}")).await;
        if seen.len() >= 3 {
            for (text, sub) in ["He", "llo"].into_iter().zip(1..) {
                house.delta(run_id, sub, text).await;
            }
        }
        seen.extend(reading.take(count).await);
    }
    house.act(run_id, reply(&["He", "llo"])).await;
    let cursor = seen.last().expect("a frame").id.clone();
    seen.extend(read(&house, run_id, &format!("?after={cursor}")).await.rest().await);
    assert_eq!(seen, read(&house, run_id, "").await.rest().await);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing_up_and_misses_nothing() {
    let house = House::open().await;
    let response = house
        .send("POST", "/v1/runs", &[], r#"{"input":"a","stream":true}"#)
        .await;
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let run_id: RunId = location
        .strip_prefix("/v1/runs/")
        .and_then(|id| id.parse().ok())
        .expect("an id");
    house.claim(run_id).await;
    // More than sockets and the feed's backlog hold together.
    let piece = "x".repeat(64 * 1024);
    let pieces = vec![piece.as_str(); 100];
    for (text, sub) in pieces.iter().zip(1..) {
        house.delta(run_id, sub, text).await;
    }
    house.act(run_id, reply(&pieces)).await;
    let frames = Reading::new(response).rest().await;
    let deltas = frames.iter().filter(|frame| frame.event == "agent.message.delta");
    let text: usize = deltas
        .map(|frame| frame.data["delta"].as_str().map_or(0, str::len))
        .sum();
    assert_eq!((text, frames.len()), (100 * 64 * 1024, 105));
    assert!(is_terminal(frames.last().expect("frames")));
}

#[tokio::test]
async fn while_the_feed_is_away_runs_are_accepted_and_streamed_from_the_store() {
    let house = House::open().await;
    house.feed.away.store(true, std::sync::atomic::Ordering::SeqCst);
    let response = house
        .send("POST", "/v1/runs", &[], r#"{"input":"a","stream":true}"#)
        .await;
    let location = response.headers()["location"].to_str().expect("text").to_owned();
    let run_id: RunId = location
        .strip_prefix("/v1/runs/")
        .and_then(|id| id.parse().ok())
        .expect("an id");
    assert_eq!(ids(&Reading::new(response).take(1).await), ["1"]);
    house.commit(run_id, advance).await;
    house.commit(run_id, reply(&["x"])).await;
    assert_eq!(
        ids(&read(&house, run_id, "").await.rest().await),
        ["1", "2", "3", "4.1", "4", "5"]
    );
}

#[tokio::test]
async fn a_list_of_events_pages_and_filters() {
    let house = House::open().await;
    let (run_id, _) = played(&house).await;
    let path = format!("/v1/runs/{run_id}/events");
    let page = house.call("GET", &format!("{path}?after=1&limit=2"), "").await;
    let types = |page: &super::house::Answer| {
        let data = page.json["data"].as_array().expect("a list").iter();
        data.map(|event| event["type"].as_str().expect("a type").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(types(&page), ["run.started", "model_call.requested"]);
    assert_eq!(
        (page.json["last_id"].as_str(), page.json["has_more"].as_bool()),
        (Some("3"), Some(true))
    );
    let rest = house
        .call("GET", &format!("{path}?after=3&types=run.completed"), "")
        .await;
    assert_eq!(
        (types(&rest), rest.json["has_more"].as_bool()),
        (vec!["run.completed".to_owned()], Some(false))
    );
    house
        .call("GET", &format!("{path}?after=9"), "")
        .await
        .is_problem(400, "cursor_out_of_range");
    house
        .call("GET", &format!("{path}?limit=1001"), "")
        .await
        .is_problem(400, "invalid_request");
    house
        .call("GET", &format!("{path}?order=desc"), "")
        .await
        .is_problem(400, "invalid_request");
}
