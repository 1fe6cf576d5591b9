//! Agents from files: `agents/*.toml`, validated at start.
//!
//! A wrong file stops the start, never a run: everything that can be known before the first task is checked here, and
//! all that is wrong in all files is said at once, each with its file, line, column, field and remedy.

mod fields;
mod file;
mod terms;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use crate::run::{Agent, agent::AgentTool};

pub use fields::Problem;
pub use file::NamedModel;
pub use terms::BUDGET_MAX;

/// The agent that exists without any file, and the file that teaches every key.
const ASSISTANT: &str = include_str!("../agents/assistant.toml");

/// The tools it names; an installation without one of them offers it without.
const ASSISTANT_TOOLS: [&str; 3] = ["clock", "calculator", "http_get"];

/// More than anyone reviews, less than what makes a start slow.
const AGENT_FILES_MAX: usize = 1_000;
const AGENT_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The agents of this installation, by name.
#[derive(Debug, Clone, Default)]
pub struct Agents {
    by_name: BTreeMap<String, Agent>,
    models: Vec<NamedModel>,
}

impl Agents {
    /// Reads every `*.toml` in `dir`, in the order of their names. `known_tools` says for each tool a worker has
    /// whether running it twice does no harm, `known_providers` which names may stand before the `/` of a model. Without
    /// a directory there is the built-in `assistant` alone.
    pub fn load(
        dir: Option<&Path>,
        known_tools: &BTreeMap<String, bool>,
        known_providers: &BTreeSet<String>,
    ) -> Result<Self, AgentsError> {
        let (mut problems, mut models) = (Vec::new(), Vec::new());
        let mut sources: BTreeMap<String, (Agent, PathBuf)> = BTreeMap::new();
        for path in dir.map_or(Ok(Vec::new()), files)? {
            let shown = path.display().to_string();
            let read = read_text(&path).and_then(|text| file::read(&text, &path, known_tools, known_providers));
            match read {
                Err(found) => problems.extend(found),
                Ok(found) => {
                    if let Some((_, first)) = sources.get(&found.agent.name) {
                        problems.push(Problem {
                            file: shown,
                            line: found.line,
                            column: found.column,
                            field: "name".into(),
                            message: format!(
                                "{:?} is the name of the agent in {} too; give each agent its own name",
                                found.agent.name,
                                first.display()
                            ),
                        });
                    } else {
                        models.extend(found.models);
                        sources.insert(found.agent.name.clone(), (found.agent, path));
                    }
                }
            }
        }
        let mut by_name: BTreeMap<String, Agent> =
            sources.into_iter().map(|(name, (agent, _))| (name, agent)).collect();
        if !by_name.contains_key("assistant") {
            match built_in(known_tools) {
                Ok(assistant) => drop(by_name.insert(assistant.name.clone(), assistant)),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            Ok(Self { by_name, models })
        } else {
            Err(AgentsError { problems })
        }
    }

    pub fn get(&self, name: &str) -> Option<&Agent> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.by_name.values()
    }

    /// Every model the files name, with its place.
    pub fn models(&self) -> &[NamedModel] {
        &self.models
    }
}

/// All that is wrong with the agent files, one line each.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentsError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for AgentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(
            f,
            "{count} {} in the agent files",
            if count == 1 { "error" } else { "errors" }
        )?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for AgentsError {}

fn built_in(known_tools: &BTreeMap<String, bool>) -> Result<Agent, Vec<Problem>> {
    let all = ASSISTANT_TOOLS.map(|name| (name.to_string(), true)).into();
    let mut agent = file::read(
        ASSISTANT,
        Path::new("assistant.toml (built in)"),
        &all,
        &BTreeSet::new(),
    )?
    .agent;
    agent.tools = (agent.tools.into_iter())
        .filter_map(|tool| {
            known_tools.get(&tool.name).map(|retry_safe| AgentTool {
                retry_safe: *retry_safe,
                ..tool
            })
        })
        .collect();
    Ok(agent)
}

/// The agent files of a directory, sorted. A directory that does not exist has none.
fn files(dir: &Path) -> Result<Vec<PathBuf>, AgentsError> {
    let fail = |message: String| AgentsError {
        problems: vec![Problem::of_file(dir, message)],
    };
    let unreadable = |e: io::Error| fail(format!("cannot be read as a directory of agent files: {e}"));
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
        if paths.len() > AGENT_FILES_MAX {
            return Err(fail(format!(
                "holds more than {AGENT_FILES_MAX} agent files; move some elsewhere"
            )));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> Result<String, Vec<Problem>> {
    let fail = |message: String| vec![Problem::of_file(path, message)];
    let size = fs::metadata(path)
        .map_err(|e| fail(format!("cannot be read: {e}")))?
        .len();
    if size > AGENT_FILE_BYTES_MAX {
        return Err(fail(format!(
            "has {size} bytes; an agent file may have {AGENT_FILE_BYTES_MAX}"
        )));
    }
    fs::read_to_string(path).map_err(|e| fail(format!("cannot be read: {e}")))
}
