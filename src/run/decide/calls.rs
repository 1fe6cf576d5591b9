//! Model calls: when one may be made, what it reserves, and what is charged when its outcome is lost.

use super::Plan;
use crate::run::{
    Amounts, Message, Question, Refusal, Time, Usage,
    agent::OrphanedCall,
    budget::{Budget, OnBreach},
    command::Route,
    event::{BudgetExceeded, ModelCallOrphaned, ModelCallParked, ModelCallRequested},
    state::Call,
};

/// Bytes of text that make a token, on the careful side: English has about four.
const BYTES_PER_TOKEN: u64 = 3;
/// What a message costs besides its text: its role and the marks around it.
const TOKENS_PER_MESSAGE: u64 = 4;

impl Plan<'_> {
    /// Records that the model is about to be asked, or why it is not.
    pub(super) fn call_model(&mut self, now: Time, step: u32, attempt: u32) {
        let limits = self.request.limits;
        let step_deadline = (self.run.step_deadline.filter(|_| attempt > 1)).unwrap_or(now + limits.step_time());
        if now >= self.request.deadline {
            self.fail_at_deadline();
        } else if step > limits.steps_max {
            let message = format!(
                "the run took {} steps without an answer (limits.steps_max)",
                limits.steps_max
            );
            self.fail("step_limit", message);
        } else if attempt.saturating_sub(self.run.excused_attempts) > limits.model_attempts_max {
            let message = format!(
                "the model call of step {step} was tried {} times (limits.model_attempts_max)",
                attempt - 1
            );
            self.fail("model_attempts", message);
        } else if now >= step_deadline {
            self.fail_at_step_deadline(step);
        } else if let Err(exceeded) = self.afford(now, step, attempt) {
            match self.request.terms.budget.on_breach {
                OnBreach::Ask => self.push(exceeded),
                OnBreach::Fail => self.fail("budget", exceeded.shortage.to_string()),
            }
        } else {
            let reserved = self.reservation();
            let (provider, model) = match self.route.take() {
                Some(Route::Park { until, reason }) => {
                    let until = until.min(self.request.deadline);
                    let reason = reason.into();
                    self.push(ModelCallParked {
                        step,
                        attempt,
                        reason,
                        until,
                    });
                    return;
                }
                Some(Route::To { provider, model }) => (Some(provider), model),
                None => (None, self.request.model.clone()),
            };
            self.push(ModelCallRequested {
                step,
                attempt,
                model,
                provider,
                reserved_output_tokens: limits.output_tokens_max,
                reserved_input_tokens: reserved.input_tokens,
                reserved_cost_microusd: reserved.cost_microusd,
                step_deadline: Some(step_deadline),
            });
        }
    }

    /// Whether the budget holds the call.
    fn afford(&self, now: Time, step: u32, attempt: u32) -> Result<(), BudgetExceeded> {
        let (usage, reserve) = (self.run.usage, self.reservation());
        let requested_at = self.request.deadline - self.request.limits.run_time();
        let seconds = u64::try_from((now - requested_at).num_seconds()).unwrap_or(0);
        let spent = Amounts {
            steps: Some(u64::from(step).saturating_sub(1)),
            tokens: Some(usage.tokens()),
            usd: Some(usage.cost_microusd),
            seconds: Some(seconds),
        };
        let reserve = Amounts {
            steps: Some(1),
            tokens: Some(reserve.tokens()),
            usd: Some(reserve.cost_microusd),
            seconds: Some(1),
        };
        let budget = Budget {
            amounts: self.run.budget,
            ..self.request.terms.budget
        };
        match budget.shortage(&spent, &reserve) {
            None => Ok(()),
            Some(shortage) => Err(BudgetExceeded {
                step,
                attempt,
                shortage,
            }),
        }
    }

    /// What the next call may cost: its output at most, its input by estimate.
    fn reservation(&self) -> Usage {
        let (input_tokens, output_tokens) = (self.input_estimate(), self.request.limits.output_tokens_max.into());
        let price = self.request.terms.price;
        Usage {
            input_tokens,
            output_tokens,
            cost_microusd: price.map_or(0, |price| price.microusd(input_tokens, output_tokens)),
        }
    }

    /// From what the last call counted, and otherwise from the length of what will be shown.
    fn input_estimate(&self) -> u64 {
        let run = &self.run;
        let (known, bytes, seen) = match run.last_reply {
            Some(last) => (last.tokens, 0, last.messages),
            None => {
                let prompt = self.request.terms.prompt_bytes.saturating_add(run.history_bytes);
                (0, prompt, 0)
            }
        };
        let sizes = run.messages.after(seen).map(|message| size(message));
        let bytes = sizes.fold(bytes, u64::saturating_add);
        (bytes.div_ceil(BYTES_PER_TOKEN))
            .saturating_add(known)
            .saturating_add(TOKENS_PER_MESSAGE * run.messages.len().saturating_sub(seen) as u64)
    }

    /// A call that was open when its worker went: charged at its reservation, because it may have been paid for.
    pub(super) fn orphan_open_call(&mut self) {
        let Call::Open { attempt } = self.run.call else {
            return;
        };
        let reserved = self.run.reserved;
        self.push(ModelCallOrphaned {
            step: self.run.step,
            attempt,
            // What was reserved came from a number of this size.
            charged_output_tokens: u32::try_from(reserved.output_tokens).unwrap_or(u32::MAX),
            charged_input_tokens: reserved.input_tokens,
            charged_cost_microusd: reserved.cost_microusd,
        });
    }

    /// What the agent's policy makes of an orphaned call.
    pub(super) fn after_orphan(&mut self, now: Time, attempt: u32) {
        let step = self.run.step;
        match self.request.terms.policies.orphaned_call {
            OrphanedCall::Retry => self.call_model(now, step, attempt.saturating_add(1)),
            OrphanedCall::Ask => self.ask(Question::OrphanedCall { step, attempt }),
            OrphanedCall::Fail => self.fail(
                "orphaned_call",
                format!(
                    "the outcome of the model call of step {step}, attempt {attempt}, was lost with its worker; the \
                     agent's policy is not to repeat it (policies.orphaned_call)"
                ),
            ),
        }
    }

    pub(super) fn expect_open_call(&self, step: u32, attempt: u32) -> Result<(), Refusal> {
        if self.run.step == step && self.run.call == (Call::Open { attempt }) {
            Ok(())
        } else {
            Err(Refusal::NoSuchModelCall { step, attempt })
        }
    }

    pub(super) fn fail_at_deadline(&mut self) {
        let seconds = self.request.limits.run_seconds_max;
        let message = format!("the run did not end within {seconds} s (limits.run_seconds_max)");
        self.fail("deadline", message);
    }

    pub(super) fn fail_at_step_deadline(&mut self, step: u32) {
        let seconds = self.request.limits.step_seconds_max;
        let message = format!("step {step} did not end within {seconds} s (limits.step_seconds_max)");
        self.fail("step_deadline", message);
    }

    /// Whether the time of the run or of its step is over; if so, the run fails.
    pub(super) fn fail_if_overdue(&mut self, now: Time) -> bool {
        if now >= self.request.deadline {
            self.fail_at_deadline();
        } else if self.run.step_deadline.is_some_and(|at| now >= at) {
            self.fail_at_step_deadline(self.run.step);
        } else {
            return false;
        }
        true
    }
}

/// A message's length in bytes, tool calls included.
fn size(message: &Message) -> u64 {
    let calls = match message {
        Message::Assistant { tool_calls, .. } => tool_calls.as_slice(),
        _ => &[],
    };
    let calls: usize = calls.iter().map(|call| call.name.len() + call.arguments.len()).sum();
    (message.content().len() + calls) as u64
}
