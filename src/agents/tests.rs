//! Each way an agent file can be wrong, and what is said about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{AGENT_FILE_BYTES_MAX, Agents, AgentsError};
use crate::run::{
    Amounts, Limits,
    agent::{CutOffTool, OrphanedCall},
    budget::OnBreach,
};

/// A directory of agent files that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn with(test: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("steadfast-agents-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for agent files");
        for (name, text) in files {
            fs::write(path.join(name), text).expect("an agent file");
        }
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tools() -> BTreeMap<String, bool> {
    [
        ("calculator", true),
        ("clock", true),
        ("http_get", true),
        ("send_mail", false),
    ]
    .map(|(name, retry_safe)| (name.to_string(), retry_safe))
    .into()
}

fn providers() -> BTreeSet<String> {
    ["local".to_string(), "spare".to_string()].into()
}

fn load(test: &str, files: &[(&str, &str)]) -> Result<Agents, AgentsError> {
    let dir = Dir::with(test, files);
    Agents::load(Some(&dir.0), &tools(), &providers())
}

/// The one complaint about a file, without the directory.
fn complaint(test: &str, text: &str) -> String {
    let error = load(test, &[("a.toml", text)]).expect_err("a wrong file was taken");
    assert_eq!(error.problems.len(), 1, "{error}");
    let shown = error.problems[0].to_string();
    shown
        .split_once("a.toml:")
        .map(|(_, rest)| rest.to_string())
        .unwrap_or(shown)
}

#[test]
fn without_files_there_is_the_built_in_assistant() {
    for dir in [None, Some(Path::new("/nonexistent/agents"))] {
        let agents = Agents::load(dir, &tools(), &providers()).expect("the built-in assistant reads");
        let assistant = agents.get("assistant").expect("there is an assistant");
        assert_eq!(agents.iter().count(), 1);
        assert_eq!(assistant.model, "default");
        assert_eq!(assistant.limits, Limits::default());
        let names: Vec<&str> = assistant.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["clock", "calculator", "http_get"]);
    }
    let bare =
        Agents::load(None, &BTreeMap::new(), &providers()).expect("an installation without tools has an assistant too");
    assert!(bare.get("assistant").expect("there is an assistant").tools.is_empty());
}

#[test]
fn the_files_that_are_shipped_are_right() {
    let agents = Agents::load(
        Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("agents")),
        &tools(),
        &providers(),
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert!(agents.get("assistant").is_some() && agents.get("researcher").is_some());
}

#[test]
fn a_file_is_read_whole_and_what_it_leaves_out_has_a_default() {
    let text = "instructions = 'Send mail.'\nmodel = 'gpt-4o'\ntools = ['send_mail']\ntemperature = 1\n\
                [limits]\nsteps_max = 3\n[price]\ninput_usd_per_million = 2\noutput_usd_per_million = 0.5\n";
    let agents = load("whole", &[("mailer.toml", text), ("notes.md", "not an agent")]).expect("the file is right");
    let mailer = agents.get("mailer").expect("named by its file");
    assert_eq!((mailer.model.as_str(), mailer.temperature), ("gpt-4o", Some(1.0)));
    assert_eq!(
        mailer.limits,
        Limits {
            steps_max: 3,
            ..Limits::default()
        }
    );
    assert!(
        !mailer.tools[0].retry_safe,
        "whether a tool may run twice is the tool's to say"
    );
    assert_eq!(mailer.price.map(|price| price.input_usd_per_million), Some(2.0));
    assert!(
        agents.get("assistant").is_some(),
        "other files do not take the assistant away"
    );
}

#[test]
fn a_file_may_define_the_assistant_anew() {
    let agents = load("anew", &[("assistant.toml", "instructions = 'Be brief.'")]).expect("the file is right");
    assert_eq!(
        agents.get("assistant").map(|agent| agent.instructions.as_str()),
        Some("Be brief.")
    );
}

#[test]
fn an_unknown_key_is_met_with_the_nearest_known_one() {
    let at_top = complaint("key", "instructions = 'x'\ninstruction = 'x'\n");
    assert!(at_top.starts_with("2:1: instruction: is not a key"), "{at_top}");
    assert!(at_top.contains("did you mean \"instructions\"?"), "{at_top}");
    let inside = complaint("key-inside", "instructions = 'x'\n[limits]\nmax_steps = 3\n");
    assert!(
        inside.starts_with("3:1: limits.max_steps: ") && inside.contains("steps_max"),
        "{inside}"
    );
}

