//! T13: every crash point in the code is reached and survived: alone those that one run comes by, under load all of them.

use std::{collections::BTreeSet, os::unix::process::ExitStatusExt, sync::Arc, time::Duration};

use futures::FutureExt;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{AGENT, all_ready};
use crate::{
    Settings,
    chaos::{Case, Scenario},
    fresh_prefix,
    system::{Drops, Layout, Ride, Rider, Role, Stack, sessions},
};

pub const SCENARIO: Scenario = Scenario {
    name: "crash-points",
    about: "named crash points abort their process: alone, with exact counts; in the long form each of them under load too (T13)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const SIGABRT: i32 = 6;
const CLIENTS: usize = 16;
/// A point that was not come by until then never will be.
const REACHED_WITHIN: Duration = Duration::from_secs(40);
const RIDE_MAX: Duration = Duration::from_secs(120);
/// After a start, or the death of a neighbour, that leaves runs without their holder.
const REDRIVEN_WITHIN: Duration = Duration::from_secs(5);
const REDRIVES_MAX: u32 = 8;

/// A tool that is recorded as called before it runs, and its result on its own: the guard refuses the address.
const WAITED_FOR: &str = r#"[[tool:http_get {"url":"http://127.0.0.1:1/"}]]"#;

/// Who comes by a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Gateway,
    Worker,
    Projector,
}

/// What a crash at a point may cost the one run there is: model calls orphaned, and model calls made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    orphaned: usize,
    repeated: u64,
}

const NOTHING: Option<Cost> = Some(Cost {
    orphaned: 0,
    repeated: 0,
});
/// The call is in the log and had not been sent.
const UNSENT: Option<Cost> = Some(Cost {
    orphaned: 1,
    repeated: 0,
});
/// The model has answered, or was about to.
const ANSWERED: Option<Cost> = Some(Cost {
    orphaned: 1,
    repeated: 1,
});

/// Every point, by its name in `STEADFAST_CRASH`. A run alone comes by those with a cost; the others need company.
pub const POINTS: &[(&str, Who, Option<Cost>)] = &[
    ("accept.before", Who::Gateway, NOTHING),
    ("accept.after", Who::Gateway, NOTHING),
    ("blob.after", Who::Gateway, None),
    ("announce.before", Who::Gateway, NOTHING),
    ("announce.after", Who::Gateway, NOTHING),
    ("answer.again", Who::Gateway, None),
    ("input.after", Who::Gateway, None),
    ("pull.after", Who::Worker, NOTHING),
    ("claim.before", Who::Worker, NOTHING),
    ("claim.after", Who::Worker, UNSENT),
    ("ack.after", Who::Worker, UNSENT),
    ("call.before", Who::Worker, UNSENT),
    ("call.first_token", Who::Worker, ANSWERED),
    ("call.mid_stream", Who::Worker, ANSWERED),
    ("reply.before", Who::Worker, ANSWERED),
    ("reply.after", Who::Worker, NOTHING),
    ("tool.before", Who::Worker, NOTHING),
    ("tool.after", Who::Worker, NOTHING),
    ("result.before", Who::Worker, NOTHING),
    ("result.after", Who::Worker, UNSENT),
    ("frames.after", Who::Worker, UNSENT),
    ("snapshot.before", Who::Worker, None),
    ("snapshot.after", Who::Worker, None),
    ("renew.before", Who::Worker, None),
    ("renew.after", Who::Worker, None),
    ("end.before", Who::Worker, ANSWERED),
    ("end.after", Who::Worker, NOTHING),
    ("next.after", Who::Worker, None),
    ("redrive.before", Who::Worker, None),
    ("redrive.after", Who::Worker, None),
    ("project.before", Who::Projector, NOTHING),
    ("project.after", Who::Projector, NOTHING),
];

fn model() -> Settings {
    Settings {
        ttft_ms: 30,
        token_ms: 15,
        tokens: 40,
        ..Settings::default()
    }
}

