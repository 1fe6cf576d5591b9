//! A gateway to knock at, and a worker's hands to move its runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use reqwest::{Method, Response, StatusCode, header::HeaderMap};
use serde_json::Value;
use steadfast::{
    agents::Agents,
    feed::{Frame, LiveFeed, LocalFeed, Signal, Subscription},
    health::Health,
    queue::LocalQueue,
    read::{Listed, MessageRow, Page, ReadModels, RunFilter, RunRow, SessionRow, UsageRow},
    run::{Command, ModelReply, RunId, SessionId, Status, TenantId, ToolCall, decide},
    store::{Append, Error, Lease, Outcome, Position, Store},
    wire,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{Deps, Gateway, GatewayLimits, Identity, clock, serve, serve::accept};

/// Read models that know nothing.
struct NoReads;

#[async_trait]
impl ReadModels for NoReads {
    async fn runs(&self, _: &TenantId, _: &RunFilter, _: &Page) -> Result<Listed<RunRow>, Error> {
        Ok(Listed {
            data: vec![],
            has_more: false,
        })
    }

    async fn sessions(&self, _: &TenantId, _: &Page) -> Result<Listed<SessionRow>, Error> {
        Ok(Listed {
            data: vec![],
            has_more: false,
        })
    }

    async fn messages(&self, _: &TenantId, _: SessionId, _: &Page) -> Result<Listed<MessageRow>, Error> {
        Ok(Listed {
            data: vec![],
            has_more: false,
        })
    }

    async fn usage(&self, _: &TenantId, _: u32) -> Result<Vec<UsageRow>, Error> {
        Ok(vec![])
    }

    async fn wait_for(&self, _: Position) -> Result<bool, Error> {
        Ok(true)
    }
}

/// The in-process feed, and how often it was subscribed to.
pub struct CountingFeed {
    inner: LocalFeed,
    subscriptions: Semaphore,
    /// While set, subscribing never ends.
    pub away: AtomicBool,
}

#[async_trait]
impl LiveFeed for CountingFeed {
    async fn publish(&self, frames: Vec<Frame>) {
        self.inner.publish(frames).await;
    }

    async fn subscribe(&self, run_id: RunId) -> Subscription {
        if self.away.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let subscription = self.inner.subscribe(run_id).await;
        self.subscriptions.add_permits(1);
        subscription
    }

    async fn signal(&self, run_id: RunId, signal: Signal) {
        self.inner.signal(run_id, signal).await;
    }

    async fn signals(&self) -> mpsc::Receiver<(RunId, Signal)> {
        self.inner.signals().await
    }
}

impl CountingFeed {
    /// Returns once there have been so many subscriptions.
    pub async fn subscribed(&self, count: u32) {
        drop(self.subscriptions.acquire_many(count).await);
    }
}

pub struct House {
    pub url: String,
    pub address: std::net::SocketAddr,
    pub store: Store,
    pub feed: Arc<CountingFeed>,
    pub queue: Arc<LocalQueue>,
    pub health: Health,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<std::io::Result<()>>,
    pub client: reqwest::Client,
    dir: PathBuf,
}

impl Drop for House {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Answer {
    pub async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self { status, headers, json }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Fails unless this is a problem document with this status and code.
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status.as_u16(), self.json["code"].as_str()),
            (status, Some(code)),
            "{self:?}"
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["request_id"], self.header("x-request-id"));
        assert!(self.json["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
}

/// The built-in agent, and one with a tool that must not run twice.
fn agents(dir: &Path) -> Agents {
    std::fs::write(dir.join("payer.toml"), "instructions = 'Pay.'\ntools = ['pay']\n").expect("an agent file");
    Agents::load(Some(dir), &BTreeMap::from([("pay".into(), false)]), &Default::default()).expect("two agents")
}

impl House {
    pub async fn open() -> Self {
        Self::with(Identity::Open, GatewayLimits::default()).await
    }

    pub async fn with(identity: Identity, limits: GatewayLimits) -> Self {
        // Fails where another test has installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = std::env::temp_dir().join(format!("steadfast-gateway-{}", clock::new_id().simple()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let store = Store::open(&format!("sqlite://{}", dir.join("log.db").display()))
            .await
            .expect("a store");
        store.db.migrate().await.expect("migrations");
        let (feed, queue) = (
            Arc::new(CountingFeed {
                inner: LocalFeed::default(),
                subscriptions: Semaphore::new(0),
                away: AtomicBool::new(false),
            }),
            Arc::new(LocalQueue::new(clock::new_id())),
        );
        let health = Health::default();
        let gateway = Gateway::new(Deps {
            store: store.handles(),
            queue: queue.clone(),
            feed: feed.clone(),
            reads: Arc::new(NoReads),
            agents: Arc::new(agents(&dir)),
            health: health.clone(),
            identity,
            limits,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(gateway, listener, shutdown.clone()));
        #[expect(clippy::disallowed_methods, reason = "the edge: these tests' one client")]
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .build()
            .expect("a client");
        let url = format!("http://{address}");
        Self {
            url,
            address,
            store,
            feed,
            queue,
            health,
            shutdown,
            serving,
            client,
            dir,
        }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .body(body.to_owned());
        headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value))
            .send()
            .await
            .expect("an answer")
    }

    pub async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        Answer::read(self.send(method, path, &[], body).await).await
    }

    pub async fn call_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        Answer::read(self.send(method, path, headers, body).await).await
    }

    /// Accepts a task and gives the run's id.
    pub async fn accept(&self, body: &str) -> RunId {
        let answer = self.call("POST", "/v1/runs", body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json["id"]
            .as_str()
            .and_then(|id| id.parse().ok())
            .expect("an id")
    }

    /// Adds to a run as its worker does, and gives the frames there are to publish.
    pub async fn commit(&self, run_id: RunId, command: impl Fn(u64) -> Command) -> Vec<Frame> {
        let mut loaded = self
            .store
            .reader
            .load(run_id)
            .await
            .expect("the store")
            .expect("the run");
        loop {
            let command = command(loaded.head.epoch + 1);
            let claims = matches!(command, Command::Advance { .. });
            let events = decide(&loaded.run, command).expect("the command is in order");
            let after = events.iter().fold(loaded.run.clone(), |run, event| run.evolve(event));
            let lease = match after.status() {
                Status::Running if claims => Lease::Claim {
                    owner: "test".into(),
                    ttl: Duration::from_secs(60),
                },
                Status::Running => Lease::Keep,
                _ => Lease::Release { due_in: None },
            };
            let append = Append {
                run_id,
                tenant: loaded.head.tenant.clone(),
                expected_version: loaded.run.version,
                expected_epoch: loaded.head.epoch,
                prev_hash: loaded.hash,
                time: clock::now(),
                events: events.clone(),
                status: after.status(),
                usage: after.usage,
                lease,
                accept: None,
                idempotency: None,
                patience: Duration::from_secs(5),
            };
            match self.store.appender.append(append).await.expect("the store") {
                Outcome::Appended(appended) => {
                    let frames = appended.events.iter().zip(&events);
                    return frames.map(|(stored, event)| Frame::of_event(stored, event)).collect();
                }
                Outcome::Conflict => self.store.reader.refresh(&mut loaded).await.expect("the store"),
                other => panic!("a worker's append met {other:?}"),
            }
        }
    }

    pub async fn act(&self, run_id: RunId, command: impl Fn(u64) -> Command) {
        let frames = self.commit(run_id, command).await;
        self.feed.publish(frames).await;
    }

    pub async fn claim(&self, run_id: RunId) {
        self.act(run_id, advance).await;
    }

    /// Streams a piece of the reply in progress.
    pub async fn delta(&self, run_id: RunId, sub: u32, text: &str) {
        let head = self
            .store
            .reader
            .head(run_id)
            .await
            .expect("the store")
            .expect("the run");
        let version = head.version + 1;
        let json = wire::delta(run_id, version, sub, text).into();
        self.feed
            .publish(vec![Frame::Delta {
                run_id,
                version,
                sub,
                json,
            }])
            .await;
    }
}

