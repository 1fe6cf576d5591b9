use std::collections::BTreeMap;

use steadfast::run::budget::OnBreach;

use super::*;
use crate::body;

fn agents() -> Agents {
    Agents::load(None, &BTreeMap::from([("clock".into(), true)]), &Default::default()).expect("the built-in agent")
}

fn check(json: &str) -> Result<(Vec<Message>, Vec<ToolSpec>, Limits), Problem> {
    let agents = agents();
    let body: TaskBody = body::parse(json.as_bytes())?;
    let task = body.check(
        &agents,
        &GatewayLimits {
            messages_max: 4,
            metadata_bytes_max: 40,
            ..Default::default()
        },
    )?;
    Ok((task.input, task.client_tools, task.limits))
}

fn pointer(json: &str) -> String {
    let problem = check(json).err().unwrap_or_else(|| panic!("{json} was taken"));
    assert!(problem.status().is_client_error(), "{problem:?}");
    problem
        .errors()
        .first()
        .map(|error| error.pointer.clone())
        .unwrap_or_default()
}

#[test]
fn a_text_and_a_list_of_messages_are_taken() {
    assert_eq!(check(r#"{"input":"hi"}"#).expect("a text").0, [Message::user("hi")]);
    let (input, ..) = check(
        r#"{"input":[{"role":"system","content":"be brief"},
            {"role":"assistant","tool_calls":[{"id":"c1","name":"f","arguments":"{}"}]},
            {"role":"tool","tool_call_id":"c1","content":"42"},{"role":"user","content":"so?"}]}"#,
    )
    .expect("messages");
    assert_eq!(
        input.iter().map(Message::role).collect::<Vec<_>>(),
        ["system", "assistant", "tool", "user"]
    );
}

