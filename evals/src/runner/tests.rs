use std::path::PathBuf;

use super::*;
use crate::fake::{Act, Fake};

/// A directory with one dataset in it, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, dataset: &str) -> Self {
        let path = std::env::temp_dir().join(format!("steadfast-runner-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        std::fs::write(path.join("d.yaml"), dataset).expect("written");
        std::fs::write(path.join("rubric.md"), "Short and right.").expect("written");
        Self(path)
    }

    async fn run(&self, fake: &Fake) -> Report {
        self.try_run(&fake.url, None).await.expect("a report")
    }

    async fn judge(&self, fake: &Fake) -> Report {
        let judge = JudgeProvider::from_values(Some(format!("{}/judge", fake.url)), Some("sk-judge".into()), None);
        self.try_run(&fake.url, judge).await.expect("a report")
    }

    async fn try_run(&self, url: &str, judge: Option<JudgeProvider>) -> Result<Report, EvalError> {
        let api_key = Some(Secret::new("sk_eval"));
        let options = EvalOptions {
            file: self.0.join("d.yaml"),
            url: url.into(),
            api_key,
            judge,
        };
        run(options, |_| {}).await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn dataset(head: &str, items: &[&str]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("  - {{ {item} }}\n")).collect();
    format!("name: test\nagent: assistant\n{head}\nitems:\n{}", items.concat())
}

fn error_of(report: &Report, item: usize) -> &str {
    report.items[item].trials[0].error.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn right_answers_pass_and_wrong_ones_close_the_gate() {
    let calls = vec![
        ("calculator", r#"{"expression":"6 * 7"}"#),
        ("clock", "{}"),
        ("lookup", "?"),
    ];
    let fake = Fake::start(
        [
            ("six", Act::Answer("It is 42.", calls)),
            ("hi", Act::Answer("hello", vec![])),
        ],
        &[],
    )
    .await;
    let right = [
        "id: six, input: six, expected: { contains: '42' }, trajectory: { mode: strict, tools: \
         [{ name: calculator, arguments: { value: { expression: 6 * 7 } } }, { name: clock }, { name: lookup }] }",
        "id: hi, input: hi, expected: { exact: hello }, trajectory: { mode: strict, tools: [] }",
    ];
    let report = Folder::with("right", &dataset("repeats: 2", &right)).run(&fake).await;
    assert!(report.passed(), "{}", report.to_summary());
    assert_eq!((report.totals.trials_passed, report.totals.usage.input_tokens), (4, 40));
    assert_eq!(
        report.items[0].trials[1].tool_calls.len(),
        3,
        "all pages of events were read"
    );
    assert!(fake.log().authorization.iter().all(|value| value == "Bearer sk_eval"));
    let keys: std::collections::HashSet<String> = fake.log().posts.iter().map(|(_, key)| key.clone()).collect();
    assert_eq!(keys.len(), 4, "each trial has an idempotency key of its own");
    assert_eq!(fake.log().posts[0].0["metadata"]["eval"], "test");

    let wrong =
        ["id: hi, input: hi, expected: { exact: goodbye }, trajectory: { mode: superset, tools: [{ name: t }] }"];
    let report = Folder::with("wrong", &dataset("", &wrong)).run(&fake).await;
    assert!(!report.passed());
    assert!(report.items[0].trials[0].scores.iter().all(|score| !score.pass));
}

#[tokio::test]
async fn an_unfriendly_server_makes_errors_and_never_a_pass() {
    let acts = [
        ("refused", Act::Refuse(500, "boom")),
        ("unknown", Act::Refuse(404, "there is no agent \u{1b}[31m")),
        ("failed", Act::Fail),
        ("hung", Act::Hang),
        ("garbage", Act::Garbage),
        ("bad", Act::BadEvents),
        ("busy", Act::Busy(Box::new(Act::Answer("ok", vec![])))),
    ];
    let fake = Fake::start(acts, &[]).await;
    let names = ["refused", "unknown", "failed", "hung", "garbage", "bad", "busy"];
    let items = names.map(|name| format!("id: {name}, input: {name}, trajectory: {{ mode: subset, tools: [] }}"));
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let report = Folder::with("unfriendly", &dataset("timeout_seconds: 1\nconcurrency: 7", &items))
        .run(&fake)
        .await;
    for (at, words) in [
        "POST /v1/runs answered 500: boom",
        "answered 404: there is no agent \\u{1b}[31m",
        "the run failed: model_rejected: no credit",
        "did not end within 1 s",
        "something else than expected",
        "event 3",
    ]
    .iter()
    .enumerate()
    {
        assert!(
            error_of(&report, at).contains(words),
            "{}: {}",
            names[at],
            error_of(&report, at)
        );
        assert!(!report.items[at].passed);
    }
    assert!(report.items[6].passed, "503 is tried again: {}", error_of(&report, 6));
    assert!(!report.passed() && report.totals.trials_in_error == 6);
    assert_eq!(
        fake.log().cancelled.len(),
        1,
        "what nobody waits for any more is asked to stop"
    );
}

#[tokio::test]
async fn items_of_a_session_are_one_conversation_for_each_repeat() {
    let acts = [
        ("a", Act::Answer("1", vec![])),
        ("b", Act::Answer("2", vec![])),
        ("x", Act::Fail),
    ];
    let fake = Fake::start(acts, &[]).await;
    let items = [
        "id: first, input: a, session: s, expected: { exact: '1' }",
        "id: alone, input: a, expected: { exact: '1' }",
        "id: second, input: b, session: s, expected: { exact: '2' }",
    ];
    let report = Folder::with("session", &dataset("repeats: 2", &items)).run(&fake).await;
    assert!(report.passed(), "{}", report.to_summary());
    let sessions = |item: usize| {
        report.items[item]
            .trials
            .iter()
            .map(|t| t.session_id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(sessions(0), sessions(2));
    assert_ne!(sessions(0)[0], sessions(0)[1]);
    assert!(!sessions(1).iter().any(|session| sessions(0).contains(session)));

    let broken = [
        "id: f, input: x, session: s, judge: false, expected: { exact: '1' }",
        items[2],
    ];
    let report = Folder::with("broken", &dataset("", &broken)).run(&fake).await;
    assert!(error_of(&report, 1).contains("not run"), "{}", report.to_summary());
}

#[tokio::test]
async fn a_judge_decides_by_majority_and_its_record_is_kept() {
    let (good, bad) = (r#"{"reason": "fine", "score": 5}"#, r#"{"reason": "meh", "score": 2}"#);
    let fake = Fake::start(
        [("hi", Act::Answer("hello", vec![]))],
        &[(200, good), (200, bad), (200, good)],
    )
    .await;
    let text = dataset(
        "judge: { rubric: rubric.md, model: judge-1 }",
        &["id: hi, input: hi, judge: true"],
    );
    let report = Folder::with("judge", &text).judge(&fake).await;
    let score = &report.items[0].trials[0].scores[0];
    assert!(report.passed() && score.value == 5.0, "{}", report.to_summary());
    let record = score.judge.as_ref().expect("a record");
    assert_eq!(
        (record.model.as_str(), record.prompt_sha256.len(), record.samples.len()),
        ("judge-1", 64, 3)
    );
    let asked = fake.log().judged[0].clone();
    assert_eq!((&asked["temperature"], &asked["model"]), (&0.into(), &"judge-1".into()));
    assert_eq!(asked["response_format"]["type"], "json_schema");
    assert!(
        asked["messages"][0]["content"]
            .as_str()
            .expect("text")
            .contains("Short and right.")
    );
    assert_eq!(
        fake.log().authorization.last().expect("seen"),
        "Bearer sk-judge",
        "each server gets its own key"
    );
}

#[tokio::test]
async fn a_judge_that_knows_no_response_format_is_asked_without() {
    let good = r#"Sure! {"reason": "fine", "score": 4}"#;
    let fake = Fake::start(
        [("hi", Act::Answer("hello", vec![]))],
        &[(400, "response_format?"), (200, good)],
    )
    .await;
    let text = dataset(
        "judge: { rubric: rubric.md, model: m }",
        &["id: hi, input: hi, judge: true"],
    );
    let report = Folder::with("plain", &text).judge(&fake).await;
    assert!(report.passed(), "{}", report.to_summary());
    let formatted: Vec<bool> = fake
        .log()
        .judged
        .iter()
        .map(|body| body.get("response_format").is_some())
        .collect();
    assert_eq!(formatted, [true, false, false, false]);
}

#[tokio::test]
async fn a_judge_that_fails_or_rambles_is_an_error_of_the_score() {
    for (name, verdict) in [
        ("fails", (401, "bad key")),
        ("rambles", (200, "I would say five of five")),
    ] {
        let fake = Fake::start([("hi", Act::Answer("hello", vec![]))], &[verdict]).await;
        let text = dataset(
            "judge: { rubric: rubric.md, model: m }",
            &["id: hi, input: hi, judge: true"],
        );
        let report = Folder::with(name, &text).judge(&fake).await;
        let score = &report.items[0].trials[0].scores[0];
        assert!(!report.passed() && !score.pass && score.value == 0.0, "{score:?}");
        assert!(score.error.as_ref().expect("an error").contains(verdict.1), "{score:?}");
        assert_eq!(report.totals.trials_in_error, 1);
    }
}

#[tokio::test]
async fn what_stops_the_start_says_what_to_do() {
    let folder = Folder::with("start", &dataset("", &["id: hi, input: hi, expected: { exact: a }"]));
    for (url, words) in [
        ("127.0.0.1:8080", "--url"),
        ("ftp://127.0.0.1", "--url"),
        (
            "http://me:secret@127.0.0.1:1/",
            "no Steadfast answers at http://127.0.0.1:1/: GET /healthz: cannot connect",
        ),
    ] {
        let error = folder.try_run(url, None).await.expect_err(url).to_string();
        assert!(error.contains(words) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn progress_is_told_trial_by_trial() {
    let fake = Fake::start([("hi", Act::Answer("hello", vec![]))], &[]).await;
    let folder = Folder::with(
        "progress",
        &dataset("repeats: 3", &["id: hi, input: hi, expected: { exact: hello }"]),
    );
    let options = EvalOptions {
        file: folder.0.join("d.yaml"),
        url: fake.url.clone(),
        api_key: None,
        judge: None,
    };
    let mut seen = Vec::new();
    run(options, |progress| seen.push(progress)).await.expect("a report");
    assert!(
        matches!(
            &seen[0],
            Progress::Started {
                items: 1,
                trials: 3,
                ..
            }
        ),
        "{seen:?}"
    );
    assert!(
        matches!(
            seen.last(),
            Some(Progress::TrialEnded {
                done: 3,
                trials: 3,
                passed: true,
                ..
            })
        ),
        "{seen:?}"
    );
}
