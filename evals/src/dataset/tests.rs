use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::score::trajectory::{Arguments, Mode};

const SMALLEST: &str = "name: n\nagent: a\nitems:\n  - { id: one, input: hi, expected: { contains: x } }\n";

fn problems(text: &str) -> Vec<Problem> {
    read::read(text).1
}

#[track_caller]
fn refused(text: &str, line: usize, words: &[&str]) {
    let problems = problems(text);
    let found = problems
        .iter()
        .any(|p| p.line == line && words.iter().all(|word| p.message.contains(word)));
    assert!(found, "no problem on line {line} with {words:?} among {problems:#?}");
}

#[test]
fn the_smallest_dataset_reads_with_defaults() {
    let (draft, problems) = read::read(SMALLEST);
    assert_eq!(problems, []);
    let dataset = draft.dataset;
    assert_eq!((dataset.concurrency, dataset.repeats, dataset.threshold), (4, 1, 1.0));
    assert_eq!(dataset.timeout, Duration::from_secs(120));
    let expected = dataset.items[0].expected.as_ref().expect("given");
    assert!(expected.trim && !expected.ignore_case && expected.contains == ["x"]);
}

#[test]
fn every_key_is_read() {
    let (draft, problems) = read::read(
        r#"
name: all
agent: assistant
concurrency: 2
repeats: 3
threshold: 0.5
timeout_seconds: 9
judge: { rubric: r.md, model: m, samples: 5, pass_score: 3 }
items:
  - id: one
    input:
      - { role: user, content: hello }
      - { role: assistant, content: hi }
      - { role: user, content: 42 }
    session: s
    expected: { exact: [a, b], contains: c, contains_any: [d], trim: false, ignore_case: true }
    trajectory:
      mode: superset
      tools:
        - name: search
          arguments: { mode: superset, value: { q: x, n: 2, deep: { a: [true, null] } } }
        - { name: other, arguments: { value: {} } }
        - { name: free, arguments: { mode: ignore } }
    judge: true
"#,
    );
    assert_eq!(problems, []);
    let dataset = draft.dataset;
    assert_eq!((dataset.concurrency, dataset.repeats, dataset.threshold), (2, 3, 0.5));
    let judge = draft.judge.expect("a judge");
    assert_eq!(
        (judge.spec.samples, judge.spec.pass_score, judge.rubric_path.as_deref()),
        (5, 3, Some("r.md"))
    );
    let item = &dataset.items[0];
    assert_eq!(json!(item.input)[2], json!({"role": "user", "content": "42"}));
    assert!(item.judge && item.session.as_deref() == Some("s"));
    let trajectory = item.trajectory.as_ref().expect("given");
    assert_eq!(trajectory.mode, Mode::Superset);
    let arguments: Vec<_> = trajectory.tools.iter().map(|tool| tool.arguments.clone()).collect();
    let value = json!({"q": "x", "n": 2, "deep": {"a": [true, null]}});
    assert_eq!(
        arguments,
        [
            Arguments::Superset(value),
            Arguments::Exact(json!({})),
            Arguments::Ignore
        ]
    );
}

#[test]
fn all_problems_are_reported_at_once_each_with_its_line_and_a_remedy() {
    let text = "name: n
agnet: a
concurrency: 100
threshold: 1.5
items:
  - id: one
    input: hi
    expected:
      contain: x
  - id: one
    input: ''
    trajectory: { mode: strickt, tools: [{ nam: t }] }
  - input: [{ role: user, content: a }, { role: robot, content: b }]
    judge: true
";
    for (line, words) in [
        (1, &["agent: missing", "name the agent"][..]),
        (2, &["agnet: unknown key", "did you mean agent?"]),
        (3, &["concurrency", "1 to 64"]),
        (4, &["threshold", "0 to 1"]),
        (9, &["items[0].expected.contain: unknown key", "did you mean contains?"]),
        (9, &["items[0].expected: nothing is expected"]),
        (11, &["items[1].input", "empty"]),
        (12, &["items[1].trajectory.mode", "did you mean strict?"]),
        (
            12,
            &["items[1].trajectory.tools[0].nam: unknown key", "did you mean name?"],
        ),
        (13, &["items[2].id: missing"]),
        (13, &["items[2].input[1].role", "user, assistant, system"]),
        (14, &["items[2].judge: the file has no judge", "rubric"]),
    ] {
        refused(text, line, words);
    }
}

