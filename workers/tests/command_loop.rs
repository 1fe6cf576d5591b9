//! The command loop against a real store, in process.
#![expect(
    clippy::disallowed_methods,
    reason = "a test is an edge: it makes its own ids and times"
)]

#[path = "command_loop/fairness.rs"]
mod fairness;
#[path = "command_loop/newer.rs"]
mod newer;
#[path = "command_loop/people.rs"]
mod people;
#[path = "command_loop/queueless.rs"]
mod queueless;
#[path = "command_loop/walls.rs"]
mod walls;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use steadfast::{
    agents::Agents,
    feed::{LiveFeed, LocalFeed, Signal},
    health::Health,
    queue::{Advance, CommandQueue, LocalQueue},
    run::{
        Command, Event, Message, Run, RunId, SessionId, Status, TenantId, ToolOutput, ToolSpec, WaitingOn,
        command::Request, decide,
    },
    store::{Accept, Append, GENESIS, Lease, Loaded, Outcome, Store},
};
use steadfast_workers::{
    Worker, WorkerDeps, WorkerOptions,
    model::{Models, Scripted},
    tools::Toolbox,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

struct House {
    store: Store,
    queue: Arc<LocalQueue>,
    feed: Arc<LocalFeed>,
    agents: Agents,
    file: std::path::PathBuf,
}

impl Drop for House {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.file.display()));
        }
    }
}

impl House {
    async fn new() -> Self {
        let file = std::env::temp_dir().join(format!("steadfast-worker-{}.db", Uuid::now_v7()));
        let store = Store::open(&format!("sqlite://{}", file.display()))
            .await
            .expect("open");
        store.db.migrate().await.expect("migrate");
        let tools: BTreeMap<String, bool> = [("clock", true), ("calculator", true), ("http_get", true)]
            .map(|(name, safe)| (name.to_owned(), safe))
            .into();
        let agents = Agents::load(None, &tools, &Default::default()).expect("the built-in agent");
        for agent in agents.iter() {
            let bytes = agent.canonical();
            let hash = <sha2::Sha256 as sha2::Digest>::digest(&bytes).into();
            store.reader.put_blob(&hash, bytes.as_bytes()).await.expect("blob");
        }
        Self {
            store,
            queue: Arc::new(LocalQueue::new(Uuid::now_v7())),
            feed: Arc::default(),
            agents,
            file,
        }
    }

