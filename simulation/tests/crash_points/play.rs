//! One play of a story: a gateway that lives, and workers one after the other, each of which dies at its cut, until
//! every run has ended.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use steadfast::{
    agents::Agents,
    feed::LocalFeed,
    health::Health,
    queue::LocalQueue,
    run::{RunId, Status, state::Outcome},
    simulated,
    store::{Db, Handles, Loaded, Reader, Store, backend},
};
use steadfast_gateway::{Deps, Gateway, GatewayLimits, Identity};
use steadfast_projections::{Options, Reads};
use steadfast_workers::{Worker, WorkerDeps, WorkerOptions, model::Models, tools::Toolbox};
use tokio_util::sync::CancellationToken;

use super::{
    client::Client,
    judge,
    outside::{LOOK, Ledger, Look, PAY, Pay, Scripted, WORK, Work},
    process::{Feed, Process},
    store::{Cut, CutStore},
    story::Story,
};

/// Until a dead worker's runs may be taken by another.
const LEASE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

/// Who goes on after a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor {
    /// The one process there is, started again on its data: `steadfast dev`.
    Same,
    /// Another worker, once the lease has ended.
    Another,
}

/// What goes wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One for each worker, until there are no more; the last lives on.
    pub cuts: Vec<Cut>,
    pub successor: Successor,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub status: Status,
    pub output: Option<String>,
}

#[derive(Debug)]
pub struct Played {
    pub ends: Vec<End>,
    /// Writes of each worker.
    pub writes: Vec<usize>,
    /// The events of its first run.
    pub names: Vec<String>,
    /// Cuts that were reached.
    pub struck: usize,
}

/// A database of this play's own, made from an empty one.
struct File(PathBuf);

impl File {
    fn copy_of(template: &Path, name: &str) -> Self {
        let path = template.with_file_name(format!("{name}.db"));
        std::fs::copy(template, &path).expect("a copy of the empty database");
        Self(path)
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}

pub struct House {
    pub store: Store,
    pub ledger: Ledger,
    file: File,
    queue: Arc<LocalQueue>,
    feed: Arc<LocalFeed>,
}

/// The built-in agent, with the tools of these stories.
fn agents() -> Arc<Agents> {
    let tools = [(LOOK, true), (WORK, true), (PAY, false)].map(|(name, safe)| (name.to_owned(), safe));
    Arc::new(Agents::load(None, &tools.into(), &Default::default()).expect("the built-in agent"))
}

impl House {
    async fn new(template: &Path, name: &str) -> Self {
        let file = File::copy_of(template, name);
        Self {
            store: Store::open(&file.url()).await.expect("opens"),
            ledger: Ledger::default(),
            queue: Arc::new(LocalQueue::new(super::new_id())),
            feed: Arc::default(),
            file,
        }
    }

    fn gateway(&self) -> axum::Router {
        steadfast_gateway::router(Gateway::new(Deps {
            store: self.store.handles(),
            queue: self.queue.clone(),
            feed: self.feed.clone(),
            reads: Arc::new(Reads::new(self.store.db.clone())),
            agents: agents(),
            health: Health::default(),
            identity: Identity::Open,
            limits: GatewayLimits {
                claim_within_seconds: 1,
                ..GatewayLimits::default()
            },
        }))
    }

    /// Starts a worker; its writes are counted.
    fn boot(&self, id: String, cut: Option<Cut>) -> (Arc<Process>, Arc<AtomicUsize>) {
        let (process, writes) = (Arc::new(Process::default()), Arc::new(AtomicUsize::new(0)));
        let (url, queue, ledger) = (self.file.url(), self.queue.clone(), self.ledger.clone());
        let feed = Feed {
            shared: self.feed.clone(),
            process: process.clone(),
        };
        let (inside, counted) = (process.clone(), writes.clone());
        let living = async move {
            let store = CutStore {
                inner: backend(Db::connect(&url).await.expect("opens")),
                process: inside,
                cut,
                writes: counted,
            };
            let store = Handles::on(Arc::new(store));
            // What `steadfast dev` does first: nobody else can hold what its earlier self held.
            store.reader.make_due(Some(&id)).await.expect("answers");
            let models = Models::new(None, None).expect("models");
            let deps = WorkerDeps {
                store,
                queue,
                feed: Arc::new(feed),
                models: Arc::new(models.with_scripted(Scripted(ledger.clone()))),
                tools: Arc::new(
                    Toolbox::default()
                        .with(Look)
                        .with(Work(ledger.clone()))
                        .with(Pay(ledger)),
                ),
                health: Health::default(),
            };
            let options = WorkerOptions {
                id,
                lease: LEASE,
                redrive_every: Duration::from_millis(50),
                ..WorkerOptions::default()
            };
            Worker::new(deps, options).run(CancellationToken::new()).await;
        };
        drop(simulated::spawn_in(process.clone(), living));
        (process, writes)
    }

    pub async fn load(&self, run_id: RunId) -> Loaded {
        let loaded = self.store.reader.load(run_id).await.expect("the log reads");
        loaded.expect("an accepted run is in the log")
    }

    pub fn reader(&self) -> &Reader {
        &self.store.reader
    }
}

/// Plays the story to the end of all its runs, and judges what is left.
pub async fn play(template: &Path, name: &str, story: &Story, plan: &Plan) -> Played {
    let house = House::new(template, name).await;
    let client = Client::new(house.gateway());
    let what = format!("{} with {plan:?}", story.name);
    let runs = client.post_all(story).await;
    let mut cuts = plan.cuts.iter().copied();
    let mut writes = Vec::new();
    let mut struck = 0;
    let all = async {
        let mut answering = Box::pin(client.answer_until_ended(&house, story, &runs));
        loop {
            let cut = cuts.next();
            let id = match plan.successor {
                Successor::Same => "local".to_owned(),
                Successor::Another => format!("worker-{}", writes.len()),
            };
            let (process, written) = house.boot(id, cut);
            let ended = tokio::select! {
                () = &mut answering => true,
                () = process.dead() => false,
            };
            let written = written.load(Ordering::SeqCst);
            writes.push(written);
            struck += usize::from(cut.is_some_and(|cut| written > cut.at));
            if ended {
                process.kill();
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        let mut stand = Vec::new();
        for run_id in &runs {
            stand.push(house.load(*run_id).await);
        }
        panic!("{what}: not all runs ended: {stand:#?}");
    }
    let mut ends = Vec::new();
    for run_id in &runs {
        let loaded = house.load(*run_id).await;
        judge::run(&house, &loaded, &what).await;
        ends.push(End {
            status: loaded.head.status,
            output: match loaded.run.outcome {
                Some(Outcome::Completed { output }) => Some(output),
                _ => None,
            },
        });
    }
    // That all have ended was seen above; nobody projects here.
    let report = steadfast_projections::check(&house.store.db, &house.store.reader, Options::default()).await;
    let report = report.expect("the check can be done");
    assert!(report.ok, "{what}: {:#?}", report.violations);
    assert_eq!(report.runs, runs.len() as u64, "{what}");
    let events = house.reader().events(runs[0], 0, 1000).await.expect("the log reads");
    Played {
        ends,
        writes,
        struck,
        names: events.into_iter().map(|event| event.name).collect(),
    }
}
