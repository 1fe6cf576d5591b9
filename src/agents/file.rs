//! One agent file: its keys, their ranges, and the agent they make.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use toml::{Spanned, de::DeTable};

use super::{
    fields::{At, Checker, Problem, remedy},
    terms,
};
use crate::run::{
    Agent, Budget, Limits,
    agent::{AgentTool, DEFAULT_PROVIDER, Policies},
};

const NAME_CHARS_MAX: usize = 64;
const MODEL_CHARS_MAX: usize = 200;
const INSTRUCTIONS_BYTES_MAX: usize = 256 * 1024;
const FALLBACKS_MAX: usize = 8;
const TOOLS_MAX: usize = 128;
const TEMPERATURE_MAX: f64 = 2.0;

const KEYS: &[&str] = &[
    "name",
    "model",
    "fallbacks",
    "instructions",
    "tools",
    "limits",
    "price",
    "temperature",
    "policies",
    "budget",
];

/// An agent, where its file says its name (line and column, from 1), and where it names models.
#[derive(Debug)]
pub(super) struct Found {
    pub agent: Agent,
    pub line: usize,
    pub column: usize,
    pub models: Vec<NamedModel>,
}

/// A model an agent file names, and where: whether anybody answers for it only the process that calls models can tell.
#[derive(Debug, Clone)]
pub struct NamedModel {
    pub name: String,
    at: Problem,
}

impl NamedModel {
    pub fn problem(&self, message: String) -> Problem {
        Problem {
            message,
            ..self.at.clone()
        }
    }
}

pub(super) fn read(
    text: &str,
    path: &Path,
    known_tools: &BTreeMap<String, bool>,
    known_providers: &BTreeSet<String>,
) -> Result<Found, Vec<Problem>> {
    let mut check = Checker::new(path, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            check.report(
                error.span().unwrap_or(0..0),
                "",
                format!("is not TOML: {}", error.message()),
            );
        }
        return Err(check.problems);
    }
    let at = At {
        path: "",
        table: document.get_ref(),
    };
    check.unknown_keys(at, KEYS);
    let name = name(&mut check, at, path);
    let mut models = Vec::new();
    let model = model(&mut check, at, known_providers, &mut models);
    let fallbacks = fallbacks(&mut check, at, &model, known_providers, &mut models);
    let instructions = instructions(&mut check, at);
    let tools = tools(&mut check, at, known_tools);
    let limits = check
        .table(at, "limits")
        .map_or_else(Limits::default, |at| limits(&mut check, at));
    let price = check.table(at, "price").and_then(|at| terms::price(&mut check, at));
    let priced = at.table.contains_key("price");
    let policies = (check.table(at, "policies")).map_or_else(Policies::default, |at| terms::policies(&mut check, at));
    let budget = (check.table(at, "budget")).map_or_else(Budget::default, |at| terms::budget(&mut check, at, priced));
    let temperature = check.number(at, "temperature", 0.0..=TEMPERATURE_MAX);
    if !check.problems.is_empty() {
        return Err(check.problems);
    }
    let (line, column) = check.place(name.span().start);
    let name = name.into_inner();
    Ok(Found {
        agent: Agent {
            name,
            model,
            fallbacks,
            instructions,
            tools,
            limits,
            price,
            temperature,
            policies,
            budget,
        },
        line,
        column,
        models,
    })
}

fn name(check: &mut Checker<'_>, at: At<'_, '_>, path: &Path) -> Spanned<String> {
    let given = check.string(at, "name");
    let from_file = given.is_none();
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let name = given.unwrap_or_else(|| Spanned::new(0..0, stem));
    let fits = (1..=NAME_CHARS_MAX).contains(&name.get_ref().len())
        && name
            .get_ref()
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    // A name of the wrong type has been reported already; a stem is only at fault where no name was written.
    let reported = from_file && at.table.contains_key("name");
    if !fits && !reported {
        let source = if from_file {
            " (the file's name, as no name is given)"
        } else {
            ""
        };
        let message = format!(
            "{:?}{source} is not a name; use 1 to {NAME_CHARS_MAX} of a-z 0-9 _ -, such as \"researcher\"",
            name.get_ref()
        );
        check.report(name.span(), "name", message);
    }
    name
}

fn model(
    check: &mut Checker<'_>,
    at: At<'_, '_>,
    providers: &BTreeSet<String>,
    models: &mut Vec<NamedModel>,
) -> String {
    let Some(model) = check.string(at, "model") else {
        return "default".into();
    };
    models.extend(model_name(check, &model, "model".into(), providers));
    model.into_inner()
}

/// The models asked where the first cannot answer, each once.
fn fallbacks(
    check: &mut Checker<'_>,
    at: At<'_, '_>,
    model: &str,
    providers: &BTreeSet<String>,
    models: &mut Vec<NamedModel>,
) -> Vec<String> {
    let mut fallbacks: Vec<String> = Vec::new();
    for (place, fallback) in check.strings(at, "fallbacks").into_iter().enumerate() {
        let field = format!("fallbacks[{place}]");
        if fallbacks.len() == FALLBACKS_MAX {
            let message = format!("is one too many; at most {FALLBACKS_MAX} fallbacks");
            check.report(fallback.span(), field, message);
            break;
        }
        if fallback.get_ref() == model || fallbacks.contains(fallback.get_ref()) {
            let message = format!(
                "{:?} stands in the chain before; name each model once",
                fallback.get_ref()
            );
            check.report(fallback.span(), field, message);
            continue;
        }
        models.extend(model_name(check, &fallback, field, providers));
        fallbacks.push(fallback.into_inner());
    }
    fallbacks
}