#[test]
fn every_mistake_is_named_by_its_pointer() {
    for (json, expected) in [
        (r#"{}"#, ""),
        (r#"{"input":""}"#, "/input"),
        (r#"{"input":"  \n"}"#, "/input"),
        (r#"{"input":[]}"#, "/input"),
        (r#"{"input":5}"#, "/input"),
        (r#"{"input":{"role":"user"}}"#, "/input"),
        (r#"{"input":"a\u0000b"}"#, "/input"),
        (r#"{"input":[["user","hi"]]}"#, "/input/0"),
        (r#"{"input":[{"role":"user"}]}"#, "/input/0/content"),
        (r#"{"input":[{"role":"robot","content":"hi"}]}"#, "/input/0/role"),
        (r#"{"input":[{"role":"user","content":7}]}"#, "/input/0/content"),
        (
            r#"{"input":[{"role":"tool","content":"x","tool_call_id":"nope"}]}"#,
            "/input/0/tool_call_id",
        ),
        (
            r#"{"input":[{"role":"user","content":"x","tool_calls":[]}]}"#,
            "/input/0/tool_calls",
        ),
        (r#"{"input":"a","inptu":"b"}"#, "/inptu"),
        (r#"{"input":"a","agent":"asistant"}"#, "/agent"),
        (r#"{"input":"a","agent":7}"#, "/agent"),
        (r#"{"input":"a","session_id":"abc"}"#, "/session_id"),
        (r#"{"input":"a","stream":"yes"}"#, "/stream"),
        (r#"{"input":"a","metadata":[]}"#, "/metadata"),
        (
            r#"{"input":"a","metadata":{"long":"0123456789012345678901234567890123456789"}}"#,
            "/metadata",
        ),
        (r#"{"input":"a","tools":{}}"#, "/tools"),
        (r#"{"input":"a","tools":[{"name":"a b"}]}"#, "/tools/0/name"),
        (r#"{"input":"a","tools":[{}]}"#, "/tools/0/name"),
        (r#"{"input":"a","tools":[{"name":"f"},{"name":"f"}]}"#, "/tools/1/name"),
        (r#"{"input":"a","tools":[{"name":"clock"}]}"#, "/tools/0/name"),
        (
            r#"{"input":"a","tools":[{"type":"function","function":{"name":""}}]}"#,
            "/tools/0/function/name",
        ),
        (r#"{"input":"a","tools":[{"type":"web_search"}]}"#, "/tools/0/type"),
        (
            r#"{"input":"a","tools":[{"name":"f","parameters":"x"}]}"#,
            "/tools/0/parameters",
        ),
        (r#"{"input":"a","limits":{"steps_max":1000000}}"#, "/limits/steps_max"),
        (r#"{"input":"a","limits":{"steps_max":0}}"#, "/limits/steps_max"),
        (r#"{"input":"a","limits":{"stepsmax":3}}"#, "/limits/stepsmax"),
        (r#"{"input":"a","limits":[3]}"#, "/limits"),
        (r#"{"input":"a","budget":{"usd":1}}"#, "/budget/usd"),
        (r#"{"input":"a","budget":{"token":1}}"#, "/budget/token"),
        (r#"{"input":"a","budget":{"tokens":-1}}"#, "/budget/tokens"),
        (r#"{"input":"a","budget":{"on_breach":"cry"}}"#, "/budget/on_breach"),
        (r#"{"input":"a","budget":{"tokens":9000000000000}}"#, "/budget/tokens"),
    ] {
        assert_eq!(pointer(json), expected, "{json}");
    }
    let many = format!(r#"{{"input":[{}]}}"#, [r#"{"role":"user","content":"x"}"#; 5].join(","));
    assert_eq!(pointer(&many), "/input");
    let long = format!(r#"{{"input":"{}"}}"#, "x".repeat(600 * 1024));
    assert_eq!(pointer(&long), "/input");
}

#[test]
fn tools_are_read_plain_and_as_openai_wraps_them() {
    let json = r#"{"input":"a","tools":[{"name":"f","description":"d"},
        {"type":"function","function":{"name":"g","parameters":{"type":"object"},"strict":true}}]}"#;
    let (_, tools, _) = check(json).expect("two tools");
    assert_eq!(
        tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(),
        ["f", "g"]
    );
    assert_eq!(tools[0].parameters, serde_json::json!({"type": "object"}));
}

#[test]
fn a_task_may_only_lower_its_agents_limits() {
    let (.., limits) = check(r#"{"input":"a","limits":{"steps_max":2,"history_turns_max":0}}"#).expect("lower limits");
    let agents = agents();
    let agent = agents.get(DEFAULT_AGENT).expect("the built-in agent");
    assert_eq!((limits.steps_max, limits.history_turns_max), (2, 0));
    assert_eq!(limits.run_seconds_max, agent.limits.run_seconds_max);
}

#[test]
fn a_task_may_lower_its_agents_budget_and_not_raise_it() {
    let toml = "instructions = 'x'\n[budget]\ntokens = 100\non_breach = 'fail'\n";
    let dir = std::env::temp_dir().join(format!("steadfast-task-{}", crate::clock::new_id().simple()));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("thrifty.toml"), toml).expect("an agent file");
    let agents = Agents::load(Some(&dir), &BTreeMap::new(), &Default::default()).expect("an agent");
    std::fs::remove_dir_all(&dir).expect("cleaned up");
    let budget = |asked: &str| {
        let json = format!(r#"{{"input":"a","agent":"thrifty","budget":{asked}}}"#);
        let body: TaskBody = body::parse(json.as_bytes())?;
        Ok::<_, Problem>(body.check(&agents, &GatewayLimits::default())?.terms.budget)
    };
    let lower = budget(r#"{"tokens":99,"steps":3}"#).expect("a lower one");
    assert_eq!((lower.amounts.tokens, lower.amounts.steps), (Some(99), Some(3)));
    assert_eq!(
        lower.on_breach,
        OnBreach::Fail,
        "the agent's, where the task says nothing"
    );
    assert_eq!(budget("{}").expect("the agent's").amounts.tokens, Some(100));
    let higher = budget(r#"{"tokens":101}"#).expect_err("a higher one was taken");
    assert_eq!(higher.errors()[0].pointer, "/budget/tokens");
}
