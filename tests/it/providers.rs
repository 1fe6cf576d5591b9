//! T15: providers in every kind of trouble. The model server's own ledger says what was called and when.

use std::time::Duration;

use serde_json::{Value, json};
use steadfast_tests::{ScriptedModel, Settings, fresh_prefix};

use crate::support::{Api, Layout, Stack, Transcript, bounded, read};

/// How often is looked for what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of the clocks of two processes on one machine, as milliseconds.
const ROUNDING_MS: u64 = 50;

/// Fast timeouts, so that a model that hangs is met often.
const TIGHT: &str = "[providers.default]\nfirst_token_seconds = 2\nbetween_tokens_seconds = 2\n\
                     [providers.spare]\nbase_url = \"{spare}\"\n";
const CHAINED: &str = "instructions = \"Answer.\"\ntools = [\"calculator\"]\nfallbacks = [\"spare/scripted\"]\n";

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), looking).await;
    assert!(found.is_ok(), "{what} does not happen");
}

/// What `GET /v1/providers` says of one provider, by every worker that says something.
async fn states(api: &Api, provider: &str) -> Vec<Value> {
    let listed = api.get("/v1/providers").await.expect(200);
    let rows = listed["data"].as_array().expect("a list").clone();
    rows.into_iter().filter(|row| row["provider"] == provider).collect()
}

async fn any_state(api: &Api, provider: &str, state: &str) -> bool {
    states(api, provider).await.iter().any(|row| row["state"] == state)
}

fn set_outage(model: &ScriptedModel, outage_rate: f64) {
    model.set(Settings {
        outage_rate,
        ..model.settings()
    });
}

async fn all_completed(api: &Api, runs: &[String]) {
    for run in runs {
        let ended = api.ended(run).await;
        assert_eq!(ended["status"], "completed", "{ended}");
    }
}

fn times(model: &ScriptedModel) -> Vec<u64> {
    model.ledger().iter().map(|call| call.at_ms).collect()
}

async fn watch(api: &Api, body: Value) -> Transcript {
    let seen = read(api.stream(body).await).await;
    seen.assert_sound();
    seen
}

/// Runs of before, of the time of, and with hardly any patience for attempts: none fails, and the provider is spared.
async fn outage(stack: &Stack) {
    let (api, model) = (stack.api(), stack.model());
    let text = |n: usize| format!("{} [[say:answer {n}]]", fresh_prefix());
    let mut runs = vec![api.task(json!({"input": text(0)})).await];
    all_completed(&api, &runs).await;
    set_outage(model, 1.0);
    let tries = json!({"model_attempts_max": 8});
    for n in 1..=30 {
        runs.push(api.task(json!({"input": text(n), "limits": tries})).await);
    }
    eventually("an open breaker", async || any_state(&api, "default", "open").await).await;
    // A worker that has not called yet says nothing: its breaker is closed.
    let workers = stack.workers.len().max(1);
    eventually("an open breaker at every worker", async || {
        let states = states(&api, "default").await;
        states.len() == workers && states.iter().all(|row| row["state"] != "closed")
    })
    .await;
    // Every worker has met the outage; from here on there are probes only.
    let before = model.ledger().len();
    eventually("probes", async || model.ledger().len() >= before + 2 * workers).await;
    let (probes, calls) = (times(model), model.ledger().len());
    assert!(
        calls < before + 2 * workers + 6,
        "{calls} calls, of them {before} before it opened"
    );
    if workers == 1 {
        let pauses: Vec<u64> = probes[before..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            pauses.iter().all(|pause| *pause + ROUNDING_MS >= 2_500),
            "between probes: {pauses:?} ms"
        );
    }
    let waiting = api.get("/v1/runs?status=waiting&limit=100").await.expect(200);
    assert!(
        waiting["data"].as_array().is_some_and(|waiting| !waiting.is_empty()),
        "runs wait without a slot: {waiting}"
    );
    set_outage(model, 0.0);
    all_completed(&api, &runs).await;
    eventually("closed breakers", async || any_state(&api, "default", "closed").await).await;
    let metrics = match stack.workers.first() {
        Some(worker) => reqwest_text(&format!("{}/metrics", worker.url())).await,
        None => api.get("/metrics").await.text,
    };
    for name in ["steadfast_provider_breaker_state", "steadfast_runs_parked_total"] {
        assert!(metrics.contains(name), "{name} is not exported");
    }
}

async fn reqwest_text(url: &str) -> String {
    let answer = steadfast_tests::http().get(url).send().await.expect("it answers");
    answer.text().await.expect("a text")
}

#[tokio::test]
async fn no_run_fails_by_an_outage_and_an_open_breaker_lets_probes_through_only() {
    let stack = Layout::embedded().start().await;
    bounded(150, "the outage", outage(&stack)).await;
    stack.check_settled().await;
}

