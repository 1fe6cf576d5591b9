//! T5: Postgres dies by SIGKILL, all its processes at once, again and again, under load; once it freezes.

use std::time::Duration;

use futures::FutureExt;

use super::roles;
use crate::chaos::{Case, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "postgres-kill",
    about: "SIGKILL of Postgres, again and again, and once SIGSTOP, under load; each append is in the log whole or not at all (T5)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 40;

async fn play(case: &mut Case) {
    let mut stack = roles().start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let (kills, frozen) = (case.pick(6, 50), Duration::from_secs(case.pick(4, 15)));
    for kill in 1..=kills {
        case.pause(1_000, 3_000).await;
        let postgres = stack.postgres.as_mut().expect("a Postgres of its own");
        postgres.kill9();
        case.fault();
        case.pause(0, 1_500).await;
        postgres.restart().await.expect("Postgres is back");
        if kill == kills / 2 {
            case.pause(1_500, 4_000).await;
            postgres.sigstop();
            tokio::time::sleep(frozen).await;
            postgres.sigcont();
            case.fault();
        }
        case.progress(&load);
    }
    case.finish(&mut stack, load).await;
    let (orphaned, refused) = (case.orphaned(), case.refusals);
    case.note(format!(
        "{refused} requests were told to come back later; {orphaned} calls were made again because no lease could be renewed"
    ));
}