#[test]
fn an_unknown_tool_is_met_with_the_list_of_tools() {
    let said = complaint("tool", "instructions = 'x'\ntools = ['clock', 'calculatr']\n");
    assert!(
        said.starts_with("2:19: tools[1]: \"calculatr\" is not a tool; did you mean \"calculator\"?"),
        "{said}"
    );
    assert!(said.contains("calculator, clock, http_get, send_mail"), "{said}");
    let twice = complaint("tool-twice", "instructions = 'x'\ntools = ['clock', 'clock']\n");
    assert!(twice.contains("listed twice"), "{twice}");
}

#[test]
fn a_chain_of_models_is_read_in_its_order() {
    let text = "instructions = 'x'\nmodel = 'local/qwen'\nfallbacks = ['spare/a/b', 'default/c/d', 'gpt-4o']\n";
    let agents = load("chain", &[("a.toml", text)]).expect("the file is right");
    let agent = agents.get("a").expect("named by its file");
    assert_eq!(agent.model, "local/qwen");
    assert_eq!(agent.fallbacks, ["spare/a/b", "default/c/d", "gpt-4o"]);
}

#[test]
fn an_unknown_provider_is_met_with_its_place_and_a_remedy() {
    let said = complaint("provider", "instructions = 'x'\nmodel = 'locl/qwen'\n");
    assert!(
        said.starts_with("2:9: model: \"locl\" is not a provider; did you mean \"local\"?"),
        "{said}"
    );
    assert!(said.contains("default, local, spare"), "{said}");
    assert!(
        said.contains("[providers.locl]") && said.contains("\"default/locl/qwen\""),
        "{said}"
    );
    let said = complaint("provider-2", "instructions = 'x'\nfallbacks = ['spare/m', 'far/m']\n");
    assert!(
        said.starts_with("2:25: fallbacks[1]: \"far\" is not a provider"),
        "{said}"
    );
    let said = complaint("provider-3", "instructions = 'x'\nmodel = 'm'\nfallbacks = ['m']\n");
    assert!(said.contains("name each model once"), "{said}");
    let said = complaint("provider-4", "instructions = 'x'\nmodel = 'local/'\n");
    assert!(said.contains("is not a model's name"), "{said}");
}

#[test]
fn missing_and_empty_instructions_are_refused() {
    assert!(complaint("no-instructions", "model = 'default'").starts_with("1:1: instructions: is missing; say"));
    assert!(complaint("empty", "instructions = ' \\t'\n".replace('\'', "\"").as_str()).contains("is empty; say"));
}

#[test]
fn a_number_out_of_range_names_the_range() {
    let limit = complaint("limit", "instructions = 'x'\n[limits]\nsteps_max = 0\n");
    assert_eq!(limit, "3:13: limits.steps_max: 0 is out of range; give 1 to 1000");
    for (test, line) in [
        ("big", "claims_max = 99999999999"),
        ("negative", "run_seconds_max = -1"),
    ] {
        let said = complaint(test, &format!("instructions = 'x'\n[limits]\n{line}\n"));
        assert!(said.contains("is out of range; give 1 to"), "{said}");
    }
    for (test, value) in [("hot", "2.5"), ("nan", "nan"), ("below", "-0.1")] {
        let said = complaint(test, &format!("instructions = 'x'\ntemperature = {value}\n"));
        assert!(said.contains("out of range; give 0 to 2"), "{said}");
    }
}