#[tokio::test]
async fn no_run_fails_by_an_outage_that_two_workers_meet() {
    let stack = Layout::distributed().start().await;
    bounded(150, "the outage", outage(&stack)).await;
    stack.check_settled().await;
}

#[tokio::test]
async fn a_lonely_run_outlives_an_outage_with_its_attempts() {
    let stack = Layout::embedded().start().await;
    bounded(150, "the outage", async {
        let (api, model) = (stack.api(), stack.model());
        set_outage(model, 1.0);
        let run = api.task(json!({"input": "[[say:at last]]"})).await;
        eventually("an open breaker", async || any_state(&api, "default", "open").await).await;
        // As many tries as it may have failures, and more.
        eventually("probes", async || model.ledger().len() >= 8).await;
        set_outage(model, 0.0);
        assert_eq!(api.ended(&run).await["output"], "at last");
        let seen = api.replay(&run).await;
        seen.assert_sound();
        let calls = model.ledger().len();
        assert_eq!(
            seen.count("model_call.requested"),
            calls,
            "every call is in the log, and no other"
        );
    })
    .await;
    stack.check_settled().await;
}

#[tokio::test]
async fn patience_that_a_model_asks_for_is_given_by_every_run() {
    let stack = Layout::embedded().start().await;
    bounded(120, "the pause", async {
        let (api, model) = (stack.api(), stack.model());
        let text = format!("{} [[fault:429:4*1]] [[say:at last]]", fresh_prefix());
        let limited = api
            .task(json!({"input": text, "limits": {"model_attempts_max": 1}}))
            .await;
        eventually("a pause", async || {
            states(&api, "default")
                .await
                .iter()
                .any(|row| row["paused_until"].is_string())
        })
        .await;
        let mut runs = vec![limited.clone()];
        for n in 0..10 {
            runs.push(api.task(json!({"input": format!("[[say:{n}]]")})).await);
        }
        all_completed(&api, &runs).await;
        let times = times(model);
        assert!(
            times[1..].iter().all(|at| at + ROUNDING_MS >= times[0] + 4_000),
            "Retry-After was 4 s, the calls came at {times:?} ms"
        );
        assert_eq!(model.stats().kind("error_429"), 1);
        let seen = api.replay(&limited).await;
        assert_eq!(
            seen.only("model_call.failed")["excused"],
            true,
            "it counts against no limit"
        );
    })
    .await;
    stack.check_settled().await;
}

#[tokio::test]
async fn retries_stay_within_their_budget_however_many_are_wanted() {
    let stack = Layout::embedded().start().await;
    bounded(150, "the retries", async {
        let (api, model) = (stack.api(), stack.model());
        let mut runs = vec![];
        for n in 0..40 {
            let text = format!("{} {n} [[fault:malformed*1]] [[say:{n}]]", fresh_prefix());
            runs.push(api.task(json!({ "input": text })).await);
        }
        all_completed(&api, &runs).await;
        let (mut requests, mut retries) = (0.0, 0.0);
        let ledger = model.ledger();
        for call in &ledger {
            if call.kind == "malformed" {
                requests += 1.0;
            } else {
                retries += 1.0;
            }
            let seconds = (call.at_ms - ledger[0].at_ms + ROUNDING_MS) as f64 / 1_000.0;
            // A tenth of the requests, 20 saved up, and one a second.
            let allowed = 20.0 + requests / 10.0 + seconds;
            assert!(
                retries <= allowed,
                "{retries} retries of {requests} requests after {seconds} s"
            );
        }
        assert_eq!((requests, retries), (40.0, 40.0));
    })
    .await;
    stack.check_settled().await;
}

#[tokio::test]
async fn a_chain_goes_on_at_its_next_link_with_its_tools_and_says_so() {
    let layout = Layout::embedded().config(TIGHT).agent("assistant", CHAINED);
    let stack = layout.start().await;
    bounded(150, "the fallback", async {
        let (api, model, spare) = (stack.api(), stack.model(), stack.spare());
        let links = |seen: &Transcript| -> Vec<(String, String)> {
            let asked = seen.events().filter(|frame| frame.name == "model_call.requested");
            let text = |data: &Value, key: &str| data[key].as_str().unwrap_or_default().to_owned();
            asked
                .map(|frame| (text(&frame.data(), "provider"), text(&frame.data(), "model")))
                .collect()
        };
        let (first, second) = (
            ("default".into(), "default".into()),
            ("spare".into(), "scripted".into()),
        );

        // Tries at one link are used up; what was shown of them is taken back.
        set_cut(model, 1.0);
        let task = r#"[[tool:calculator {"expression":"6*7"}]] [[say:it is forty two]]"#;
        let seen = watch(&api, json!({"input": format!("[[tokens:9]] {}", fresh_prefix())})).await;
        seen.only("run.completed");
        assert_eq!(links(&seen)[..3], [first.clone(), first.clone(), second.clone()]);
        assert!(
            seen.count("step.reset") > 0,
            "text of the first link was shown: {:?}",
            seen.names()
        );
        set_cut(model, 0.0);

        // An open breaker: nothing is tried there, and the tools are the same.
        set_outage(model, 1.0);
        for n in 0..24 {
            api.task(json!({"input": format!("[[say:{n}]]")})).await;
        }
        eventually("an open breaker", async || any_state(&api, "default", "open").await).await;
        let before = spare.ledger().len();
        let seen = watch(&api, json!({"input": task})).await;
        assert_eq!(seen.only("run.completed")["output"], "it is forty two");
        assert_eq!(seen.count("tool_call.succeeded"), 1);
        assert_eq!(links(&seen).last(), Some(&second));
        assert!(spare.ledger()[before..].iter().all(|call| call.model == "scripted"));

        // Both are away: it waits for either.
        set_outage(spare, 1.0);
        let mut runs = vec![];
        for n in 0..24 {
            runs.push(api.task(json!({"input": format!("[[say:both {n}]]")})).await);
        }
        eventually("two open breakers", async || any_state(&api, "spare", "open").await).await;
        set_outage(spare, 0.0);
        all_completed(&api, &runs).await;
    })
    .await;
}

