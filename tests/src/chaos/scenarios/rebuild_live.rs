//! T28: read models are built anew under load, and whoever builds them is killed in the middle.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use sqlx::{Connection, PgConnection};
use tokio::{sync::watch, task::JoinHandle};

use super::{all_ready, roles};
use crate::{
    chaos::{Case, Scenario},
    system::{Api, Stack},
};

pub const SCENARIO: Scenario = Scenario {
    name: "rebuild-live",
    about: "read models rebuilt under load, the rebuild and the projector killed in the middle; no read fails or runs backwards (T28)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 20;
/// A rebuild that came to its end before its kill is no fault, and is tried again; but not for ever.
const TRIES_MAX: u64 = 20;
const FOLLOW_MAX: Duration = Duration::from_secs(60);
/// Every row of every read model, as text. Checkpoints say when, not what.
const TABLES: [&str; 4] = [
    "select t::text from run_list t order by 1",
    "select t::text from messages t order by 1",
    "select t::text from session_list t order by 1",
    "select t::text from usage t order by 1",
];

async fn play(case: &mut Case) {
    let mut stack = roles().start().await;
    let load = case.load(&stack, CLIENTS, None).await;
    let (stop, stopped) = watch::channel(false);
    let readers: Vec<_> = stack
        .apis()
        .into_iter()
        .map(|api| read_on(api, stopped.clone()))
        .collect();
    let kills = case.pick(6, 20);
    // How long one takes here, so that kills fall into its middle.
    let began = Instant::now();
    let ran = stack.cli(&["projections", "rebuild", "all"]).await;
    case.require(ran.code == Some(0), format!("the first rebuild failed: {}", ran.stderr));
    let mut span = began.elapsed();
    let (mut tries, mut killed) = (0, 0);
    while killed < kills && tries < kills + TRIES_MAX {
        tries += 1;
        // Dropped, the command is killed.
        let rebuild = stack.cli(&["projections", "rebuild", "all"]);
        let within = span.mul_f64((10 + case.chance.below(80)) as f64 / 100.0);
        let began = Instant::now();
        match tokio::time::timeout(within, rebuild).await {
            Err(_) => {
                killed += 1;
                case.fault();
            }
            Ok(ran) => {
                case.require(ran.code == Some(0), format!("a rebuild failed: {}", ran.stderr));
                span = began.elapsed();
            }
        }
        if tries % 3 == 0 {
            case.kill(&mut stack.projectors[0]);
            stack.projectors[0].launch();
        }
        case.pause(50, 300).await;
        case.progress(&load);
    }
    case.require(killed >= kills, format!("only {killed} kills were in time"));
    // One that nobody kills, still under load.
    let ran = stack.cli(&["projections", "rebuild", "all"]).await;
    case.require(ran.code == Some(0), format!("the last rebuild failed: {}", ran.stderr));
    all_ready(&mut stack).await;
    stop.send_replace(true);
    let mut reads = 0;
    for reader in readers {
        let seen = reader.await.expect("a reader does not panic");
        reads += seen.reads;
        case.require(
            seen.faults.is_empty(),
            format!("reads during rebuilds: {:?}", seen.faults),
        );
    }
    case.note(format!("{tries} rebuilds, {reads} reads meanwhile"));
    case.finish(&mut stack, load).await;

    // At rest: what followed, and what is built from the first event, byte for byte.
    let followed = settled_rows(&stack).await;
    let ran = stack.cli(&["projections", "rebuild", "all"]).await;
    case.require(ran.code == Some(0), format!("a rebuild at rest failed: {}", ran.stderr));
    let rebuilt = rows(&stack).await;
    case.require(!followed.is_empty(), "no rows of read models to compare");
    case.require(
        followed == rebuilt,
        "I11: the rebuilt tables differ from those that followed the log",
    );
}

/// What a reader saw.
#[derive(Default)]
struct Seen {
    reads: u64,
    faults: BTreeSet<String>,
}

/// Reads lists and sums all the time. They may be late, never gone, and never run backwards.
fn read_on(api: Api, stopped: watch::Receiver<bool>) -> JoinHandle<Seen> {
    tokio::spawn(async move {
        let mut seen = Seen::default();
        let (mut calls_before, mut listed_before) = (0, BTreeSet::new());
        while !*stopped.borrow() {
            let usage = api.get("/v1/usage?days=2").await;
            if usage.status != 200 {
                seen.faults
                    .insert(format!("usage answered {}: {}", usage.status, usage.text));
                continue;
            }
            let usage = usage.json();
            let rows = usage["data"].as_array().into_iter().flatten();
            let calls: u64 = rows.filter_map(|row| row["model_calls"].as_u64()).sum();
            if calls < calls_before {
                seen.faults
                    .insert(format!("usage went from {calls_before} model calls back to {calls}"));
            }
            calls_before = calls;
            let mut listed: BTreeSet<String> = BTreeSet::new();
            let mut after = String::new();
            loop {
                let page = api.get(&format!("/v1/runs?limit=100{after}")).await;
                if page.status != 200 {
                    seen.faults
                        .insert(format!("the list of runs answered {}: {}", page.status, page.text));
                    listed.extend(listed_before.iter().cloned());
                    break;
                }
                let page = page.json();
                let data = page["data"].as_array().into_iter().flatten();
                listed.extend(data.filter_map(|run| run["id"].as_str().map(str::to_owned)));
                match page["last_id"].as_str().filter(|_| page["has_more"] == true) {
                    Some(last) => after = format!("&after={last}"),
                    None => break,
                }
            }
            let gone = listed_before.difference(&listed).count();
            if gone > 0 {
                seen.faults.insert(format!("{gone} runs vanished from the list"));
            }
            listed_before = listed;
            seen.reads += 1;
        }
        if calls_before == 0 || listed_before.is_empty() {
            seen.faults.insert("nothing was ever listed".into());
        }
        seen
    })
}

/// The rows, once the projector has come to the end of a log that is at rest.
async fn settled_rows(stack: &Stack) -> Arc<Vec<String>> {
    let end = Instant::now() + FOLLOW_MAX;
    loop {
        let open = "select count(*) from runs r join run_list l using (run_id) where r.version <> l.version";
        let behind: i64 = ask(stack, open).await;
        let listed: i64 = ask(
            stack,
            "select (select count(*) from runs) - (select count(*) from run_list)",
        )
        .await;
        if (behind, listed) == (0, 0) || Instant::now() >= end {
            return rows(stack).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn connect(stack: &Stack) -> PgConnection {
    let postgres = stack.postgres.as_ref().expect("a Postgres of its own");
    let connected = PgConnection::connect(&postgres.url("postgres")).await;
    connected.expect("Postgres takes connections")
}

async fn ask(stack: &Stack, sql: &'static str) -> i64 {
    let answer = sqlx::query_scalar(sql).fetch_one(&mut connect(stack).await).await;
    answer.expect("a number")
}

async fn rows(stack: &Stack) -> Arc<Vec<String>> {
    let mut connection = connect(stack).await;
    let mut rows = vec![];
    for sql in TABLES {
        let table: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("rows");
        rows.extend(table);
    }
    Arc::new(rows)
}
