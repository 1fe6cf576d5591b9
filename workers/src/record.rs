//! Metrics of what was appended: counted once, by the worker that appended it.

use steadfast::{
    metrics,
    run::{Event, Run, Status, Time, budget::dollars},
};

/// Counts the events of one append; `was` is where it found the run.
pub fn events(was: Status, run: &Run, events: &[Event], requested_at: Option<Time>, now: Time) {
    let agent = run
        .request
        .as_ref()
        .map_or("unknown", |request| request.agent.name.as_str());
    let age = requested_at.map(|at| (now - at).as_seconds_f64().max(0.0));
    for event in events {
        match event {
            Event::RunStarted(_) => {
                if let Some(age) = age {
                    metrics::runs().queue_wait.observe(age);
                }
            }
            // After a timer or an answer nobody held the run: nothing was taken over.
            Event::RunResumed(_) if was == Status::Running => metrics::runs().takeovers.inc(),
            Event::ModelCallParked(e) => {
                metrics::providers()
                    .parked
                    .with_label_values(&[e.reason.as_str()])
                    .inc();
            }
            Event::RunInterrupted(_) => metrics::runs().interrupted.inc(),
            Event::ModelCallOrphaned(e) => {
                let (m, charged) = (metrics::model(), e.charged());
                m.orphaned.inc();
                m.orphaned_tokens.inc_by(charged.tokens());
                m.orphaned_cost.inc_by(dollars(charged.cost_microusd));
            }
            Event::ApprovalRequested(e) => {
                metrics::runs().approvals.with_label_values(&[e.question.about()]).inc();
            }
            Event::BudgetExceeded(e) => {
                let limit = e.shortage.limit.as_str();
                metrics::runs().budget_exceeded.with_label_values(&[limit]).inc();
            }
            Event::ModelCallFailed(e) => {
                let model = run.request.as_ref().map_or("unknown", |request| request.model.as_str());
                metrics::model().errors.with_label_values(&[model, &e.class]).inc();
                if e.retry_at.is_some() {
                    metrics::model().retries.with_label_values(&[e.class.as_str()]).inc();
                }
            }
            Event::ModelReplied(e) => {
                let m = metrics::model();
                let model = e.model.as_str();
                m.duration
                    .with_label_values(&["chat", model, ""])
                    .observe(e.latency_ms as f64 / 1000.0);
                if let Some(first) = e.first_token_ms {
                    m.first_chunk.with_label_values(&[model]).observe(first as f64 / 1000.0);
                }
                for (kind, tokens) in [("input", e.usage.input_tokens), ("output", e.usage.output_tokens)] {
                    m.token_usage.with_label_values(&[kind, model]).observe(tokens as f64);
                    m.tokens.with_label_values(&[agent, model, kind]).inc_by(tokens);
                }
                m.cost
                    .with_label_values(&[agent, model])
                    .inc_by(dollars(e.usage.cost_microusd));
            }
            Event::ToolCallSucceeded(e) => tool(run, &e.name, "succeeded", e.duration_ms),
            Event::ToolCallFailed(e) => tool(run, &e.name, "failed", e.duration_ms),
            terminal if terminal.is_terminal() => {
                metrics::runs()
                    .ended
                    .with_label_values(&[agent, run.status().as_str()])
                    .inc();
                if let Some(age) = age {
                    metrics::runs().duration.with_label_values(&[agent]).observe(age);
                }
            }
            _ => {}
        }
    }
}

fn tool(run: &Run, name: &str, outcome: &str, duration_ms: u64) {
    // A model may ask for any name: only the agent's own tools make a label.
    let known = run
        .request
        .as_ref()
        .is_some_and(|request| request.server_tools.iter().any(|tool| tool.name == name));
    let name = if known { name } else { "unknown" };
    metrics::tools().calls.with_label_values(&[name, outcome]).inc();
    metrics::tools()
        .duration
        .with_label_values(&[name])
        .observe(duration_ms as f64 / 1000.0);
}
