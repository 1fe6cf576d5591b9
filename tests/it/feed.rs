//! The live feed's promises: one suite for every adapter, and what only a server can be put through.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures::future::join_all;
use steadfast::{
    feed::{Frame, Hub, LiveFeed, LocalFeed, NatsFeed, Signal, Subscription, Watched},
    run::RunId,
};
use steadfast_simulation::Calm;
use steadfast_tests::{PrivateNats, fresh_prefix, services};
use tokio::{sync::Notify, time::timeout};

use crate::bed::*;

/// The same feed as three processes hold it.
type Feeds = [Arc<dyn LiveFeed>; 3];

fn local() -> Feeds {
    let feed: Arc<dyn LiveFeed> = Arc::new(LocalFeed::default());
    [feed.clone(), feed.clone(), feed]
}

fn simulated() -> Feeds {
    let calm = Calm::new(now());
    [calm.feed(), calm.feed(), calm.feed()]
}

async fn connected(url: &str) -> (Client, Arc<Notify>) {
    let (cut, callback) = NatsFeed::connection_watch();
    let options = ConnectOptions::new()
        .event_callback(callback)
        .reconnect_delay_callback(|_| Duration::from_millis(20));
    (options.connect(url).await.expect("a NATS server"), cut)
}

async fn nats_at(url: &str) -> Feeds {
    let prefix = fresh_prefix();
    let feed = || async {
        let (client, cut) = connected(url).await;
        Arc::new(NatsFeed::new(client, &prefix, cut)) as Arc<dyn LiveFeed>
    };
    [feed().await, feed().await, feed().await]
}

async fn nats() -> Feeds {
    nats_at(&services().await.nats_url).await
}

macro_rules! conformance {
    ($($name:ident,)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::local()).await })*
        }
        mod simulated {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::simulated()).await })*
        }
        mod over_nats {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::nats().await).await })*
        }
    };
}

conformance! {
    watchers_in_several_processes_hear_everything_in_order,
    a_slow_watcher_is_told_that_it_missed_frames,
    signals_reach_every_worker,
    frames_nobody_watches_go_nowhere,
}

fn event(run_id: RunId, version: u64) -> Frame {
    Frame::Event {
        run_id,
        version,
        name: "model.replied".into(),
        deltas: 2,
        json: Bytes::from(format!("{{\"version\":{version},\"text\":\"ö\\n\"}}")),
    }
}

fn delta(run_id: RunId, version: u64, sub: u32) -> Frame {
    Frame::Delta {
        run_id,
        version,
        sub,
        json: Bytes::from(format!("{{\"sub\":{sub}}}")),
    }
}

/// The next frame. A word about missed frames without a cause is allowed: the store is read once more.
async fn frame(watcher: &mut Subscription) -> Frame {
    let next = async {
        loop {
            if let Watched::Frame(frame) = watcher.next().await {
                return frame;
            }
        }
    };
    timeout(PATIENCE, next).await.expect("a frame")
}

async fn watchers_in_several_processes_hear_everything_in_order(feeds: Feeds) {
    let (run, other) = (new_run(), new_run());
    let mut watchers = join_all(feeds.iter().chain(&feeds[..1]).map(|feed| feed.subscribe(run))).await;
    let mut elsewhere = feeds[1].subscribe(other).await;
    let frames: Vec<Frame> = (1..=10)
        .flat_map(|v| [delta(run, v, 1), delta(run, v, 2), event(run, v)])
        .collect();
    for (at, frame) in frames.iter().enumerate() {
        feeds[0].publish(vec![event(other, at as u64 + 1), frame.clone()]).await;
    }
    for watcher in &mut watchers {
        for expected in &frames {
            assert_eq!(frame(watcher).await, *expected);
        }
    }
    for version in 1..=frames.len() as u64 {
        assert_eq!(frame(&mut elsewhere).await, event(other, version));
    }
}

async fn a_slow_watcher_is_told_that_it_missed_frames(feeds: Feeds) {
    const FRAMES: u64 = 1000;
    /// More than it may fall behind, far less than what is sent.
    const KEPT_MAX: usize = 128;
    let run = new_run();
    let mut slow = feeds[1].subscribe(run).await;
    let mut quick = feeds[1].subscribe(run).await;
    let publish = async {
        for version in 1..=FRAMES {
            feeds[0].publish(vec![event(run, version)]).await;
        }
    };
    let last = event(run, FRAMES);
    let to_the_end = async { while frame(&mut quick).await != last {} };
    futures::join!(publish, to_the_end);
    let mut heard = Vec::new();
    let mut missed = false;
    while heard.last() != Some(&last) {
        match timeout(PATIENCE, slow.next()).await.expect("what was kept") {
            Watched::Missed => missed = true,
            Watched::Frame(frame) => heard.push(frame),
        }
    }
    assert!(missed, "it was not told");
    assert!(
        heard.len() <= KEPT_MAX,
        "{} frames were kept for a slow watcher",
        heard.len()
    );
    feeds[0].publish(vec![event(run, FRAMES + 1)]).await;
    assert_eq!(frame(&mut slow).await, event(run, FRAMES + 1), "it goes on from there");
}