    fn worker(&self, id: &str, pace: Duration) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        self.worker_with(id, pace, Toolbox::builtin(Default::default()))
    }

    fn worker_with(
        &self,
        id: &str,
        pace: Duration,
        tools: Toolbox,
    ) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        self.start(Self::options(id), pace, tools)
    }

    fn worker_of(&self, options: WorkerOptions, pace: Duration) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        self.start(options, pace, Toolbox::builtin(Default::default()))
    }

    fn options(id: &str) -> WorkerOptions {
        WorkerOptions {
            id: id.into(),
            lease: Duration::from_millis(600),
            drain: Duration::from_secs(4),
            redrive_every: Duration::from_millis(50),
            ..WorkerOptions::default()
        }
    }

    fn start(
        &self,
        options: WorkerOptions,
        pace: Duration,
        tools: Toolbox,
    ) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        self.start_on(self.queue.clone(), options, pace, tools)
    }

    fn start_on(
        &self,
        queue: Arc<dyn CommandQueue>,
        options: WorkerOptions,
        pace: Duration,
        tools: Toolbox,
    ) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let models = Models::new(None, None)
            .expect("models")
            .with_scripted(Scripted::new(pace));
        let deps = WorkerDeps {
            store: self.store.handles(),
            queue,
            feed: self.feed.clone(),
            models: Arc::new(models),
            tools: Arc::new(tools),
            health: Health::default(),
        };
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(Worker::new(deps, options).run(stop)))
    }

    async fn post(&self, input: &str, session: Option<SessionId>, tools: Vec<ToolSpec>) -> RunId {
        self.post_with(input, session, |request| request.client_tools = tools)
            .await
    }

    async fn post_with(&self, input: &str, session: Option<SessionId>, shape: impl FnOnce(&mut Request)) -> RunId {
        let tenant = TenantId::default();
        self.post_as(&tenant, false, input, session, shape).await
    }

    async fn post_for(&self, tenant: &TenantId, held: bool) -> RunId {
        self.post_as(tenant, held, "hello", None, |_| {}).await
    }

    async fn post_as(
        &self,
        tenant: &TenantId,
        held: bool,
        input: &str,
        session: Option<SessionId>,
        shape: impl FnOnce(&mut Request),
    ) -> RunId {
        let agent = self.agents.get("assistant").expect("assistant");
        let session_id = session.unwrap_or(SessionId(Uuid::now_v7()));
        let now = chrono::Utc::now();
        let mut request = Request {
            now,
            agent: agent.reference(),
            model: agent.model.clone(),
            fallbacks: agent.fallbacks.clone(),
            server_tools: agent.tools.clone(),
            client_tools: Vec::new(),
            limits: agent.limits,
            terms: Box::default(),
            session_id,
            continues_session: session.is_some(),
            input: vec![Message::user(input)],
            metadata: serde_json::Value::Null,
            idempotency_key: None,
        };
        shape(&mut request);
        let events = decide(&Run::default(), Command::Request(request)).expect("accepted");
        let run_id = RunId(Uuid::now_v7());
        let append = Append {
            run_id,
            tenant: tenant.clone(),
            expected_version: 0,
            expected_epoch: 0,
            prev_hash: GENESIS,
            time: now,
            events,
            status: Status::Queued,
            usage: Default::default(),
            lease: Lease::Keep,
            accept: Some(Accept {
                session_id,
                new_session: session.is_none(),
                agent: "assistant".into(),
                claim_within: Duration::from_millis(300),
                held,
            }),
            idempotency: None,
            patience: PATIENCE,
        };
        let outcome = self.store.appender.append(append).await.expect("append");
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
        run_id
    }

    async fn announce(&self, run_id: RunId) {
        self.announce_for(run_id, &TenantId::default()).await;
    }

    async fn announce_for(&self, run_id: RunId, tenant: &TenantId) {
        let command = Advance {
            run_id,
            tenant: tenant.clone(),
            version: 1,
            dispatch: 0,
        };
        self.queue.publish(&command).await.expect("publish");
    }

    /// An input of the gateway.
    async fn add(&self, run_id: RunId, command: Command) {
        loop {
            let loaded = self.load(run_id).await;
            let events = decide(&loaded.run, command.clone()).expect("allowed");
            let after = events.iter().fold(loaded.run.clone(), Run::evolve);
            let lease = match after.status() {
                Status::Queued => Lease::Release {
                    due_in: Some(Duration::ZERO),
                },
                status if status.is_terminal() => Lease::Release { due_in: None },
                _ => Lease::Keep,
            };
            let append = Append {
                run_id,
                tenant: TenantId::default(),
                expected_version: loaded.run.version,
                expected_epoch: loaded.head.epoch,
                prev_hash: loaded.hash,
                time: chrono::Utc::now(),
                events,
                status: after.status(),
                usage: after.usage,
                lease,
                accept: None,
                idempotency: None,
                patience: PATIENCE,
            };
            if let Outcome::Appended(_) = self.store.appender.append(append).await.expect("append") {
                self.feed.signal(run_id, Signal::Changed).await;
                return;
            }
        }
    }

    async fn load(&self, run_id: RunId) -> Loaded {
        self.store
            .reader
            .load(run_id)
            .await
            .expect("load")
            .expect("the run exists")
    }

    async fn until(&self, run_id: RunId, what: &str, reached: impl Fn(&Loaded) -> bool) -> Loaded {
        let wait = async {
            loop {
                let loaded = self.load(run_id).await;
                if reached(&loaded) {
                    return loaded;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(loaded) => loaded,
            Err(_) => panic!("{run_id} did not become {what}: {:?}", self.load(run_id).await.run),
        }
    }

    async fn ended(&self, run_id: RunId) -> Loaded {
        self.until(run_id, "ended", |loaded| loaded.run.outcome.is_some()).await
    }

    async fn names(&self, run_id: RunId) -> Vec<String> {
        let events = self.store.reader.events(run_id, 0, 1000).await.expect("events");
        events.into_iter().map(|event| event.name).collect()
    }
}

fn client_tool() -> ToolSpec {
    ToolSpec {
        name: "ask_user".into(),
        description: "asks".into(),
        parameters: serde_json::json!({"type": "object"}),
    }
}

#[tokio::test]
async fn a_task_runs_through_model_tool_and_model_to_its_end() {
    let house = House::new().await;
    let (stop, worker) = house.worker("w1", Duration::ZERO);
    let run_id = house.post("What is 6 * 7?", None, vec![]).await;
    house.announce(run_id).await;
    let loaded = house.ended(run_id).await;
    assert_eq!(loaded.head.status, Status::Completed, "{:?}", loaded.run);
    assert_eq!(
        house.names(run_id).await,
        [
            "run.requested",
            "run.started",
            "model_call.requested",
            "model.replied",
            "tool_call.requested",
            "tool_call.succeeded",
            "model_call.requested",
            "model.replied",
            "run.completed"
        ]
    );
    assert_eq!(loaded.head.lease_owner, None);
    assert_eq!(loaded.head.due_at, None);
    stop.cancel();
    worker.await.expect("drained");
}

#[tokio::test]
async fn a_lost_command_is_found_by_the_redriver() {
    let house = House::new().await;
    let (_stop, _worker) = house.worker("w1", Duration::ZERO);
    let run_id = house.post("hello", None, vec![]).await;
    assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
}

#[tokio::test]
async fn the_run_of_a_killed_worker_is_taken_over_and_its_call_accounted_for() {
    let house = House::new().await;
    // A runtime of its own dies as a process does: with every task it had.
    let machine = tokio::runtime::Runtime::new().expect("a runtime");
    {
        let _on_it = machine.enter();
        drop(house.worker("w1", Duration::from_secs(60)));
    }
    let run_id = house.post("hello", None, vec![]).await;
    house.announce(run_id).await;
    house.until(run_id, "running", |loaded| loaded.run.claimed).await;
    machine.shutdown_background();
    let (_stop, _worker) = house.worker("w2", Duration::ZERO);
    let loaded = house.ended(run_id).await;
    assert_eq!(loaded.head.status, Status::Completed);
    let names = house.names(run_id).await;
    for name in ["run.resumed", "model_call.orphaned"] {
        assert_eq!(names.iter().filter(|seen| *seen == name).count(), 1, "{names:?}");
    }
}

#[tokio::test]
async fn a_cancel_stops_the_model_call_under_way() {
    let house = House::new().await;
    let (_stop, _worker) = house.worker("w1", Duration::from_secs(5));
    let run_id = house.post("hello", None, vec![]).await;
    house.announce(run_id).await;
    house.until(run_id, "running", |loaded| loaded.run.claimed).await;
    house
        .add(
            run_id,
            Command::Cancel {
                now: chrono::Utc::now(),
                reason: Some("enough".into()),
            },
        )
        .await;
    let loaded = house.ended(run_id).await;
    assert_eq!(loaded.head.status, Status::Cancelled);
    let names = house.names(run_id).await;
    assert_eq!(
        names[names.len() - 3..],
        ["cancel.requested", "model_call.orphaned", "run.cancelled"]
    );
}

#[tokio::test]
async fn a_stopping_worker_hands_its_runs_to_another() {
    let house = House::new().await;
    let (stop, worker) = house.worker("w1", Duration::from_secs(60));
    let run_id = house.post("hello", None, vec![]).await;
    house.announce(run_id).await;
    house.until(run_id, "running", |loaded| loaded.run.claimed).await;
    stop.cancel();
    worker.await.expect("drained");
    let loaded = house.load(run_id).await;
    assert_eq!(loaded.head.lease_owner, None, "the lease was let go of");
    let (_stop, _worker) = house.worker("w2", Duration::ZERO);
    assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
}

#[tokio::test]
async fn a_run_waits_for_the_client_and_goes_on_with_its_output() {
    let house = House::new().await;
    let (_stop, _worker) = house.worker("w1", Duration::ZERO);
    let run_id = house.post("please ask_user", None, vec![client_tool()]).await;
    house.announce(run_id).await;
    let waiting = house
        .until(run_id, "waiting", |loaded| loaded.head.status == Status::Waiting)
        .await;
    let Some(WaitingOn::ToolOutputs { tool_calls }) = waiting.run.waiting_on() else {
        panic!("{:?}", waiting.run)
    };
    assert_eq!(waiting.head.lease_owner, None);
    let outputs = vec![ToolOutput {
        tool_call_id: tool_calls[0].id.clone(),
        outcome: Ok("blue".into()),
    }];
    house
        .add(
            run_id,
            Command::SubmitToolOutputs {
                now: chrono::Utc::now(),
                outputs,
            },
        )
        .await;
    assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
}

#[tokio::test]
async fn runs_of_a_session_go_one_after_another_and_see_the_turns_before() {
    let house = House::new().await;
    let first = house.post("hello", None, vec![]).await;
    let session = house.load(first).await.head.session_id;
    let second = house.post("and again", Some(session), vec![]).await;
    house.announce(second).await;
    let (_stop, _worker) = house.worker("w1", Duration::from_millis(5));
    house.announce(first).await;
    let (one, two) = (house.ended(first).await, house.ended(second).await);
    let events = house.store.reader.events(second, 0, 100).await.expect("events");
    let context = events.iter().find_map(|event| match event.decode().expect("reads") {
        Event::ContextAssembled(context) => Some(context),
        _ => None,
    });
    assert_eq!(context.expect("chosen before the first call").turns, [first]);
    let started = events
        .iter()
        .find(|event| event.name == "run.started")
        .expect("started");
    assert!(
        started.time >= one.head.updated_at,
        "the second began before the first had ended"
    );
    assert_eq!(two.head.status, Status::Completed);
}
