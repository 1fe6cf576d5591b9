//! Who is let in, as whom, and to what.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Json, Router, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use steadfast::run::{RunId, SessionId, TenantId};

use super::{
    house::{Answer, House, serve_router},
    keys::{AUDIENCE, SECRET, claims, ec_key, in_seconds, key_set, rsa_key, signed, token, unsigned},
};
use crate::{GatewayLimits, Identity, JwtConfig, Secret, clock, new_api_key, routes};

async fn house() -> House {
    let jwt = JwtConfig::shared_secret(&Secret::new(SECRET), AUDIENCE).expect("a good secret");
    House::with(
        Identity::Required {
            jwt: Some(jwt),
            api_keys: true,
        },
        GatewayLimits::default(),
    )
    .await
}

async fn ask(house: &House, method: &str, path: &str, token: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    house.call_with(method, path, &[("Authorization", &bearer)], body).await
}

fn paths() -> Vec<String> {
    let id = |path: &str| {
        let id = if path.contains("sessions") {
            SessionId::default().to_string()
        } else {
            RunId::default().to_string()
        };
        path.replace("{id}", &id).replace("{approval_id}", "apr_1")
    };
    routes::endpoints().iter().map(|endpoint| id(endpoint.path)).collect()
}

/// Every endpoint, asked with every method it may have: each is guarded, however the table grows.
async fn everywhere(house: &House, headers: &[(&str, &str)], check: impl Fn(&Answer)) {
    for path in paths() {
        let mut guarded = 0;
        for method in ["GET", "POST"] {
            let answer = house.call_with(method, &path, headers, "{}").await;
            if answer.status != 405 {
                check(&answer);
                guarded += 1;
            }
        }
        assert_eq!(
            guarded,
            paths().iter().filter(|other| **other == path).count(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn no_route_of_the_api_is_served_without_identity() {
    let house = house().await;
    everywhere(&house, &[], |answer| {
        answer.is_problem(401, "unauthenticated");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    })
    .await;
    let expired = format!("Bearer {}", token(&claims(json!({"exp": in_seconds(-120)}))));
    everywhere(&house, &[("Authorization", &expired)], |answer| {
        answer.is_problem(401, "invalid_credential")
    })
    .await;
    let powerless = format!("Bearer {}", token(&claims(json!({"scope": "billing:read"}))));
    everywhere(&house, &[("Authorization", &powerless)], |answer| {
        answer.is_problem(403, "missing_scope")
    })
    .await;
}

#[tokio::test]
async fn another_tenants_run_and_session_do_not_exist() {
    let house = house().await;
    let (acme, other) = (token(&claims(json!({}))), token(&claims(json!({"tenant": "other"}))));
    let run = ask(&house, "POST", "/v1/runs", &acme, r#"{"input":"a"}"#).await;
    assert_eq!(run.status, 202, "{run:?}");
    let (run_id, session_id) = (
        run.json["id"].as_str().expect("an id"),
        run.json["session_id"].as_str().expect("an id"),
    );
    for endpoint in routes::endpoints() {
        let id = if endpoint.path.contains("sessions") {
            session_id
        } else {
            run_id
        };
        if !endpoint.path.contains("{id}") {
            continue;
        }
        let path = endpoint.path.replace("{id}", id).replace("{approval_id}", "apr_1");
        for method in ["GET", "POST"] {
            let body = if path.ends_with("tool_outputs") {
                r#"{"outputs":[]}"#
            } else if path.ends_with("resolve") {
                r#"{"decision":"allow"}"#
            } else {
                "{}"
            };
            let answer = ask(&house, method, &path, &other, body).await;
            assert!(
                [404, 405].contains(&answer.status.as_u16()),
                "{method} {path}: {answer:?}"
            );
        }
    }
    let body = json!({"input": "a", "session_id": session_id}).to_string();
    ask(&house, "POST", "/v1/runs", &other, &body)
        .await
        .is_problem(404, "session_not_found");
    assert_eq!(
        ask(&house, "GET", &format!("/v1/runs/{run_id}"), &acme, "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_scope_allows_what_it_says_and_no_more() {
    let house = house().await;
    let reader = token(&claims(json!({"scope": "runs:read sessions:read"})));
    assert_eq!(ask(&house, "GET", "/v1/runs", &reader, "").await.status, 200);
    assert_eq!(ask(&house, "GET", "/v1/sessions", &reader, "").await.status, 200);
    let refused = ask(&house, "POST", "/v1/runs", &reader, r#"{"input":"a"}"#).await;
    refused.is_problem(403, "missing_scope");
    assert!(refused.header("www-authenticate").contains("runs:write"));
    ask(&house, "GET", "/v1/usage", &reader, "")
        .await
        .is_problem(403, "missing_scope");
}

#[tokio::test]
async fn only_tokens_that_are_right_in_every_way_are_taken() {
    let house = house().await;
    let (hs, right) = (EncodingKey::from_secret(SECRET.as_bytes()), claims(json!({})));
    assert_eq!(ask(&house, "GET", "/v1/agents", &token(&right), "").await.status, 200);
    let lenient = claims(json!({"exp": in_seconds(-10)}));
    assert_eq!(
        ask(&house, "GET", "/v1/agents", &token(&lenient), "").await.status,
        200,
        "clocks may differ a little"
    );
    let changed = |changes: Value| token(&claims(changes));
    let signature_cut = token(&right)
        .rsplit_once('.')
        .map(|(rest, _)| format!("{rest}."))
        .expect("three parts");
    let bad = [
        ("no algorithm", unsigned(&json!({"alg": "none"}), &right)),
        (
            "no algorithm, spelled otherwise",
            unsigned(&json!({"alg": "nOnE", "typ": "JWT"}), &right),
        ),
        ("no signature", signature_cut),
        (
            "another secret",
            signed(
                Algorithm::HS256,
                None,
                &EncodingKey::from_secret(b"another secret, also long enough"),
                &right,
            ),
        ),
        (
            "another algorithm of the family",
            signed(Algorithm::HS512, None, &hs, &right),
        ),
        (
            "a key of another family",
            signed(Algorithm::ES256, Some("ec"), &ec_key(), &right),
        ),
        ("expired", changed(json!({"exp": in_seconds(-120)}))),
        ("no exp", changed(json!({"exp": null}))),
        ("exp as text", changed(json!({"exp": in_seconds(300).to_string()}))),
        ("exp as a list", changed(json!({"exp": [in_seconds(300)]}))),
        ("exp below zero", changed(json!({"exp": -1}))),
        ("nbf to come", changed(json!({"nbf": in_seconds(120)}))),
        ("nbf as text", changed(json!({"nbf": "0"}))),
        ("no audience", changed(json!({"aud": null}))),
        ("another audience", changed(json!({"aud": "someone-else"}))),
        ("audience as a number", changed(json!({"aud": 7}))),
        ("no tenant", changed(json!({"tenant": null}))),
        ("tenant as a number", changed(json!({"tenant": 7}))),
        ("a tenant that is none", changed(json!({"tenant": "../acme"}))),
        ("scope as a list", changed(json!({"scope": ["*"]}))),
        ("too long", changed(json!({"padding": "x".repeat(9000)}))),
        ("nonsense", "a.b.c".into()),
        ("nothing", String::new()),
    ];
    for (what, token) in bad {
        let answer = ask(&house, "GET", "/v1/agents", &token, "").await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
    }
    let basic = house
        .call_with("GET", "/v1/agents", &[("Authorization", "Basic dXNlcjpwYXNz")], "")
        .await;
    basic.is_problem(401, "invalid_credential");
}

#[tokio::test]
async fn an_issuer_can_be_asked_for() {
    let jwt = JwtConfig::shared_secret(&Secret::new(SECRET), AUDIENCE)
        .expect("a good secret")
        .issued_by("https://issuer");
    let house = House::with(
        Identity::Required {
            jwt: Some(jwt),
            api_keys: false,
        },
        GatewayLimits::default(),
    )
    .await;
    for (issuer, status) in [
        (json!("https://issuer"), 200),
        (json!("https://other"), 401),
        (json!(null), 401),
    ] {
        let token = token(&claims(json!({"iss": issuer})));
        assert_eq!(ask(&house, "GET", "/v1/agents", &token, "").await.status, status);
    }
    assert!(JwtConfig::shared_secret(&Secret::new("short"), AUDIENCE).is_err());
    assert!(JwtConfig::shared_secret(&Secret::new(SECRET), "").is_err());
}

#[tokio::test]
async fn tokens_are_verified_by_the_issuers_keys_each_by_its_own_algorithm() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let counter = fetched.clone();
    let issuer = Router::new().route(
        "/jwks",
        get(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Json(key_set()) }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
    // The smallest server there is: one more of this room's own.
    let shutdown = tokio_util::sync::CancellationToken::new();
    serve_router(issuer, listener, shutdown.clone());

    let jwt = JwtConfig::key_set(&url, AUDIENCE).expect("a loopback address");
    let house = House::with(
        Identity::Required {
            jwt: Some(jwt),
            api_keys: false,
        },
        GatewayLimits::default(),
    )
    .await;
    let right = claims(json!({}));
    let modulus = key_set()["keys"][1]["n"].as_str().expect("text").to_owned();
    for (what, token, status) in [
        ("ES256", signed(Algorithm::ES256, Some("ec"), &ec_key(), &right), 200),
        ("RS256", signed(Algorithm::RS256, Some("rsa"), &rsa_key(), &right), 200),
        (
            "RS512 by a key for RS256",
            signed(Algorithm::RS512, Some("rsa"), &rsa_key(), &right),
            401,
        ),
        (
            "the other key",
            signed(Algorithm::ES256, Some("rsa"), &ec_key(), &right),
            401,
        ),
        (
            "HS256 with the public key as secret",
            signed(
                Algorithm::HS256,
                Some("rsa"),
                &EncodingKey::from_secret(modulus.as_bytes()),
                &right,
            ),
            401,
        ),
        (
            "no key id, though there are two keys",
            signed(Algorithm::ES256, None, &ec_key(), &right),
            401,
        ),
        (
            "an unknown key id",
            signed(Algorithm::ES256, Some("new"), &ec_key(), &right),
            401,
        ),
        (
            "another unknown key id",
            signed(Algorithm::ES256, Some("../../x"), &ec_key(), &right),
            401,
        ),
        (
            "no algorithm",
            unsigned(&json!({"alg": "none", "kid": "ec"}), &right),
            401,
        ),
    ] {
        let answer = ask(&house, "GET", "/v1/agents", &token, "").await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
    }
    assert_eq!(
        fetched.load(Ordering::SeqCst),
        1,
        "made-up key ids do not make us ask the issuer"
    );
    shutdown.cancel();
}

#[tokio::test]
async fn an_api_key_works_until_it_is_revoked_or_over() {
    let house = house().await;
    let tenant: TenantId = "acme".parse().expect("a tenant");
    let create = |name: &'static str, expires_in: Option<i64>| {
        let end = expires_in.map(|seconds| clock::now() + chrono::TimeDelta::seconds(seconds));
        new_api_key(tenant.clone(), name, "runs:read", end)
    };
    let (key, secret, hash) = create("works", Some(60));
    house.store.reader.put_api_key(&key, &hash).await.expect("the store");
    let by_header = house
        .call_with("GET", "/v1/runs", &[("x-api-key", secret.expose())], "")
        .await;
    assert_eq!(by_header.status, 200, "{by_header:?}");
    assert_eq!(ask(&house, "GET", "/v1/runs", secret.expose(), "").await.status, 200);
    ask(&house, "POST", "/v1/runs", secret.expose(), r#"{"input":"a"}"#)
        .await
        .is_problem(403, "missing_scope");

    let (revoked, secret, hash) = create("revoked", None);
    house
        .store
        .reader
        .put_api_key(&revoked, &hash)
        .await
        .expect("the store");
    assert!(
        house
            .store
            .reader
            .revoke_api_key(revoked.id, clock::now())
            .await
            .expect("the store")
    );
    ask(&house, "GET", "/v1/runs", secret.expose(), "")
        .await
        .is_problem(401, "invalid_credential");

    let (over, secret, hash) = create("over", Some(-1));
    house.store.reader.put_api_key(&over, &hash).await.expect("the store");
    ask(&house, "GET", "/v1/runs", secret.expose(), "")
        .await
        .is_problem(401, "invalid_credential");

    let (_, never_stored, _) = create("unknown", None);
    for unknown in [never_stored.expose(), "sk_", "sk_short"] {
        ask(&house, "GET", "/v1/runs", unknown, "")
            .await
            .is_problem(401, "invalid_credential");
    }
}
