//! The queue on NATS JetStream: one work-queue stream, one durable pull consumer for each pool of workers.
//!
//! Servers before 2.11 ignore settings they do not know without saying so, and are refused.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{
    HeaderMap, StatusCode, Subject, Subscriber,
    connection::State,
    header::NATS_MESSAGE_ID,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, Consumer, pull},
        context::Context,
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::Mutex;

use super::{Advance, CommandQueue, Delivery, Error, Receipt};

/// A command not acknowledged by then comes again. Workers acknowledge once they hold the run's lease.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// A request for commands holds for so long; then the server says what it had none for.
const PULL_WAIT: Duration = Duration::from_millis(500);
/// Giving back what is here and on its way takes no longer, whatever the server does.
const LET_GO_MAX: Duration = Duration::from_secs(2);
/// Requests of a pool that the server keeps: three or four for each worker.
const REQUESTS_MAX: i64 = 4096;
/// With a request's last answer: what it was for and did not get.
const PENDING: &str = "Nats-Pending-Messages";
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
    requests: Mutex<Option<Requests>>,
}

/// Requests for commands that the server keeps until they come, and where it sends them: a subscription and a request for
/// each pull would cost the server more than the commands.
struct Requests {
    consumer: Consumer<pull::Config>,
    inbox: Subject,
    arrivals: Subscriber,
    /// Commands asked for that have not come.
    open: usize,
    /// Which connection they were asked for on: with it they are gone.
    connects: u64,
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
            requests: Mutex::default(),
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

    fn message(&self, command: &Advance) -> Result<(String, HeaderMap, Bytes), Error> {
        let payload = serde_json::to_vec(command).map_err(unavailable)?;
        let mut headers = HeaderMap::new();
        let id = format!("{}:{}:{}", command.run_id, command.version, command.dispatch);
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        Ok((self.subject(command.tenant.as_str()), headers, payload.into()))
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

    async fn begin(&self) -> Result<Requests, Error> {
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
            max_waiting: REQUESTS_MAX,
            ..pull::Config::default()
        };
        let consumer = stream
            .get_or_create_consumer(&name, config)
            .await
            .map_err(unavailable)?;
        let inbox = Subject::from(self.client.new_inbox());
        let arrivals = self.client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        Ok(Requests {
            consumer,
            inbox,
            arrivals,
            open: 0,
            connects: self.connects(),
        })
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// The answer to a pull, within its time. After a failure all is begun anew.
    async fn ask(&self, max: usize, waits: bool) -> Result<Vec<Delivery>, Error> {
        let mut kept = self.requests.lock().await;
        let mut requests = match kept.take() {
            Some(requests) => requests,
            None => match tokio::time::timeout(PUBLISH_TIMEOUT, self.begin()).await {
                Ok(begun) => begun?,
                Err(_) => return Err(Error::Unavailable("no answer to a consumer request".into())),
            },
        };
        let connects = self.connects();
        if connects != requests.connects {
            (requests.connects, requests.open) = (connects, 0);
        }
        let pulled = async {
            if waits {
                requests.pull(&self.context, max).await
            } else {
                requests.pull_ready(&self.context, max).await
            }
        };
        let answer = match tokio::time::timeout(PULL_WAIT * 4, pulled).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unavailable("no answer to a pull".into())),
        };
        if answer.is_ok() {
            *kept = Some(requests);
        } else {
            requests.open = 0;
            let _ = tokio::time::timeout(LET_GO_MAX, requests.let_go(&self.context)).await;
        }
        answer
    }
}