/// Serves something else than a gateway, the way a gateway is served.
pub fn serve_router(router: axum::Router, listener: TcpListener, shutdown: CancellationToken) {
    tokio::spawn(async move {
        accept(router, listener, &GatewayLimits::default(), shutdown.clone(), shutdown).await;
    });
}

pub fn advance(epoch: u64) -> Command {
    Command::Advance {
        now: clock::now(),
        worker: "test".into(),
        epoch,
        context: None,
    }
}

/// A reply that ends the run.
pub fn reply(pieces: &[&str]) -> impl Fn(u64) -> Command {
    let (text, deltas) = (
        pieces.concat(),
        pieces.iter().map(|piece| piece.len() as u32).collect::<Vec<_>>(),
    );
    move |_| {
        let reply = ModelReply {
            text: text.clone(),
            deltas: deltas.clone(),
            model: "m".into(),
            ..Default::default()
        };
        Command::RecordReply {
            now: clock::now(),
            step: 1,
            attempt: 1,
            reply,
        }
    }
}

/// A reply that asks for client tools.
pub fn ask_tools(ids: &[&str]) -> impl Fn(u64) -> Command {
    let call = |id: &&str| ToolCall {
        id: (*id).into(),
        name: "lookup".into(),
        arguments: "{}".into(),
    };
    let tool_calls: Vec<ToolCall> = ids.iter().map(call).collect();
    move |_| {
        let reply = ModelReply {
            tool_calls: tool_calls.clone(),
            model: "m".into(),
            ..Default::default()
        };
        Command::RecordReply {
            now: clock::now(),
            step: 1,
            attempt: 1,
            reply,
        }
    }
}
