//! Every kind of credential at every route: who is nobody gets 401, who may not gets 403, who is somebody else gets 404.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Layout, Stack, bounded, read};

const SECRET: &str = "a secret of a test, long enough for HS256";
const AUDIENCE: &str = "steadfast-tests";

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

fn claims(tenant: &str, scope: &str) -> Value {
    json!({"tenant": tenant, "scope": scope, "aud": AUDIENCE, "exp": now() + 600, "sub": "a test"})
}

fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("a token")
}

fn token(tenant: &str, scope: &str) -> String {
    signed(Algorithm::HS256, SECRET, &claims(tenant, scope))
}

/// `{"alg":"none"}` and no signature.
fn unsigned(claims: &Value) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as base64};
    let part = |value: &Value| base64.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(claims))
}

struct Route {
    method: Method,
    path: String,
    body: Option<Value>,
    scope: &'static str,
    /// It is about one object, which another tenant must not find.
    of_one: bool,
}

fn routes(run: &str, session: &str) -> Vec<Route> {
    let get = |path: String, scope, of_one| Route {
        method: Method::GET,
        path,
        body: None,
        scope,
        of_one,
    };
    let post = |path: String, body: Value, scope, of_one| Route {
        method: Method::POST,
        path,
        body: Some(body),
        scope,
        of_one,
    };
    let output = json!({"outputs": [{"tool_call_id": "c", "output": "x"}]});
    vec![
        post(
            "/v1/runs".into(),
            json!({"input": "[[say:x]]", "agent": "nobody"}),
            "runs:write",
            false,
        ),
        get("/v1/runs".into(), "runs:read", false),
        get(format!("/v1/runs/{run}"), "runs:read", true),
        get(format!("/v1/runs/{run}/wait?timeout_s=0"), "runs:read", true),
        post(format!("/v1/runs/{run}/cancel"), json!({}), "runs:write", true),
        post(format!("/v1/runs/{run}/tool_outputs"), output, "runs:write", true),
        get(format!("/v1/runs/{run}/approvals"), "runs:read", true),
        post(
            format!("/v1/runs/{run}/approvals/apr_1/resolve"),
            json!({"decision": "allow"}),
            "approvals:write",
            true,
        ),
        post(
            format!("/v1/runs/{run}/budget"),
            json!({"tokens": 1}),
            "approvals:write",
            true,
        ),
        get(format!("/v1/runs/{run}/events"), "runs:read", true),
        get(format!("/v1/runs/{run}/events/stream"), "runs:read", true),
        post("/v1/sessions".into(), json!({"metadata": 7}), "sessions:write", false),
        get("/v1/sessions".into(), "sessions:read", false),
        get(format!("/v1/sessions/{session}"), "sessions:read", true),
        get(format!("/v1/sessions/{session}/messages"), "sessions:read", true),
        get("/v1/usage".into(), "usage:read", false),
        get("/v1/agents".into(), "runs:read", false),
        get("/v1/providers".into(), "providers:read", false),
    ]
}

async fn ask(api: &Api, route: &Route, header: Option<(&str, &str)>) -> Answer {
    let mut request = api.request(route.method.clone(), &route.path);
    if let Some(body) = &route.body {
        request = request.json(body);
    }
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    Api::send(request)
        .await
        .unwrap_or_else(|error| panic!("{}: {error:?}", route.path))
}

async fn guarded() -> Stack {
    let layout = Layout::distributed()
        .env("STEADFAST_JWT_SECRET", SECRET)
        .env("STEADFAST_JWT_AUDIENCE", AUDIENCE);
    layout.start().await
}