impl Requests {
    /// Waits until a command comes or a request ends without one.
    async fn pull(&mut self, context: &Context, max: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            // Not for each command that came: many in one request.
            if self.open <= max / 2 {
                let config = pull::BatchConfig {
                    batch: max - self.open,
                    expires: Some(PULL_WAIT),
                    ..pull::BatchConfig::default()
                };
                let asked = self.consumer.request_batch(config, self.inbox.clone());
                asked.await.map_err(unavailable)?;
                self.open = max;
            }
            let Some(message) = self.arrivals.next().await else {
                return Err(Error::Unavailable("the connection has ended".into()));
            };
            let Arrival::Command(message) = self.receive(message)? else {
                return Ok(Vec::new());
            };
            if let Some(first) = read(message, context).await {
                let mut deliveries = vec![first];
                deliveries.extend(self.arrived(context, max - 1).await);
                return Ok(deliveries);
            }
        }
    }

    /// What has come already, and what is there now.
    async fn pull_ready(&mut self, context: &Context, max: usize) -> Result<Vec<Delivery>, Error> {
        let mut deliveries = self.arrived(context, max).await;
        if deliveries.len() < max {
            match fetch(&self.consumer, max - deliveries.len()).await {
                Ok(fetched) => deliveries.extend(fetched),
                Err(error) if deliveries.is_empty() => return Err(error),
                Err(error) => tracing::debug!(%error, "no more commands could be fetched"),
            }
        }
        Ok(deliveries)
    }

    async fn arrived(&mut self, context: &Context, max: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while deliveries.len() < max
            && let Some(Some(message)) = self.arrivals.next().now_or_never()
        {
            match self.receive(message) {
                Ok(Arrival::Command(message)) => deliveries.extend(read(message, context).await),
                Ok(Arrival::RequestEnded) => {}
                Err(error) => {
                    tracing::debug!(%error, "a request for commands came to nothing");
                    // If the consumer is gone, the next request is told so, too.
                    self.open = 0;
                }
            }
        }
        deliveries
    }

    fn receive(&mut self, message: async_nats::Message) -> Result<Arrival, Error> {
        match message.status {
            None | Some(StatusCode::OK) => {
                self.open = self.open.saturating_sub(1);
                Ok(Arrival::Command(message))
            }
            Some(StatusCode::TIMEOUT) => {
                let headers = message.headers.as_ref();
                let pending = headers.and_then(|headers| headers.get(PENDING)?.as_str().parse().ok());
                self.open = self.open.saturating_sub(pending.unwrap_or(self.open));
                Ok(Arrival::RequestEnded)
            }
            Some(status) => {
                let reason = message.description.unwrap_or_default();
                Err(Error::Unavailable(format!("no commands: {status} {reason}")))
            }
        }
    }

    /// Gives back what is here, and what still comes while requests are open.
    async fn let_go(mut self, context: &Context) {
        let mut deliveries = self.arrived(context, usize::MAX).await;
        let rest = async {
            while self.open > 0
                && let Some(message) = self.arrivals.next().await
                && let Ok(arrival) = self.receive(message)
            {
                if let Arrival::Command(message) = arrival {
                    deliveries.extend(read(message, context).await);
                }
            }
        };
        let _ = tokio::time::timeout(PULL_WAIT * 2, rest).await;
        for delivery in deliveries {
            delivery.give_back(Duration::ZERO).await;
        }
    }
}

enum Arrival {
    Command(async_nats::Message),
    RequestEnded,
}

#[async_trait]
impl CommandQueue for JetStreamQueue {
    async fn publish(&self, command: &Advance) -> Result<(), Error> {
        let (subject, headers, payload) = self.message(command)?;
        let send = async {
            let ack = self
                .context
                .publish_with_headers(subject, headers, payload)
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

    async fn hint(&self, command: &Advance) -> Result<(), Error> {
        let (subject, headers, payload) = self.message(command)?;
        // While the server is away the client's buffer fills, and waits for its return.
        if !self.is_connected() {
            return Err(Error::Unavailable("not connected".into()));
        }
        let send = self.client.publish_with_headers(subject, headers, payload);
        match tokio::time::timeout(PUBLISH_TIMEOUT, send).await {
            Ok(sent) => sent.map_err(unavailable),
            Err(_) => Err(Error::Unavailable("the connection takes nothing".into())),
        }
    }

    async fn pull(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        self.ask(max, true).await
    }

    async fn pull_ready(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        self.ask(max, false).await
    }

    async fn let_go(&self) {
        let requests = self.requests.lock().await.take();
        if let Some(requests) = requests
            && self.is_connected()
        {
            let _ = tokio::time::timeout(LET_GO_MAX, requests.let_go(&self.context)).await;
        }
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
    let mut batch = consumer
        .fetch()
        .max_messages(max)
        .messages()
        .await
        .map_err(unavailable)?;
    let mut deliveries = Vec::new();
    while let Some(message) = batch.next().await {
        let jetstream::Message { message, context } = message.map_err(unavailable)?;
        deliveries.extend(read(message, &context).await);
    }
    Ok(deliveries)
}

async fn read(message: async_nats::Message, context: &Context) -> Option<Delivery> {
    let command = serde_json::from_slice(&message.payload);
    let context = context.clone();
    let message = jetstream::Message { message, context };
    match command {
        Ok(command) => Some(Delivery::new(command, Box::new(JetStreamReceipt(message)))),
        Err(error) => {
            tracing::warn!(%error, "a message on the command queue is not a command; it is removed");
            let _ = message.ack_with(AckKind::Term).await;
            None
        }
    }
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
