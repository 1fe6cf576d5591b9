//! Paths, cursors, queries and methods that lead nowhere.

use reqwest::Method;
use serde_json::json;

use super::bad_input::refused;
use crate::support::{Stack, in_both_modes};

in_both_modes!(places_that_are_not_there_and_cursors_that_do_not_fit_are_refused);

async fn places_that_are_not_there_and_cursors_that_do_not_fit_are_refused(stack: &Stack) {
    let api = stack.api();
    let run = api.task(json!({"input": "[[say:here]]"})).await;
    api.ended(&run).await;
    let last = api.events(&run).await.len();
    let (nobody, no_session) = (format!("run_{}", "0".repeat(32)), format!("ses_{}", "0".repeat(32)));
    let mut table: Vec<(Method, String, u16, &str)> = vec![];
    let mut get = |path: String, status, code| table.push((Method::GET, path, status, code));
    for id in [
        nobody.as_str(),
        "run_1",
        "x",
        "run_ABCDEF00000000000000000000000000",
        "%00",
        "%ff",
        &no_session,
    ] {
        for rest in ["", "/wait", "/events", "/events/stream"] {
            get(format!("/v1/runs/{id}{rest}"), 404, "run_not_found");
        }
    }
    get("/v1/runs?agent=%00".into(), 400, "invalid_request");
    get(format!("/v1/sessions/{no_session}"), 404, "session_not_found");
    get(format!("/v1/sessions/{no_session}/messages"), 404, "session_not_found");
    for cursor in [
        "x",
        "-1",
        "1.",
        ".1",
        "1.2.3",
        "+1",
        "99999999999999999999",
        "0.1",
        "%201",
    ] {
        get(
            format!("/v1/runs/{run}/events/stream?after={cursor}"),
            400,
            "bad_cursor",
        );
        get(format!("/v1/runs/{run}/events?after={cursor}"), 400, "bad_cursor");
    }
    for beyond in [format!("{}", last + 1), format!("{}.1", last + 2), "9000".into()] {
        get(
            format!("/v1/runs/{run}/events/stream?after={beyond}"),
            400,
            "cursor_out_of_range",
        );
        get(
            format!("/v1/runs/{run}/events?after={beyond}"),
            400,
            "cursor_out_of_range",
        );
    }
    get(
        format!("/v1/runs/{run}/events?types=run.complete"),
        400,
        "unknown_event_type",
    );
    get(
        format!("/v1/runs/{run}/events/stream?types="),
        400,
        "unknown_event_type",
    );
    for query in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "colour=red"] {
        get(format!("/v1/runs/{run}/events?{query}"), 400, "invalid_request");
    }
    for query in [
        "limit=0",
        "limit=101",
        "status=done",
        "session_id=1",
        "after=x",
        "before=run_1",
        "nothing=1",
    ] {
        get(format!("/v1/runs?{query}"), 400, "invalid_request");
    }
    get(format!("/v1/runs/{run}/wait?timeout_s=61"), 400, "invalid_request");
    get(format!("/v1/runs/{run}/wait?timeout_s=-1"), 400, "invalid_request");
    get("/v1/usage?days=x".into(), 400, "invalid_request");
    get("/v1/nothing".into(), 404, "route_not_found");
    get("/".into(), 404, "route_not_found");
    get("/v1/runs/".into(), 404, "route_not_found");
    let mut post = |path: String, status, code| table.push((Method::POST, path, status, code));
    post(format!("/v1/runs/{nobody}/cancel"), 404, "run_not_found");
    post("/v1/agents".into(), 405, "method_not_allowed");
    for (method, path, status, code) in table {
        refused(api.request(method, &path), status, code, &path).await;
    }
    refused(
        api.request(Method::DELETE, &format!("/v1/runs/{run}")),
        405,
        "method_not_allowed",
        "DELETE",
    )
    .await;
    let header = api
        .request(Method::GET, &format!("/v1/runs/{run}/events/stream"))
        .header("last-event-id", "nonsense");
    refused(header, 400, "bad_cursor", "Last-Event-ID").await;
    let outputs = api.request(Method::POST, &format!("/v1/runs/{nobody}/tool_outputs"));
    let outputs = outputs.json(&json!({"outputs": [{"tool_call_id": "c", "output": "x"}]}));
    refused(outputs, 404, "run_not_found", "tool_outputs").await;
    let cancel = api
        .request(Method::POST, &format!("/v1/runs/{run}/cancel"))
        .json(&json!({"why": "x"}));
    refused(cancel, 400, "invalid_request", "cancel").await;
}
