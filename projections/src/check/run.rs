//! One run, judged event by event. Pure: what it needs of the database comes in.

mod people;

use std::collections::BTreeSet;

use steadfast::{
    run::{Event, Next, Run, RunId, SessionId, Status, Usage, agent::hex, next},
    store::{GENESIS, Hash, StoredEvent, chain},
};

use super::report::{Findings, Subject};

/// The head row as it lies in `runs`.
#[derive(Debug, Clone)]
pub struct HeadRow {
    pub run_id: RunId,
    pub tenant: String,
    pub session_id: SessionId,
    pub agent: String,
    pub status: String,
    pub version: u64,
    pub epoch: u64,
    pub hash: Vec<u8>,
    pub usage: Usage,
}

/// An event as it lies in `events`, or why it does not read.
pub struct RawEvent {
    pub run_id: RunId,
    pub version: u64,
    /// The payload is as stored: a large one is a reference.
    pub stored: Result<StoredEvent, String>,
}

/// What the events of a run have shown so far.
pub struct RunCheck {
    run_id: RunId,
    version: u64,
    prev: Hash,
    pub run: Run,
    /// False once an event could not be folded: what depends on the fold is not judged then.
    pub foldable: bool,
    left_to_newer: bool,
    ended_at: Option<u64>,
    open_call: Option<(u32, u32)>,
    started_tools: BTreeSet<String>,
    /// Steps whose reply was used.
    answered: BTreeSet<u32>,
    tenant: Option<String>,
}

impl RunCheck {
    pub fn new(run_id: RunId) -> Self {
        Self {
            run_id,
            version: 0,
            prev: GENESIS,
            run: Run::default(),
            foldable: true,
            ended_at: None,
            left_to_newer: false,
            open_call: None,
            started_tools: BTreeSet::new(),
            answered: BTreeSet::new(),
            tenant: None,
        }
    }

    pub fn run_id(&self) -> RunId {
        self.run_id
    }

    /// The next event by version: its number, its link in the chain.
    pub fn link(&mut self, raw: &RawEvent, findings: &mut Findings) {
        let at = Subject::event(self.run_id, raw.version);
        findings.same("I1", at, "the event's version", self.version + 1, raw.version);
        self.version = raw.version;
        match &raw.stored {
            Ok(stored) => {
                let (tenant, time) = (&stored.tenant, stored.time);
                let link = chain(
                    &self.prev,
                    self.run_id,
                    raw.version,
                    tenant,
                    &stored.name,
                    stored.schema,
                    time,
                    &stored.payload,
                );
                findings.same("I14", at, "the event's hash", hex(&link), hex(&stored.hash));
                self.prev = stored.hash;
                let first = self.tenant.get_or_insert_with(|| tenant.to_string());
                findings.same("I13", at, "the event's tenant", first.as_str(), tenant.as_str());
            }
            Err(reason) => {
                findings.violation("I14", at, "the event", "a row that reads", reason);
                self.foldable = false;
            }
        }
    }

    /// The same event, decoded.
    pub fn fold(&mut self, event: &Event, findings: &mut Findings) {
        let at = Subject::event(self.run_id, self.version);
        if let Some(ended_at) = self.ended_at {
            let what = format!("an event after the terminal one (version {ended_at})");
            findings.violation("I4", at, what, "none", event.name());
        }
        if event.is_terminal() {
            self.ended_at = Some(self.version);
        }
        if let Event::RunRequested(_) = event
            && self.version != 1
        {
            findings.violation(
                "I1",
                at,
                "run.requested",
                "only as version 1",
                format!("version {}", self.version),
            );
        }
        self.judge_claim(event, findings);
        self.judge_call(event, findings);
        self.judge_tool(event, findings);
        self.judge_budget(event, findings);
        self.run = std::mem::take(&mut self.run).evolve(event);
    }

    /// A newer build has written to the run. The chain can be verified from here on, and nothing else.
    pub fn leave_to_newer(&mut self) {
        self.left_to_newer = true;
        self.foldable = false;
    }

    pub fn is_left_to_newer(&self) -> bool {
        self.left_to_newer
    }

    pub fn unreadable(&mut self, reason: &str, findings: &mut Findings) {
        let at = Subject::event(self.run_id, self.version);
        findings.violation("I16", at, "the event's data", "an event this build can fold", reason);
        self.foldable = false;
    }

    fn judge_claim(&self, event: &Event, findings: &mut Findings) {
        let epoch = match event {
            Event::RunStarted(e) => e.epoch,
            Event::RunResumed(e) => e.epoch,
            _ => return,
        };
        if epoch <= self.run.epoch {
            let at = Subject::event(self.run_id, self.version);
            findings.violation(
                "I5",
                at,
                "the claim's epoch",
                format!("more than {}", self.run.epoch),
                epoch,
            );
        }
    }

