//! The queue on NATS JetStream: one work-queue stream, one durable pull consumer for each pool of workers.
//!
//! Servers before 2.11 ignore settings they do not know without saying so, and are refused.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_nats::{
    connection::State,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, Consumer, pull},
        context::Context,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::Mutex;

use super::{Advance, CommandQueue, Delivery, Error, Receipt};

/// A command not acknowledged by then comes again. Workers acknowledge once they hold the run's lease.
const ACK_WAIT: Duration = Duration::from_secs(30);
const PULL_WAIT: Duration = Duration::from_millis(500);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Repeated message ids are swallowed for this long.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Over a million commands. The server reserves this much disk from the start; what does not fit goes through the lines.
const STREAM_BYTES_MAX: i64 = 256 << 20;
const SERVER_MIN: (u64, u64) = (2, 11);

#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// In front of every name, so that several installations can share a server: `a-z 0-9 _`.
    pub prefix: String,
    /// The workers that share a consumer.
    pub pool: String,
    pub replicas: usize,
}

pub struct JetStreamQueue {
    client: async_nats::Client,
    context: Context,
    options: QueueOptions,
    consumer: Mutex<Option<Consumer<pull::Config>>>,
    /// The last pull found something: ask for what else is there before waiting.
    more: AtomicBool,
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

impl JetStreamQueue {
    /// Uses a connection; creates the stream if it is missing. NATS being away is not an error here: the first use
    /// will say so.
    pub async fn new(client: async_nats::Client, options: QueueOptions) -> Result<Self, Error> {
        let context = jetstream::new(client.clone());
        let queue = Self {
            client,
            context,
            options,
            consumer: Mutex::default(),
            more: AtomicBool::new(true),
        };
        if queue.is_connected() {
            queue.check_server()?;
            match queue.ensure_stream().await {
                Ok(()) | Err(Error::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(queue)
    }

    /// Refuses a server that is too old to be trusted with our settings.
    pub fn check_server(&self) -> Result<(), Error> {
        let info = self.client.server_info();
        if info.version.is_empty() {
            return Err(Error::Unavailable("NATS has not answered yet".into()));
        }
        let mut numbers = info.version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < SERVER_MIN {
            return Err(Error::Unusable(format!(
                "nats-server {} is too old: Steadfast needs {}.{} or later, because older servers silently ignore \
                 stream and consumer settings they do not know",
                info.version, SERVER_MIN.0, SERVER_MIN.1
            )));
        }
        if !info.jetstream {
            return Err(Error::Unusable(
                "nats-server runs without JetStream: start it with -js".into(),
            ));
        }
        Ok(())
    }

    fn stream_name(&self) -> String {
        format!("{}_COMMANDS", self.options.prefix.to_uppercase())
    }

    fn subject(&self, tenant: &str) -> String {
        format!("{}.commands.{}.{tenant}", self.options.prefix, self.options.pool)
    }

    async fn ensure_stream(&self) -> Result<(), Error> {
        let config = Config {
            name: self.stream_name(),
            subjects: vec![format!("{}.commands.>", self.options.prefix)],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: self.options.replicas,
            discard: DiscardPolicy::New,
            max_bytes: STREAM_BYTES_MAX,
            duplicate_window: DUPLICATE_WINDOW,
            ..Config::default()
        };
        self.context.get_or_create_stream(config).await.map_err(unavailable)?;
        Ok(())
    }

    async fn consumer(&self) -> Result<Consumer<pull::Config>, Error> {
        let mut slot = self.consumer.lock().await;
        if let Some(consumer) = &*slot {
            return Ok(consumer.clone());
        }
        self.check_server()?;
        self.ensure_stream().await?;
        let stream = self.context.get_stream(self.stream_name()).await.map_err(unavailable)?;
        let name = format!("workers_{}", self.options.pool);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: self.subject("*"),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            // Poison is counted in the store; a limit here would leave the message behind, undeliverable.
            max_deliver: -1,
            max_ack_pending: 100_000,
            ..pull::Config::default()
        };
        let consumer = stream
            .get_or_create_consumer(&name, config)
            .await
            .map_err(unavailable)?;
        *slot = Some(consumer.clone());
        Ok(consumer)
    }

    async fn forget_consumer(&self) {
        *self.consumer.lock().await = None;
    }

    /// The answer to a pull, within its time; after a failure the consumer is looked up anew.
    async fn answered(
        &self,
        pulled: impl Future<Output = Result<Vec<Delivery>, Error>>,
    ) -> Result<Vec<Delivery>, Error> {
        let answer = match tokio::time::timeout(PULL_WAIT * 4, pulled).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unavailable("no answer to a pull".into())),
        };
        if answer.is_err() {
            self.forget_consumer().await;
        }
        answer
    }
}

#[async_trait]
impl CommandQueue for JetStreamQueue {
    async fn publish(&self, command: &Advance) -> Result<(), Error> {
        let payload = serde_json::to_vec(command).map_err(unavailable)?;
        let mut headers = async_nats::HeaderMap::new();
        let id = format!("{}:{}:{}", command.run_id, command.version, command.dispatch);
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
        let subject = self.subject(command.tenant.as_str());
        let send = async {
            let ack = self
                .context
                .publish_with_headers(subject, headers, payload.into())
                .await
                .map_err(unavailable)?;
            ack.await.map_err(unavailable)
        };
        match tokio::time::timeout(PUBLISH_TIMEOUT, send).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                // The stream may have been wiped: make it again, so the redriver's next try finds it.
                let _ = tokio::time::timeout(PUBLISH_TIMEOUT, self.ensure_stream()).await;
                Err(error)
            }
            Err(_) => Err(Error::Unavailable("no answer to a publish".into())),
        }
    }

    async fn pull(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let consumer = match tokio::time::timeout(PUBLISH_TIMEOUT, self.consumer()).await {
            Ok(consumer) => consumer?,
            Err(_) => return Err(Error::Unavailable("no answer to a consumer request".into())),
        };
        // A pull request that is dropped half way would have the server hand messages to nobody. So each is followed
        // to its end: either whatever is there now, or the first to come.
        let pulled = async {
            if self.more.load(Ordering::Relaxed) {
                let deliveries = fetch(&consumer, max).await?;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
            }
            let first = consumer
                .batch()
                .max_messages(1)
                .expires(PULL_WAIT)
                .messages()
                .await
                .map_err(unavailable)?;
            let deliveries = receive(first).await?;
            self.more.store(!deliveries.is_empty(), Ordering::Relaxed);
            Ok(deliveries)
        };
        self.answered(pulled).await
    }

    async fn pull_ready(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let pulled = async { fetch(&self.consumer().await?, max).await };
        self.answered(pulled).await
    }

    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    async fn incarnation(&self) -> Result<String, Error> {
        // Not waited for: whoever asks has the store to turn to.
        if !self.is_connected() {
            return Err(Error::Unavailable("not connected".into()));
        }
        let ask = async {
            match self.context.get_stream(self.stream_name()).await {
                Ok(stream) => Ok(stream.cached_info().created.unix_timestamp_nanos().to_string()),
                Err(_) => {
                    self.ensure_stream().await?;
                    let stream = self.context.get_stream(self.stream_name()).await.map_err(unavailable)?;
                    Ok(stream.cached_info().created.unix_timestamp_nanos().to_string())
                }
            }
        };
        match tokio::time::timeout(PUBLISH_TIMEOUT, ask).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unavailable("no answer about the stream".into())),
        }
    }

    async fn depth(&self) -> Result<u64, Error> {
        let stream = self.context.get_stream(self.stream_name()).await.map_err(unavailable)?;
        Ok(stream.cached_info().state.messages)
    }
}