fn set_cut(model: &ScriptedModel, cut_rate: f64) {
    model.set(Settings {
        cut_rate,
        ..model.settings()
    });
}

#[tokio::test]
async fn a_model_that_falls_silent_is_left_and_the_call_is_made_again() {
    let stack = Layout::embedded().config(TIGHT).start().await;
    bounded(120, "the silence", async {
        let api = stack.api();
        let one = async |fault: &str| {
            let text = format!("{} [[fault:{fault}*1]] [[say:one two three four]]", fresh_prefix());
            let seen = watch(&api, json!({ "input": text })).await;
            assert_eq!(seen.only("run.completed")["output"], "one two three four", "{fault}");
            assert_eq!(seen.only("model_call.failed")["class"], "timeout", "{fault}");
            assert_eq!(seen.count("step.reset") > 0, fault == "hang_mid");
        };
        tokio::join!(one("hang"), one("hang_mid"));
    })
    .await;
    stack.check_settled().await;
}

#[tokio::test]
async fn a_model_is_asked_by_no_more_at_a_time_than_it_has_places_and_everyone_gets_a_turn() {
    let config = "[providers.default]\nconcurrency_max = 2\n[worker]\ncalls_per_tenant_max = 3\n";
    let slow = Settings {
        ttft_ms: 200,
        ..Settings::default()
    };
    let stack = Layout::embedded().model(slow).config(config).start().await;
    bounded(120, "the queue for two places", async {
        let api = stack.api();
        let mut runs = vec![];
        for n in 0..30 {
            runs.push(api.task(json!({"input": format!("[[say:{n}]]")})).await);
        }
        all_completed(&api, &runs).await;
        assert_eq!(stack.model().stats().max_in_flight, 2);
    })
    .await;
    stack.check_settled().await;
}

#[tokio::test]
async fn an_agent_with_a_provider_nobody_knows_stops_the_start_with_its_place() {
    let stack = Layout::embedded().start().await;
    let agents = stack.file("strange");
    std::fs::create_dir_all(&agents).expect("a place to write");
    std::fs::write(
        agents.join("a.toml"),
        "instructions = \"x\"\nfallbacks = [\"far/big\"]\n",
    )
    .expect("a file");
    let agents = agents.to_str().expect("a path");
    let data = stack.file("other").display().to_string();
    let ran = stack
        .cli(&["dev", "--port", "0", "--agents", agents, "--data-dir", &data])
        .await;
    let ran = ran.exited(2);
    assert!(
        ran.stderr
            .contains("a.toml:2:14: fallbacks[0]: \"far\" is not a provider")
            && ran.stderr.contains("[providers.far]"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn an_agent_with_a_model_nobody_offers_stops_dev_and_worker_with_its_place() {
    let stack = Layout::embedded().start().await;
    let agents = stack.file("strange");
    std::fs::create_dir_all(&agents).expect("a place to write");
    std::fs::write(
        agents.join("a.toml"),
        "instructions = \"x\"\nmodel = \"scripted-servant\"\n",
    )
    .expect("a file");
    let config = stack.file("strange.toml").display().to_string();
    std::fs::write(&config, format!("agents = {:?}\n", agents.display().to_string())).expect("a file");
    let data = stack.file("other").display().to_string();
    let dev = ["dev", "--port", "0", "--data-dir", &data, "--config", &config];
    let worker = ["worker", "--port", "0", "--config", &config];
    for command in [dev.as_slice(), &worker] {
        let ran = stack.cli(command).await.exited(2);
        let place = "a.toml:2:9: model: \"scripted-servant\": the provider offers no such model";
        assert!(ran.stderr.contains(place), "{}", ran.stderr);
    }
    let ran = stack.cli(&["doctor", "--config", &config]).await.exited(1);
    assert!(ran.stdout.contains("a.toml:2:9"), "{}", ran.stdout);
}
