use serde_json::Value;

use super::*;
use crate::dataset::{Expected, Input, Item};

fn dataset(threshold: f64, items: usize) -> Dataset {
    let expected = Expected {
        exact: vec!["x".into()],
        contains: vec![],
        contains_any: vec![],
        trim: true,
        ignore_case: false,
    };
    let item = |at| Item {
        id: format!("item <{at}>"),
        input: Input::Text("hi".into()),
        session: None,
        expected: Some(expected.clone()),
        trajectory: None,
        judge: false,
    };
    Dataset {
        name: "a & \"b\"".into(),
        agent: "assistant".into(),
        concurrency: 1,
        repeats: 1,
        threshold,
        timeout: std::time::Duration::from_secs(1),
        judge: None,
        items: (0..items).map(item).collect(),
        sha256: "00".into(),
    }
}

fn trial(repeat: u32, passed: bool) -> Trial {
    let score = Score {
        name: "exact".into(),
        value: f64::from(u8::from(passed)),
        pass: passed,
        explanation: "said \u{1b}[31m<no>".into(),
        error: None,
        judge: None,
    };
    let usage = Usage {
        input_tokens: 10,
        output_tokens: 2,
        cost_microusd: 3,
    };
    let (run_id, output) = (format!("run_{repeat}"), Some("]]> \u{0}&".into()));
    Trial {
        run_id,
        output,
        passed,
        scores: vec![score],
        usage,
        latency_ms: 1500,
        ..Trial::new(repeat)
    }
}

fn report(threshold: f64, passed: &[bool]) -> Report {
    let ended = passed
        .iter()
        .enumerate()
        .map(|(at, passed)| (at, trial(1, *passed)))
        .collect();
    let moment = DateTime::UNIX_EPOCH;
    Report::new(
        &dataset(threshold, passed.len()),
        moment,
        moment + chrono::TimeDelta::milliseconds(2750),
        ended,
    )
}

#[test]
fn the_gate_opens_at_the_threshold_exactly() {
    for (threshold, passed, items, open) in [
        (1.0, 2, 2, true),
        (1.0, 1, 2, false),
        (0.7, 7, 10, true),
        (0.7, 6, 10, false),
        (0.0, 0, 3, true),
        (0.3, 3, 10, true),
    ] {
        let verdicts: Vec<bool> = (0..items).map(|at| at < passed).collect();
        assert_eq!(
            report(threshold, &verdicts).passed(),
            open,
            "{passed} of {items} at {threshold}"
        );
    }
}

#[test]
fn an_item_passes_only_when_all_of_its_trials_do() {
    let ended = vec![
        (0, trial(3, true)),
        (0, trial(1, true)),
        (0, trial(2, false)),
        (1, trial(1, true)),
    ];
    let report = Report::new(&dataset(0.5, 2), DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH, ended);
    assert!(!report.items[0].passed && report.items[1].passed && report.passed());
    let repeats: Vec<u32> = report.items[0].trials.iter().map(|trial| trial.repeat).collect();
    assert_eq!(repeats, [1, 2, 3], "trials end in any order and are reported in theirs");
    let t = &report.totals;
    assert_eq!(
        (t.items, t.items_passed, t.trials, t.trials_passed, t.trials_in_error),
        (2, 1, 4, 3, 0)
    );
    assert_eq!(
        (t.usage.input_tokens, t.latency_ms_p50, t.latency_ms_p95),
        (40, 1500, 1500)
    );
}

#[test]
fn a_scorer_in_error_is_counted_and_told_apart_from_a_wrong_answer() {
    let mut broken = trial(1, false);
    broken.scores[0].error = Some("away".into());
    let lost = Trial {
        error: Some("the run failed".into()),
        ..Trial::new(1)
    };
    let ended = vec![(0, broken), (1, lost), (2, trial(1, false)), (3, trial(1, true))];
    let report = Report::new(&dataset(1.0, 4), DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH, ended);
    assert_eq!(report.totals.trials_in_error, 2);
    let xml = report.to_junit();
    assert!(xml.contains(r#"tests="4" failures="1" errors="2""#), "{xml}");
    assert!(xml.contains(r#"<error type="exact" message="away"/>"#), "{xml}");
    assert!(xml.contains(r#"<error type="run" message="the run failed"/>"#), "{xml}");
    let summary = report.to_summary();
    assert!(
        summary.contains("error: the run failed") && summary.contains("FAILED: 1 of 4"),
        "{summary}"
    );
}

#[test]
fn the_json_report_holds_what_a_program_needs() {
    let json: Value = serde_json::from_str(&report(1.0, &[true]).to_json().expect("JSON")).expect("JSON");
    assert_eq!(json["object"], "eval.report");
    assert_eq!(json["passed"], true);
    assert_eq!(json["dataset_sha256"], "00");
    assert_eq!(json["items"][0]["trials"][0]["run_id"], "run_1");
    assert_eq!(json["items"][0]["trials"][0]["scores"][0]["name"], "exact");
    assert_eq!(json["totals"]["usage"]["cost_microusd"], 3);
}

#[test]
fn no_answer_breaks_the_xml_or_steers_the_terminal() {
    let report = report(1.0, &[false, true]);
    let xml = report.to_junit();
    assert!(xml.contains(r#"name="item &lt;0&gt;" time="1.500""#), "{xml}");
    assert!(
        xml.contains(r#"<testsuites name="a &amp; &quot;b&quot;" tests="2" failures="1" errors="0" time="2.750">"#)
    );
    assert!(xml.contains("]]&gt; \u{fffd}&amp;"), "{xml}");
    let printable = |c: char| c == '\n' || !c.is_control();
    assert!(xml.chars().all(printable) && report.to_summary().chars().all(printable));
}