fn model_name(
    check: &mut Checker<'_>,
    model: &Spanned<String>,
    field: String,
    providers: &BTreeSet<String>,
) -> Option<NamedModel> {
    let text = model.get_ref();
    let fits = (1..=MODEL_CHARS_MAX).contains(&text.chars().count())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
        && !text.starts_with('/')
        && !text.ends_with('/');
    if !fits {
        let message = format!(
            "{:?} is not a model's name; give the provider's name for it (1 to {MODEL_CHARS_MAX} characters, no \
             spaces), with the provider and a / before it where it is not the default one, \"default\" for the \
             installation's, or \"scripted\" for the built-in one",
            text.chars().take(80).collect::<String>()
        );
        check.report(model.span(), field, message);
        return None;
    }
    if let Some((provider, _)) = text.split_once('/')
        && provider != DEFAULT_PROVIDER
        && !providers.contains(provider)
    {
        let known = std::iter::once(DEFAULT_PROVIDER).chain(providers.iter().map(String::as_str));
        let message = format!(
            "{provider:?} is not a provider; {}. Add [providers.{provider}] to steadfast.toml, or write \
             \"{DEFAULT_PROVIDER}/{text}\" for a model of the default provider with a / in its name",
            remedy(provider, known)
        );
        check.report(model.span(), field, message);
        return None;
    }
    Some(NamedModel {
        name: text.clone(),
        at: check.problem(model.span(), field, String::new()),
    })
}

fn instructions(check: &mut Checker<'_>, at: At<'_, '_>) -> String {
    const REMEDY: &str = "say in a sentence or more what the agent is for, such as \
                          instructions = \"You answer questions about our products.\"";
    let Some(instructions) = check.string(at, "instructions") else {
        if !at.table.contains_key("instructions") {
            check.report(0..0, "instructions", format!("is missing; {REMEDY}"));
        }
        return String::new();
    };
    if instructions.get_ref().trim().is_empty() {
        check.report(instructions.span(), "instructions", format!("is empty; {REMEDY}"));
    } else if instructions.get_ref().len() > INSTRUCTIONS_BYTES_MAX {
        let message = format!(
            "has {} bytes; at most {INSTRUCTIONS_BYTES_MAX}",
            instructions.get_ref().len()
        );
        check.report(instructions.span(), "instructions", message);
    }
    instructions.into_inner()
}

fn tools(check: &mut Checker<'_>, at: At<'_, '_>, known: &BTreeMap<String, bool>) -> Vec<AgentTool> {
    let mut tools: Vec<AgentTool> = Vec::new();
    for (place, name) in check.strings(at, "tools").into_iter().enumerate() {
        let field = format!("tools[{place}]");
        let span = name.span();
        let name = name.into_inner();
        match known.get(&name) {
            None => {
                let message = format!(
                    "{name:?} is not a tool; {}",
                    remedy(&name, known.keys().map(String::as_str))
                );
                check.report(span, field, message);
            }
            Some(_) if tools.iter().any(|tool| tool.name == name) => {
                check.report(span, field, format!("{name:?} is listed twice; list each tool once"));
            }
            Some(_) if tools.len() == TOOLS_MAX => {
                check.report(span, field, format!("is one too many; at most {TOOLS_MAX} tools"));
                break;
            }
            Some(retry_safe) => tools.push(AgentTool {
                name,
                retry_safe: *retry_safe,
            }),
        }
    }
    tools
}

/// The limits that are given, over the ones that hold otherwise.
fn limits(check: &mut Checker<'_>, at: At<'_, '_>) -> Limits {
    let mut limits = Limits::default();
    let counts: [(&str, &mut u32, u64, u64); 6] = [
        ("steps_max", &mut limits.steps_max, 1, 1_000),
        ("output_tokens_max", &mut limits.output_tokens_max, 1, 1_000_000),
        ("model_attempts_max", &mut limits.model_attempts_max, 1, 100),
        ("claims_max", &mut limits.claims_max, 1, 1_000),
        ("history_turns_max", &mut limits.history_turns_max, 0, 1_000),
        ("history_chars_max", &mut limits.history_chars_max, 0, 10_000_000),
    ];
    let mut known = Vec::new();
    for (key, limit, min, max) in counts {
        known.push(key);
        if let Some(Ok(given)) = check.integer(at, key, min..=max).map(u32::try_from) {
            *limit = given;
        }
    }
    const RUN_SECONDS_MAX: u64 = 90 * 24 * 3600;
    const TOOL_SECONDS_MAX: u64 = 24 * 3600;
    let seconds: [(&str, &mut u64, u64); 3] = [
        ("run_seconds_max", &mut limits.run_seconds_max, RUN_SECONDS_MAX),
        ("step_seconds_max", &mut limits.step_seconds_max, RUN_SECONDS_MAX),
        ("tool_seconds_max", &mut limits.tool_seconds_max, TOOL_SECONDS_MAX),
    ];
    for (key, limit, max) in seconds {
        known.push(key);
        if let Some(given) = check.integer(at, key, 1..=max) {
            *limit = given;
        }
    }
    check.unknown_keys(at, &known);
    limits
}
