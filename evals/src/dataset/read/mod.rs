//! The schema of a dataset: from a tree to the types, with every problem on the way.

mod item;

use std::{collections::HashMap, time::Duration};

use super::{
    CONCURRENCY_DEFAULT, CONCURRENCY_MAX, Dataset, ITEMS_MAX, Item, JUDGE_SAMPLES_DEFAULT, JUDGE_SAMPLES_MAX,
    JudgeSpec, PASS_SCORE_DEFAULT, Problem, REPEATS_MAX, TIMEOUT_SECONDS_DEFAULT, TIMEOUT_SECONDS_MAX,
    fields::{Fields, Reader, join},
    yaml::{self, At, Node},
};

const DATASET_KEYS: &[&str] = &[
    "name",
    "agent",
    "concurrency",
    "repeats",
    "threshold",
    "timeout_seconds",
    "judge",
    "items",
];
const JUDGE_KEYS: &[&str] = &["rubric", "model", "samples", "pass_score"];

/// A dataset of which the judge may still lack what is outside the file.
pub struct Draft {
    pub dataset: Dataset,
    pub judge: Option<JudgeDraft>,
}

pub struct JudgeDraft {
    pub at: At,
    pub rubric_at: At,
    pub rubric_path: Option<String>,
    /// `rubric` is empty, and so is `model` where the file names none.
    pub spec: JudgeSpec,
}

/// Usable only where no problem comes with it.
pub fn read(text: &str) -> (Draft, Vec<Problem>) {
    let mut reader = Reader::default();
    let draft = match yaml::parse(text) {
        Ok(root) => dataset(&mut reader, &root),
        Err(problems) => {
            reader.problems = problems;
            empty()
        }
    };
    (draft, reader.problems)
}

fn empty() -> Draft {
    let dataset = Dataset {
        name: String::new(),
        agent: String::new(),
        concurrency: CONCURRENCY_DEFAULT,
        repeats: 1,
        threshold: 1.0,
        timeout: Duration::from_secs(TIMEOUT_SECONDS_DEFAULT),
        judge: None,
        items: Vec::new(),
        sha256: String::new(),
    };
    Draft { dataset, judge: None }
}

fn dataset(r: &mut Reader, root: &Node) -> Draft {
    let Draft { mut dataset, mut judge } = empty();
    let Some(fields) = r.fields(root, "", DATASET_KEYS) else {
        return Draft { dataset, judge };
    };
    dataset.name = required_text(r, fields, "", "name", "give the dataset a name").unwrap_or_default();
    dataset.agent =
        required_text(r, fields, "", "agent", "name the agent to run, such as assistant").unwrap_or_default();
    if let Some(node) = fields.get("concurrency") {
        dataset.concurrency = r
            .number(node, "concurrency", 1..=CONCURRENCY_MAX)
            .unwrap_or(CONCURRENCY_DEFAULT);
    }
    if let Some(node) = fields.get("repeats") {
        dataset.repeats = r.number(node, "repeats", 1..=REPEATS_MAX).unwrap_or(1);
    }
    if let Some(node) = fields.get("threshold") {
        dataset.threshold = r.number(node, "threshold", 0.0..=1.0).unwrap_or(1.0);
    }
    if let Some(node) = fields.get("timeout_seconds") {
        let seconds = r.number(node, "timeout_seconds", 1..=TIMEOUT_SECONDS_MAX);
        dataset.timeout = Duration::from_secs(seconds.unwrap_or(TIMEOUT_SECONDS_DEFAULT));
    }
    judge = fields
        .get("judge")
        .and_then(|node| judge_spec(r, node, fields.at("judge")))
        .or(judge);
    if let Some(node) = r.required(fields, "", "items", "list at least one item") {
        dataset.items = items(r, node, fields.get("judge").is_some());
    }
    Draft { dataset, judge }
}

fn judge_spec(r: &mut Reader, node: &Node, at: At) -> Option<JudgeDraft> {
    let fields = r.fields(node, "judge", JUDGE_KEYS)?;
    let rubric_path = required_text(
        r,
        fields,
        "judge",
        "rubric",
        "give the path of a text that says what is good",
    );
    let model = fields
        .get("model")
        .and_then(|node| r.text(node, "judge.model"))
        .unwrap_or_default();
    let mut samples = JUDGE_SAMPLES_DEFAULT;
    if let Some(node) = fields.get("samples") {
        samples = r
            .number(node, "judge.samples", 1..=JUDGE_SAMPLES_MAX)
            .unwrap_or(samples);
        if samples.is_multiple_of(2) {
            let message = format!("judge.samples: {samples} is even and may end in a draw; take an odd number");
            r.problem(node.at, message);
        }
    }
    let mut pass_score = PASS_SCORE_DEFAULT;
    if let Some(node) = fields.get("pass_score") {
        pass_score = r.number(node, "judge.pass_score", 1..=5).unwrap_or(pass_score);
    }
    let spec = JudgeSpec {
        rubric: String::new(),
        model,
        samples,
        pass_score,
    };
    Some(JudgeDraft {
        at,
        rubric_at: fields.at("rubric"),
        rubric_path,
        spec,
    })
}

fn items(r: &mut Reader, node: &Node, judge_configured: bool) -> Vec<Item> {
    let Some(nodes) = r.list(node, "items") else {
        return Vec::new();
    };
    if nodes.is_empty() {
        r.problem(node.at, "items: the list is empty; list at least one item");
    }
    if nodes.len() > ITEMS_MAX {
        r.problem(
            node.at,
            format!("items: {} are more than {ITEMS_MAX}; split the file", nodes.len()),
        );
        return Vec::new();
    }
    let mut first_lines: HashMap<String, usize> = HashMap::new();
    let mut items = Vec::with_capacity(nodes.len());
    for (at, node) in nodes.iter().enumerate() {
        let Some(item) = item::item(r, node, &format!("items[{at}]"), judge_configured) else {
            continue;
        };
        match first_lines.get(&item.id) {
            Some(line) => {
                let message = format!(
                    "items[{at}].id: {:?} is taken by the item on line {line}; choose another",
                    item.id
                );
                r.problem(node.at, message);
            }
            None => {
                first_lines.insert(item.id.clone(), node.at.line);
            }
        }
        items.push(item);
    }
    items
}

fn required_text(r: &mut Reader, fields: Fields<'_>, field: &str, key: &str, remedy: &str) -> Option<String> {
    let node = r.required(fields, field, key, remedy)?;
    r.text(node, &join(field, key))
}
