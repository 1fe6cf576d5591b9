//! May this command happen, and which facts does it cause?
//!
//! Intent events ride behind the facts that cause them (a reply and the tool calls it asks for, a tool result and the
//! next model call), so one append moves the run one whole turn.

mod approvals;
mod calls;

use super::{
    Command, Event, Message, Question, Refusal, Run, Time, ToolCall, ToolOutput, ToolResult, WaitingOn,
    agent::CutOffTool,
    command::{Context, ModelReply, Request, Route},
    event::{
        CancelRequested, ContextAssembled, Executor, ModelCallFailed, ModelReplied, RunCancelled, RunCompleted,
        RunError, RunFailed, RunInterrupted, RunRequested, RunResumed, RunStarted, ToolCallFailed, ToolCallRequested,
        ToolCallStarted, ToolCallSucceeded,
    },
    state::{Call, OpenTool, ToolState},
};

/// The facts a command causes, or why it cannot happen.
pub fn decide(run: &Run, command: Command) -> Result<Vec<Event>, Refusal> {
    transition(run, command).map(|(events, _)| events)
}

/// The same, with the run as it stands after the facts.
pub fn transition(run: &Run, command: Command) -> Result<(Vec<Event>, Run), Refusal> {
    match command {
        Command::Routed(route, command) => carry_out(run, *command, Some(route)),
        command => carry_out(run, command, None),
    }
}

fn carry_out(run: &Run, command: Command, route: Option<Route>) -> Result<(Vec<Event>, Run), Refusal> {
    if let Command::Request(request) = command {
        let event = accept(run, request)?;
        let after = run.clone().evolve(&event);
        return Ok((vec![event], after));
    }
    let Some(request) = &run.request else {
        return Err(Refusal::NotRequested);
    };
    let mut plan = Plan {
        run: run.clone(),
        request,
        route,
        events: Vec::new(),
    };
    // What was carried out before is answered the same way even after the end.
    let may_be_a_repeat = matches!(
        command,
        Command::SubmitToolOutputs { .. } | Command::ResolveApproval { .. }
    );
    if run.outcome.is_some() && !may_be_a_repeat {
        return Err(Refusal::AlreadyEnded(run.status()));
    }
    match command {
        Command::Request(_) => return Err(Refusal::AlreadyRequested),
        // Of two routes the one nearest to the order counts.
        Command::Routed(route, command) => return carry_out(run, *command, Some(route)),
        Command::SubmitToolOutputs { outputs, .. } => plan.client_outputs(outputs)?,
        Command::ResolveApproval {
            approval_id,
            arguments_sha256,
            decision,
            by,
            ..
        } => plan.resolve(approval_id, arguments_sha256.as_deref(), decision, by)?,
        Command::RaiseBudget { to, by, .. } => plan.raise_budget(&to, by)?,
        Command::Advance {
            now,
            worker,
            epoch,
            context,
        } => plan.advance(now, worker, epoch, context)?,
        Command::RecordReply {
            now,
            step,
            attempt,
            reply,
        } => plan.reply(now, step, attempt, reply)?,
        Command::RecordModelFailure {
            now,
            step,
            attempt,
            class,
            message,
            retry_at,
            excused,
        } => {
            let failed = ModelCallFailed {
                step,
                attempt,
                class,
                message,
                retry_at,
                excused,
            };
            plan.model_failure(now, failed)?;
        }
        Command::RetryModelCall { now } => {
            let (Call::Backoff { attempt, .. }, true) = (&run.call, run.claimed) else {
                return Err(Refusal::NothingToDo(run.status()));
            };
            match run.cancel.clone() {
                Some(reason) => plan.push(RunCancelled { reason }),
                None => plan.call_model(now, run.step, attempt + 1),
            }
        }
        Command::RecordToolResults { now, results } => plan.tool_results(now, results)?,
        Command::Cancel { reason, .. } => plan.cancel(reason),
        Command::ConfirmCancel { .. } => {
            let Some(reason) = run.cancel.clone() else {
                return Err(Refusal::NoCancelRequested);
            };
            plan.orphan_open_call();
            plan.push(RunCancelled { reason });
        }
        Command::TimeOut { now } => {
            plan.orphan_open_call();
            // Clocks may jump: whoever says so had the nearer of the two in mind.
            if !plan.fail_if_overdue(now) {
                match run.step_deadline.filter(|at| *at < plan.request.deadline) {
                    Some(_) => plan.fail_at_step_deadline(run.step),
                    None => plan.fail_at_deadline(),
                }
            }
        }
        Command::Interrupt { worker, reason, .. } => {
            if !run.claimed {
                return Err(Refusal::NothingToDo(run.status()));
            }
            plan.orphan_open_call();
            match run.cancel.clone() {
                Some(reason) => plan.push(RunCancelled { reason }),
                None => plan.push(RunInterrupted { worker, reason }),
            }
        }
        Command::Fail { code, message, .. } => {
            plan.orphan_open_call();
            plan.fail(&code, message);
        }
    }
    Ok((plan.events, plan.run))
}