#[test]
fn what_would_check_nothing_or_mean_two_things_is_refused() {
    let item = |rest: &str| format!("name: n\nagent: a\nitems:\n  - {{ id: one, input: hi, {rest} }}\n");
    refused(&item("session: s"), 4, &["nothing is checked"]);
    refused(&item("expected: { contains: [] }"), 4, &["list is empty"]);
    refused(&item("expected: { trim: yes, exact: a }"), 4, &["true or false"]);
    refused(&item("trajectory: { mode: superset, tools: [] }"), 4, &["always there"]);
    refused(
        &item("trajectory: { mode: strict, tools: [{ name: t, arguments: { mode: exact } }] }"),
        4,
        &["value: missing"],
    );
    refused(
        &item("trajectory: { mode: strict, tools: [{ name: t, arguments: { value: 4 } }] }"),
        4,
        &["must be a mapping"],
    );
    refused(&item("expected: hi"), 4, &["must be a mapping with some of: exact"]);
    refused("name: n\nagent: a\nitems: []\n", 3, &["list is empty"]);
    refused("name: n\nagent: a\nitems: one\n", 3, &["must be a list"]);
    refused("- a\n", 1, &["the file must be a mapping"]);
    let twice = "name: n\nagent: a\nitems:\n  - { id: x, input: a, judge: false, expected: { exact: a } }\n  - { id: x, input: a, expected: { exact: a } }\n";
    refused(twice, 5, &["taken by the item on line 4"]);
    refused(
        "name: n\nagent: a\njudge: { rubric: r, samples: 2 }\nitems: []\n",
        3,
        &["even", "odd number"],
    );
    let last = "name: n\nagent: a\nitems:\n  - id: x\n    input: [{ role: assistant, content: a }]\n    expected: { exact: a }\n";
    refused(last, 5, &["must be from user"]);
}

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

#[tokio::test]
async fn the_examples_read() {
    let plain = Dataset::load(&example("assistant.yaml"), None)
        .await
        .expect("the example");
    assert!(plain.items.iter().all(|item| !item.judge) && plain.sha256.len() == 64);
    let provider = JudgeProvider::from_values(Some("http://127.0.0.1:1".into()), None, Some("m".into()));
    let judged = Dataset::load(&example("judged.yaml"), provider.as_ref())
        .await
        .expect("the example");
    let judge = judged.judge.expect("a judge");
    assert!(!judge.rubric.is_empty() && judge.model == "m");
}

#[tokio::test]
async fn an_item_that_asks_for_a_judge_nobody_configured_stops_the_start() {
    let error = Dataset::load(&example("judged.yaml"), None)
        .await
        .expect_err("no judge")
        .to_string();
    assert!(
        error.contains("judged.yaml:") && error.contains("OPENAI_BASE_URL"),
        "{error}"
    );
    assert!(error.contains("STEADFAST_MODEL"), "{error}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_says_why() {
    let missing = Dataset::load(&example("absent.yaml"), None)
        .await
        .expect_err("absent")
        .to_string();
    assert!(missing.contains("absent.yaml"), "{missing}");
    let directory = tempdir("bytes");
    let path = directory.join("d.yaml");
    std::fs::write(&path, b"name: n\nagent: \xff\n").expect("written");
    let bytes = Dataset::load(&path, None).await.expect_err("not UTF-8").to_string();
    assert!(bytes.contains("d.yaml:2:1: this line is not UTF-8"), "{bytes}");
    std::fs::write(&path, format!("{SMALLEST}judge: {{ rubric: absent.md, model: m }}\n")).expect("written");
    let rubric = Dataset::load(&path, None).await.expect_err("no rubric").to_string();
    assert!(rubric.contains("d.yaml:5:") && rubric.contains("absent.md"), "{rubric}");
    std::fs::remove_dir_all(directory).expect("removed");
}

fn tempdir(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("steadfast-evals-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}
