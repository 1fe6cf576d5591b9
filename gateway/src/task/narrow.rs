//! A task may narrow its agent's limits, never widen them.

use serde::Deserialize;
use steadfast::run::Limits;

use crate::problem::Problem;

/// Narrower walls than the agent's, by the names the agent's file uses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    steps_max: Option<u32>,
    run_seconds_max: Option<u64>,
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