fn accept(run: &Run, request: Request) -> Result<Event, Refusal> {
    if run.request.is_some() {
        return Err(Refusal::AlreadyRequested);
    }
    match request.input.last() {
        None => return Err(Refusal::EmptyInput),
        Some(Message::User { .. }) => {}
        Some(other) => return Err(Refusal::InputNotFromUser(other.role())),
    }
    let mut names: Vec<&str> = request.server_tools.iter().map(|tool| tool.name.as_str()).collect();
    names.extend(request.client_tools.iter().map(|tool| tool.name.as_str()));
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Refusal::DuplicateTool(twice[0].into()));
    }
    let deadline = request.now + request.limits.run_time();
    Ok(RunRequested {
        agent: request.agent,
        model: request.model,
        fallbacks: request.fallbacks,
        session_id: request.session_id,
        input: request.input,
        continues_session: request.continues_session,
        server_tools: request.server_tools,
        client_tools: request.client_tools,
        limits: request.limits,
        terms: request.terms,
        deadline,
        metadata: request.metadata,
        idempotency_key: request.idempotency_key,
    }
    .into())
}

/// Events so far, and the run as it stands after them.
struct Plan<'a> {
    run: Run,
    request: &'a RunRequested,
    route: Option<Route>,
    events: Vec<Event>,
}

