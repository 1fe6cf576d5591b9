//! A store of a test's own, and runs to put into it. The one place of these tests that reads the clock and draws ids.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::SubsecRound;
use steadfast::{
    run::{
        AgentRef, Command, Event, Limits, Message, ModelReply, Run, RunId, SessionId, TenantId, Time, ToolCall,
        agent::AgentTool, command::Request, decide,
    },
    store::{Accept, Append, Appended, Db, GENESIS, Handles, Lease, Loaded, Outcome, Store},
};
use steadfast_simulation::Calm;
use steadfast_tests::{fresh_prefix, services};
use uuid::Uuid;

pub const MINUTE: Duration = Duration::from_secs(60);
/// A loop that has not come to its end by then never will.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[expect(
    clippy::disallowed_methods,
    reason = "the edge of the tests: everything else is handed the time"
)]
pub fn now() -> Time {
    // A database keeps microseconds.
    chrono::Utc::now().trunc_subsecs(6)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge of the tests: everything else is handed its ids"
)]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

pub fn new_run() -> RunId {
    RunId(new_id())
}

pub fn new_session() -> SessionId {
    SessionId(new_id())
}

pub fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant id")
}

/// A migrated store nobody else uses.
pub struct Bed {
    pub store: Store,
    url: String,
    folder: Option<PathBuf>,
    simulated: Option<Calm>,
}

impl Bed {
    /// The simulator's database. There is no SQL under it: whoever asks for some is told that nobody is there.
    pub async fn simulated() -> Self {
        let (calm, url) = (Calm::new(now()), "postgres://nobody@127.0.0.1:1/nothing".to_owned());
        let store = simulated(&calm, &url).await;
        Self {
            store,
            url,
            folder: None,
            simulated: Some(calm),
        }
    }

    pub async fn sqlite() -> Self {
        let folder = std::env::temp_dir().join(fresh_prefix());
        let url = format!("sqlite://{}", folder.join("steadfast.db").display());
        Self::open(url, Some(folder)).await
    }

    /// Where the file of a SQLite bed is.
    pub fn folder(&self) -> &Path {
        self.folder.as_deref().expect("this bed has a folder")
    }

    pub async fn postgres() -> Self {
        Self::open(services().await.fresh_database().await, None).await
    }

    async fn open(url: String, folder: Option<PathBuf>) -> Self {
        let store = Store::open(&url).await.expect("the store opens");
        store.db.migrate().await.expect("the schema is made");
        Self {
            store,
            url,
            folder,
            simulated: None,
        }
    }

    /// The same database as another process would open it.
    pub async fn other_process(&self) -> Store {
        match &self.simulated {
            Some(calm) => simulated(calm, &self.url).await,
            None => Store::open(&self.url).await.expect("the store opens twice"),
        }
    }
}

async fn simulated(calm: &Calm, url: &str) -> Store {
    let Handles { appender, reader, .. } = calm.store();
    let db = Db::connect(url).await.expect("nothing is connected to yet");
    Store { appender, reader, db }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            std::fs::remove_dir_all(folder).ok();
        }
    }
}

/// A task for an agent with one harmless tool.
pub fn request(session_id: SessionId, text: &str) -> Request {
    Request {
        now: now(),
        agent: AgentRef {
            name: "assistant".into(),
            version: "f00d".into(),
        },
        model: "scripted".into(),
        fallbacks: vec![],
        server_tools: vec![AgentTool {
            name: "lookup".into(),
            retry_safe: true,
        }],
        client_tools: vec![],
        limits: Limits {
            claims_max: 1000,
            model_attempts_max: 1000,
            steps_max: 1000,
            ..Limits::default()
        },
        terms: Box::default(),
        session_id,
        continues_session: false,
        input: vec![Message::user(text)],
        metadata: serde_json::Value::Null,
        idempotency_key: None,
    }
}

/// The first append of a run: its session begins with it, and it is due in a minute.
pub fn accept(text: &str) -> Append {
    accept_in(&TenantId::default(), new_session(), true, text)
}

