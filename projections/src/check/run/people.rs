//! Promises about what people decide: tools that start once, decisions about what was asked, budgets that hold.

use steadfast::run::{ApprovalId, BudgetLimit, Event, event::Subject as Decided};

use super::{Findings, RunCheck, Subject};

impl RunCheck {
    /// A tool that must not run twice starts once, and again only after a person said so.
    pub(super) fn judge_tool(&mut self, event: &Event, findings: &mut Findings) {
        let at = Subject::event(self.run_id, self.version);
        match event {
            Event::ToolCallStarted(e) if !self.started_tools.insert(e.tool_call_id.clone()) => {
                let what = format!("tool call {}", e.tool_call_id);
                findings.violation(
                    "I9",
                    at,
                    what,
                    "started once for each decision of a person",
                    "started again",
                );
            }
            Event::ApprovalGranted(e) => {
                if let Some(id) = &e.subject.tool_call_id {
                    self.started_tools.remove(id);
                }
                self.judge_decision(&e.subject, e.approval_id, findings);
            }
            Event::ApprovalDenied(e) => self.judge_decision(&e.subject, e.approval_id, findings),
            _ => {}
        }
    }

    /// A decision answers a question that was open, about the very arguments that were asked about.
    fn judge_decision(&self, subject: &Decided, id: ApprovalId, findings: &mut Findings) {
        let at = Subject::event(self.run_id, self.version);
        let asked = self.run.open_approvals().find(|approval| approval.id == id);
        let Some(asked) = asked else {
            findings.violation(
                "I9",
                at,
                format!("the question {id}"),
                "open",
                "never asked, or decided before",
            );
            return;
        };
        let shown = |hash: Option<&str>| hash.unwrap_or("none").to_owned();
        findings.same(
            "I9",
            at,
            "the arguments that were decided on",
            shown(asked.question.arguments_sha256()),
            shown(subject.arguments_sha256.as_deref()),
        );
    }

    /// No call is made that the run's budget does not hold.
    pub(super) fn judge_budget(&self, event: &Event, findings: &mut Findings) {
        let Event::ModelCallRequested(e) = event else {
            return;
        };
        let at = Subject::event(self.run_id, self.version);
        let (spent, reserved, budget) = (self.run.usage, e.reserved(), self.run.budget);
        let uses = [
            (BudgetLimit::Tokens, spent.tokens().saturating_add(reserved.tokens())),
            (
                BudgetLimit::Usd,
                spent.cost_microusd.saturating_add(reserved.cost_microusd),
            ),
            (BudgetLimit::Steps, e.step.into()),
        ];
        for (limit, used) in uses {
            if let Some(budget) = budget.get(limit).filter(|budget| used > *budget) {
                let what = format!("what is spent and reserved of the budget of {}", limit.shown(budget));
                findings.violation(
                    "I8",
                    at,
                    what,
                    format!("at most {}", limit.shown(budget)),
                    limit.shown(used),
                );
            }
        }
    }
}