/// A key as `steadfast keys create` makes it: (id, secret).
async fn key(stack: &Stack, args: &[&str]) -> (String, String) {
    let mut all = vec!["keys", "create", "--json", "--name", "of a test"];
    all.extend(args);
    let made = stack.cli(&all).await.succeeded();
    let made: Value = serde_json::from_str(&made.stdout).expect("a key as JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let secret = made
        .as_object()
        .expect("an object")
        .values()
        .find_map(|value| text(value).filter(|text| text.starts_with("sk_")));
    (text(&made["id"]).expect("an id"), secret.expect("a secret"))
}

#[tokio::test]
async fn nobody_gets_through_any_route_with_a_credential_that_is_not_for_it() {
    let stack = guarded().await;
    bounded(100, "the matrix", matrix(&stack)).await;
}

async fn matrix(stack: &Stack) {
    let nobody = stack.api();
    let acme = nobody.as_bearer(token("acme", "*"));
    let run = acme.task(json!({"input": "[[say:ours]]"})).await;
    let ended = acme.ended(&run).await;
    let session = ended["session_id"].as_str().expect("a session").to_owned();
    let routes = routes(&run, &session);

    let (revoked_id, revoked) = key(stack, &["--tenant", "acme"]).await;
    stack.cli(&["keys", "revoke", &revoked_id]).await.succeeded();
    let mut expired = claims("acme", "*");
    expired["exp"] = (now() - 3600).into();
    let without = |field: &str| {
        let mut claims = claims("acme", "*");
        claims.as_object_mut().expect("an object").remove(field);
        signed(Algorithm::HS256, SECRET, &claims)
    };
    let with = |field: &str, value: Value| {
        let mut claims = claims("acme", "*");
        claims[field] = value;
        signed(Algorithm::HS256, SECRET, &claims)
    };
    let unknown = format!("sk_{}_{}", "0".repeat(32), "A".repeat(43));
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let bad: Vec<(&str, (&str, String))> = vec![
        ("garbage", bearer("garbage")),
        ("an empty token", bearer("")),
        ("another scheme", ("authorization", "Basic YTpi".into())),
        ("an expired token", bearer(&signed(Algorithm::HS256, SECRET, &expired))),
        (
            "another secret",
            bearer(&signed(
                Algorithm::HS256,
                "another secret of the same good length!",
                &claims("acme", "*"),
            )),
        ),
        (
            "another algorithm",
            bearer(&signed(Algorithm::HS512, SECRET, &claims("acme", "*"))),
        ),
        ("no algorithm", bearer(&unsigned(&claims("acme", "*")))),
        ("no expiry", bearer(&without("exp"))),
        ("an expiry that is no number", bearer(&with("exp", json!("never")))),
        ("no audience", bearer(&without("aud"))),
        ("another audience", bearer(&with("aud", json!("somebody else")))),
        ("not valid yet", bearer(&with("nbf", json!(now() + 3600)))),
        ("no tenant", bearer(&without("tenant"))),
        ("a tenant that is none", bearer(&with("tenant", json!("../acme")))),
        ("an unknown key", bearer(&unknown)),
        ("an unknown key in its own header", ("x-api-key", unknown.clone())),
        ("a revoked key", bearer(&revoked)),
    ];
    let scopes = [
        "runs:write",
        "runs:read",
        "approvals:write",
        "sessions:write",
        "sessions:read",
        "usage:read",
        "providers:read",
    ];
    for route in &routes {
        let what = format!("{} {}", route.method, route.path);
        let answer = ask(&nobody, route, None).await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate").is_some()),
            (401, true),
            "{what} without credential"
        );
        answer.problem(401);
        for (kind, (name, value)) in &bad {
            let answer = ask(&nobody, route, Some((name, value))).await;
            assert_eq!(
                (answer.status, answer.header("www-authenticate").is_some()),
                (401, true),
                "{what} with {kind}"
            );
        }
        let others = scopes
            .into_iter()
            .filter(|scope| *scope != route.scope)
            .collect::<Vec<_>>()
            .join(" ");
        for scope in ["", others.as_str(), "admin"] {
            let answer = ask(&nobody.as_bearer(token("acme", scope)), route, None).await;
            assert_eq!(
                answer.problem(403)["code"],
                "missing_scope",
                "{what} with the scopes {scope:?}"
            );
        }
        let foreign = ask(&nobody.as_bearer(token("globex", "*")), route, None).await;
        if route.of_one {
            foreign.problem(404);
        }
        for id in [&run, &session] {
            assert!(
                foreign.status == 404 || !foreign.text.contains(id.as_str()),
                "{what} shows {id} to another tenant"
            );
        }
        // And the one scope it needs opens it, as far as the door goes.
        let (_, secret) = key(stack, &["--tenant", "acme", "--scopes", route.scope]).await;
        if ["runs:read", "usage:read", "providers:read"].contains(&route.scope) {
            assert_eq!(
                ask(&nobody, route, Some(("x-api-key", &secret))).await.status,
                200,
                "{what} with its own scope"
            );
        }
        let own = ask(&nobody.as_bearer(token("acme", route.scope)), route, None).await;
        assert!(
            ![401, 403].contains(&own.status) && own.status < 500,
            "{what}: {}",
            own.text
        );
    }
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            nobody.get(open).await.status,
            200,
            "{open} is for those who run the installation"
        );
    }
    nobody.get("/v1/nothing").await.problem(404);
}

#[tokio::test]
async fn tenants_never_meet() {
    let stack = guarded().await;
    bounded(60, "two tenants", async {
        let (_, secret) = key(&stack, &["--tenant", "globex"]).await;
        let (acme, globex) = (stack.api().as_bearer(token("acme", "*")), stack.api().as_bearer(secret));
        let session = acme.post("/v1/sessions", &json!({})).await.expect(201)["id"].clone();
        // The same key of two tenants is two keys.
        let body = json!({"input": "[[say:mine]]"});
        let (ours, theirs) = (
            acme.post_with_key("/v1/runs", "k", &body).await,
            globex.post_with_key("/v1/runs", "k", &body).await,
        );
        let (ours, theirs) = (ours.expect(202)["id"].clone(), theirs.expect(202)["id"].clone());
        assert_ne!(ours, theirs);
        for (api, run) in [(&acme, &ours), (&globex, &theirs)] {
            let run = run.as_str().expect("an id");
            api.ended(run).await;
            let seen = read(api.follow(run, None).await.expect("a stream")).await;
            seen.assert_sound();
            while api.listed_runs().await != [run] {}
        }
        let foreign = globex
            .post("/v1/runs", &json!({"input": "x", "session_id": session}))
            .await;
        assert_eq!(foreign.problem(404)["code"], "session_not_found");
        // One run each: whoever counted the other's too would see twice as much.
        let spent = globex.run(theirs.as_str().expect("an id")).await["usage"]["output_tokens"].clone();
        let usage = globex.get("/v1/usage").await.expect(200);
        let rows = usage["data"].as_array().expect("rows");
        let output: u64 = rows.iter().filter_map(|row| row["output_tokens"].as_u64()).sum();
        assert!(
            spent.as_u64() > Some(0) && Some(output) == spent.as_u64(),
            "{spent} of {usage}"
        );
    })
    .await;
    stack.check_settled().await;
}
