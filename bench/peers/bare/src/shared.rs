//! The work of a kept run shared by two processes: one that takes tasks and streams answers, one that executes. A command
//! for each run goes through a stream of NATS JetStream, which holds it until it is acknowledged, and what the client is
//! told comes back through NATS, many runs' frames in a message. No sessions, leases, lines, read models or hashes: it is the
//! least that this bench knows how to do with the parts that Steadfast's distributed mode has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_nats::jetstream::{self, consumer::pull, stream};
use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::Response,
    routing::{MethodRouter, get, post},
};
use chat::{Error, Task};
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    Agent, Client, Frame, RunLog, broken,
    keeper::{Heads, Keeper, Loader, create_tables},
    streamed,
};

/// Frames in one message, at the most.
const BATCH_MAX: usize = 256;
/// In front of a frame's text: whose it is, whether it is the last, how long it is.
const HEADER: usize = 16 + 1 + 4;

/// Where things are in NATS.
struct Names {
    commands: String,
    frames: String,
}

impl Names {
    fn of(prefix: &str) -> Self {
        Self {
            commands: format!("{prefix}.commands"),
            frames: format!("{prefix}.frames"),
        }
    }
}

pub struct Gateway {
    keeper: Keeper,
    nats: async_nats::Client,
    names: Names,
    clients: Mutex<HashMap<Uuid, mpsc::UnboundedSender<Frame>>>,
}

impl Gateway {
    pub async fn open(postgres: &str, nats: &str, prefix: &str) -> Result<Arc<Self>, Error> {
        create_tables(postgres, Heads::Begin).await?;
        let nats = async_nats::connect(nats).await?;
        let names = Names::of(prefix);
        let mut frames = nats.subscribe(names.frames.clone()).await?;
        let gateway = Arc::new(Self {
            keeper: Keeper::on_postgres(postgres, Heads::Begin).await?,
            nats,
            names,
            clients: Mutex::default(),
        });
        let reader = gateway.clone();
        tokio::spawn(async move {
            while let Some(message) = frames.next().await {
                reader.pass_on(message.payload);
            }
        });
        Ok(gateway)
    }

