//! What people decide for a run: `steadfast runs approvals`, `approve`, `deny`, `budget`.

use serde_json::{Map, Value, json};

use super::runs::{checked, text};
use crate::{
    args::Amounts,
    client::Client,
    error::Failure,
    output::{self, clean, excerpt, table},
};

/// Characters of a tool's arguments that are shown in a list.
const ARGUMENTS_CHARS_MAX: usize = 60;

/// What was asked about a run, and answered.
pub async fn approvals(client: &Client, id: &str, json: bool) -> Result<(), Failure> {
    let list = client.get(&format!("/v1/runs/{}/approvals", checked(id)?), &[]).await?;
    if json {
        output::json(&list)
    } else {
        output::write(&rows(&list))
    }
}

/// Answers one question, and prints how the run stands then.
pub async fn resolve(
    client: &Client,
    id: &str,
    approval: Option<String>,
    decision: Value,
    json: bool,
) -> Result<(), Failure> {
    let run_id = checked(id)?;
    let list = client.get(&format!("/v1/runs/{run_id}/approvals"), &[]).await?;
    let asked = pick(&list, approval.as_deref())?;
    let mut body = decision;
    // What was looked at is what is decided on.
    if let Some(hash) = asked["arguments_sha256"].as_str() {
        body["arguments_sha256"] = hash.into();
    }
    let approval_id = text(&asked["id"]);
    let path = format!("/v1/runs/{run_id}/approvals/{approval_id}/resolve");
    let run = client.post(&path, &body).await?;
    if json {
        return output::json(&run);
    }
    output::line(&format!(
        "{approval_id} of {id} is decided; the run is {}",
        text(&run["status"])
    ))
}

/// The question that is meant: the one that is named, or the only one that is open.
fn pick<'v>(list: &'v Value, named: Option<&str>) -> Result<&'v Value, Failure> {
    let all = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(named) = named {
        let found = all.iter().find(|approval| approval["id"] == named);
        return found
            .ok_or_else(|| Failure::new(format!("this run has asked for no approval {named:?}\n{}", rows(list))));
    }
    let open: Vec<&Value> = all.iter().filter(|approval| approval["status"] == "pending").collect();
    match open.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::new("this run waits for no approval")),
        _ => Err(Failure::new(format!(
            "this run waits for several approvals; name one\n{}",
            rows(list)
        ))),
    }
}

pub async fn budget(client: &Client, id: &str, amounts: &Amounts, json: bool) -> Result<(), Failure> {
    let mut body = Map::new();
    let whole = [
        ("steps", amounts.steps),
        ("tokens", amounts.tokens),
        ("seconds", amounts.seconds),
    ];
    for (name, amount) in whole {
        if let Some(amount) = amount {
            body.insert(name.into(), amount.into());
        }
    }
    if let Some(usd) = amounts.usd {
        body.insert("usd".into(), json!(usd));
    }
    let path = format!("/v1/runs/{}/budget", checked(id)?);
    let run = client.post(&path, &Value::Object(body)).await?;
    if json {
        return output::json(&run);
    }
    output::line(&format!(
        "{id} has a budget of {}; it is {}",
        shown(&run["budget"]),
        text(&run["status"])
    ))
}

/// `100000 tokens, 0.5 usd`.
pub fn shown(budget: &Value) -> String {
    let amount = |name: &&str| Some(format!("{} {name}", budget[*name].as_number()?));
    let amounts: Vec<String> = ["steps", "tokens", "usd", "seconds"]
        .iter()
        .filter_map(amount)
        .collect();
    amounts.join(", ")
}

/// What an approval asks, in one line.
pub fn question(approval: &Value) -> String {
    let call = &approval["tool_call"];
    if call.is_object() {
        let arguments = excerpt(call["arguments"].as_str().unwrap_or_default(), ARGUMENTS_CHARS_MAX);
        return format!("run {}({arguments}) again? a crash cut it off", text(&call["name"]));
    }
    let (step, attempt) = (&approval["step"], &approval["attempt"]);
    format!("repeat the model call of step {step}? a crash took the outcome of attempt {attempt}")
}

fn rows(list: &Value) -> String {
    let approvals = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if approvals.is_empty() {
        return "no approvals\n".into();
    }
    let row = |approval: &Value| {
        let decision = approval["decision"].as_str().map(clean).unwrap_or_default();
        vec![
            text(&approval["id"]),
            text(&approval["status"]),
            decision,
            text(&approval["by"]),
            question(approval),
        ]
    };
    let rows: Vec<Vec<String>> = approvals.iter().map(row).collect();
    table(&["id", "status", "decision", "by", "question"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(id: &str, status: &str) -> Value {
        json!({"id": id, "status": status, "about": "cut_off_tool", "by": null,
            "tool_call": {"id": "c1", "name": "pay", "arguments": "{\"eur\": 5}"}, "arguments_sha256": "ab"})
    }

    #[test]
    fn the_only_open_question_is_meant_where_none_is_named() {
        let list = json!({"data": [approval("apr_8", "granted"), approval("apr_12", "pending")]});
        assert!(pick(&list, None).is_ok_and(|asked| asked["id"] == "apr_12"));
        assert!(pick(&list, Some("apr_8")).is_ok_and(|asked| asked["id"] == "apr_8"));
        assert!(pick(&list, Some("apr_9")).is_err());
        assert!(pick(&json!({"data": []}), None).is_err());
        let two = json!({"data": [approval("apr_8", "pending"), approval("apr_12", "pending")]});
        assert!(pick(&two, None).is_err());
    }

    #[test]
    fn a_list_says_what_is_asked_and_a_budget_what_it_holds() {
        let rows = rows(&json!({"data": [approval("apr_8", "pending")]}));
        assert!(rows.contains("run pay({\"eur\": 5}) again?"), "{rows}");
        assert_eq!(
            shown(&json!({"tokens": 100, "usd": 0.5, "on_breach": "ask"})),
            "100 tokens, 0.5 usd"
        );
    }
}
