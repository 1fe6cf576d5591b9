//! T16: one tenant asks for ten times what can be done, another for little. The flood is refused in time and in words; what
//! is done stays as much as before; the other hardly notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, future::join_all};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;

use super::roles;
use crate::{
    chaos::{Case, Scenario},
    system::{Api, Role, SETTLE_MAX, Stack},
};

pub const SCENARIO: Scenario = Scenario {
    name: "overload",
    about: "one tenant posts ten times what can be done; it is refused with Retry-After, others hardly notice (T16)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const TASK: &str = "hello";
const WORKERS: usize = 2;
/// Of each worker: few, so that places are what is scarce, and not the processor of the machine that tests.
const SLOTS: &str = "8";
const HELD_MAX: u64 = 200;
/// Clients of each of two tenants that wait for the end of each run: more than there are places, and one tenant alone may not
/// have them all.
const PEAK_CLIENTS: usize = 20;
const CALM_CLIENTS: usize = 2;
const FLOOD_CLIENTS: usize = 32;
/// For as long the peak is measured, at the most.
const PEAK_MAX: Duration = Duration::from_secs(30);
/// Before anything is measured.
const WARM_UP: Duration = Duration::from_secs(3);
/// Of the peak, posted.
const FLOOD: f64 = 10.0;
/// What is promised.
const GOODPUT_MIN: f64 = 0.8;
const P99_RATIO_MAX: f64 = 2.0;
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// A machine that does other things at the same time is no reason to fail: these are for what is broken.
const FLOOD_BROKEN: f64 = 2.0;
const GOODPUT_BROKEN: f64 = 0.4;
const P99_RATIO_BROKEN: f64 = 6.0;
const P99_GRACE: Duration = Duration::from_secs(1);
const RECOVERY_BROKEN: Duration = Duration::from_secs(45);
const MEMORY_GROWTH_MAX_KB: u64 = 100 * 1024;

async fn play(case: &mut Case) {
    let config = format!("[gateway]\nheld_runs_per_tenant_max = {HELD_MAX}\nline_runs_min = 20\n");
    let stack = roles()
        .workers(WORKERS)
        .env("STEADFAST_SLOTS", SLOTS)
        .env("STEADFAST_API_KEYS", "true")
        .config(&config)
        .start()
        .await;
    let (flood, calm) = (caller(&stack, "flood").await, caller(&stack, "calm").await);
    let phase = Duration::from_secs(case.pick(8, 60));
    let mut accepted = 0;

    let closed = [&flood, &calm].map(|tenant| Closed::start(tenant, PEAK_CLIENTS));
    tokio::time::sleep(WARM_UP).await;
    let peak = ended_per_second(&stack, phase.min(PEAK_MAX)).await;
    for closed in closed {
        accepted += closed.stop().await.took.len();
    }

    let alone = Closed::start(&calm, CALM_CLIENTS);
    tokio::time::sleep(phase).await;
    let alone = alone.stop().await;

    let before = memory_kb(&stack);
    let posts = Open::start(&flood, FLOOD * peak);
    tokio::time::sleep(WARM_UP).await;
    let beside = Closed::start(&calm, CALM_CLIENTS);
    let goodput = ended_per_second(&stack, phase).await;
    let (beside, flooded) = (beside.stop().await, posts.stop().await);
    let grown = memory_kb(&stack).saturating_sub(before);
    case.fault();
    accepted += alone.took.len() + beside.took.len() + flooded.accepted as usize;

    let recovered = recovery(&flood).await;
    accepted += 1;
    let drained = case.all_end(drained(&stack)).await;

    let share = goodput / peak.max(0.1);
    let flood = flooded.per_second / peak.max(0.1);
    let (p99_alone, p99_beside) = (alone.p99(), beside.p99());
    let ratio = p99_beside.as_secs_f64() / p99_alone.as_secs_f64().max(0.001);
    case.note(format!(
        "peak {peak:.0} runs/s; at {flood:.1} times that {goodput:.0} ({:.0} %), {} posts accepted, {} refused",
        100.0 * share,
        flooded.accepted,
        flooded.refused
    ));
    case.note(format!(
        "the other tenant's runs: p99 {} ms alone ({} runs), {} ms beside the flood ({} runs), {ratio:.1} times",
        p99_alone.as_millis(),
        alone.took.len(),
        p99_beside.as_millis(),
        beside.took.len()
    ));
    case.note(format!(
        "accepted again after {:.1} s; memory of all processes grew by {grown} kB",
        recovered.as_secs_f64()
    ));
    case.require(flooded.refused > 0, "nothing was refused at ten times the peak");
    case.require(
        flooded.strange.is_empty(),
        format!(
            "answers that are neither 202 nor a 429 with Retry-After: {:?}",
            flooded.strange
        ),
    );
    let calm_refused = alone.refused + beside.refused;
    case.require(
        calm_refused == 0,
        format!("the tenant that asked for little was refused {calm_refused} times"),
    );
    case.require(
        !alone.took.is_empty() && !beside.took.is_empty(),
        "the tenant that asked for little got nothing",
    );
    let said = format!("the flood was {flood:.1} times the peak");
    case.require(flood >= FLOOD_BROKEN, said.clone());
    case.require_in_time(flood >= 0.8 * FLOOD, said);
    let said = format!("goodput fell to {:.0} % of the peak", 100.0 * share);
    case.require(share >= GOODPUT_BROKEN, said.clone());
    case.require_in_time(share >= GOODPUT_MIN, said);
    let said = format!("the other tenant's p99 went from {p99_alone:?} to {p99_beside:?}");
    case.require(
        p99_beside <= p99_alone.mul_f64(P99_RATIO_BROKEN) + P99_GRACE,
        said.clone(),
    );
    case.require_in_time(ratio <= P99_RATIO_MAX, said);
    let said = format!("posts were refused for {recovered:?} more");
    case.require(recovered <= RECOVERY_BROKEN, said.clone());
    case.require_in_time(recovered <= RECOVERY_MAX, said);
    case.require(grown <= MEMORY_GROWTH_MAX_KB, format!("memory grew by {grown} kB"));
    case.require(drained, "I4: runs are open after the flood");
    judge(case, &stack, accepted).await;
}

/// No ride is kept of these runs: their number, what the model was asked, and the operator's check of the whole database.
async fn judge(case: &mut Case, stack: &Stack, accepted: usize) {
    let all = count(stack, "true").await;
    let completed = count(stack, "status = 'completed'").await;
    case.settled.accepted = accepted;
    case.settled.lost = accepted.saturating_sub(completed as usize);
    case.settled.doubled = (all as usize).saturating_sub(accepted);
    case.require(
        all == completed && all as usize == accepted,
        format!("I2: {accepted} runs were accepted, {all} are in the log, {completed} of them completed"),
    );
    case.checked.insert(2);
    // Nobody died: each call is in the log, and was made.
    let made = stack.model().stats().calls_for(TASK);
    let recorded = ask(stack, "select count(*) from events where type = 'model_call.requested'").await;
    case.require(
        made == recorded.unsigned_abs(),
        format!("I6: the model was asked {made} times, {recorded} are in the log"),
    );
    case.check_log(stack).await;
}

/// A tenant of its own.
async fn caller(stack: &Stack, tenant: &str) -> Api {
    let made = stack
        .cli(&[
            "keys", "create", "--json", "--name", "overload", "--tenant", tenant, "--scopes", "*",
        ])
        .await
        .succeeded();
    let key: serde_json::Value = serde_json::from_str(&made.stdout).expect("a key as JSON");
    stack.api().as_bearer(key["key"].as_str().expect("the key itself"))
}

/// Clients of which each waits for the end of its run before it posts the next.
struct Closed {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Waited>>,
}

#[derive(Default)]
struct Waited {
    /// From the first try to the end of the run.
    took: Vec<Duration>,
    /// Posts that were answered otherwise than 202.
    refused: u64,
}

impl Waited {
    fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        let at = (took.len() * 99).div_ceil(100).saturating_sub(1);
        took.get(at).copied().unwrap_or_default()
    }
}

