//! T3: nats-server dies and loses all its files, again and again, under load; once it stays away for a while, and runs
//! end all the same.

use std::time::Duration;

use futures::FutureExt;

use super::roles;
use crate::chaos::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "nats-wipe",
    about: "nats-server killed and its files wiped again and again under load, once away for long; every post is accepted (T3)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 40;
/// Without NATS so many runs end within this.
const ENDED_MAX: Duration = Duration::from_secs(60);
/// Commands delivered for nothing, in hundredths of those that led to a claim.
const EXTRA_MAX: f64 = 10.0;

async fn play(case: &mut Case) {
    let mut stack = roles().start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let before = case.count_deliveries(&stack).await;
    let (wipes, away) = (case.pick(6, 12), Duration::from_secs(case.pick(3, 30)));
    while case.faults() < wipes {
        case.pause(2_000, 5_000).await;
        let nats = stack.nats.as_mut().expect("a NATS of its own");
        nats.wipe();
        case.fault();
        if case.faults() == wipes / 2 {
            tokio::time::sleep(away).await;
            // Not only those that were under way when it went.
            let ended = tokio::time::timeout(ENDED_MAX, load.until_ended(CLIENTS + 1)).await;
            case.require(ended.is_ok(), "without NATS no run was begun and ended");
        }
        nats.restart().await.expect("NATS is back");
        case.progress(&load);
    }
    case.finish(&mut stack, load).await;
    let (refused, extra) = (case.refusals, case.count_deliveries(&stack).await);
    let said = |share: Option<f64>| share.map_or("no deliveries counted".into(), |share| format!("{share:.1} %"));
    case.note(format!(
        "deliveries for nothing before the first wipe: {}, in all: {}",
        said(before),
        said(extra)
    ));
    case.require(
        refused == 0,
        format!("{refused} posts were refused while NATS was away"),
    );
    case.require(
        extra.is_some_and(|extra| extra <= EXTRA_MAX),
        format!(
            "deliveries for nothing: {}; at most {EXTRA_MAX} % were promised",
            said(extra)
        ),
    );
    case.require_every_orphan_excused();
}
