//! A store with runs in it, made as the rooms make them: a command is decided and its events are appended.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use steadfast::{
    health::Health,
    read::ReadModels,
    run::{
        AgentRef, Command, Limits, Message, ModelReply, RunId, SessionId, TenantId, Time, ToolCall, ToolResult,
        ToolSpec, Usage, agent::AgentTool, command::Request, decide,
    },
    store::{Accept, Append, GENESIS, Lease, Outcome, Position, Store},
};
use steadfast_projections::{CheckReport, Options, Projector, Reads, check, projection::Projection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The first day of the tests, 2026-11-22, in seconds.
const EPOCH_SECONDS: i64 = 1_795_305_600;
const PATIENCE: Duration = Duration::from_secs(10);

static IDS: AtomicU64 = AtomicU64::new(1);

/// A fresh number, in no other test of any process.
fn unique() -> u128 {
    (u128::from(std::process::id()) << 64) | u128::from(IDS.fetch_add(1, Ordering::Relaxed))
}

pub struct Bed {
    pub store: Store,
    clock: AtomicU64,
    /// Deleted at the end.
    file: Option<std::path::PathBuf>,
}

impl Bed {
    /// On SQLite, or on the Postgres server that DATABASE_URL names, in a database of its own.
    pub async fn new() -> Self {
        let (url, file) = match std::env::var("DATABASE_URL") {
            Ok(server) => (fresh_database(&server).await, None),
            Err(_) => {
                let path = std::env::temp_dir().join(format!("steadfast-projections-{:x}.db", unique()));
                (format!("sqlite://{}", path.display()), Some(path))
            }
        };
        let store = Store::open(&url).await.expect("the store opens");
        store.db.migrate().await.expect("the schema is made");
        Self {
            store,
            clock: AtomicU64::new(0),
            file,
        }
    }

    /// Every call is a second later.
    pub fn now(&self) -> Time {
        let seconds = self.clock.fetch_add(1, Ordering::Relaxed);
        Time::from_timestamp(EPOCH_SECONDS + seconds as i64, 0).expect("a moment in the calendar")
    }

    pub fn session(&self) -> SessionId {
        SessionId(Uuid::from_u128(unique()))
    }

    pub async fn request(&self, session: Option<SessionId>, input: &str) -> RunId {
        self.request_as(&TenantId::default(), session, input).await
    }

    pub async fn request_as(&self, tenant: &TenantId, session: Option<SessionId>, input: &str) -> RunId {
        let run_id = RunId(Uuid::from_u128(unique()));
        let session_id = session.unwrap_or_else(|| self.session());
        let tool = |name: &str, retry_safe| AgentTool {
            name: name.into(),
            retry_safe,
        };
        let request = Request {
            now: self.now(),
            agent: AgentRef {
                name: "assistant".into(),
                version: "1".into(),
            },
            model: "small".into(),
            fallbacks: vec![],
            server_tools: vec![tool("clock", true), tool("pay", false)],
            client_tools: vec![ToolSpec {
                name: "ask".into(),
                description: String::new(),
                parameters: serde_json::json!({}),
            }],
            limits: Limits::default(),
            terms: Box::default(),
            session_id,
            continues_session: session.is_some(),
            input: vec![
                Message::System {
                    content: "Be brief.".into(),
                },
                Message::user(input),
            ],
            metadata: serde_json::Value::Null,
            idempotency_key: None,
        };
        let time = request.now;
        let events = decide(&Default::default(), Command::Request(request)).expect("a good request");
        let run = steadfast::run::Run::fold(&events);
        let accept = Accept {
            session_id,
            new_session: session.is_none(),
            agent: "assistant".into(),
            claim_within: Duration::from_secs(60),
            held: false,
        };
        let append = Append {
            run_id,
            tenant: tenant.clone(),
            expected_version: 0,
            expected_epoch: 0,
            prev_hash: GENESIS,
            time,
            events,
            status: run.status(),
            usage: run.usage,
            lease: Lease::Release { due_in: None },
            accept: Some(accept),
            idempotency: None,
            patience: PATIENCE,
        };
        let outcome = self.store.appender.append(append).await.expect("the store takes a run");
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
        run_id
    }

    /// Carries a command out on the run as it stands.
    pub async fn command(&self, run_id: RunId, command: Command, lease: Lease) {
        let mut loaded = self
            .store
            .reader
            .load(run_id)
            .await
            .expect("the run loads")
            .expect("the run exists");
        let events = decide(&loaded.run, command).expect("the run takes the command");
        for event in &events {
            loaded.run = std::mem::take(&mut loaded.run).evolve(event);
        }
        let status = loaded.run.status();
        let lease = if status.is_terminal() {
            Lease::Release { due_in: None }
        } else {
            lease
        };
        let append = Append {
            run_id,
            tenant: loaded.head.tenant.clone(),
            expected_version: loaded.head.version,
            expected_epoch: loaded.head.epoch,
            prev_hash: loaded.hash,
            time: self.now(),
            events,
            status,
            usage: loaded.run.usage,
            lease,
            accept: None,
            idempotency: None,
            patience: PATIENCE,
        };
        let outcome = self
            .store
            .appender
            .append(append)
            .await
            .expect("the store takes events");
        assert!(matches!(outcome, Outcome::Appended(_)), "{outcome:?}");
    }

    pub async fn claim(&self, run_id: RunId) {
        let epoch = self
            .store
            .reader
            .head(run_id)
            .await
            .expect("a head")
            .expect("the run exists")
            .epoch
            + 1;
        let command = Command::Advance {
            now: self.now(),
            worker: "w1".into(),
            epoch,
            context: None,
        };
        let lease = Lease::Claim {
            owner: "w1".into(),
            ttl: Duration::from_secs(30),
        };
        self.command(run_id, command, lease).await;
    }

    pub async fn reply(&self, run_id: RunId, step: u32, text: &str, tool_calls: Vec<ToolCall>) {
        let usage = Usage {
            input_tokens: 10,
            output_tokens: 5,
            cost_microusd: 7,
        };
        let reply = ModelReply {
            text: text.into(),
            tool_calls,
            usage,
            model: "small-2026".into(),
            ..Default::default()
        };
        self.command(
            run_id,
            Command::RecordReply {
                now: self.now(),
                step,
                attempt: 1,
                reply,
            },
            Lease::Keep,
        )
        .await;
    }

    pub async fn tool_result(&self, run_id: RunId, id: &str, outcome: Result<String, String>) {
        let results = vec![ToolResult {
            tool_call_id: id.into(),
            outcome,
            duration_ms: 3,
        }];
        self.command(
            run_id,
            Command::RecordToolResults {
                now: self.now(),
                results,
            },
            Lease::Keep,
        )
        .await;
    }

    /// Two model calls and a tool call between them: twelve events.
    pub async fn whole_run(&self, session: Option<SessionId>, input: &str) -> RunId {
        let run_id = self.request(session, input).await;
        self.finish(run_id).await;
        run_id
    }

    pub async fn finish(&self, run_id: RunId) {
        self.claim(run_id).await;
        self.reply(run_id, 1, "", vec![call("c1", "clock"), call("c2", "pay")])
            .await;
        self.tool_result(run_id, "c1", Ok("noon".into())).await;
        self.tool_result(run_id, "c2", Err("no money".into())).await;
        self.reply(run_id, 2, "It is noon.", vec![]).await;
    }

    /// Runs of every kind and in every state. At least two of them have ended.
    pub async fn furnish(&self) -> Vec<RunId> {
        let session = self.session();
        let first = self.request_as(&TenantId::default(), None, "nobody has taken me").await;
        let mut runs = vec![first];
        runs.push(self.whole_run(None, "what time is it?").await);
        let opened = self.request_in(session, "a conversation").await;
        self.finish(opened).await;
        runs.extend([opened, self.whole_run(Some(session), "and its second turn\0").await]);
        // Waits for the client.
        let waiting = self.request(None, "ask me").await;
        self.claim(waiting).await;
        self.reply(waiting, 1, "", vec![call("c1", "ask")]).await;
        // Waits for a timer.
        let backoff = self.request(None, "try again").await;
        self.claim(backoff).await;
        let retry_at = Some(self.now() + chrono::TimeDelta::hours(1));
        let failure = |now, retry_at| Command::RecordModelFailure {
            now,
            step: 1,
            attempt: 1,
            class: "unavailable".into(),
            message: "503".into(),
            retry_at,
            excused: false,
        };
        self.command(backoff, failure(self.now(), retry_at), Lease::Keep).await;
        // Failed; cancelled with a call under way; of another tenant, with an input that goes to a blob.
        let failed = self.request(None, "fail").await;
        self.claim(failed).await;
        self.command(failed, failure(self.now(), None), Lease::Keep).await;
        let cancelled = self.request(None, "stop").await;
        self.claim(cancelled).await;
        self.command(
            cancelled,
            Command::Cancel {
                now: self.now(),
                reason: None,
            },
            Lease::Keep,
        )
        .await;
        self.command(cancelled, Command::ConfirmCancel { now: self.now() }, Lease::Keep)
            .await;
        let other: TenantId = "acme".parse().expect("a tenant");
        let large = self.request_as(&other, None, &"large ".repeat(20_000)).await;
        self.finish(large).await;
        runs.extend([waiting, backoff, failed, cancelled, large]);
        runs
    }

    /// The first run of a session whose id is chosen.
    async fn request_in(&self, session: SessionId, input: &str) -> RunId {
        let created = steadfast::store::Session {
            session_id: session,
            tenant: TenantId::default(),
            runs: 0,
            metadata: "{}".into(),
            created_at: self.now(),
        };
        self.store
            .reader
            .create_session(&created, None)
            .await
            .expect("a session");
        self.request(Some(session), input).await
    }

    /// Runs a projector until the read models have taken in everything.
    pub async fn project(&self) {
        self.project_with(steadfast_projections::models::all()).await;
    }

    pub async fn project_with(&self, projections: Vec<&'static dyn Projection>) {
        let projector = Projector::of(
            self.store.db.clone(),
            self.store.reader.clone(),
            Health::default(),
            projections,
        );
        let stop = CancellationToken::new();
        let running = tokio::spawn(projector.run(stop.clone()));
        self.followed().await;
        stop.cancel();
        running.await.expect("the projector stops");
    }

    /// The last event there is, held back from readers or not: the server may be busy with other tests, and any
    /// transaction open there holds back what came after it.
    pub async fn end(&self) -> Position {
        let sql = "select cast(generation as bigint) as generation, cast(cast(txid as text) as bigint) as txid, \
                   position as seq from events order by events.generation desc, events.txid desc, position desc limit 1";
        let rows = self.store.db.fetch(sql, &[]).await.expect("the log reads");
        let number = |column| rows[0].get::<i64>(column).expect("a number");
        Position {
            generation: number("generation"),
            txid: number("txid"),
            seq: number("seq"),
        }
    }

    /// Waits until a running projector has taken in everything there is now.
    pub async fn followed(&self) {
        const TRIES: usize = 45;
        let end = self.end().await;
        // The tables may not be there yet.
        steadfast_projections::create_tables(&self.store.db)
            .await
            .expect("the tables are made");
        for _ in 0..TRIES {
            if self.reads().wait_for(end).await.expect("the checkpoints read") {
                return;
            }
        }
        panic!("the projector did not reach the end of the log");
    }

    pub fn reads(&self) -> Reads {
        Reads::new(self.store.db.clone())
    }

    pub async fn check(&self) -> CheckReport {
        check(&self.store.db, &self.store.reader, Options::default())
            .await
            .expect("the check can be done")
    }

    /// Every row of the read models, as text.
    pub async fn rows(&self) -> Vec<String> {
        const TABLES: [(&str, &str); 4] = [
            (
                "run_list",
                "run_id, tenant_id || '|' || status || '|' || agent || '|' || input || '|' || coalesce(output, '-') || \
                 '|' || coalesce(error_code, '-') || '|' || input_tokens || '|' || output_tokens || '|' || \
                 cost_microusd || '|' || cast(created_at as text) || '|' || coalesce(cast(ended_at as text), '-') || \
                 '|' || version || '|' || coalesce(fold, '-') as text",
            ),
            (
                "messages",
                "run_id, tenant_id || '|' || version || '|' || idx || '|' || message || '|' || cast(time as text) as text",
            ),
            (
                "session_list",
                "session_id as run_id, tenant_id || '|' || runs || '|' || messages || '|' || \
                 cast(updated_at as text) as text",
            ),
            (
                "usage",
                "tenant_id || '|' || day || '|' || agent || '|' || model || '|' || model_calls || '|' || \
                 orphaned_calls || '|' || input_tokens || '|' || output_tokens || '|' || cost_microusd as text",
            ),
        ];
        let mut all = Vec::new();
        for (table, columns) in TABLES {
            let rows = self
                .store
                .db
                .fetch(&format!("select {columns} from {table}"), &[])
                .await
                .expect("rows");
            let mut lines: Vec<String> = (rows.iter())
                .map(|row| {
                    let id = row.get::<Uuid>("run_id").map(|id| id.to_string()).unwrap_or_default();
                    format!("{table}: {id} {}", row.get::<String>("text").expect("text"))
                })
                .collect();
            lines.sort();
            all.append(&mut lines);
        }
        all
    }

    /// Damages the database as no room would.
    pub async fn sabotage(&self, sql: &str) {
        let touched = self.store.db.execute(sql, &[]).await.expect("the sabotage is good SQL");
        assert!(touched > 0, "nothing was damaged by {sql}");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            if let Some(file) = &self.file {
                let _ = std::fs::remove_file(format!("{}{end}", file.display()));
            }
        }
    }
}

/// Its name says when it was made, so that the services script can drop what tests left behind.
async fn fresh_database(server: &str) -> String {
    let root = steadfast::store::Db::connect(server).await.expect("the server answers");
    let now = "select cast(extract(epoch from now()) as bigint) as seconds";
    let seconds: i64 = root.fetch(now, &[]).await.expect("the time")[0]
        .get("seconds")
        .expect("seconds");
    let name = format!("t_{seconds}_projections_{:x}", unique());
    root.execute(&format!("create database {name}"), &[])
        .await
        .expect("a database of our own");
    root.close().await;
    let (base, _) = server.rsplit_once('/').expect("DATABASE_URL ends in a database");
    format!("{base}/{name}")
}

pub fn call(id: &str, name: &str) -> ToolCall {
    ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: "{}".into(),
    }
}

/// An id as SQL of either database writes it.
pub fn sql_id(bed: &Bed, run_id: RunId) -> String {
    let hex = run_id.0.simple();
    if bed.store.db.is_postgres() {
        format!("'{hex}'::uuid")
    } else {
        format!("x'{hex}'")
    }
}
