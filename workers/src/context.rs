//! What the model is shown: instructions, earlier turns of the session, this run's own messages.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use sha2::{Digest, Sha256};
use steadfast::{
    run::{
        Agent, Event, Message, Run, RunId,
        agent::{hex, unhex},
        command::Context,
        event::RunRequested,
    },
    store::{Error, Loaded, Reader},
};

use crate::{
    model::{Conversation, ModelRequest},
    tools::Toolbox,
};

/// Agent definitions kept in memory, at the most.
const AGENTS_MAX: usize = 256;

/// Agent definitions by version; they never change.
#[derive(Default)]
pub struct AgentCache {
    agents: Mutex<HashMap<String, Arc<Agent>>>,
}

impl AgentCache {
    /// The definition a run pins, or a sentence why it cannot be had.
    pub async fn get(&self, reader: &Reader, version: &str) -> Result<Result<Arc<Agent>, String>, Error> {
        if let Some(agent) = self.lock().get(version) {
            return Ok(Ok(agent.clone()));
        }
        let Some(hash) = unhex(version) else {
            return Ok(Err(format!("{version:?} is not an agent version")));
        };
        let Some(bytes) = reader.blob(&hash).await? else {
            return Ok(Err(format!("agent version {version} is not in the store")));
        };
        let agent: Arc<Agent> = match serde_json::from_slice(&bytes) {
            Ok(agent) => Arc::new(agent),
            Err(error) => return Ok(Err(format!("agent version {version} does not read: {error}"))),
        };
        let mut agents = self.lock();
        if agents.len() >= AGENTS_MAX {
            agents.clear();
        }
        agents.insert(version.into(), agent.clone());
        Ok(Ok(agent))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Agent>>> {
        self.agents.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The earlier turns for a run that is about to start, and their messages. `None`: an earlier run is still open.
pub async fn choose(reader: &Reader, loaded: &Loaded, request: &RunRequested) -> Result<Option<Chosen>, Error> {
    let (session, seq) = (loaded.head.session_id, loaded.head.session_seq);
    // Asked first: once all have ended, the list of turns is final.
    if reader.open_before(session, seq).await? {
        return Ok(None);
    }
    let mut oldest_first = reader.turns(session, seq, request.limits.history_turns_max).await?;
    oldest_first.reverse();
    let mut turns = exchanges(reader, &oldest_first).await?;
    let mut budget = request.limits.history_chars_max as usize;
    let kept = (turns.iter().rev())
        .take_while(|(_, messages)| {
            let size: usize = messages.iter().map(|message| message.content().len()).sum();
            let fits = size <= budget;
            budget = budget.saturating_sub(size);
            fits
        })
        .count();
    let turns = turns.split_off(turns.len() - kept);
    let (ids, messages): (Vec<RunId>, Vec<Vec<Message>>) = turns.into_iter().unzip();
    let messages = messages.concat();
    let digest = hex(&Sha256::digest(serde_json::to_string(&messages).unwrap_or_default()));
    let bytes = messages.iter().map(|message| message.content().len() as u64).sum();
    Ok(Some(Chosen {
        context: Context {
            turns: ids,
            digest,
            bytes,
        },
        messages,
    }))
}

pub struct Chosen {
    pub context: Context,
    pub messages: Vec<Message>,
}

/// The messages of turns that were chosen before.
pub async fn recall(reader: &Reader, turns: &[RunId]) -> Result<Vec<Message>, Error> {
    let exchanges = exchanges(reader, turns).await?;
    Ok(exchanges.into_iter().flat_map(|(_, messages)| messages).collect())
}

/// Question and answer of each run, in the order of the runs.
async fn exchanges(reader: &Reader, runs: &[RunId]) -> Result<Vec<(RunId, Vec<Message>)>, Error> {
    let mut by_run: HashMap<RunId, Vec<Message>> = HashMap::new();
    for stored in reader.exchanges(runs).await? {
        let messages = by_run.entry(stored.run_id).or_default();
        match stored.decode()? {
            Event::RunRequested(request) => messages.extend(request.input),
            Event::RunCompleted(done) => {
                messages.push(Message::Assistant {
                    content: done.output,
                    tool_calls: Vec::new(),
                });
            }
            _ => {}
        }
    }
    // In the order asked for: ids come from several clocks, a session's order does not.
    let ordered = runs.iter().filter_map(|run| by_run.remove_entry(run)).collect();
    Ok(ordered)
}

/// What the model is shown of a run, from the agent's instructions on: what was shown before, and what has come since.
#[derive(Default)]
pub struct Prompt {
    shown: Arc<Conversation>,
    /// Before the run's own messages.
    before: usize,
}

impl Prompt {
    pub fn of(&mut self, run: &Run, agent: &Agent, history: &[Message]) -> Arc<Conversation> {
        // Copied only if a request still holds it.
        let shown = Arc::make_mut(&mut self.shown);
        if shown.is_empty() {
            let instructions = Message::System {
                content: agent.instructions.clone(),
            };
            *shown = std::iter::once(instructions).chain(history.iter().cloned()).collect();
            self.before = shown.len();
        }
        // A run's messages only become more.
        shown.extend(run.messages.after(shown.len() - self.before).cloned());
        self.shown.clone()
    }
}

/// The request for the run's open model call.
pub fn request(
    run_id: RunId,
    run: &Run,
    agent: &Agent,
    shown: Arc<Conversation>,
    tools: &Toolbox,
    step: u32,
    attempt: u32,
) -> ModelRequest {
    let mut specs = Vec::new();
    let mut output_tokens_max = agent.limits.output_tokens_max;
    if let Some(request) = &run.request {
        specs.extend(
            request
                .server_tools
                .iter()
                .filter_map(|tool| tools.get(&tool.name))
                .map(|tool| tool.spec()),
        );
        specs.extend(request.client_tools.iter().cloned());
        output_tokens_max = request.limits.output_tokens_max;
    }
    ModelRequest {
        // The name at the provider is filled in by whoever resolves it.
        model: agent.model.clone(),
        messages: shown,
        tools: specs,
        output_tokens_max,
        temperature: agent.temperature,
        idempotency_key: format!("{run_id}-{step}-{attempt}"),
    }
}
