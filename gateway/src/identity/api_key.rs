//! API keys: `sk_<id>_<secret>`. The store keeps only their hash, so a copy of the database opens nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use steadfast::{
    run::{TenantId, Time},
    store::{self, ApiKey, Hash, Reader},
};
use tokio::time::Instant;

use super::{Secret, Who};
use crate::{clock, identity::Scopes};

const PREFIX: &str = "sk_";
/// `sk_`, 32 hex digits, `_`, 43 characters of base64url.
const KEY_CHARS: usize = 3 + 32 + 1 + 43;
/// A revoked key may be taken for this much longer.
const CACHE_TTL: Duration = Duration::from_secs(3);
/// Keys remembered; past it the cache starts again.
const CACHED_MAX: usize = 10_000;

/// A new key: the row to store with [`Reader::put_api_key`], the secret to show once, and the hash to store it under.
pub fn new_api_key(
    tenant: TenantId,
    name: impl Into<String>,
    scopes: impl Into<String>,
    expires_at: Option<Time>,
) -> (ApiKey, Secret, Hash) {
    let id = clock::new_id();
    let secret = format!(
        "{PREFIX}{}_{}",
        id.simple(),
        URL_SAFE_NO_PAD.encode(clock::random_bytes())
    );
    let hash = hash(&secret);
    let (name, scopes, created_at) = (name.into(), scopes.into(), clock::now());
    (
        ApiKey {
            id,
            tenant,
            name,
            scopes,
            created_at,
            expires_at,
            revoked_at: None,
        },
        Secret::new(secret),
        hash,
    )
}

/// A key carries 256 random bits, so one round of SHA-256 is enough: there is nothing to guess.
fn hash(key: &str) -> Hash {
    Sha256::digest(key).into()
}

pub fn looks_like_a_key(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

/// Looks keys up, and remembers them for a moment.
#[derive(Default)]
pub struct ApiKeys {
    known: Mutex<HashMap<Hash, (ApiKey, Instant)>>,
}

impl ApiKeys {
    /// Whose key it is. `None`: nobody's, or not any more.
    pub async fn verify(&self, reader: &Reader, key: &str) -> Result<Option<Who>, store::Error> {
        if key.len() != KEY_CHARS {
            return Ok(None);
        }
        let hash = hash(key);
        if let Some(found) = self.remembered(&hash) {
            return Ok(accept(found));
        }
        let Some(found) = reader.api_key(&hash).await? else {
            return Ok(None);
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED_MAX {
            known.clear();
        }
        known.insert(hash, (found.clone(), Instant::now()));
        Ok(accept(found))
    }

    fn remembered(&self, hash: &Hash) -> Option<ApiKey> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(hash)
            .filter(|(_, at)| at.elapsed() < CACHE_TTL)
            .map(|(key, _)| key.clone())
    }
}

fn accept(key: ApiKey) -> Option<Who> {
    let over = key.revoked_at.is_some() || key.expires_at.is_some_and(|end| end <= clock::now());
    (!over).then(|| Who {
        scopes: Scopes::read(&key.scopes),
        by: format!("api_key:{}", key.id.simple()),
        tenant: key.tenant,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_has_its_form_and_never_shows_itself() {
        let (row, secret, hash_stored) = new_api_key(TenantId::default(), "ci", "*", None);
        assert_eq!(secret.expose().len(), KEY_CHARS);
        assert!(looks_like_a_key(secret.expose()) && secret.expose().contains(&row.id.simple().to_string()));
        assert_eq!(hash(secret.expose()), hash_stored);
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn a_revoked_or_expired_key_is_nobodys() {
        let (key, ..) = new_api_key(TenantId::default(), "ci", "runs:read", None);
        assert!(accept(key.clone()).is_some());
        assert!(
            accept(ApiKey {
                revoked_at: Some(key.created_at),
                ..key.clone()
            })
            .is_none()
        );
        assert!(
            accept(ApiKey {
                expires_at: Some(key.created_at),
                ..key
            })
            .is_none()
        );
    }
}
