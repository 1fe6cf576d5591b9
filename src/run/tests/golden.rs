//! The promise to everyone who keeps a log: what an older build recorded, today's build reads, folds and verifies.
//!
//! `tests/logs/NAME.jsonl`: a first line that says what the run came to, then one line for each event as it lay in the
//! log. Files are only ever added: `UPDATE=1 cargo test -p steadfast golden` records the stories that have no file yet,
//! and never writes over one. A new schema gets new stories beside the old files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    run::{
        Amounts, ApprovalId, Decision, Next, Status, TenantId, WaitingOn,
        agent::{OrphanedCall, Policies, Price, hex},
        budget::Budget,
        next,
    },
    store::{GENESIS, Hash, chain},
};

/// What the run came to, in words that outlive the shape of [`Run`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct End {
    status: Status,
    waiting_on: Option<WaitingOn>,
    output: Option<String>,
    error_code: Option<String>,
    usage: Usage,
    steps: u32,
    messages: crate::run::Messages,
}

#[derive(Serialize, Deserialize)]
struct Line {
    run_id: RunId,
    version: u64,
    tenant: TenantId,
    #[serde(rename = "type")]
    name: String,
    schema: u16,
    time: Time,
    /// A string, not an object: its bytes are what was hashed.
    payload: String,
    hash: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs")
}

fn end_of(run: &Run) -> End {
    use crate::run::state::Outcome;
    End {
        status: run.status(),
        waiting_on: run.waiting_on(),
        output: match &run.outcome {
            Some(Outcome::Completed { output }) => Some(output.clone()),
            _ => None,
        },
        error_code: match &run.outcome {
            Some(Outcome::Failed { error }) => Some(error.code.clone()),
            _ => None,
        },
        usage: run.usage,
        steps: run.step,
        messages: run.messages.clone(),
    }
}

fn dollars(usd: u64) -> Amounts {
    Amounts {
        usd: Some(usd),
        ..Amounts::default()
    }
}