    pub fn routes(self: Arc<Self>) -> MethodRouter {
        post(accept).with_state(self)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Uuid, mpsc::UnboundedSender<Frame>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_on(&self, mut message: Bytes) {
        let mut clients = self.clients();
        while let Some(frame) = unpack(&mut message) {
            let (run_id, last) = (frame.run_id, frame.last);
            if let Some(client) = clients.get(&run_id) {
                // Whoever has left hears nothing.
                let _ = client.send(frame);
            }
            if last {
                clients.remove(&run_id);
            }
        }
    }
}

async fn accept(State(gateway): State<Arc<Gateway>>, Json(task): Json<Task>) -> Result<Response, (StatusCode, String)> {
    let mut kept = gateway.keeper.run();
    let (client, frames) = mpsc::unbounded_channel();
    let requested = ("run.requested", json!({"input": task.input}).to_string());
    kept.append([requested]).await.map_err(broken)?;
    gateway.clients().insert(kept.run_id, client);
    let command = Bytes::copy_from_slice(kept.run_id.as_bytes());
    let sent = gateway.nats.publish(gateway.names.commands.clone(), command).await;
    if let Err(error) = sent {
        gateway.clients().remove(&kept.run_id);
        return Err(broken(error.into()));
    }
    Ok(streamed(frames))
}

/// Executes what is commanded, until NATS ends.
pub async fn work(agent: Arc<Agent>, postgres: &str, nats: &str, prefix: &str, port: u16) -> Result<(), Error> {
    let names = Names::of(prefix);
    let nats = async_nats::connect(nats).await?;
    let stream = stream::Config {
        name: format!("{prefix}_COMMANDS"),
        subjects: vec![names.commands.clone()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..stream::Config::default()
    };
    let stream = jetstream::new(nats.clone()).create_stream(stream).await?;
    let consumer = pull::Config {
        durable_name: Some("workers".into()),
        max_ack_pending: 100_000,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(consumer).await?;
    let keeper = Keeper::on_postgres(postgres, Heads::Move).await?;
    let loader = Arc::new(Loader::open(postgres).await?);
    let frames = publish(nats, names.frames);
    let mut commands = consumer
        .stream()
        .max_messages_per_batch(agent.slots.available_permits())
        .messages()
        .await?;
    tokio::select! {
        served = chat::serve(port, get(|| async { "a worker" })) => Ok(served?),
        ended = execute(&mut commands, &agent, &keeper, &loader, &frames) => ended,
    }
}

async fn execute(
    commands: &mut pull::Stream,
    agent: &Arc<Agent>,
    keeper: &Keeper,
    loader: &Arc<Loader>,
    frames: &mpsc::UnboundedSender<Frame>,
) -> Result<(), Error> {
    loop {
        let slot = agent.slots.clone().acquire_owned().await?;
        let Some(command) = commands.next().await else {
            return Err("there are no more commands".into());
        };
        let command = command?;
        let run_id = Uuid::from_slice(&command.payload)?;
        let (agent, loader) = (agent.clone(), loader.clone());
        let client = Client {
            run_id,
            frames: frames.clone(),
        };
        let log = RunLog::of(Some(keeper.resume(run_id, 1)), Some(command));
        tokio::spawn(async move {
            let _slot = slot;
            let executed = async {
                let requested: Value = serde_json::from_str(&loader.first(run_id).await?)?;
                let task = requested["input"].as_str().unwrap_or_default();
                agent.run(task, &client, log).await
            };
            client.end(executed.await);
        });
    }
}

/// What comes meanwhile goes with the next message.
fn publish(nats: async_nats::Client, subject: String) -> mpsc::UnboundedSender<Frame> {
    let (sender, mut frames) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut batch = Vec::new();
        while frames.recv_many(&mut batch, BATCH_MAX).await > 0 {
            tokio::task::yield_now().await;
            let more = BATCH_MAX - batch.len();
            frames.recv_many(&mut batch, more).now_or_never();
            let mut message = Vec::new();
            for frame in batch.drain(..) {
                pack(&mut message, &frame);
            }
            if let Err(error) = nats.publish(subject.clone(), message.into()).await {
                eprintln!("a message of frames is lost: {error}");
            }
        }
    });
    sender
}

fn pack(message: &mut Vec<u8>, frame: &Frame) {
    message.extend_from_slice(frame.run_id.as_bytes());
    message.push(frame.last.into());
    message.extend_from_slice(&(frame.text.len() as u32).to_be_bytes());
    message.extend_from_slice(&frame.text);
}

fn unpack(message: &mut Bytes) -> Option<Frame> {
    let header = (message.len() >= HEADER).then(|| message.split_to(HEADER))?;
    let run_id = Uuid::from_slice(&header[..16]).ok()?;
    let length = u32::from_be_bytes(header[17..].try_into().ok()?) as usize;
    let text = (message.len() >= length).then(|| message.split_to(length))?;
    let last = header[16] != 0;
    Some(Frame { run_id, text, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static [u8], last: bool) -> Frame {
        Frame {
            run_id: Uuid::now_v7(),
            text: Bytes::from_static(text),
            last,
        }
    }

    #[test]
    fn what_is_packed_for_several_runs_is_unpacked_the_same() {
        let frames = [frame(b"one", false), frame(b"", true), frame(b"three", true)];
        let mut message = Vec::new();
        for frame in &frames {
            pack(&mut message, frame);
        }
        let mut message = Bytes::from(message);
        let unpacked: Vec<_> = std::iter::from_fn(|| unpack(&mut message)).collect();
        assert_eq!(unpacked, frames);
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let mut message = Vec::new();
        pack(&mut message, &frame(b"one", true));
        message.pop();
        assert_eq!(unpack(&mut message.into()), None);
    }
}