async fn signals_reach_every_worker(feeds: Feeds) {
    let mut workers = [feeds[0].signals().await, feeds[1].signals().await];
    let (changed, resend) = (new_run(), new_run());
    for worker in &mut workers {
        // The first may be missed; from then on they are heard.
        let heard = async {
            loop {
                feeds[2].signal(changed, Signal::Changed).await;
                if let Ok(heard) = timeout(Duration::from_millis(100), worker.recv()).await {
                    return heard;
                }
            }
        };
        let heard = timeout(PATIENCE, heard).await.expect("a signal");
        assert_eq!(heard, Some((changed, Signal::Changed)));
    }
    feeds[2].signal(resend, Signal::Resend).await;
    for worker in &mut workers {
        let heard = async { while worker.recv().await != Some((resend, Signal::Resend)) {} };
        timeout(PATIENCE, heard).await.expect("both see the other word");
    }
}

async fn frames_nobody_watches_go_nowhere(feeds: Feeds) {
    let (run, watched) = (new_run(), new_run());
    let mut watcher = feeds[1].subscribe(watched).await;
    drop(feeds[1].subscribe(run).await);
    feeds[0].publish(vec![event(run, 1), event(watched, 1)]).await;
    assert_eq!(frame(&mut watcher).await, event(watched, 1));
    // Who comes late hears what comes later.
    let mut late = feeds[1].subscribe(run).await;
    feeds[0].publish(vec![event(run, 2)]).await;
    assert_eq!(frame(&mut late).await, event(run, 2));
}

#[tokio::test]
async fn the_last_watcher_that_leaves_frees_the_topic() {
    let hub = Hub::default();
    let run = new_run();
    let (one, mut two) = (hub.subscribe(run), hub.subscribe(run));
    let other = hub.subscribe(new_run());
    assert_eq!(hub.watched(), 2);
    drop(one);
    hub.publish(event(run, 1));
    assert_eq!(two.next().await, Watched::Frame(event(run, 1)), "the other goes on");
    drop((two, other));
    assert_eq!(hub.watched(), 0);
    hub.publish(event(run, 2));
    hub.missed();
    assert_eq!(hub.watched(), 0, "publishing makes no topics");
}

#[tokio::test]
async fn signals_a_worker_leaves_unread_are_bounded() {
    let feed = LocalFeed::default();
    let mut worker = feed.signals().await;
    for _ in 0..5000 {
        feed.signal(new_run(), Signal::Changed).await;
    }
    let mut kept = 0;
    while worker.try_recv().is_ok() {
        kept += 1;
    }
    assert!((1..=1024).contains(&kept), "{kept}");
    feed.signal(new_run(), Signal::Changed).await;
    assert!(worker.recv().await.is_some());
}

/// The promise a stream stands on: subscribe first, then read the store, and nothing falls in between.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_when_subscribe_has_returned_is_heard() {
    let url = &services().await.nats_url;
    let ((here, _), (there, _)) = (connected(url).await, connected(url).await);
    for _ in 0..300 {
        let prefix = fresh_prefix();
        let watching = NatsFeed::new(here.clone(), &prefix, Arc::default());
        let publishing = NatsFeed::new(there.clone(), &prefix, Arc::default());
        let run = new_run();
        let mut watcher = watching.subscribe(run).await;
        publishing.publish(vec![event(run, 1)]).await;
        let heard = timeout(Duration::from_secs(5), watcher.next()).await;
        assert_eq!(heard.expect("heard"), Watched::Frame(event(run, 1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_nats_is_announced_and_then_frames_are_heard_again() {
    let mut server = PrivateNats::start().await.expect("a NATS of our own");
    let feeds = nats_at(&server.url()).await;
    let run = new_run();
    let mut watcher = feeds[0].subscribe(run).await;
    feeds[1].publish(vec![event(run, 1)]).await;
    assert_eq!(frame(&mut watcher).await, event(run, 1));
    for round in 0..3 {
        server.kill9();
        server.restart().await.expect("back");
        let missed = async { while watcher.next().await != Watched::Missed {} };
        timeout(PATIENCE, missed).await.expect("the watcher is told");
        // The publisher finds its way back in its own time.
        let run_on = async {
            for version in 2.. {
                feeds[1].publish(vec![event(run, version)]).await;
                if let Ok(Watched::Frame(_)) = timeout(Duration::from_millis(50), watcher.next()).await {
                    return;
                }
            }
        };
        timeout(PATIENCE, run_on)
            .await
            .unwrap_or_else(|_| panic!("silence after restart {round}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nats_is_away_nobody_waits_for_it() {
    const BOUND: Duration = Duration::from_secs(5);
    let mut server = PrivateNats::start().await.expect("a NATS of our own");
    let feeds = nats_at(&server.url()).await;
    let run = new_run();
    let known = feeds[0].subscribe(run).await;
    server.kill9();
    for feed in &feeds {
        let used = async {
            feed.publish(vec![event(run, 1)]).await;
            feed.signal(run, Signal::Changed).await;
            drop(feed.subscribe(new_run()).await);
            drop(feed.signals().await);
        };
        timeout(BOUND, used).await.expect("a feed that is away holds nobody up");
    }
    drop(known);
    // Whoever came while it was away is served when it is back.
    let mut patient = timeout(BOUND, feeds[2].subscribe(run)).await.expect("a watcher");
    server.restart().await.expect("back");
    let served = async {
        for version in 1.. {
            feeds[1].publish(vec![event(run, version)]).await;
            if let Ok(Watched::Frame(_)) = timeout(Duration::from_millis(50), patient.next()).await {
                return;
            }
        }
    };
    timeout(PATIENCE, served).await.expect("frames again");
}