/// Every path through a run, by name.
fn stories() -> Vec<(&'static str, Vec<Command>)> {
    let tools = |calls: &[(&str, &str)]| vec![requested(), advance(1, 1), reply(2, 1, 1, "Let me see.", calls)];
    let with = |mut story: Vec<Command>, more: Vec<Command>| {
        story.extend(more);
        story
    };
    let in_session = Command::Request(Request {
        continues_session: true,
        metadata: serde_json::json!({"ticket": "A-1", "größe": [1, 2.5]}),
        idempotency_key: Some("key-1".into()),
        ..request()
    });
    let shown = Command::Advance {
        now: at(1),
        worker: "worker-1".into(),
        epoch: 1,
        context: Some(context(5)),
    };
    let cut_off = || tools(&[("c1", "pay")]).into_iter().chain([advance(60, 2)]);
    let resolved = |version, decision| Command::ResolveApproval {
        now: at(70),
        approval_id: ApprovalId(version),
        arguments_sha256: None,
        decision,
        by: "ada".into(),
    };
    let on_terms = |terms| {
        Command::Request(Request {
            terms: Box::new(terms),
            ..request()
        })
    };
    let priced = Terms {
        policies: Policies {
            orphaned_call: OrphanedCall::Ask,
            ..Policies::default()
        },
        budget: Budget {
            amounts: dollars(900),
            ..Budget::default()
        },
        price: Some(Price {
            input_usd_per_million: 0.5,
            output_usd_per_million: 8.0,
        }),
        prompt_bytes: 60,
    };
    vec![
        (
            "approval_allowed",
            with(
                cut_off().collect(),
                vec![
                    resolved(8, Decision::Allow),
                    advance(71, 3),
                    results(72, &[("c1", Ok("paid"))]),
                    reply(73, 2, 1, "Paid.", &[]),
                ],
            ),
        ),
        (
            "approval_edited",
            with(
                cut_off().collect(),
                vec![
                    resolved(
                        8,
                        Decision::Edit {
                            output: "receipt 7".into(),
                        },
                    ),
                    advance(71, 3),
                    reply(73, 2, 1, "Paid: receipt 7.", &[]),
                ],
            ),
        ),
        (
            "approval_denied",
            with(
                cut_off().collect(),
                vec![resolved(
                    8,
                    Decision::Deny {
                        reason: Some("too dear".into()),
                    },
                )],
            ),
        ),
        ("approval_waiting", cut_off().collect()),
        (
            "budget",
            vec![
                on_terms(priced),
                advance(1, 1),
                advance(60, 2),
                resolved(6, Decision::Allow),
                advance(71, 3),
                Command::RaiseBudget {
                    now: at(80),
                    to: dollars(2_000),
                    by: "ada".into(),
                },
                advance(81, 4),
                reply(82, 1, 2, "Worth it.", &[]),
            ],
        ),
        (
            "budget_waiting",
            vec![
                on_terms(Terms {
                    budget: Budget {
                        amounts: dollars(1),
                        ..Budget::default()
                    },
                    ..priced
                }),
                advance(1, 1),
            ],
        ),
        (
            "interrupted",
            vec![
                requested(),
                advance(1, 1),
                Command::Interrupt {
                    now: at(2),
                    worker: "worker-1".into(),
                    reason: "its execution panicked".into(),
                },
                advance(3, 2),
                reply(4, 1, 2, "Sunny.", &[]),
            ],
        ),
        ("plain", vec![requested(), advance(1, 1), reply(2, 1, 1, "Sunny.", &[])]),
        (
            "session",
            vec![in_session, shown, reply(2, 1, 1, "As I said: sunny. ☀", &[])],
        ),
        (
            "tools",
            with(
                tools(&[("c1", "lookup"), ("c2", "pay"), ("c3", "teleport")]),
                vec![
                    results(3, &[("c1", Ok("18 °C")), ("c2", Err("declined"))]),
                    reply(4, 2, 1, "18 °C.", &[]),
                ],
            ),
        ),
        (
            "client_tools",
            with(
                tools(&[("c1", "ask"), ("c2", "lookup")]),
                vec![
                    results(3, &[("c2", Ok("x"))]),
                    outputs(4, &[("c1", Ok("yes"))]),
                    advance(5, 2),
                    reply(6, 2, 1, "Done.", &[]),
                ],
            ),
        ),
        ("waiting", tools(&[("c1", "ask")])),
        (
            "retry",
            vec![
                requested(),
                advance(1, 1),
                failure(2, 1, 1, Some(4)),
                Command::RetryModelCall { now: at(4) },
                reply(5, 1, 2, "At last.", &[]),
            ],
        ),
        ("rejected", vec![requested(), advance(1, 1), failure(2, 1, 1, None)]),
        (
            "takeover",
            with(
                tools(&[("c1", "pay")]),
                vec![
                    advance(60, 2),
                    advance(120, 3),
                    reply(121, 2, 2, "I could not tell.", &[]),
                ],
            ),
        ),
        (
            "parked",
            with(
                tools(&[("c1", "lookup")]),
                vec![
                    parked_until(8, results(3, &[("c1", Ok("18 °C"))])),
                    parked_until(20, advance(8, 2)),
                    to("spare", "big", advance(20, 3)),
                    excused(21, 2, 1, 30),
                    Command::RetryModelCall { now: at(30) },
                    reply(31, 2, 2, "18 °C.", &[]),
                ],
            ),
        ),
        (
            "cancel",
            vec![
                requested(),
                advance(1, 1),
                cancel(2),
                Command::ConfirmCancel { now: at(3) },
            ],
        ),
        (
            "step_limit",
            with(
                tools(&[("c1", "lookup")]),
                vec![
                    results(3, &[("c1", Ok("1"))]),
                    reply(4, 2, 1, "", &[("c2", "lookup")]),
                    results(5, &[("c2", Ok("2"))]),
                    reply(6, 3, 1, "", &[("c3", "lookup")]),
                    results(7, &[("c3", Ok("3"))]),
                ],
            ),
        ),
    ]
}

fn record(name: &str, log: &[Event]) -> String {
    let run_id = RunId(uuid::Uuid::from_u128(0x0197_7000_0000_7000_8000_0000_0000_0001));
    let tenant = TenantId::default();
    let mut lines = vec![serde_json::to_string(&end_of(&Run::fold(log))).expect(name)];
    let mut prev = GENESIS;
    for (event, version) in log.iter().zip(1..) {
        let (time, payload) = (at(version as i64), event.payload());
        prev = chain(
            &prev,
            run_id,
            version,
            &tenant,
            event.name(),
            event.schema(),
            time,
            &payload,
        );
        let line = Line {
            run_id,
            version,
            tenant: tenant.clone(),
            name: event.name().into(),
            schema: event.schema(),
            time,
            payload,
            hash: hex(&prev),
        };
        lines.push(serde_json::to_string(&line).expect(name));
    }
    lines.join("\n") + "\n"
}

#[test]
fn every_story_has_its_recorded_log() {
    for (name, commands) in stories() {
        let path = folder().join(format!("{name}.jsonl"));
        if path.exists() {
            continue;
        }
        assert!(
            std::env::var_os("UPDATE").is_some(),
            "no log of {name}; UPDATE=1 records it"
        );
        std::fs::write(&path, record(name, &log_of(commands))).expect("the log is written");
    }
}