pub fn accept_in(tenant: &TenantId, session_id: SessionId, new_session: bool, text: &str) -> Append {
    let mut request = request(session_id, text);
    request.continues_session = !new_session;
    let events = decide(&Run::default(), Command::Request(request)).expect("a sound request");
    let run = Run::fold(&events);
    Append {
        run_id: new_run(),
        tenant: tenant.clone(),
        expected_version: 0,
        expected_epoch: 0,
        prev_hash: GENESIS,
        time: now(),
        status: run.status(),
        usage: run.usage,
        events,
        lease: Lease::Keep,
        accept: Some(Accept {
            session_id,
            new_session,
            agent: "assistant".into(),
            claim_within: MINUTE,
            held: false,
        }),
        idempotency: None,
        patience: Duration::from_secs(5),
    }
}

/// What a command adds to a run. It lets go of a run that has ended and keeps the lease otherwise.
pub fn order(loaded: &Loaded, command: Command) -> Append {
    let events = decide(&loaded.run, command).expect("the command is accepted");
    let run = events.iter().fold(loaded.run.clone(), |run, event| run.evolve(event));
    let lease = if run.outcome.is_some() {
        Lease::Release { due_in: None }
    } else {
        Lease::Keep
    };
    Append {
        run_id: loaded.head.run_id,
        tenant: loaded.head.tenant.clone(),
        expected_version: loaded.run.version,
        expected_epoch: loaded.head.epoch,
        prev_hash: loaded.hash,
        time: now(),
        status: run.status(),
        usage: run.usage,
        events,
        lease,
        accept: None,
        idempotency: None,
        patience: Duration::from_secs(5),
    }
}

/// A worker's claim, which asks the model at the same time.
pub fn claim(loaded: &Loaded, owner: &str, ttl: Duration) -> Append {
    let advance = Command::Advance {
        now: now(),
        worker: owner.into(),
        epoch: loaded.head.epoch + 1,
        context: None,
    };
    Append {
        lease: Lease::Claim {
            owner: owner.into(),
            ttl,
        },
        ..order(loaded, advance)
    }
}

/// The model's answer to the open call; with it the run ends.
pub fn answer(run: &Run, text: &str) -> Command {
    replied(run, text, vec![])
}

/// The model asks for the tool.
pub fn asks_for_tool(run: &Run) -> Command {
    let call = ToolCall {
        id: format!("c{}", run.step),
        name: "lookup".into(),
        arguments: "{}".into(),
    };
    replied(run, "", vec![call])
}

fn replied(run: &Run, text: &str, tool_calls: Vec<ToolCall>) -> Command {
    let steadfast::run::state::Call::Open { attempt } = run.call else {
        panic!("no model call is open")
    };
    Command::RecordReply {
        now: now(),
        step: run.step,
        attempt,
        reply: ModelReply {
            text: text.into(),
            tool_calls,
            ..ModelReply::default()
        },
    }
}

pub async fn try_append(store: &Store, append: Append) -> Outcome {
    store.appender.append(append).await.expect("the store answers")
}

pub async fn append(store: &Store, append: Append) -> Appended {
    match try_append(store, append).await {
        Outcome::Appended(appended) => appended,
        other => panic!("not appended: {other:?}"),
    }
}

pub async fn load(store: &Store, run_id: RunId) -> Loaded {
    let loaded = store.reader.load(run_id).await.expect("the log reads");
    loaded.unwrap_or_else(|| panic!("{run_id} is not in the store"))
}

/// A run as a gateway accepted it.
pub async fn accepted(store: &Store) -> Loaded {
    let first = accept("What is the weather?");
    let run_id = first.run_id;
    append(store, first).await;
    load(store, run_id).await
}

/// A run held by `owner` for a minute.
pub async fn claimed(store: &Store, owner: &str) -> Loaded {
    let mut loaded = accepted(store).await;
    go(store, &mut loaded, |loaded| claim(loaded, owner, MINUTE)).await;
    loaded
}

/// Appends and moves on.
pub async fn go(store: &Store, loaded: &mut Loaded, make: impl FnOnce(&Loaded) -> Append) -> Appended {
    let order = make(loaded);
    let events: Vec<Event> = order.events.clone();
    let appended = append(store, order).await;
    loaded.advance(&events, &appended);
    appended
}
