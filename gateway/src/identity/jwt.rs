//! JSON Web Tokens. Which algorithm is used is a property of the key, fixed by the configuration or by the key set;
//! what the token's header says is only ever compared with it.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use steadfast::run::TenantId;

use super::{Refused, Scopes, Secret, Who, jwks::KeySet};

/// Shorter secrets can be guessed: RFC 7518 asks for as many bits as the hash has.
pub const SECRET_BYTES_MIN: usize = 32;
/// How far the clocks of issuer and gateway may differ, at the most.
pub const LEEWAY_SECONDS_MAX: u64 = 60;
const LEEWAY_SECONDS_DEFAULT: u64 = 30;
/// Characters of a subject that are kept.
const SUBJECT_CHARS_MAX: usize = 200;
/// A longer token is not looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Why a configuration of tokens cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadJwtConfig(pub(super) String);

/// How tokens are verified.
pub struct JwtConfig {
    keys: Keys,
    audience: String,
    issuer: Option<String>,
    leeway_seconds: u64,
}

enum Keys {
    Shared(DecodingKey),
    Set(Box<KeySet>),
}

#[derive(Deserialize)]
struct Claims {
    tenant: TenantId,
    #[serde(default)]
    scope: String,
    sub: Option<String>,
}

impl JwtConfig {
    /// Tokens signed with a shared secret (HS256).
    pub fn shared_secret(secret: &Secret, audience: impl Into<String>) -> Result<Self, BadJwtConfig> {
        if secret.expose().len() < SECRET_BYTES_MIN {
            let reason =
                format!("the JWT secret is shorter than {SECRET_BYTES_MIN} bytes; make one with: openssl rand -hex 32");
            return Err(BadJwtConfig(reason));
        }
        Self::new(
            Keys::Shared(DecodingKey::from_secret(secret.expose().as_bytes())),
            audience.into(),
        )
    }

    /// Tokens signed with a key of the set at this address (RS256 or ES256).
    pub fn key_set(url: &str, audience: impl Into<String>) -> Result<Self, BadJwtConfig> {
        Self::new(Keys::Set(Box::new(KeySet::at(url)?)), audience.into())
    }

    fn new(keys: Keys, audience: String) -> Result<Self, BadJwtConfig> {
        if audience.is_empty() {
            return Err(BadJwtConfig(
                "the JWT audience is empty; name the audience your tokens are issued for".into(),
            ));
        }
        Ok(Self {
            keys,
            audience,
            issuer: None,
            leeway_seconds: LEEWAY_SECONDS_DEFAULT,
        })
    }

    /// Takes tokens of this issuer only.
    pub fn issued_by(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Allows this difference between the clocks, up to [`LEEWAY_SECONDS_MAX`].
    pub fn leeway_seconds(mut self, seconds: u64) -> Self {
        self.leeway_seconds = seconds.min(LEEWAY_SECONDS_MAX);
        self
    }

    /// Whose token it is.
    pub(super) async fn verify(&self, token: &str) -> Result<Who, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Invalid);
        }
        match &self.keys {
            Keys::Shared(key) => self.check(token, Algorithm::HS256, key),
            Keys::Set(set) => {
                let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Invalid)?;
                let key = set.key(header.kid.as_deref()).await?;
                self.check(token, key.algorithm, &key.key)
            }
        }
    }

    fn check(&self, token: &str, algorithm: Algorithm, key: &DecodingKey) -> Result<Who, Refused> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway_seconds;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.audience]);
        match &self.issuer {
            Some(issuer) => {
                validation.set_issuer(&[issuer]);
                validation.set_required_spec_claims(&["exp", "aud", "iss"]);
            }
            None => validation.set_required_spec_claims(&["exp", "aud"]),
        }
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
            .map_err(|_| Refused::Invalid)?
            .claims;
        Ok(Who {
            tenant: claims.tenant,
            scopes: Scopes::read(&claims.scope),
            by: subject(claims.sub.as_deref()),
        })
    }
}

/// Who a token is about, as it goes into the log.
fn subject(sub: Option<&str>) -> String {
    let kept: String = sub
        .unwrap_or("unnamed")
        .chars()
        .filter(|c| !c.is_control())
        .take(SUBJECT_CHARS_MAX)
        .collect();
    format!("token:{kept}")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::{prelude::*, sample::Index};

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn verified(token: &str) -> bool {
        let config = JwtConfig::shared_secret(&Secret::new(SECRET), "steadfast").expect("a secret of that length");
        // Nothing is waited for where the key is known.
        config.verify(token).now_or_never().expect("an answer at once").is_ok()
    }

    fn token() -> String {
        let claims = serde_json::json!({ "aud": "steadfast", "exp": 4_000_000_000_u64, "tenant": "acme", "sub": "x" });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token")
    }

    proptest! {
        #[test]
        fn no_made_up_token_is_taken(text in prop_oneof![".{0,80}", "[A-Za-z0-9_-]{0,60}[.][A-Za-z0-9_-]{0,60}[.][A-Za-z0-9_-]{0,60}"]) {
            prop_assert!(!verified(&text), "{:?} was taken", text);
        }

        #[test]
        fn a_token_that_was_changed_anywhere_is_refused(at in any::<Index>(), with in "[A-Za-z0-9_.=-]{0,3}", over in 0..4usize) {
            let token = token();
            prop_assert!(verified(&token));
            let at = at.index(token.len());
            let end = (at + over).min(token.len());
            let changed = format!("{}{with}{}", &token[..at], &token[end..]);
            prop_assert!(changed == token || !verified(&changed), "{:?} was taken", changed);
        }
    }
}