#[test]
fn a_wrong_type_names_both_types() {
    let cases = [
        (
            "instructions = 7",
            "instructions: must be a string in quotes, not a whole number",
        ),
        (
            "instructions = 'x'\ntools = 'clock'",
            "tools: must be a list of strings, not a string",
        ),
        (
            "instructions = 'x'\ntools = [1]",
            "tools[0]: must be a string in quotes, not a whole number",
        ),
        (
            "instructions = 'x'\nlimits = 3",
            "limits: must be a table, not a whole number",
        ),
        (
            "instructions = 'x'\nname = true",
            "name: must be a string in quotes, not true or false",
        ),
        (
            "instructions = 'x'\n[limits]\nsteps_max = 1.5",
            "limits.steps_max: must be a whole number, not a number",
        ),
        (
            "instructions = 'x'\ntemperature = 'hot'",
            "temperature: must be a number, not a string",
        ),
    ];
    for (at, (text, expected)) in cases.into_iter().enumerate() {
        let said = complaint(&format!("type-{at}"), text);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_bad_name_and_a_bad_model_are_refused_with_what_would_be_right() {
    let name = complaint("name", "name = 'My Agent'\ninstructions = 'x'");
    assert!(
        name.starts_with("1:8: name: \"My Agent\" is not a name; use 1 to 64 of a-z 0-9 _ -"),
        "{name}"
    );
    let model = complaint("model", "model = 'gpt 4'\ninstructions = 'x'");
    assert!(
        model.starts_with("1:9: model: ") && model.contains("\"default\""),
        "{model}"
    );
    let stem = load("stem", &[("My Agent.toml", "instructions = 'x'")]).expect_err("the stem is no name");
    assert!(
        stem.to_string().contains("the file's name, as no name is given"),
        "{stem}"
    );
}

#[test]
fn half_a_price_is_refused() {
    let said = complaint("price", "instructions = 'x'\n[price]\ninput_usd_per_million = 1\n");
    assert!(said.contains("price.output_usd_per_million: is missing"), "{said}");
}

#[test]
fn what_is_not_toml_is_said_with_its_place() {
    let said = complaint("syntax", "instructions = 'x'\nmodel = \n");
    assert!(said.starts_with("2:") && said.contains("is not TOML"), "{said}");
}

#[test]
fn two_files_with_one_name_are_both_named() {
    let files = [
        ("a.toml", "instructions = 'x'"),
        ("b.toml", "name = 'a'\ninstructions = 'x'"),
    ];
    let said = load("double", &files)
        .expect_err("two agents have one name")
        .to_string();
    assert!(
        said.contains("b.toml:1:8: name: \"a\"") && said.contains("a.toml too"),
        "{said}"
    );
}

#[test]
fn everything_that_is_wrong_in_all_files_is_said_at_once() {
    let files = [
        (
            "a.toml",
            "instructions = ''\ntools = ['nope', 'neither']\n[limits]\nsteps_max = 0\nsteps = 1\n",
        ),
        ("b.toml", "model = ''\n"),
    ];
    let error = load("all", &files).expect_err("nothing here is right");
    assert_eq!(error.problems.len(), 7, "{error}");
    assert!(
        error.to_string().starts_with("7 errors in the agent files\n  "),
        "{error}"
    );
}

#[test]
fn what_cannot_be_read_is_refused_and_named() {
    let dir = Dir::with("unreadable", &[("file", "")]);
    let not_a_directory =
        Agents::load(Some(&dir.0.join("file")), &tools(), &providers()).expect_err("a file is no directory");
    assert!(
        not_a_directory.to_string().contains("cannot be read as a directory"),
        "{not_a_directory}"
    );
    fs::write(dir.0.join("a.toml"), [0xff, 0xfe]).expect("an agent file");
    fs::write(dir.0.join("b.toml"), vec![b'#'; AGENT_FILE_BYTES_MAX as usize + 1]).expect("an agent file");
    let error = Agents::load(Some(&dir.0), &tools(), &providers()).expect_err("neither is an agent file");
    assert_eq!(error.problems.len(), 2, "{error}");
}

#[test]
fn policies_and_a_budget_are_read_and_what_is_left_out_has_a_default() {
    let text = "instructions = 'x'\n[policies]\norphaned_call = 'ask'\n[budget]\ntokens = 5000\nusd = 0.25\non_breach = 'fail'\n\
                [price]\ninput_usd_per_million = 1\noutput_usd_per_million = 2\n[limits]\nstep_seconds_max = 60\n";
    let agents = load("terms", &[("a.toml", text)]).expect("the file is right");
    let agent = agents.get("a").expect("named by its file");
    assert_eq!(agent.policies.orphaned_call, OrphanedCall::Ask);
    assert_eq!(agent.policies.cut_off_tool, CutOffTool::Ask);
    let amounts = Amounts {
        tokens: Some(5000),
        usd: Some(250_000),
        ..Amounts::default()
    };
    assert_eq!(
        (agent.budget.amounts, agent.budget.on_breach),
        (amounts, OnBreach::Fail)
    );
    assert_eq!((agent.limits.step_seconds_max, agent.limits.tool_seconds_max), (60, 60));
}

#[test]
fn wrong_policies_and_budgets_are_met_with_the_words_and_the_remedy() {
    let word = complaint("policy", "instructions = 'x'\n[policies]\norphaned_call = 'retyr'\n");
    assert!(word.starts_with("3:17: policies.orphaned_call: \"retyr\""), "{word}");
    assert!(word.contains("did you mean \"retry\"?"), "{word}");
    let money = complaint("money", "instructions = 'x'\n[budget]\nusd = 1\n");
    assert!(money.contains("budget.usd: needs a [price]"), "{money}");
    let key = complaint("budget-key", "instructions = 'x'\n[budget]\ntoken = 1\n");
    assert!(key.contains("did you mean \"tokens\"?"), "{key}");
    let none = complaint("budget-zero", "instructions = 'x'\n[budget]\nsteps = 0\n");
    assert!(none.contains("budget.steps") && none.contains("out of range"), "{none}");
}