impl Plan<'_> {
    fn push(&mut self, event: impl Into<Event>) {
        let event = event.into();
        self.run = std::mem::take(&mut self.run).evolve(&event);
        self.events.push(event);
    }

    fn fail(&mut self, code: &str, message: impl Into<String>) {
        self.push(RunFailed {
            error: RunError {
                code: code.into(),
                message: message.into(),
            },
        });
    }

    fn advance(&mut self, now: Time, worker: String, epoch: u64, context: Option<Context>) -> Result<(), Refusal> {
        let overdue = now >= self.request.deadline;
        let for_people = (self.run.waiting_on()).is_some_and(|on| !matches!(on, WaitingOn::Timer { .. }));
        if for_people && !overdue {
            return Err(Refusal::NothingToDo(self.run.status()));
        }
        if let Call::Backoff { retry_at, .. } = self.run.call
            && now < retry_at
            && !overdue
            && self.run.cancel.is_none()
        {
            return Err(Refusal::NothingToDo(self.run.status()));
        }
        let lost = self.how_it_was_lost();
        if self.run.epoch == 0 {
            self.push(RunStarted { worker, epoch });
        } else {
            self.push(RunResumed { worker, epoch });
        }
        if let Some(reason) = self.run.cancel.clone() {
            self.orphan_open_call();
            self.push(RunCancelled { reason });
            return Ok(());
        }
        let claims_max = self.request.limits.claims_max;
        if self.run.fruitless_claims > claims_max {
            self.orphan_open_call();
            self.fail(
                "poison",
                format!(
                    "{claims_max} workers in a row claimed the run and none brought it a step forward \
                     (limits.claims_max); the last {lost}"
                ),
            );
            return Ok(());
        }
        if overdue {
            self.orphan_open_call();
            self.fail_at_deadline();
            return Ok(());
        }
        if let (None, Some(context)) = (&self.run.turns, context) {
            self.push(ContextAssembled {
                turns: context.turns,
                digest: context.digest,
                bytes: context.bytes,
            });
        }
        self.orphan_open_call();
        match self.run.call {
            Call::Backoff { attempt, .. } => self.call_model(now, self.run.step, attempt + 1),
            Call::Wanted { step, attempt } => self.call_model(now, step, attempt),
            Call::Orphaned { attempt } => self.after_orphan(now, attempt),
            Call::Idle | Call::Open { .. } | Call::Unaffordable { .. } => {
                self.settle_cut_off_tools()?;
                self.go_on(now);
            }
        }
        Ok(())
    }

    /// Tools that must not run twice and may have run.
    fn settle_cut_off_tools(&mut self) -> Result<(), Refusal> {
        let cut_off: Vec<ToolCall> = (self.run.open_tools.iter())
            .filter(|tool| tool.state == ToolState::Started && tool.executor == Executor::Server)
            .map(|tool| tool.call.clone())
            .collect();
        for call in cut_off {
            match self.request.terms.policies.cut_off_tool {
                CutOffTool::Ask => self.ask(Question::about_tool(&call)),
                CutOffTool::Report => self.end_tool(call.id, Err(approvals::CUT_OFF.into()), 0)?,
            }
        }
        Ok(())
    }

    /// What the last claim was doing when it ended, for whoever looks for the cause.
    fn how_it_was_lost(&self) -> String {
        let doing = match self.run.call {
            Call::Open { .. } | Call::Orphaned { .. } => format!("during the model call of step {}", self.run.step),
            _ => {
                let tools: Vec<&str> = (self.run.open_tools.iter())
                    .filter(|tool| tool.executor == Executor::Server)
                    .map(|tool| tool.call.name.as_str())
                    .collect();
                match tools.as_slice() {
                    [] => "before it began".into(),
                    names => format!("while it ran {}", names.join(", ")),
                }
            }
        };
        match &self.run.interrupted {
            Some(reason) => format!("broke down {doing}: {reason}"),
            None => format!("was lost {doing}: it was killed, aborted, or out of memory"),
        }
    }

    fn reply(&mut self, now: Time, step: u32, attempt: u32, reply: ModelReply) -> Result<(), Refusal> {
        self.expect_open_call(step, attempt)?;
        let ModelReply {
            text,
            tool_calls,
            usage,
            model,
            provider_id,
            finish_reason,
            latency_ms,
            first_token_ms,
            deltas,
        } = reply;
        let tool_calls = self.with_unique_ids(tool_calls, step);
        self.push(ModelReplied {
            step,
            attempt,
            text: text.clone(),
            tool_calls: tool_calls.clone(),
            usage,
            model,
            provider_id,
            finish_reason,
            latency_ms,
            first_token_ms,
            deltas,
        });
        if let Some(reason) = self.run.cancel.clone() {
            self.push(RunCancelled { reason });
            return Ok(());
        }
        if tool_calls.is_empty() {
            self.push(RunCompleted { output: text });
            return Ok(());
        }
        // The client's calls come last: the fold sees one fact at a time, and a run with only client calls open waits.
        let (for_the_client, others): (Vec<ToolCall>, Vec<ToolCall>) =
            (tool_calls.into_iter()).partition(|call| self.executor(&call.name) == Executor::Client);
        for call in others.into_iter().chain(for_the_client) {
            self.request_tool(step, call)?;
        }
        self.go_on(now);
        Ok(())
    }

    /// Some servers number tool calls per reply, some leave the id out; a run needs them unique.
    fn with_unique_ids(&self, calls: Vec<ToolCall>, step: u32) -> Vec<ToolCall> {
        let mut here: Vec<String> = Vec::with_capacity(calls.len());
        (calls.into_iter().enumerate())
            .map(|(at, mut call)| {
                let used = |id: &String| here.contains(id) || self.run.messages.has_call(id);
                if call.id.is_empty() || used(&call.id) {
                    call.id = format!("call_{step}_{}", at + 1);
                }
                while used(&call.id) {
                    call.id.push('x');
                }
                here.push(call.id.clone());
                call
            })
            .collect()
    }

    fn executor(&self, name: &str) -> Executor {
        if self.request.server_tools.iter().any(|tool| tool.name == name) {
            Executor::Server
        } else if self.request.client_tools.iter().any(|tool| tool.name == name) {
            Executor::Client
        } else {
            Executor::Nobody
        }
    }

    fn request_tool(&mut self, step: u32, call: ToolCall) -> Result<(), Refusal> {
        let (id, name) = (call.id.clone(), call.name.clone());
        let executor = self.executor(&name);
        let retry_safe = (self.request.server_tools.iter()).any(|tool| tool.name == name && tool.retry_safe);
        self.push(ToolCallRequested { step, call, executor });
        match executor {
            Executor::Server if !retry_safe => self.push(ToolCallStarted { tool_call_id: id }),
            Executor::Nobody => {
                let known: Vec<&str> = (self.request.server_tools.iter().map(|tool| tool.name.as_str()))
                    .chain(self.request.client_tools.iter().map(|tool| tool.name.as_str()))
                    .collect();
                let error = format!("there is no tool {name:?}; the tools are: {}", known.join(", "));
                self.end_tool(id, Err(error), 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn client_outputs(&mut self, outputs: Vec<ToolOutput>) -> Result<(), Refusal> {
        if outputs.is_empty() {
            return Err(Refusal::NoOutputs);
        }
        for (at, output) in outputs.iter().enumerate() {
            let same = |earlier: &ToolOutput| earlier.tool_call_id == output.tool_call_id;
            if outputs[..at].iter().any(same) {
                return Err(Refusal::DuplicateOutput(output.tool_call_id.clone()));
            }
        }
        for output in outputs {
            let run = &self.run;
            if let Some((id, before)) = (run.client_outputs.iter()).find(|(id, _)| *id == output.tool_call_id) {
                if *before != output.outcome {
                    return Err(Refusal::OutputDiffers(id.clone()));
                }
                continue;
            }
            match run.open_tools.iter().find(|tool| tool.call.id == output.tool_call_id) {
                Some(tool) if tool.executor == Executor::Client => {
                    // The gateway does not call models: the worker that claims the run asks for the next call.
                    self.end_tool(output.tool_call_id, output.outcome, 0)?;
                }
                Some(_) => return Err(Refusal::NotAClientTool(output.tool_call_id)),
                None if run.outcome.is_some() => return Err(Refusal::AlreadyEnded(run.status())),
                None => return Err(Refusal::UnknownToolCall(output.tool_call_id)),
            }
        }
        Ok(())
    }

    fn model_failure(&mut self, now: Time, mut failed: ModelCallFailed) -> Result<(), Refusal> {
        let (step, attempt, excused) = (failed.step, failed.attempt, failed.excused);
        self.expect_open_call(step, attempt)?;
        let (limits, deadline) = (self.request.limits, self.request.deadline);
        let counted = attempt.saturating_sub(self.run.excused_attempts);
        failed.retry_at = match failed.retry_at {
            // A provider that is away may be back before the deadline, whatever is thought of it now.
            Some(at) if excused => Some(at.min(deadline)),
            at => at.filter(|at| counted < limits.model_attempts_max && *at < deadline),
        };
        let too_late = |at: &Time| !excused && self.run.step_deadline.is_some_and(|end| *at >= end);
        let step_is_over = failed.retry_at.as_ref().is_some_and(too_late);
        failed.retry_at = failed.retry_at.filter(|_| !step_is_over);
        let (class, message, retry_at) = (failed.class.clone(), failed.message.clone(), failed.retry_at);
        self.push(failed);
        if let Some(reason) = self.run.cancel.clone() {
            self.push(RunCancelled { reason });
        } else if step_is_over {
            let seconds = limits.step_seconds_max;
            self.fail(
                "step_deadline",
                format!(
                    "step {step} cannot end within {seconds} s (limits.step_seconds_max); its last model call failed: \
                     {message}"
                ),
            );
        } else if retry_at.is_none() {
            let tries = if attempt == 1 {
                "1 attempt".into()
            } else {
                format!("{attempt} attempts")
            };
            self.fail(
                &format!("model_{class}"),
                format!("the model call of step {step} failed after {tries}: {message}"),
            );
        } else {
            self.fail_if_overdue(now);
        }
        Ok(())
    }

    fn tool_results(&mut self, now: Time, results: Vec<ToolResult>) -> Result<(), Refusal> {
        if results.is_empty() {
            return Err(Refusal::NoOutputs);
        }
        for result in results {
            let open = |tool: &OpenTool| tool.call.id == result.tool_call_id && tool.executor == Executor::Server;
            if !self.run.open_tools.iter().any(open) {
                return Err(Refusal::UnknownToolCall(result.tool_call_id));
            }
            self.end_tool(result.tool_call_id, result.outcome, result.duration_ms)?;
        }
        if let Some(reason) = self.run.cancel.clone() {
            self.push(RunCancelled { reason });
            return Ok(());
        }
        self.go_on(now);
        Ok(())
    }

    fn cancel(&mut self, reason: Option<String>) {
        if self.run.cancel.is_some() {
            return;
        }
        let at_work = self.run.claimed;
        self.push(CancelRequested { reason: reason.clone() });
        // With no worker holding the run nobody needs to let go of anything.
        if !at_work {
            self.push(RunCancelled { reason });
        }
    }

    fn end_tool(&mut self, id: String, outcome: Result<String, String>, duration_ms: u64) -> Result<(), Refusal> {
        let Some(tool) = self.run.open_tools.iter().find(|tool| tool.call.id == id) else {
            return Err(Refusal::UnknownToolCall(id));
        };
        let name = tool.call.name.clone();
        match outcome {
            Ok(output) => self.push(ToolCallSucceeded {
                tool_call_id: id,
                name,
                output,
                duration_ms,
            }),
            Err(error) => self.push(ToolCallFailed {
                tool_call_id: id,
                name,
                error,
                duration_ms,
            }),
        }
        Ok(())
    }

    /// Once no tool is open, the model is asked again: by whoever holds the run, or else by its next worker.
    fn go_on(&mut self, now: Time) {
        if !self.run.claimed {
            return;
        }
        if self.run.open_tools.is_empty() && self.run.call == Call::Idle {
            self.call_model(now, self.run.step + 1, 1);
        } else if !self.fail_if_overdue(now) {
            self.start_granted_tools();
        }
    }

    /// What a person allowed to run again is recorded as started before it is, like the first time.
    fn start_granted_tools(&mut self) {
        let granted: Vec<String> = (self.run.open_tools.iter())
            .filter(|tool| tool.state == ToolState::Granted)
            .map(|tool| tool.call.id.clone())
            .collect();
        for tool_call_id in granted {
            self.push(ToolCallStarted { tool_call_id });
        }
    }
}
