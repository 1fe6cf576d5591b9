use serde_json::json;

use super::*;

fn names(mode: Mode, expected: &str, called: &str) -> bool {
    let want = |name: &str| ExpectedCall {
        name: name.into(),
        arguments: Arguments::Ignore,
    };
    let tools = expected.split_whitespace().map(want).collect();
    let called: Vec<_> = called
        .split_whitespace()
        .map(|name| CalledTool::new(name.into(), "{}"))
        .collect();
    score(&Trajectory { mode, tools }, &called).pass
}

fn arguments(expected: Arguments, given: &str) -> bool {
    let tools = vec![ExpectedCall {
        name: "t".into(),
        arguments: expected,
    }];
    score(
        &Trajectory {
            mode: Mode::Strict,
            tools,
        },
        &[CalledTool::new("t".into(), given)],
    )
    .pass
}

#[test]
fn the_four_modes_accept_and_refuse_as_their_table_says() {
    // (expected, called, strict, unordered, subset, superset)
    for (expected, called, strict, unordered, subset, superset) in [
        ("", "", true, true, true, true),
        ("a b", "a b", true, true, true, true),
        ("a b", "b a", false, true, true, true),
        ("a b", "a", false, false, true, false),
        ("a b", "", false, false, true, false),
        ("a b", "b a c", false, false, false, true),
        ("a", "a a", false, false, false, true),
        ("a a", "a", false, false, true, false),
        ("a", "b", false, false, false, false),
        ("", "a", false, false, false, true),
    ] {
        let got = [Mode::Strict, Mode::Unordered, Mode::Subset, Mode::Superset].map(|m| names(m, expected, called));
        assert_eq!(
            got,
            [strict, unordered, subset, superset],
            "expected [{expected}], called [{called}]"
        );
    }
}

#[test]
fn arguments_are_compared_from_the_side_of_what_was_done() {
    let value = || json!({"q": "x", "page": {"n": 1, "size": 10}});
    let given = r#"{"page":{"size":10.0,"n":1},"q":"x"}"#;
    assert!(arguments(Arguments::Exact(value()), given));
    assert!(arguments(Arguments::Subset(value()), r#"{"page":{"n":1}}"#));
    assert!(arguments(
        Arguments::Superset(value()),
        r#"{"q":"x","page":{"n":1,"size":10,"z":0},"more":[1]}"#
    ));
    for wrong in [
        r#"{"q":"x"}"#,
        r#"{"q":"y","page":{"n":1,"size":10}}"#,
        "not json",
        "[]",
        "null",
        "",
    ] {
        assert!(!arguments(Arguments::Exact(value()), wrong), "{wrong}");
        assert!(!arguments(Arguments::Superset(value()), wrong), "{wrong}");
        assert!(arguments(Arguments::Ignore, wrong), "{wrong}");
    }
    assert!(!arguments(Arguments::Subset(value()), r#"{"q":"x","extra":1}"#));
    assert!(!arguments(Arguments::Subset(value()), "not json"));
}

#[test]
fn a_call_that_fits_two_expectations_is_given_to_the_one_that_needs_it() {
    let exact = |n: i64| ExpectedCall {
        name: "t".into(),
        arguments: Arguments::Exact(json!({"n": n})),
    };
    let any = ExpectedCall {
        name: "t".into(),
        arguments: Arguments::Ignore,
    };
    let called = [
        CalledTool::new("t".into(), r#"{"n":1}"#),
        CalledTool::new("t".into(), r#"{"n":2}"#),
    ];
    for tools in [
        vec![any.clone(), exact(1)],
        vec![exact(1), any.clone()],
        vec![any.clone(), exact(2)],
    ] {
        assert!(
            score(
                &Trajectory {
                    mode: Mode::Unordered,
                    tools
                },
                &called
            )
            .pass
        );
    }
    assert!(
        !score(
            &Trajectory {
                mode: Mode::Unordered,
                tools: vec![exact(1), exact(3)]
            },
            &called
        )
        .pass
    );
}

#[test]
fn a_failed_trajectory_says_what_differs_what_was_called_and_what_was_expected() {
    let tools = vec![ExpectedCall {
        name: "calculator".into(),
        arguments: Arguments::Ignore,
    }];
    let none = score(
        &Trajectory {
            mode: Mode::Strict,
            tools: tools.clone(),
        },
        &[],
    );
    assert_eq!(
        none.explanation,
        "call 1 differs; no tool was called; expected exactly, in this order: calculator"
    );
    let other = score(
        &Trajectory {
            mode: Mode::Subset,
            tools,
        },
        &[CalledTool::new("rm".into(), r#"{"f":"/"}"#)],
    );
    assert_eq!(
        other.explanation,
        r#"rm was called and is not expected; called: rm({"f":"/"}); expected at most: calculator"#
    );
}