impl Closed {
    fn start(api: &Api, clients: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let client = |_| {
            let (api, stop) = (api.clone(), stop.clone());
            tokio::spawn(async move {
                let mut waited = Waited::default();
                let mut begun = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let answer = api.post("/v1/runs", &json!({"input": TASK})).await;
                    if answer.status != 202 {
                        waited.refused += 1;
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                    api.ended(answer.json()["id"].as_str().expect("an id")).await;
                    waited.took.push(begun.elapsed());
                    begun = Instant::now();
                }
                waited
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    /// How long each run took.
    async fn stop(self) -> Waited {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Waited::default();
        for waited in join_all(self.clients).await {
            let waited = waited.expect("a client does not panic");
            all.took.extend(waited.took);
            all.refused += waited.refused;
        }
        all
    }
}

/// Posts at a rate, whatever the answers are.
struct Open {
    begun: Instant,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Flooded>>,
}

#[derive(Default)]
struct Flooded {
    accepted: u64,
    refused: u64,
    strange: Vec<String>,
    /// Posts that were answered.
    per_second: f64,
}

impl Open {
    fn start(api: &Api, per_second: f64) -> Self {
        let (stop, posted, begun) = (
            Arc::<AtomicBool>::default(),
            Arc::<AtomicU64>::default(),
            Instant::now(),
        );
        let client = |_| {
            let (api, stop, posted) = (api.clone(), stop.clone(), posted.clone());
            tokio::spawn(async move {
                let mut seen = Flooded::default();
                while !stop.load(Ordering::Relaxed) {
                    let n = posted.fetch_add(1, Ordering::Relaxed);
                    let at = Duration::from_secs_f64(n as f64 / per_second.max(1.0));
                    tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
                    let answer = api.post("/v1/runs", &json!({"input": TASK})).await;
                    let retry_after = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
                    match (answer.status, retry_after) {
                        (202, _) => seen.accepted += 1,
                        (429, Some(1..=60)) => seen.refused += 1,
                        (status, _) => seen.strange.push(format!("{status} {}", answer.text)),
                    }
                }
                seen
            })
        };
        let clients = (0..FLOOD_CLIENTS).map(client).collect();
        Self { begun, stop, clients }
    }

    async fn stop(self) -> Flooded {
        let time = self.begun.elapsed();
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Flooded::default();
        for seen in join_all(self.clients).await {
            let seen = seen.expect("a client does not panic");
            all.accepted += seen.accepted;
            all.refused += seen.refused;
            all.strange.extend(seen.strange);
        }
        all.per_second = (all.accepted + all.refused) as f64 / time.as_secs_f64();
        all.strange.truncate(5);
        all
    }
}

/// Until a post of the tenant that flooded is taken again.
async fn recovery(api: &Api) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < RECOVERY_BROKEN * 2 {
        if api.post("/v1/runs", &json!({"input": TASK})).await.status == 202 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    begun.elapsed()
}

async fn drained(stack: &Stack) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < 2 * SETTLE_MAX {
        if count(stack, "status in ('queued', 'running', 'waiting')").await == 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    false
}

async fn ended_per_second(stack: &Stack, during: Duration) -> f64 {
    let (begun, before) = (Instant::now(), count(stack, "status = 'completed'").await);
    tokio::time::sleep(during).await;
    let ended = count(stack, "status = 'completed'").await - before;
    ended as f64 / begun.elapsed().as_secs_f64()
}

async fn count(stack: &Stack, which: &str) -> i64 {
    ask(stack, &format!("select count(*) from runs where {which}")).await
}

async fn ask(stack: &Stack, sql: &str) -> i64 {
    let url = stack.postgres.as_ref().expect("a Postgres of its own").url("postgres");
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .expect("a number")
}

/// What all processes of the system hold in memory.
fn memory_kb(stack: &Stack) -> u64 {
    let roles = stack.gateways.iter().chain(&stack.workers).chain(&stack.projectors);
    roles.filter_map(Role::pid).filter_map(resident_kb).sum()
}

fn resident_kb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
