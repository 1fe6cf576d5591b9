//! T11: every append sleeps between taking its place in the log and committing, some are rolled back, and then a
//! transaction in another database stays open.

use std::time::{Duration, Instant};

use futures::FutureExt;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::{sync::watch, task::JoinHandle};

use super::{all_ready, roles};
use crate::{
    chaos::{Case, Scenario},
    system::{Api, Role, Stack},
};

pub const SCENARIO: Scenario = Scenario {
    name: "gap-stress",
    about: "commits out of order, rollbacks, a long transaction in another database; read models miss and double nothing (T11)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 40;
/// Each has three connections that append.
const WORKERS: usize = 4;
const GATEWAYS: usize = 3;
/// In the statement that appends, after its events have their numbers: up to 200 ms, and one in ten is rolled back.
const DELAY: &str = "
    create function stumble() returns trigger language plpgsql as $$
    begin
        perform pg_sleep(random() * 0.2);
        if random() < 0.1 then
            raise exception 'rolled back, as a test wants it' using errcode = '40001';
        end if;
        return null;
    end $$;
    create trigger stumble after insert on events for each statement execute function stumble();";
const STUMBLE_NO_MORE: &str = "drop trigger stumble on events";
const METRIC: &str = "steadfast_log_xmin_age_seconds";
const LOOK_MAX: Duration = Duration::from_secs(60);

async fn play(case: &mut Case) {
    let mut stack = roles().gateways(GATEWAYS).workers(WORKERS).start().await;
    connect(&stack, "postgres")
        .await
        .execute(DELAY)
        .await
        .expect("a trigger");
    let control = Control::start(&stack).await;
    let load = case.load(&stack, CLIENTS, None).await;
    let stumbling = Duration::from_secs(case.pick(10, 45));
    let end = Instant::now() + stumbling;
    while Instant::now() < end {
        case.pause(500, 1_000).await;
        case.progress(&load);
    }

    // Somebody forgets a transaction, in a database that is none of ours.
    connect(&stack, "postgres")
        .await
        .execute("create database elsewhere")
        .await
        .expect("a database");
    let mut elsewhere = connect(&stack, "elsewhere").await;
    let mut open = elsewhere.begin().await.expect("a transaction");
    open.execute("select pg_current_xact_id()").await.expect("its number");
    case.fault();
    let (hold, ended_before) = (Duration::from_secs(case.pick(8, 30)), load.ended());
    let held = Instant::now();
    while held.elapsed() < hold {
        case.pause(500, 1_000).await;
        case.progress(&load);
    }
    let age = metric(&stack.projectors[0], METRIC).await;
    let lag = metric(&stack.projectors[0], "steadfast_projection_lag_seconds").await;
    let ended = load.ended() - ended_before;
    open.rollback().await.expect("rolled back");
    let shown = held.elapsed().as_secs_f64();
    case.require(
        age > hold.as_secs_f64() / 2.0 && age <= shown + 1.0,
        format!("{METRIC} says {age:.1} s, and the transaction was open for {shown:.1} s"),
    );
    case.require(
        lag > 1.0,
        format!("the projections' lag is {lag:.1} s while they were held back"),
    );
    // Streams read a run by its versions: they do not wait for strangers.
    case.require(
        ended > 0,
        "no client saw the end of a run while the transaction was open",
    );
    case.note(format!(
        "{ended} runs streamed to their end while the log was held back for {shown:.0} s ({METRIC} {age:.1})"
    ));

    connect(&stack, "postgres")
        .await
        .execute(STUMBLE_NO_MORE)
        .await
        .expect("no trigger");
    all_ready(&mut stack).await;
    // The check compares every read model with a fold of the log: nothing missed, nothing doubled.
    case.finish(&mut stack, load).await;
    let waiting = Instant::now();
    let mut age = metric(&stack.projectors[0], METRIC).await;
    while age > 1.0 && waiting.elapsed() < LOOK_MAX {
        tokio::time::sleep(Duration::from_millis(200)).await;
        age = metric(&stack.projectors[0], METRIC).await;
    }
    case.require(
        age <= 1.0,
        format!("{METRIC} still says {age:.1} s after the end of the transaction"),
    );
    control.judge(case, &stack).await;
}

async fn connect(stack: &Stack, database: &str) -> PgConnection {
    let postgres = stack.postgres.as_ref().expect("a Postgres of its own");
    let connected = PgConnection::connect(&postgres.url(database)).await;
    connected.expect("Postgres takes connections")
}

/// The largest sample of a process's metric; nothing while the process does not answer.
async fn metric(role: &Role, name: &str) -> f64 {
    let text = Api::new(&role.url()).get("/metrics").await.text;
    let samples = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    samples.filter_map(|(_, value)| value.parse().ok()).fold(0.0, f64::max)
}

/// What most event stores do: events by their number alone. It must lose some, or this scenario shows nothing.
struct Control {
    stop: watch::Sender<bool>,
    reading: JoinHandle<u64>,
}

impl Control {
    async fn start(stack: &Stack) -> Self {
        let mut connection = connect(stack, "postgres").await;
        let (stop, stopped) = watch::channel(false);
        let reading = tokio::spawn(async move {
            let (mut last, mut seen) = (0_i64, 0);
            loop {
                // The last look is after the end.
                let over = *stopped.borrow();
                let sql = "select position from events where position > $1 order by position";
                let rows = sqlx::query(sql)
                    .bind(last)
                    .fetch_all(&mut connection)
                    .await
                    .expect("rows");
                seen += rows.len() as u64;
                last = rows.last().map_or(last, |row| row.get("position"));
                if over {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { stop, reading }
    }

    async fn judge(self, case: &mut Case, stack: &Stack) {
        self.stop.send_replace(true);
        let seen = self.reading.await.expect("the control reads");
        let sql = "select count(*) from events";
        let counted = sqlx::query_scalar(sql)
            .fetch_one(&mut connect(stack, "postgres").await)
            .await;
        let all: i64 = counted.expect("a number");
        let missed = all.unsigned_abs() - seen;
        case.require(
            missed > 0,
            "the control reader, by number alone, missed nothing: commits were in order",
        );
        case.note(format!(
            "{all} events; a reader by number alone missed {missed} of them"
        ));
    }
}
