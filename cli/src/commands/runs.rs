//! `steadfast runs`: the runs of a running Steadfast.

use std::process::ExitCode;

use serde_json::{Value, json};
use steadfast::run::RunId;

use super::{people, run::watch};
use crate::{
    args::{Runs, Server},
    client::{Client, follow::Start},
    config::Settings,
    error::Failure,
    output::{self, clean, excerpt, table},
};

const INPUT_CHARS_MAX: usize = 50;

pub async fn runs(settings: &Settings, command: Runs) -> Result<ExitCode, Failure> {
    match command {
        Runs::List {
            status,
            agent,
            session,
            limit,
            json,
            server,
        } => {
            let limit = limit.to_string();
            let mut query = vec![("limit", limit.as_str())];
            let filters = [("status", &status), ("agent", &agent), ("session_id", &session)];
            query.extend(
                filters
                    .iter()
                    .filter_map(|(name, value)| Some((*name, value.as_deref()?))),
            );
            let list = client(settings, &server)?.get("/v1/runs", &query).await?;
            if json {
                output::json(&list)?
            } else {
                output::write(&rows(&list))?
            }
        }
        Runs::Show { id, json, server } => {
            let client = client(settings, &server)?;
            let run = client.get(&format!("/v1/runs/{}", checked(&id)?), &[]).await?;
            if json {
                output::json(&run)?
            } else {
                let reason = cancel_reason(&client, &id, &run).await?;
                output::write(&one(&run, reason.as_deref()))?
            }
        }
        Runs::Tail {
            id,
            after,
            json,
            server,
        } => {
            let client = client(settings, &server)?;
            checked(&id)?;
            return watch(&client, Start::Run { id: &id, after }, json).await;
        }
        Runs::Approvals { id, json, server } => {
            people::approvals(&client(settings, &server)?, &id, json).await?;
        }
        Runs::Approve {
            id,
            approval,
            output,
            json,
            server,
        } => {
            let decision = match output {
                Some(output) => json!({"decision": "edit", "output": output}),
                None => json!({"decision": "allow"}),
            };
            people::resolve(&client(settings, &server)?, &id, approval, decision, json).await?;
        }
        Runs::Deny {
            id,
            approval,
            reason,
            json,
            server,
        } => {
            let decision = json!({"decision": "deny", "reason": reason});
            people::resolve(&client(settings, &server)?, &id, approval, decision, json).await?;
        }
        Runs::Budget {
            id,
            amounts,
            json,
            server,
        } => people::budget(&client(settings, &server)?, &id, &amounts, json).await?,
        Runs::Cancel {
            id,
            reason,
            json,
            server,
        } => {
            let body = reason.map_or_else(|| json!({}), |reason| json!({"reason": reason}));
            let run = client(settings, &server)?
                .post(&format!("/v1/runs/{}/cancel", checked(&id)?), &body)
                .await?;
            match run["status"].as_str() {
                _ if json => output::json(&run)?,
                Some("cancelled") => output::line(&format!("{id} is cancelled"))?,
                _ => output::line(&format!(
                    "{id} was asked to stop; its worker lets go of what it is doing first"
                ))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn client(settings: &Settings, server: &Server) -> Result<Client, Failure> {
    Client::new(settings.client(server.url.as_deref(), server.api_key.as_deref()))
}

/// An id becomes part of a path: nothing but an id may.
pub fn checked(id: &str) -> Result<RunId, Failure> {
    id.parse()
        .map_err(|error| Failure::new(format!("{error}; `steadfast runs list` shows yours")))
}

pub fn text(value: &Value) -> String {
    clean(value.as_str().unwrap_or_default())
}

fn rows(list: &Value) -> String {
    let runs = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if runs.is_empty() {
        return "no runs\n".into();
    }
    let row = |run: &Value| {
        let input = excerpt(run["input"].as_str().unwrap_or_default(), INPUT_CHARS_MAX);
        vec![
            text(&run["id"]),
            text(&run["status"]),
            text(&run["agent"]),
            seconds(&run["created_at"]),
            input,
        ]
    };
    let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
    let mut shown = table(&["id", "status", "agent", "created", "input"], &rows);
    if list["has_more"] == true {
        shown += "(there are more: --limit, up to 100)\n";
    }
    shown
}

/// A time to the second: `2026-01-31T12:00:00Z`.
fn seconds(time: &Value) -> String {
    let time = text(time);
    time.split_once('.')
        .map_or_else(|| time.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// Why a cancelled run was: the run itself does not say, its last event does.
async fn cancel_reason(client: &Client, id: &str, run: &Value) -> Result<Option<String>, Failure> {
    if run["status"] != "cancelled" {
        return Ok(None);
    }
    let before = run["version"]
        .as_u64()
        .unwrap_or_default()
        .saturating_sub(1)
        .to_string();
    let query = [("after", before.as_str()), ("types", "run.cancelled")];
    let events = client.get(&format!("/v1/runs/{id}/events"), &query).await?;
    Ok(events["data"][0]["data"]["reason"].as_str().map(clean))
}

fn one(run: &Value, cancel_reason: Option<&str>) -> String {
    let mut shown = String::new();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            shown += &format!("{name:<9} {value}\n");
        }
    };
    field("id", text(&run["id"]));
    field("status", text(&run["status"]));
    field("session", text(&run["session_id"]));
    field("agent", format!("{} ({})", text(&run["agent"]), text(&run["model"])));
    field("created", seconds(&run["created_at"]));
    field("ended", seconds(&run["ended_at"]));
    field("events", run["version"].to_string());
    let usage = &run["usage"];
    field(
        "tokens",
        format!("{} in, {} out", usage["input_tokens"], usage["output_tokens"]),
    );
    if let Some(cost) = usage["cost_microusd"].as_f64().filter(|cost| *cost > 0.0) {
        field("cost", format!("{:.6} USD", cost / 1e6));
    }
    if run["budget"].is_object() {
        field("budget", people::shown(&run["budget"]));
    }
    match run["waiting_on"]["type"].as_str() {
        Some("tool_outputs") => {
            for call in run["waiting_on"]["tool_calls"].as_array().into_iter().flatten() {
                let (name, arguments) = (text(&call["name"]), text(&call["arguments"]));
                field(
                    "waiting",
                    format!("for the output of {name}({arguments}), call {}", text(&call["id"])),
                );
            }
        }
        Some("approval") => {
            for approval in run["waiting_on"]["approvals"].as_array().into_iter().flatten() {
                let asked = people::question(approval);
                field("waiting", format!("for a decision, {}: {asked}", text(&approval["id"])));
            }
        }
        Some("budget") => {
            let on = &run["waiting_on"];
            let amounts = format!("{} spent of {}, {} needed", on["spent"], on["budget"], on["needed"]);
            field(
                "waiting",
                format!("for a larger budget of {}: {amounts}", text(&on["limit"])),
            );
        }
        Some("timer") => field("waiting", format!("until {}", text(&run["waiting_on"]["until"]))),
        _ => {}
    }
    if run["error"].is_object() {
        field(
            "error",
            format!("{}: {}", text(&run["error"]["code"]), text(&run["error"]["message"])),
        );
    }
    if let Some(reason) = cancel_reason {
        field("reason", reason.into());
    }
    if let Some(output) = run["output"].as_str() {
        shown += &format!("\n{}\n", clean(output));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_run_says_what_for() {
        let call = json!({"id": "call_1", "name": "ask", "arguments": "{}"});
        let run = json!({"id": "run_1", "status": "waiting", "usage": {"input_tokens": 1, "output_tokens": 2},
            "waiting_on": {"type": "tool_outputs", "tool_calls": [call]}, "created_at": "2026-01-31T12:00:00.123456Z"});
        let shown = one(&run, None);
        assert!(
            shown.contains("waiting   for the output of ask({}), call call_1"),
            "{shown}"
        );
        assert!(shown.contains("created   2026-01-31T12:00:00Z\n"), "{shown}");
    }

    #[test]
    fn only_an_id_becomes_part_of_a_path() {
        assert!(checked("run_../../keys").is_err());
        assert!(checked("run_019a0000000070008000000000000001").is_ok());
    }
}