/// Whatever is there now.
async fn fetch(consumer: &Consumer<pull::Config>, max: usize) -> Result<Vec<Delivery>, Error> {
    let batch = consumer.fetch().max_messages(max).messages();
    receive(batch.await.map_err(unavailable)?).await
}

async fn receive(mut batch: pull::Batch) -> Result<Vec<Delivery>, Error> {
    let mut deliveries = Vec::new();
    while let Some(message) = batch.next().await {
        let message = message.map_err(unavailable)?;
        match serde_json::from_slice(&message.payload) {
            Ok(command) => deliveries.push(Delivery::new(command, Box::new(JetStreamReceipt(message)))),
            Err(error) => {
                tracing::warn!(%error, "a message on the command queue is not a command; it is removed");
                let _ = message.ack_with(AckKind::Term).await;
            }
        }
    }
    Ok(deliveries)
}

struct JetStreamReceipt(jetstream::Message);

#[async_trait]
impl Receipt for JetStreamReceipt {
    async fn ack(self: Box<Self>) {
        // Lost, the command comes again and finds nothing to do.
        let _ = self.0.ack().await;
    }

    async fn give_back(self: Box<Self>, after: Duration) {
        let _ = self.0.ack_with(AckKind::Nak(Some(after))).await;
    }

    fn deliveries(&self) -> u64 {
        self.0.info().map_or(1, |info| info.delivered.unsigned_abs())
    }
}
