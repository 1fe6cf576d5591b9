//! T4: a NATS that does everything a queue may do short of dying: its consumer and its stream are deleted, the stream
//! is full, emptied, says everything twice, and its connections are slow or reset.

use std::time::Duration;

use async_nats::jetstream::{self, context::Context, stream::Stream};
use futures::{FutureExt, TryStreamExt};

use super::roles;
use crate::{
    Fault, Result,
    chaos::{Case, Scenario},
    system::{Edge, Stack},
};

pub const SCENARIO: Scenario = Scenario {
    name: "nats-adversary",
    about: "consumer or stream deleted, emptied, full, commands doubled, stale and out of order, connections slow and reset (T4)",
    long_only: false,
    play: |case| play(case).boxed_local(),
};

const CLIENTS: usize = 30;
const EDGES: [Edge; 2] = [Edge::GatewayNats, Edge::WorkerNats];
/// Commands said again.
const DOUBLED: usize = 50;

#[derive(Debug, Clone, Copy)]
enum Blow {
    ConsumerDeleted,
    StreamDeleted,
    Emptied,
    Full,
    Doubled,
    Late,
    Reset,
}

const BLOWS: [Blow; 7] = [
    Blow::ConsumerDeleted,
    Blow::StreamDeleted,
    Blow::Emptied,
    Blow::Full,
    Blow::Doubled,
    Blow::Late,
    Blow::Reset,
];

async fn play(case: &mut Case) {
    let mut stack = roles().network().start().await;
    let nats = stack.nats.as_ref().expect("a NATS of its own").url();
    let client = async_nats::connect(nats).await.expect("NATS is up");
    let context = jetstream::new(client);
    let load = case.load(&stack, CLIENTS, None).await;
    for _ in 0..case.pick(1, 3) {
        for blow in BLOWS {
            let before = load.ended();
            let struck = strike(case, &stack, &context, blow).await;
            case.fault();
            case.require(struck.is_ok(), format!("{blow:?} could not be done: {struck:?}"));
            // Whatever was done, runs go on to end.
            load.until_ended(usize::from(load.ended() == before)).await;
            case.pause(500, 1_500).await;
            case.progress(&load);
        }
    }
    case.finish(&mut stack, load).await;
}

/// The one stream there is; it may be about to be made again.
async fn stream(context: &Context) -> Result<Stream> {
    for _ in 0..100 {
        let names: Vec<String> = context.stream_names().try_collect().await?;
        if let Some(name) = names.first() {
            return Ok(context.get_stream(name).await?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("nobody has made the stream again".into())
}

async fn strike(case: &mut Case, stack: &Stack, context: &Context, blow: Blow) -> Result<()> {
    let mut stream = stream(context).await?;
    match blow {
        Blow::ConsumerDeleted => {
            let consumers: Vec<String> = stream.consumer_names().try_collect().await?;
            for consumer in consumers {
                stream.delete_consumer(&consumer).await?;
            }
        }
        Blow::StreamDeleted => {
            context.delete_stream(&stream.cached_info().config.name).await?;
        }
        Blow::Emptied => {
            stream.purge().await?;
        }
        Blow::Full => {
            let whole = stream.info().await?.config.clone();
            let full = jetstream::stream::Config {
                max_bytes: 1,
                ..whole.clone()
            };
            context.update_stream(full).await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            context.update_stream(whole).await?;
        }
        Blow::Doubled => {
            let mut said = vec![];
            while said.len() < DOUBLED {
                let state = stream.info().await?.state.clone();
                for sequence in state.first_sequence..=state.last_sequence {
                    let Ok(message) = stream.get_raw_message(sequence).await else {
                        continue;
                    };
                    said.push((message.subject, message.payload));
                    if let Some((subject, payload)) = said.last().cloned() {
                        context.publish(subject, payload).await?.await?;
                    }
                }
                if state.messages == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            // And once more, in another order, over as long as it takes until most of them are stale.
            let spread = case.pick(3_000, 10_000) / said.len() as u64;
            while !said.is_empty() {
                let (subject, payload) = said.swap_remove(case.chance.below(said.len() as u64) as usize);
                context.publish(subject, payload).await?.await?;
                tokio::time::sleep(Duration::from_millis(spread)).await;
            }
        }
        Blow::Late => break_for(stack, Fault::Late(Duration::from_millis(700)), 4).await,
        Blow::Reset => {
            for _ in 0..4 {
                break_for(stack, Fault::Cut, 0).await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    }
    Ok(())
}

async fn break_for(stack: &Stack, fault: Fault, seconds: u64) {
    for edge in EDGES {
        stack.network().edge(edge).set(fault.clone());
    }
    tokio::time::sleep(Duration::from_secs(seconds).max(Duration::from_millis(50))).await;
    stack.network().heal();
}