#[test]
fn every_recorded_log_reads_folds_and_verifies() {
    let mut logs = 0;
    for entry in std::fs::read_dir(folder()).expect("tests/logs") {
        let path = entry.expect("an entry of tests/logs").path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            logs += 1;
            verify(&path, &std::fs::read_to_string(&path).expect("a recorded log"));
        }
    }
    assert!(logs >= stories().len(), "only {logs} recorded logs");
}

fn verify(path: &Path, text: &str) {
    let at = path.display();
    let mut lines = text.lines();
    let end: End = serde_json::from_str(lines.next().unwrap_or_default()).unwrap_or_else(|e| panic!("{at}: {e}"));
    let mut run = Run::default();
    let mut prev: Hash = GENESIS;
    for line in lines {
        let line: Line = serde_json::from_str(line).unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!(line.version, run.version + 1, "{at}: a hole");
        let Line {
            run_id,
            version,
            tenant,
            name,
            schema,
            time,
            payload,
            hash,
        } = line;
        prev = chain(&prev, run_id, version, &tenant, &name, schema, time, &payload);
        assert_eq!(hex(&prev), hash, "{at}: the chain breaks at version {version}");
        let event = Event::from_stored(&name, schema, &payload).unwrap_or_else(|e| panic!("{at}: {e}"));
        run = run.evolve(&event);
        if let Event::ModelCallRequested(e) = &event {
            let (step, attempt) = (e.step, e.attempt);
            assert_eq!(next(&run), Next::CallModel { step, attempt }, "{at}: version {version}");
        }
    }
    assert_eq!(end_of(&run), end, "{at}");
}

#[test]
fn a_recorded_log_that_was_tampered_with_does_not_verify() {
    let path = folder().join("plain.jsonl");
    let text = std::fs::read_to_string(&path).expect("a recorded log");
    for (was, is) in [
        ("Sunny.", "Rainy."),
        ("worker-1", "worker-2"),
        ("\"default\"", "\"defaulu\""),
    ] {
        let (head, events) = text.split_once('\n').expect("more than one line");
        let forged = format!("{}\n{}", head.replace(was, is), events.replace(was, is));
        assert_ne!(forged, text, "{was} is not in the log");
        assert!(
            std::panic::catch_unwind(|| verify(&path, &forged)).is_err(),
            "{was} -> {is} went unseen"
        );
    }
}

/// What the recorded logs fold to, byte for byte: the same on every build of a [`STATE_VERSION`], or one build would go on
/// from another's snapshot as if it were its own.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct States {
    state_version: u32,
    sha256: std::collections::BTreeMap<String, String>,
}

#[test]
fn recorded_logs_fold_to_the_recorded_states_while_the_state_version_stands() {
    use sha2::{Digest, Sha256};
    let mut found = States {
        state_version: crate::run::state::STATE_VERSION,
        sha256: Default::default(),
    };
    for entry in std::fs::read_dir(folder()).expect("tests/logs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a recorded log");
        let fold = || {
            let read = |line: &str| {
                let line: Line = serde_json::from_str(line).expect("a line of the log");
                Event::from_stored(&line.name, line.schema, &line.payload).expect("every old event reads")
            };
            let events: Vec<Event> = text.lines().skip(1).map(read).collect();
            serde_json::to_string(&Run::fold(&events)).expect("a run is JSON")
        };
        let state = fold();
        assert_eq!(state, fold(), "a second fold differs");
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        found.sha256.insert(name, hex(&Sha256::digest(&state)));
    }
    let file = folder().join("states.json");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let recorded: Option<States> = serde_json::from_str(&text).ok();
    // New logs are added at any time; what stands is changed only together with the state's version.
    let stands = recorded.filter(|recorded| recorded.state_version == found.state_version);
    let differ: Vec<&String> = (stands.iter().flat_map(|stands| &stands.sha256))
        .filter(|(name, hash)| found.sha256.get(*name) != Some(hash))
        .map(|(name, _)| name)
        .collect();
    assert!(
        differ.is_empty(),
        "{differ:?} fold to another state than recorded: raise STATE_VERSION in src/run/state.rs"
    );
    if stands.as_ref() != Some(&found) {
        assert!(
            std::env::var_os("UPDATE").is_some(),
            "{}: record it with UPDATE=1",
            file.display()
        );
        let text = serde_json::to_string_pretty(&found).expect("JSON") + "\n";
        std::fs::write(&file, text).expect("tests/logs is writable");
    }
}
