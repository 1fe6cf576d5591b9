//! One seed, from the first process to the last check.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Once, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use steadfast::agents::Agents;
use tokio::time::{Instant, sleep};

use crate::{
    check::{Checks, Violation},
    client::{Client, Transcripts, create_session},
    deaf::Deaf,
    guard::Guard,
    house::{self, House},
    http::Ask,
    plan::{Fault, Kind, Plan},
    process::Edge,
    transcript::Transcript,
    world::{Trace, World},
};

/// Once the faults are over, everything has ended within this: what was dispatched in vain again and again is looked
/// at every five minutes, and a time that a clock ahead by ten minutes wrote down has come for one that is behind, and
/// was set back, half an hour later.
const SETTLE_MAX: Duration = Duration::from_secs(900 + 1800);
/// And every process says that it is ready within this.
const READY_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A process that was told to stop is killed after this.
const STOP_MAX: Duration = Duration::from_secs(8);

/// What became of a seed.
pub struct Outcome {
    pub violations: Vec<Violation>,
    pub trace: Trace,
    pub runs: usize,
    pub checks: BTreeMap<&'static str, u64>,
    pub reconnects: u64,
}

/// What all simulations of one process share.
pub struct Simulator {
    agents: Arc<Agents>,
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

fn count_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

impl Simulator {
    pub fn new() -> Result<Self, String> {
        count_panics();
        Ok(Self {
            agents: house::agents()?,
        })
    }

    /// Runs a plan. `tell` keeps the story.
    pub fn run(&self, plan: &Plan, broken: Option<Guard>, tell: bool) -> Result<Outcome, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let panics = PANICS.get();
        let mut outcome = runtime.block_on(simulate(plan.clone(), self.agents.clone(), broken, tell));
        if PANICS.get() > panics {
            let what = "a task panicked; what it said is above".into();
            outcome.violations.push(Violation {
                invariant: "no panic",
                what,
            });
        }
        Ok(outcome)
    }
}

async fn simulate(plan: Plan, agents: Arc<Agents>, broken: Option<Guard>, tell: bool) -> Outcome {
    let world = Arc::new(World::new(plan.seed, plan.noise, plan.calm_from(), broken, tell));
    let house = House::new(world.clone(), plan.clone(), agents);
    for place in 0..plan.processes() {
        house.boot(place);
    }
    for fault in &plan.faults {
        tokio::spawn(bring(house.clone(), fault.clone()));
    }
    let transcripts = Transcripts::default();
    for at in 0..plan.conversations.len() {
        converse(&house, &transcripts, at);
    }
    let mut checks = Checks::default();
    settle(&house, &transcripts, &mut checks).await;
    strangers(&house, &transcripts, &mut checks).await;
    if world.is_calm() {
        readiness(&house, &mut checks).await;
    }
    for said in house.while_deaf() {
        checks.that("I12 readiness", !said.ready, || {
            format!(
                "{} heard nothing of the store for long and said that it was ready",
                said.process
            )
        });
    }
    let transcripts = std::mem::take(&mut *transcripts.lock().unwrap_or_else(PoisonError::into_inner));
    checks.all(&house, &transcripts);
    Outcome {
        runs: house.database.rows().runs.len(),
        reconnects: transcripts.iter().map(|transcript| transcript.reconnects).sum(),
        violations: checks.violations,
        checks: checks.made,
        trace: world.trace(),
    }
}

fn converse(house: &Arc<House>, transcripts: &Transcripts, at: usize) {
    let conversation = house.plan.conversations[at].clone();
    let tenant = conversation.tenant;
    let mut clients = Vec::new();
    for (number, task) in conversation.tasks.iter().enumerate() {
        let name = format!("{at}-{number}");
        let mut all = transcripts.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Transcript {
            tenant,
            key: name.clone(),
            ..Transcript::default()
        });
        clients.push(Arc::new(Client {
            house: house.clone(),
            transcripts: transcripts.clone(),
            at: all.len() - 1,
            tenant,
            task: task.clone(),
            name,
        }));
    }
    let (house, transcripts) = (house.clone(), transcripts.clone());
    tokio::spawn(async move {
        let session = match conversation.in_session {
            true => match create_session(&house, tenant, &at.to_string()).await {
                Ok(id) => Some(id),
                Err(reason) => {
                    let mut all = transcripts.lock().unwrap_or_else(PoisonError::into_inner);
                    return all
                        .iter_mut()
                        .for_each(|transcript| transcript.surprises.push(reason.clone()));
                }
            },
            false => None,
        };
        for client in clients {
            let session = session.clone();
            tokio::spawn(async move {
                sleep(client.task.at).await;
                client.run(session).await;
            });
        }
    });
}

