//! The two effects of a run: a model call with its text streamed, and tool calls side by side.

use futures::{StreamExt, stream::FuturesUnordered};
use sha2::{Digest, Sha256};
use steadfast::{
    crash::{self, Point},
    run::{Command, Limits, ModelReply, Next, ToolCall, ToolResult, agent::hex, next, state::OpenTool, transition},
};
use tokio::time::Instant;

use crate::{
    clock, context,
    delta::Deltas,
    execute::{Done, Execution, Interrupt},
    model::{ErrorClass, ModelError, ModelRequest, link::Link},
    tools::ToolContext,
};

/// A piece of text that comes when others were streamed already.
const MID_STREAM: u32 = 10;

impl Execution {
    /// Makes the call that is recorded as open, and records how it ended.
    pub(crate) async fn call_model(&mut self, step: u32, attempt: u32) -> Result<(), Done> {
        let Some(request) = self.loaded.run.request.clone() else {
            return Err(Done::Settled);
        };
        let agent = match self
            .shared
            .agents
            .get(&self.shared.reader, &request.agent.version)
            .await
        {
            Ok(Ok(agent)) => agent,
            Ok(Err(message)) => {
                return self
                    .commit(Command::Fail {
                        now: clock::now(),
                        code: "agent".into(),
                        message,
                    })
                    .await;
            }
            Err(error) => return Err(error.into()),
        };
        if self.history.is_none() {
            let turns = self.loaded.run.turns.clone().unwrap_or_default();
            self.history = Some(context::recall(&self.shared.reader, &turns).await?);
        }
        let history = self.history.as_deref().unwrap_or_default();
        let shown = self.prompt.of(&self.loaded.run, &agent, history);
        let run_id = self.loaded.head.run_id;
        let mut ask = context::request(
            run_id,
            &self.loaded.run,
            &agent,
            shown,
            &self.shared.tools,
            step,
            attempt,
        );

        let shared = self.shared.clone();
        let Some(mut ticket) = self.ticket.take() else {
            return Err(Done::Stuck(
                "a model call is open that this worker has no leave for".into(),
            ));
        };
        let link = ticket.link().clone();
        ticket.call_made();
        let deltas = Deltas::new(&*shared.feed, run_id, self.loaded.run.version + 1);
        let call = make(&shared.models, &link, &mut ask, &deltas);
        tokio::pin!(call);
        let sending = deltas.run();
        tokio::pin!(sending);
        let outcome = loop {
            tokio::select! {
                // None of them starves another: the call ends once, sending never does.
                biased;
                outcome = &mut call => break outcome,
                never = &mut sending => match never {},
                interrupt = self.interrupt() => match interrupt {
                    // Dropping the call closes its connection.
                    Interrupt::Changed if self.loaded.run.cancel.is_some() => return Ok(()),
                    Interrupt::Changed => deltas.move_to(self.loaded.run.version + 1).await,
                    Interrupt::Resend => deltas.resend().await,
                    Interrupt::Deadline => return self.out_of_time().await,
                    Interrupt::Stop(done) => return self.stop(done).await,
                },
            }
        };
        match outcome {
            Ok(mut reply) => {
                ticket.replied();
                deltas.flush().await;
                reply.deltas = deltas.lengths();
                if let Some(price) = agent.price {
                    reply.usage.cost_microusd = price.microusd(reply.usage.input_tokens, reply.usage.output_tokens);
                }
                self.record_reply(Command::RecordReply {
                    now: clock::now(),
                    step,
                    attempt,
                    reply,
                })
                .await
            }
            Err(error) => {
                let excused = !ticket.failed(&error);
                let pause = shared
                    .retry
                    .pause(error.class, attempt, error.retry_after, clock::jitter());
                let retry_at = pause.map(|pause| self.retry_at(&link, pause));
                tracing::warn!(run.id = %run_id, step, attempt, model = %link, class = %error.class, error = %error, "a model call failed");
                let (class, message) = (error.class.as_str().to_owned(), error.message);
                self.commit(Command::RecordModelFailure {
                    now: clock::now(),
                    step,
                    attempt,
                    class,
                    message,
                    retry_at,
                    excused,
                })
                .await
            }
        }
    }

