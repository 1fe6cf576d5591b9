//! A task may narrow its agent's limits and budget, never widen them.

use serde::Deserialize;
use steadfast::{
    agents::BUDGET_MAX,
    run::{
        Agent, Amounts, Budget, BudgetLimit, Limits,
        budget::{OnBreach, microusd},
    },
};

use crate::problem::Problem;

/// Narrower walls than the agent's, by the names the agent's file uses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    steps_max: Option<u32>,
    run_seconds_max: Option<u64>,
    step_seconds_max: Option<u64>,
    tool_seconds_max: Option<u64>,
    output_tokens_max: Option<u32>,
    model_attempts_max: Option<u32>,
    claims_max: Option<u32>,
    history_turns_max: Option<u32>,
    history_chars_max: Option<u32>,
}

impl LimitsBody {
    pub fn narrow(self, agents: Limits) -> Result<Limits, Problem> {
        fn lower<T: Into<u64> + Copy>(name: &str, asked: Option<T>, max: T, min: u64) -> Result<T, Problem> {
            let Some(asked) = asked else { return Ok(max) };
            if (min..=max.into()).contains(&asked.into()) {
                return Ok(asked);
            }
            let detail = format!(
                "it may be {min} to {}: a task may only lower its agent's limit",
                max.into()
            );
            Err(Problem::invalid(format!("/limits/{name}"), detail))
        }
        Ok(Limits {
            steps_max: lower("steps_max", self.steps_max, agents.steps_max, 1)?,
            run_seconds_max: lower("run_seconds_max", self.run_seconds_max, agents.run_seconds_max, 1)?,
            step_seconds_max: lower("step_seconds_max", self.step_seconds_max, agents.step_seconds_max, 1)?,
            tool_seconds_max: lower("tool_seconds_max", self.tool_seconds_max, agents.tool_seconds_max, 1)?,
            output_tokens_max: lower("output_tokens_max", self.output_tokens_max, agents.output_tokens_max, 1)?,
            model_attempts_max: lower(
                "model_attempts_max",
                self.model_attempts_max,
                agents.model_attempts_max,
                1,
            )?,
            claims_max: lower("claims_max", self.claims_max, agents.claims_max, 1)?,
            history_turns_max: lower("history_turns_max", self.history_turns_max, agents.history_turns_max, 0)?,
            history_chars_max: lower("history_chars_max", self.history_chars_max, agents.history_chars_max, 0)?,
        })
    }
}

/// Amounts by the names the agent's file uses: money in dollars.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmountsBody {
    steps: Option<u64>,
    tokens: Option<u64>,
    usd: Option<f64>,
    seconds: Option<u64>,
}

impl AmountsBody {
    /// `pointer` is where the amounts stand in the body.
    pub fn read(self, pointer: &str) -> Result<Amounts, Problem> {
        if self.usd.is_some_and(|usd| !(0.0..=f64::MAX).contains(&usd)) {
            return Err(Problem::invalid(
                format!("{pointer}/usd"),
                "it must be 0 or more dollars",
            ));
        }
        let amounts = Amounts {
            steps: self.steps,
            tokens: self.tokens,
            usd: self.usd.map(microusd),
            seconds: self.seconds,
        };
        for (limit, amount) in amounts.given() {
            let max = BUDGET_MAX.get(limit).unwrap_or_default();
            if amount > max {
                let detail = format!("it may be {} at the most", limit.shown(max));
                return Err(Problem::invalid(format!("{pointer}/{}", limit.as_str()), detail));
            }
        }
        Ok(amounts)
    }
}

/// A tighter budget than the agent's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetBody {
    steps: Option<u64>,
    tokens: Option<u64>,
    usd: Option<f64>,
    seconds: Option<u64>,
    on_breach: Option<OnBreach>,
}

impl BudgetBody {
    pub fn narrow(self, agent: &Agent) -> Result<Budget, Problem> {
        let asked = AmountsBody {
            steps: self.steps,
            tokens: self.tokens,
            usd: self.usd,
            seconds: self.seconds,
        };
        let mut budget = agent.budget;
        for (limit, amount) in asked.read("/budget")?.given() {
            let pointer = format!("/budget/{}", limit.as_str());
            if let Some(max) = agent.budget.amounts.get(limit).filter(|max| amount > *max) {
                let detail = format!(
                    "it may be {} at the most: a task may only lower its agent's budget",
                    limit.shown(max)
                );
                return Err(Problem::invalid(pointer, detail));
            }
            if limit == BudgetLimit::Usd && agent.price.is_none() {
                let detail = "the agent names no price, so money is not counted; give tokens instead";
                return Err(Problem::invalid(pointer, detail));
            }
            budget.amounts.set(limit, amount);
        }
        budget.on_breach = self.on_breach.unwrap_or(budget.on_breach);
        Ok(budget)
    }
}
