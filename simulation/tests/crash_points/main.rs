//! Every append of recorded runs is a crash point. An append happens whole or not at all, so the prefixes a crash can
//! leave of a log are its appends; each of them is cut in every way there is, and whoever goes on must reach the same
//! end.
//!
//! The worker's loop, the gateway's router and the store on SQLite are the ones that ship, in real time; only the
//! model, the tools and the process that dies belong to the test.

mod client;
mod judge;
mod outside;
mod play;
mod process;
mod store;
mod story;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use play::{Plan, Played, Successor, play};
use steadfast::{run::Time, store::Store};
use store::{Cut, Fate};
use story::Story;

/// Plays at the same time: most of them wait for something.
const THREADS: usize = 16;

#[expect(clippy::disallowed_methods, reason = "the clock of the processes of this test")]
fn now() -> Time {
    chrono::Utc::now()
}

#[expect(clippy::disallowed_methods, reason = "the ids of this test")]
fn new_id() -> uuid::Uuid {
    uuid::Uuid::now_v7()
}

/// A folder with an empty database in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = Self(std::env::temp_dir().join(format!("steadfast-crash-points-{}", new_id().simple())));
        let url = format!("sqlite://{}", folder.template().display());
        on_a_runtime(async {
            let store = Store::open(&url).await.expect("opens");
            store.db.migrate().await.expect("migrates");
            steadfast_projections::create_tables(&store.db).await.expect("tables");
            store.db.close().await;
        });
        folder
    }

    fn template(&self) -> PathBuf {
        self.0.join("empty")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn on_a_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

fn one(template: &Path, story: &Story, plan: &Plan) -> Played {
    let name = new_id().simple().to_string();
    on_a_runtime(play(template, &name, story, plan))
}

/// A story, what goes wrong in it, and how it must end all the same.
type Case<'a> = (&'a Story, Plan, &'a [play::End]);

/// Plays all, many at a time; answers how many cuts were reached.
fn play_all(template: &Path, cases: Vec<Case<'_>>) -> usize {
    let cases = Mutex::new(VecDeque::from(cases));
    let struck = AtomicUsize::new(0);
    let next = || cases.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((story, plan, ends)) = next() {
                    let played = one(template, story, &plan);
                    assert_eq!(played.ends, ends, "{} ends otherwise with {plan:?}", story.name);
                    struck.fetch_add(played.struck, Ordering::Relaxed);
                }
            });
        }
    });
    struck.into_inner()
}

/// Each story as it goes without a crash.
fn recorded(template: &Path) -> Vec<(Story, Played)> {
    let calm = Plan {
        cuts: vec![],
        successor: Successor::Same,
    };
    let record = |story: Story| {
        let played = one(template, &story, &calm);
        for name in story.shows {
            assert!(
                played.names.iter().any(|seen| seen == name),
                "{} shows no {name}: {:?}",
                story.name,
                played.names
            );
        }
        (story, played)
    };
    story::all().into_iter().map(record).collect()
}

fn cases<'a>(recorded: &'a [(Story, Played)], plans: impl Fn(&Story, usize) -> Vec<Plan>) -> Vec<Case<'a>> {
    let of = |(story, calm): &'a (Story, Played)| {
        let plans = (0..calm.writes[0]).flat_map(|at| plans(story, at)).collect::<Vec<_>>();
        plans.into_iter().map(move |plan| (story, plan, &*calm.ends))
    };
    // The slow ones first: they wait while the others work.
    let mut cases: Vec<Case<'a>> = recorded.iter().flat_map(of).collect();
    cases.sort_by_key(|(story, ..)| !story.slow);
    cases
}

/// Whether every pair of cuts is played in every combination of deaths: minutes, not seconds.
fn at_length() -> bool {
    std::env::var_os("STEADFAST_CRASH_POINTS").is_some_and(|value| value == "all")
}

#[test]
fn whatever_becomes_of_any_append_the_run_reaches_the_same_end() {
    let folder = Folder::new();
    let recorded = recorded(&folder.template());
    let cases = cases(&recorded, |_, at| {
        let once = |fate, successor| Plan {
            cuts: vec![Cut { at, fate }],
            successor,
        };
        let restarted = Fate::ALL.map(|fate| once(fate, Successor::Same));
        let taken_over = once(Fate::DiesUnanswered, Successor::Another);
        restarted.into_iter().chain([taken_over]).collect()
    });
    let planned = cases.len();
    let struck = play_all(&folder.template(), cases);
    println!("{planned} cuts planned, {struck} reached");
    // Two runs at a time may share a commit now and then.
    assert!(struck * 100 >= planned * 95, "of {planned} cuts {struck} were reached");
}

#[test]
fn who_goes_on_may_die_at_any_append_too() {
    let folder = Folder::new();
    let recorded = recorded(&folder.template());
    let longest = recorded
        .iter()
        .map(|(_, calm)| calm.writes[0])
        .max()
        .unwrap_or_default();
    let cases = cases(&recorded, |story, at| {
        // Those with a pause in them take too long to be cut everywhere twice.
        let seconds = if story.slow { 1 } else { longest - at };
        let twice = |first, second, fate| Plan {
            cuts: vec![Cut { at, fate: first }, Cut { at: second, fate }],
            successor: Successor::Same,
        };
        let mut plans = Vec::new();
        for second in 0..seconds {
            for (turn, fate) in Fate::DEATHS.into_iter().enumerate() {
                // Each pair of appends in one combination, and over all pairs every combination.
                let first = Fate::DEATHS[(at + second) % 3];
                if at_length() {
                    plans.extend(Fate::DEATHS.map(|first| twice(first, second, fate)));
                } else if turn == (at / 3 + second / 3) % 3 {
                    plans.push(twice(first, second, fate));
                }
            }
        }
        plans
    });
    let planned = cases.len();
    let struck = play_all(&folder.template(), cases);
    println!("{planned} pairs of cuts planned, {struck} cuts reached");
    // A second cut behind the end of the run is none.
    assert!(struck > planned, "of {planned} pairs {struck} cuts were reached");
}
