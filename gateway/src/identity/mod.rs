//! Who asks, for which tenant, and what they may do.

mod api_key;
mod jwks;
mod jwt;
mod scope;
mod secret;

use std::net::IpAddr;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
};
use steadfast::{run::TenantId, store::Reader};

pub use api_key::new_api_key;
pub use jwt::{BadJwtConfig, JwtConfig, LEEWAY_SECONDS_MAX, SECRET_BYTES_MIN};
pub use scope::{Scope, Scopes, unknown_scopes};
pub use secret::Secret;

use crate::problem::Problem;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How callers prove who they are.
pub enum Identity {
    /// They do not: for a loopback address only. Everyone is the tenant `default` and may do everything.
    Open,
    /// A token, an API key, or either.
    Required { jwt: Option<JwtConfig>, api_keys: bool },
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    pub tenant: TenantId,
    pub scopes: Scopes,
    /// Who it is, for the record of what people decide: a token's subject, an API key's id, or `local`.
    pub by: String,
}

/// Why nobody was recognised.
enum Refused {
    Invalid,
    Unavailable(String),
}

/// Checks credentials.
pub struct Doorkeeper {
    identity: Identity,
    api_keys: api_key::ApiKeys,
}

impl Doorkeeper {
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            api_keys: api_key::ApiKeys::default(),
        }
    }

    /// Who sent these headers, if they may do this.
    pub async fn admit(&self, reader: &Reader, headers: &HeaderMap, scope: Scope) -> Result<Who, Problem> {
        let who = match &self.identity {
            Identity::Open => {
                refuse_other_sites(headers)?;
                Who {
                    tenant: TenantId::default(),
                    scopes: Scopes::all(),
                    by: "local".into(),
                }
            }
            Identity::Required { jwt, api_keys } => {
                let credential = credential(headers)?;
                if api_key::looks_like_a_key(credential) {
                    let found = if *api_keys {
                        self.api_keys.verify(reader, credential).await?
                    } else {
                        None
                    };
                    found.ok_or_else(invalid)?
                } else {
                    let Some(jwt) = jwt else { return Err(invalid()) };
                    jwt.verify(credential).await.map_err(|refused| match refused {
                        Refused::Invalid => invalid(),
                        Refused::Unavailable(reason) => Problem::unavailable(reason),
                    })?
                }
            }
        };
        if who.scopes.allow(scope) {
            Ok(who)
        } else {
            Err(forbidden(scope))
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.remove::<Self>().ok_or_else(missing)
    }
}

fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, credential) = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .ok_or_else(invalid)?;
        return if scheme.eq_ignore_ascii_case("bearer") {
            Ok(credential.trim())
        } else {
            Err(invalid())
        };
    }
    let key = headers.get(API_KEY).ok_or_else(missing)?;
    key.to_str()
        .ok()
        .filter(|key| api_key::looks_like_a_key(key))
        .ok_or_else(invalid)
}

fn missing() -> Problem {
    let detail = "no identity was given; send `Authorization: Bearer <token or API key>` or `x-api-key: <API key>`";
    unauthorized("unauthenticated", detail, "Bearer realm=\"steadfast\"")
}

/// One answer for every reason: which check failed is nothing a stranger should learn.
fn invalid() -> Problem {
    let detail = "the token or API key is not valid: unknown, expired, revoked, or not for this server; get a new one";
    unauthorized(
        "invalid_credential",
        detail,
        "Bearer realm=\"steadfast\", error=\"invalid_token\"",
    )
}

fn unauthorized(code: &'static str, detail: &str, challenge: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, detail)
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

fn forbidden(scope: Scope) -> Problem {
    let detail = format!("this needs the scope {scope}; use a token or an API key that has it");
    let challenge = format!("Bearer realm=\"steadfast\", error=\"insufficient_scope\", scope=\"{scope}\"");
    let problem = Problem::new(StatusCode::FORBIDDEN, "missing_scope", detail);
    match HeaderValue::from_str(&challenge) {
        Ok(challenge) => problem.header(header::WWW_AUTHENTICATE, challenge),
        Err(_) => problem,
    }
}

/// Without identity, being on loopback is the only wall, and a browser on this machine is inside it. A page of
/// another site gives itself away by its `Origin`, and by its name in `Host` if it made that name point here.
fn refuse_other_sites(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| value.to_str().unwrap_or("?"))
    };
    let host = text(header::HOST).unwrap_or("localhost");
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or("", |(_, authority)| authority));
    if is_loopback(without_port(host)) && origin.is_none_or(|origin| origin == host) {
        return Ok(());
    }
    let detail = "without identity only this machine is served: use a loopback address, from no other site's page, \
                  or configure identity";
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign_site", detail))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_identity_pages_of_other_sites_are_refused() {
        let check = |pairs: &[(HeaderName, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect();
            refuse_other_sites(&headers).is_ok()
        };
        assert!(check(&[(header::HOST, "127.0.0.1:8080")]));
        assert!(check(&[(header::HOST, "[::1]:8080")]));
        assert!(check(&[
            (header::HOST, "localhost:8080"),
            (header::ORIGIN, "http://localhost:8080")
        ]));
        assert!(!check(&[
            (header::HOST, "localhost:8080"),
            (header::ORIGIN, "https://evil.example")
        ]));
        assert!(!check(&[(header::HOST, "localhost:8080"), (header::ORIGIN, "null")]));
        assert!(!check(&[(header::HOST, "rebound.example:8080")]));
    }
}
