//! What only a person may decide: repeating what a crash cut off, and spending more than was planned.

use super::Plan;
use crate::run::{
    Amounts, ApprovalId, Decision, Question, Refusal,
    event::{ApprovalDenied, ApprovalGranted, ApprovalRequested, BudgetRaised, Subject},
};

/// What a model is told of a tool call that was not repeated.
pub const CUT_OFF: &str = "the call was cut off by a crash after it had started; it may or may not have taken effect, \
                           and it was not repeated";

impl Plan<'_> {
    /// Asks a person. The id is the version the event will have.
    pub(super) fn ask(&mut self, question: Question) {
        let approval_id = ApprovalId(self.run.version + 1);
        self.push(ApprovalRequested { approval_id, question });
    }

    pub(super) fn resolve(
        &mut self,
        id: ApprovalId,
        arguments_sha256: Option<&str>,
        decision: Decision,
        by: String,
    ) -> Result<(), Refusal> {
        let Some(approval) = self.run.approvals.iter().find(|approval| approval.id == id) else {
            return Err(Refusal::UnknownApproval(id));
        };
        if let Some(before) = &approval.resolution {
            return if before.decision == decision {
                Ok(())
            } else {
                Err(Refusal::DecisionDiffers(id))
            };
        }
        if self.run.outcome.is_some() {
            return Err(Refusal::AlreadyEnded(self.run.status()));
        }
        let question = approval.question.clone();
        if arguments_sha256.is_some_and(|seen| question.arguments_sha256() != Some(seen)) {
            return Err(Refusal::OtherArguments(id));
        }
        let tool_call_id = question.tool_call().map(|call| call.id.clone());
        let subject = Subject {
            tool_call_id: tool_call_id.clone(),
            arguments_sha256: question.arguments_sha256().map(Into::into),
        };
        let granted = |output, by, subject| ApprovalGranted {
            approval_id: id,
            by,
            subject,
            output,
        };
        match (decision, tool_call_id) {
            // The worker that claims the run next makes the call, and records first that it does.
            (Decision::Allow, _) => self.push(granted(None, by, subject)),
            (Decision::Edit { output }, Some(tool_call_id)) => {
                self.push(granted(Some(output.clone()), by, subject));
                self.end_tool(tool_call_id, Ok(output), 0)?;
            }
            (Decision::Edit { .. }, None) => return Err(Refusal::NothingToEdit(id)),
            (Decision::Deny { reason }, tool_call_id) => {
                let because = reason
                    .as_deref()
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default();
                let denied = ApprovalDenied {
                    approval_id: id,
                    by,
                    subject,
                    reason,
                };
                self.push(denied);
                match tool_call_id {
                    Some(id) => self.end_tool(id, Err(format!("{CUT_OFF}, as a person decided{because}")), 0)?,
                    None => self.fail(
                        "orphaned_call",
                        format!("a person decided not to repeat the model call whose outcome was lost{because}"),
                    ),
                }
            }
        }
        Ok(())
    }

    pub(super) fn raise_budget(&mut self, to: &Amounts, by: String) -> Result<(), Refusal> {
        let mut raised = Amounts::default();
        for (limit, amount) in to.given() {
            match self.run.budget.get(limit) {
                None => return Err(Refusal::NoSuchBudget(limit)),
                Some(now) if amount < now => return Err(Refusal::BudgetLowered { limit, now }),
                Some(now) if amount == now => {}
                Some(_) => raised.set(limit, amount),
            }
        }
        if *to == Amounts::default() {
            return Err(Refusal::NoAmounts);
        }
        if raised != Amounts::default() {
            self.push(BudgetRaised { by, to: raised });
        }
        Ok(())
    }
}