/// Lets one fault happen, and end.
async fn bring(house: Arc<House>, fault: Fault) {
    sleep(fault.at).await;
    let world = &house.world;
    world.fault(fault.kind.name());
    world.note(format_args!("fault: {fault}"));
    match fault.kind {
        Kind::Crash { process } => {
            let killed = house.process(process);
            world.trouble(Some(&killed.name), fault.lasts);
            killed.kill();
            sleep(fault.lasts).await;
            // Unless somebody else has started it by now.
            if Arc::ptr_eq(&killed, &house.process(process)) {
                house.boot(process);
            }
        }
        Kind::Restart { process } => {
            let old = house.running()[process].clone();
            world.trouble(Some(&old.process.name), STOP_MAX);
            old.stop.cancel();
            house.boot(process);
            sleep(STOP_MAX).await;
            old.process.kill();
        }
        Kind::Stall { process } => {
            let stalled = house.process(process);
            world.trouble(Some(&stalled.name), fault.lasts);
            stalled.stall();
            sleep(fault.lasts).await;
            stalled.go_on();
        }
        Kind::ClockJump { process, by_ms } => house.process(process).set_clock(TimeDelta::milliseconds(by_ms)),
        Kind::Cut { process, edge } => {
            let cut = house.process(process);
            if edge == Edge::Store {
                world.trouble(Some(&cut.name), fault.lasts);
            }
            cut.cut(edge, Instant::now() + fault.lasts);
            Deaf::until_the_end(&house, &fault).await;
        }
        Kind::StoreAway => {
            world.trouble(None, fault.lasts);
            house.database.go_away();
            Deaf::until_the_end(&house, &fault).await;
            house.database.come_back();
        }
        Kind::SlowCommits => {
            world.trouble(None, fault.lasts);
            house.database.rows().slow = true;
            sleep(fault.lasts).await;
            house.database.rows().slow = false;
        }
        Kind::QueueAway => {
            house.broker.go_away();
            sleep(fault.lasts).await;
            house.broker.come_back();
        }
        Kind::QueueWiped => house.broker.wipe(),
        Kind::QueueStuck => house.broker.get_stuck(),
    }
    house.world.note(format_args!("over: {:?}", fault.kind));
}

/// Waits until every client is served, every run has ended, and the read models know it.
async fn settle(house: &House, transcripts: &Transcripts, checks: &mut Checks) {
    loop {
        sleep(LOOK_EVERY).await;
        let (open, waiting, behind) = left(house, transcripts);
        if open.is_empty() && waiting.is_empty() && !behind {
            return;
        }
        if house.world.elapsed() > house.world.calm_from + SETTLE_MAX {
            for what in open.into_iter().chain(waiting) {
                checks.fail("I4 progress", what);
            }
            if behind {
                checks.fail("I11 projections", "the read models never caught up with the log".into());
            }
            return;
        }
    }
}

fn left(house: &House, transcripts: &Transcripts) -> (Vec<String>, Vec<String>, bool) {
    let rows = house.database.rows();
    let open = (rows.runs.values().map(|row| &row.head))
        .filter(|head| !head.status.is_terminal())
        .map(|head| format!("{} is {} since {}", head.run_id, head.status, head.updated_at))
        .collect();
    let all = transcripts.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting = (all
        .iter()
        .filter(|transcript| !transcript.done && transcript.surprises.is_empty()))
    .map(|transcript| {
        format!(
            "the client of {} still waits, at {:?}",
            transcript.key,
            transcript.cursor()
        )
    })
    .collect();
    // The last event there is, also where an open transaction still hides it.
    let end = rows.log.last_key_value().map(|(position, _)| *position);
    let behind = house.models.position() < end;
    (open, waiting, behind)
}

/// Nobody sees another tenant's run.
async fn strangers(house: &House, transcripts: &Transcripts, checks: &mut Checks) {
    let mine = {
        let all = transcripts.lock().unwrap_or_else(PoisonError::into_inner);
        all.first()
            .and_then(|transcript| Some((1 - transcript.tenant, *transcript.run_ids.first()?)))
    };
    let Some((stranger, run_id)) = mine else { return };
    let ask = Ask {
        tenant: stranger,
        method: axum::http::Method::GET,
        path: format!("/v1/runs/{run_id}"),
        body: String::new(),
        key: None,
        last_event_id: None,
    };
    if let Some(answer) = house.ask(&ask).await {
        let refused = matches!(answer.status, 404 | 503);
        checks.that("I13 tenant isolation", refused, || {
            format!("a stranger's look at {run_id}: {}", answer.status)
        });
    }
}

/// Once all is well, every process says so.
async fn readiness(house: &House, checks: &mut Checks) {
    let started = Instant::now();
    loop {
        let unready: Vec<String> = (house.running().iter())
            .filter(|running| !running.health.is_ready())
            .map(|running| format!("{}: {:?}", running.process.name, running.health.report()))
            .collect();
        if unready.is_empty() || started.elapsed() > READY_MAX {
            return checks.that("I12 readiness", unready.is_empty(), || unready.join("; "));
        }
        sleep(LOOK_EVERY).await;
    }
}
