//! The schema of one item: the task, and what is expected of the answer.

use serde_json::Value;
use steadfast::run::Message;

use super::required_text;
use crate::{
    dataset::{
        Expected, Input, Item, TOOLS_MAX,
        fields::{Reader, join},
        yaml::{Content, Node},
    },
    score::trajectory::{Arguments, ExpectedCall, Mode, Trajectory},
};

const ITEM_KEYS: &[&str] = &["id", "input", "session", "expected", "trajectory", "judge"];
const EXPECTED_KEYS: &[&str] = &["exact", "contains", "contains_any", "trim", "ignore_case"];
const TRAJECTORY_KEYS: &[&str] = &["mode", "tools"];
const TOOL_KEYS: &[&str] = &["name", "arguments"];
const ARGUMENTS_KEYS: &[&str] = &["mode", "value"];
const MESSAGE_KEYS: &[&str] = &["role", "content"];

const MODES: &[(&str, Mode)] = &[
    ("strict", Mode::Strict),
    ("unordered", Mode::Unordered),
    ("subset", Mode::Subset),
    ("superset", Mode::Superset),
];

type MakeMessage = fn(String) -> Message;
type MakeArguments = fn(Value) -> Arguments;

pub fn item(r: &mut Reader, node: &Node, field: &str, judge_configured: bool) -> Option<Item> {
    let fields = r.fields(node, field, ITEM_KEYS)?;
    let id = required_text(r, fields, field, "id", "give the item a name of its own");
    let input = r
        .required(
            fields,
            field,
            "input",
            "write the task as text, or as a list of messages",
        )
        .and_then(|node| input(r, node, &join(field, "input")));
    let session = fields
        .get("session")
        .and_then(|node| r.text(node, &join(field, "session")));
    let expected = fields
        .get("expected")
        .and_then(|node| expected(r, node, &join(field, "expected")));
    let trajectory = fields
        .get("trajectory")
        .and_then(|node| trajectory(r, node, &join(field, "trajectory")));
    let judge_field = join(field, "judge");
    let judge = fields
        .get("judge")
        .and_then(|node| r.boolean(node, &judge_field))
        .unwrap_or(false);
    if judge && !judge_configured {
        let message =
            format!("{judge_field}: the file has no judge; add at its top level: judge: {{ rubric: rubric.md }}");
        r.problem(fields.at("judge"), message);
    }
    if fields.get("expected").is_none() && fields.get("trajectory").is_none() && !judge {
        r.problem(
            node.at,
            format!("{field}: nothing is checked; add expected, trajectory or judge: true"),
        );
    }
    Some(Item {
        id: id?,
        input: input?,
        session,
        expected,
        trajectory,
        judge,
    })
}

fn input(r: &mut Reader, node: &Node, field: &str) -> Option<Input> {
    let Content::List(nodes) = &node.content else {
        return r.text(node, field).map(Input::Text);
    };
    let mut messages = Vec::with_capacity(nodes.len());
    for (at, node) in nodes.iter().enumerate() {
        let field = format!("{field}[{at}]");
        let Some(fields) = r.fields(node, &field, MESSAGE_KEYS) else {
            continue;
        };
        let roles: &[(&str, MakeMessage)] = &[
            ("user", |content| Message::User { content }),
            ("assistant", |content| Message::Assistant {
                content,
                tool_calls: Vec::new(),
            }),
            ("system", |content| Message::System { content }),
        ];
        let role = r
            .required(fields, &field, "role", "it is user, assistant or system")
            .and_then(|node| r.choice(node, &join(&field, "role"), roles));
        let content = required_text(r, fields, &field, "content", "write what is said");
        if let (Some(role), Some(content)) = (role, content) {
            messages.push(role(content));
        }
    }
    let complete = messages.len() == nodes.len();
    if complete && !matches!(messages.last(), Some(Message::User { .. })) {
        r.problem(
            node.at,
            format!("{field}: the last message must be from user; end with the task"),
        );
    }
    complete.then_some(Input::Messages(messages))
}