    /// Every call is recorded before it is made and settled after, one at a time.
    fn judge_call(&mut self, event: &Event, findings: &mut Findings) {
        let at = Subject::event(self.run_id, self.version);
        let settled = match event {
            Event::ModelCallRequested(e) => {
                if let Some((step, attempt)) = self.open_call.replace((e.step, e.attempt)) {
                    let what = format!("the model call of step {step}, attempt {attempt}");
                    findings.violation("I6", at, what, "settled before the next", "still open");
                }
                return;
            }
            Event::ModelReplied(e) => {
                if !self.answered.insert(e.step) {
                    let what = format!("the replies used of step {}", e.step);
                    findings.violation("I7", at, what, "one", "another");
                }
                (e.step, e.attempt)
            }
            Event::ModelCallFailed(e) => (e.step, e.attempt),
            Event::ModelCallOrphaned(e) => (e.step, e.attempt),
            _ => return,
        };
        let call =
            |call: Option<(u32, u32)>| call.map_or("none".into(), |(step, n)| format!("step {step}, attempt {n}"));
        findings.same(
            "I6",
            at,
            "the call this event settles",
            call(self.open_call.take()),
            call(Some(settled)),
        );
    }

    /// All events have been seen: do they agree with the head?
    pub fn finish(&self, head: Option<&HeadRow>, settled: bool, findings: &mut Findings) {
        let at = Subject::run(self.run_id);
        let Some(head) = head else {
            findings.violation("I1", at, "the head of the run", "a row in runs", "none");
            return;
        };
        findings.same("I1", at, "runs.version", self.version, head.version);
        findings.same("I14", at, "runs.hash", hex(&self.prev), hex(&head.hash));
        if let Some(tenant) = &self.tenant {
            findings.same("I13", at, "runs.tenant_id", tenant.as_str(), &head.tenant);
        }
        if self.foldable {
            self.compare_fold(head, findings);
        }
        let ended = Status::parse(&head.status).is_some_and(Status::is_terminal);
        if self.left_to_newer {
            findings.open_runs += u64::from(!ended);
            return;
        }
        if let (Some(_), Some((step, attempt))) = (self.ended_at, self.open_call) {
            let what = format!("the model call of step {step}, attempt {attempt}");
            findings.violation("I6", at, what, "settled before the end", "still open");
        }
        if ended && self.ended_at.is_none() {
            findings.violation(
                "I4",
                at,
                format!("a run that is {}", head.status),
                "a terminal event",
                "none",
            );
        }
        if !ended {
            findings.open_runs += 1;
            if settled {
                findings.violation(
                    "I4",
                    at,
                    "the run's status",
                    "ended, because the system is settled",
                    &head.status,
                );
            }
        }
    }

    fn compare_fold(&self, head: &HeadRow, findings: &mut Findings) {
        let at = Subject::run(self.run_id);
        let run = &self.run;
        findings.same("I1", at, "runs.status", run.status().as_str(), &head.status);
        findings.same("I5", at, "runs.epoch", run.epoch, head.epoch);
        findings.same(
            "I1",
            at,
            "runs.input_tokens",
            run.usage.input_tokens,
            head.usage.input_tokens,
        );
        findings.same(
            "I1",
            at,
            "runs.output_tokens",
            run.usage.output_tokens,
            head.usage.output_tokens,
        );
        findings.same(
            "I1",
            at,
            "runs.cost_microusd",
            run.usage.cost_microusd,
            head.usage.cost_microusd,
        );
        match &run.request {
            None => findings.violation("I1", at, "the first event", "run.requested", "another, or none"),
            Some(request) => {
                findings.same("I1", at, "runs.session_id", request.session_id, head.session_id);
                findings.same("I1", at, "runs.agent", request.agent.name.as_str(), &head.agent);
            }
        }
        if let Some(found) = stuck(run) {
            findings.violation(
                "I4",
                at,
                format!("what comes next for a run that is {}", run.status()),
                "a way on",
                found,
            );
        }
    }
}

/// What is wrong with what the run would do next, if anything is.
fn stuck(run: &Run) -> Option<String> {
    let next = next(run);
    let fits = match (&next, run.status()) {
        (Next::Ended(ended), status) => *ended == status && status.is_terminal(),
        (Next::RunTools(tools), Status::Running) => !tools.is_empty(),
        (Next::CallModel { .. }, Status::Running) => true,
        (Next::ConfirmCancel, Status::Running | Status::Queued) => true,
        (Next::RetryModelCallAt(_) | Next::Wait(_), Status::Waiting) => true,
        (Next::Claim, Status::Queued) => true,
        _ => false,
    };
    (!fits).then(|| format!("{next:?}"))
}

#[cfg(test)]
mod tests;
