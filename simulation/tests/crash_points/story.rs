//! What is told: the tasks, and what clients and people do for them.

use serde_json::{Value, json};

use super::outside::CLIENT;

pub struct Story {
    pub name: &'static str,
    /// Bodies of `POST /v1/runs`.
    pub tasks: Vec<Value>,
    /// They are runs of one session.
    pub one_session: bool,
    /// What a person says about a payment that a crash cut off.
    pub decision: Value,
    /// A client cancels its second model call.
    pub cancels: bool,
    /// It has a pause of seconds in it.
    pub slow: bool,
    /// Events its first run has when nothing goes wrong, so that the story is what its name says.
    pub shows: &'static [&'static str],
}

pub fn all() -> Vec<Story> {
    let plain = |name, input: &str, shows| Story {
        name,
        tasks: vec![json!({ "input": input })],
        one_session: false,
        decision: json!({ "decision": "allow" }),
        cancels: false,
        slow: false,
        shows,
    };
    vec![
        plain("tools that answer at once", "look", &["tool_call.succeeded"]),
        plain("tools side by side", "tools", &["tool_call.succeeded"]),
        Story {
            tasks: vec![json!({ "input": "client", "tools": [{ "name": CLIENT }] })],
            ..plain("client tools", "", &["tool_call.succeeded", "run.resumed"])
        },
        Story {
            slow: true,
            ..plain(
                "failing calls and a timer",
                "retry",
                &["model_call.failed", "run.resumed"],
            )
        },
        plain("a payment, allowed again", "pay", &["tool_call.started"]),
        Story {
            decision: json!({ "decision": "edit", "output": "paid" }),
            ..plain("a payment, accounted for", "pay", &["tool_call.started"])
        },
        Story {
            tasks: vec![json!({ "input": "budget", "budget": { "tokens": 10 } })],
            ..plain("a budget that is raised", "", &["budget.exceeded", "budget.raised"])
        },
        Story {
            cancels: true,
            ..plain("a cancel during a call", "cancel", &["cancel.requested"])
        },
        Story {
            tasks: vec![json!({ "input": "tools one" }), json!({ "input": "two" })],
            one_session: true,
            ..plain("two runs of a session", "", &[])
        },
        Story {
            tasks: vec![json!({ "input": "parked by limited" }), json!({ "input": "limited" })],
            slow: true,
            ..plain("a run that is parked", "", &["model_call.parked"])
        },
    ]
}