fn expected(r: &mut Reader, node: &Node, field: &str) -> Option<Expected> {
    let fields = r.fields(node, field, EXPECTED_KEYS)?;
    let mut texts = |key| {
        fields
            .get(key)
            .map_or_else(Vec::new, |node| r.texts(node, &join(field, key)))
    };
    let (exact, contains, contains_any) = (texts("exact"), texts("contains"), texts("contains_any"));
    let mut flag = |key, default| {
        fields
            .get(key)
            .and_then(|node| r.boolean(node, &join(field, key)))
            .unwrap_or(default)
    };
    let (trim, ignore_case) = (flag("trim", true), flag("ignore_case", false));
    if ["exact", "contains", "contains_any"]
        .iter()
        .all(|key| fields.get(key).is_none())
    {
        r.problem(
            node.at,
            format!("{field}: nothing is expected; add exact, contains or contains_any"),
        );
    }
    Some(Expected {
        exact,
        contains,
        contains_any,
        trim,
        ignore_case,
    })
}

fn trajectory(r: &mut Reader, node: &Node, field: &str) -> Option<Trajectory> {
    let fields = r.fields(node, field, TRAJECTORY_KEYS)?;
    let mode = r
        .required(fields, field, "mode", "it is strict, unordered, subset or superset")
        .and_then(|node| r.choice(node, &join(field, "mode"), MODES));
    let tools_field = join(field, "tools");
    let tools_node = r.required(fields, field, "tools", "list the tools by name; [] for none")?;
    let nodes = r.list(tools_node, &tools_field)?;
    if nodes.len() > TOOLS_MAX {
        r.problem(
            tools_node.at,
            format!("{tools_field}: {} are more than {TOOLS_MAX}; list fewer", nodes.len()),
        );
        return None;
    }
    let mut tools = Vec::with_capacity(nodes.len());
    for (at, node) in nodes.iter().enumerate() {
        tools.extend(expected_call(r, node, &format!("{tools_field}[{at}]")));
    }
    if nodes.is_empty() && matches!(mode, Some(Mode::Superset)) {
        let message =
            format!("{tools_field}: a superset of no tools is always there; list a tool, or use mode: strict");
        r.problem(tools_node.at, message);
    }
    Some(Trajectory { mode: mode?, tools })
}

fn expected_call(r: &mut Reader, node: &Node, field: &str) -> Option<ExpectedCall> {
    let fields = r.fields(node, field, TOOL_KEYS)?;
    let name = required_text(r, fields, field, "name", "name the tool");
    let arguments = match fields.get("arguments") {
        Some(node) => arguments(r, node, &join(field, "arguments")),
        None => Some(Arguments::Ignore),
    };
    Some(ExpectedCall {
        name: name?,
        arguments: arguments?,
    })
}

fn arguments(r: &mut Reader, node: &Node, field: &str) -> Option<Arguments> {
    let fields = r.fields(node, field, ARGUMENTS_KEYS)?;
    let value = fields.get("value").map(Node::json);
    let kinds: &[(&str, MakeArguments)] = &[
        ("exact", Arguments::Exact),
        ("subset", Arguments::Subset),
        ("superset", Arguments::Superset),
        ("ignore", |_| Arguments::Ignore),
    ];
    let make = match fields.get("mode") {
        Some(node) => r.choice(node, &join(field, "mode"), kinds)?,
        None => Arguments::Exact,
    };
    match (make(value.clone().unwrap_or_default()), value) {
        (Arguments::Ignore, _) => Some(Arguments::Ignore),
        (arguments, Some(Value::Object(_))) => Some(arguments),
        (_, Some(_)) => {
            r.problem(
                fields.at("value"),
                format!("{field}.value: must be a mapping of argument names to values"),
            );
            None
        }
        (_, None) => {
            r.problem(
                node.at,
                format!("{field}.value: missing; write the arguments, or set mode: ignore"),
            );
            None
        }
    }
}