    /// Records the reply, and with it what tools answer that need not be waited for.
    async fn record_reply(&mut self, record: Command) -> Result<(), Done> {
        let tools = match &record {
            Command::RecordReply { reply, .. } if !reply.tool_calls.is_empty() => {
                let names = reply.tool_calls.iter().map(|call| call.name.as_str());
                let asked = self.shared.tools.all_immediate(names);
                // The run decides what may be called, and under which id.
                let after = asked
                    .then(|| transition(&self.loaded.run, record.clone()).ok())
                    .flatten();
                after.map(|(_, after)| next(&after))
            }
            _ => None,
        };
        let rider = match tools {
            Some(Next::RunTools(tools)) => Some(Command::RecordToolResults {
                results: self.running(tools).collect().await,
                now: clock::now(),
            }),
            _ => None,
        };
        self.commit_both(record, rider).await
    }

    /// The tools, at the same time.
    fn running(&self, tools: Vec<OpenTool>) -> FuturesUnordered<impl Future<Output = ToolResult> + use<>> {
        let run_id = self.loaded.head.run_id;
        let seconds_max = (self.loaded.run.request.as_ref())
            .map_or_else(Limits::default, |request| request.limits)
            .tool_seconds_max;
        let run = |tool: OpenTool| {
            let shared = self.shared.clone();
            async move {
                let context = ToolContext {
                    run_id,
                    tool_call_id: tool.call.id.clone(),
                    idempotency_key: idempotency_key(&tool.call, run_id),
                    now: clock::now(),
                };
                let started = Instant::now();
                crash::at(Point::ToolBefore);
                let outcome = shared.tools.call(&tool.call, &context, seconds_max).await;
                crash::at(Point::ToolAfter);
                let duration_ms = started.elapsed().as_millis() as u64;
                ToolResult {
                    tool_call_id: tool.call.id,
                    outcome,
                    duration_ms,
                }
            }
        };
        tools.into_iter().map(run).collect()
    }

    /// Runs the tools and records each as it ends.
    pub(crate) async fn run_tools(&mut self, tools: Vec<OpenTool>) -> Result<(), Done> {
        let mut running = self.running(tools);
        let mut ended: Vec<ToolResult> = Vec::new();
        loop {
            tokio::select! {
                biased;
                result = running.next() => match result {
                    Some(result) => ended.push(result),
                    None => break,
                },
                // Whatever has ended together is recorded together.
                () = std::future::ready(()), if !ended.is_empty() => {
                    let results = std::mem::take(&mut ended);
                    self.commit(Command::RecordToolResults { now: clock::now(), results }).await?;
                }
                interrupt = self.interrupt() => match interrupt {
                    Interrupt::Changed if self.loaded.run.cancel.is_some() => return Ok(()),
                    Interrupt::Changed | Interrupt::Resend => {}
                    Interrupt::Deadline => return self.out_of_time().await,
                    Interrupt::Stop(done) => return self.stop(done).await,
                },
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        self.commit(Command::RecordToolResults {
            now: clock::now(),
            results: ended,
        })
        .await
    }

    pub(crate) async fn out_of_time(&mut self) -> Result<(), Done> {
        self.commit(Command::TimeOut { now: clock::now() }).await
    }
}

async fn make(
    models: &crate::model::Models,
    link: &Link,
    ask: &mut ModelRequest,
    deltas: &Deltas<'_>,
) -> Result<ModelReply, ModelError> {
    let resolved = models.at(link).await?;
    ask.model = resolved.name;
    crash::at(Point::CallBefore);
    let mut pieces = 0;
    let mut on_text = |text: &str| {
        deltas.push(text);
        pieces += 1;
        match pieces {
            1 => crash::at(Point::FirstToken),
            MID_STREAM => crash::at(Point::MidStream),
            _ => {}
        }
    };
    let reply = resolved.model.call(ask, &mut on_text).await?;
    if reply.text.is_empty() && reply.tool_calls.is_empty() {
        return Err(ModelError::new(ErrorClass::Malformed, "the model answered nothing"));
    }
    Ok(reply)
}

/// What the call is, not where it stands: the same call repeated has the same key.
fn idempotency_key(call: &ToolCall, run_id: steadfast::run::RunId) -> String {
    let mut hasher = Sha256::new();
    for part in [run_id.to_string().as_str(), &call.id, &call.name, &call.arguments] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}