async fn play(case: &mut Case) {
    let mut stack = Layout::distributed()
        .model(model())
        .agent("assistant", &AGENT.replace(r#""clock""#, r#""http_get", "clock""#))
        .env("STEADFAST_LEASE_MS", "1500")
        .private_servers()
        .crash_points()
        .start()
        .await;
    let mut rides = alone(case, &mut stack).await;
    if case.long {
        rides.extend(under_load(case, &mut stack).await);
    }
    case.settle(&mut stack, &rides, 0).await;
    case.require_every_orphan_excused();
}

/// One worker, one run: what a crash costs can be counted.
async fn alone(case: &mut Case, stack: &mut Stack) -> Vec<Ride> {
    stack.workers[1].kill9();
    let mut rides = vec![];
    for (point, who, cost) in POINTS {
        let Some(cost) = cost else { continue };
        arm(role(stack, *who), point, 1).await;
        let text = format!("{} alone at {point} {WAITED_FOR}", fresh_prefix());
        let ride = tokio::spawn(rider(stack, &text, json!({})).ride(RIDE_MAX));
        died(case, role(stack, *who), point).await;
        let ride = ride.await.expect("a rider does not panic");
        let orphaned = ride.transcript.count("model_call.orphaned");
        let called = stack.model().stats().calls_for(&text);
        case.require(
            orphaned == cost.orphaned && called == 2 + cost.repeated,
            format!("{point}: {orphaned} calls orphaned and {called} made of two; it should cost {cost:?}"),
        );
        rides.push(ride);
    }
    rides
}

async fn under_load(case: &mut Case, stack: &mut Stack) -> Vec<Ride> {
    all_ready(stack).await;
    let load = case.load(stack, CLIENTS, None).await;
    let mut special = vec![];
    for (point, who, _) in POINTS {
        // Not always the first time.
        let rare = ["blob", "answer", "snapshot", "next"]
            .iter()
            .any(|rare| point.starts_with(rare));
        let passage = if rare { 1 } else { 1 + case.chance.below(4) };
        arm(role(stack, *who), point, passage).await;
        special.extend(company(stack, point).await);
        if point.starts_with("redrive") {
            // What its neighbour held is overdue as soon as the lease has ended. The neighbour, back, may see it first.
            let mut kills = 0;
            while kills < REDRIVES_MAX && stack.workers[0].wait_exit(REDRIVEN_WITHIN).await.is_none() {
                case.kill(&mut stack.workers[1]);
                stack.workers[1].launch();
                kills += 1;
            }
        }
        died(case, role(stack, *who), point).await;
        case.progress(&load);
    }
    all_ready(stack).await;
    let ending = async {
        let mut rides = load.finish().await;
        let mut keys = BTreeSet::new();
        for ride in special {
            let ride = ride.await.expect("a rider does not panic");
            // Those of one key rode the same run.
            if keys.insert(ride.key.clone()) {
                rides.push(ride);
            }
        }
        rides
    };
    case.all_end(ending).await
}

/// What a point needs that no other client does.
async fn company(stack: &Stack, point: &str) -> Vec<JoinHandle<Ride>> {
    let tag = fresh_prefix();
    let riders: Vec<Rider> = match point {
        "blob.after" => vec![rider(stack, &format!("{tag} {}", "long ".repeat(20_000)), json!({}))],
        "answer.again" => {
            let first = rider(stack, &format!("{tag} twice"), json!({}));
            let again = Rider {
                gateways: first.gateways.clone(),
                key: first.key.clone(),
                body: first.body.clone(),
                drops: Drops::Never,
                first: 0,
            };
            vec![first, again]
        }
        "snapshot.before" | "snapshot.after" => {
            // Some 300 events. Whichever worker takes them: of so many the armed one gets some.
            let step = "[[tool:clock {}]]".repeat(24);
            let text = format!("{tag} {}", vec![step; 6].join(" [[then]] "));
            (0..8)
                .map(|n| rider(stack, &format!("{n} {text}"), json!({})))
                .collect()
        }
        "result.before" | "result.after" => (0..8)
            .map(|n| rider(stack, &format!("{tag} {n} {WAITED_FOR}"), json!({})))
            .collect(),
        "next.after" => {
            let session = sessions(&stack.api(), 1).await.swap_remove(0);
            let one = |n| rider(stack, &format!("{tag} turn {n}"), json!({"session_id": session}));
            (0..8).map(one).collect()
        }
        _ => vec![],
    };
    riders
        .into_iter()
        .map(|rider| tokio::spawn(rider.ride(RIDE_MAX)))
        .collect()
}

fn rider(stack: &Stack, text: &str, more: Value) -> Rider {
    let mut body = json!({"input": text, "stream": false});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    Rider {
        gateways: Arc::new(stack.apis()),
        first: 0,
        key: fresh_prefix(),
        body,
        drops: Drops::Never,
    }
}

fn role(stack: &mut Stack, who: Who) -> &mut Role {
    match who {
        Who::Gateway => &mut stack.gateways[0],
        Who::Worker => &mut stack.workers[0],
        Who::Projector => &mut stack.projectors[0],
    }
}

/// Starts the process anew, told where to die.
async fn arm(role: &mut Role, point: &str, passage: u64) {
    role.sigterm();
    role.wait_exit(REACHED_WITHIN).await;
    role.set_env("STEADFAST_CRASH", format!("{point}:{passage}"));
    role.launch();
}

/// Waits for the death of a process that was armed, and starts it again unarmed.
async fn died(case: &mut Case, role: &mut Role, point: &str) {
    let pid = role.pid();
    let exit = role.wait_exit(REACHED_WITHIN).await;
    match (pid, exit.and_then(|exit| exit.signal())) {
        (Some(pid), Some(SIGABRT)) => case.died(pid),
        (_, other) => {
            let what = format!("{point} was not reached within {REACHED_WITHIN:?}: {exit:?}, {other:?}");
            case.require(false, what);
            case.kill(role);
        }
    }
    role.set_env("STEADFAST_CRASH", "");
    role.launch();
    role.ready().await;
}
