//! The keys of a token issuer, fetched from its key set and kept for a while.
//!
//! A token with an unknown key id makes the set be fetched again, but not more often than every [`FETCH_PAUSE`]:
//! whoever sends made-up ids cannot make us ask the issuer for each. While the issuer is away, known keys stay good.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use tokio::sync::Mutex;

use super::{BadJwtConfig, Refused};

/// Between two fetches, at the least.
const FETCH_PAUSE: Duration = Duration::from_secs(10);
/// Older keys are fetched again.
const AGE_MAX: Duration = Duration::from_secs(600);
/// While the issuer is away, keys are trusted for this long.
const STALE_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
const FETCH_MAX: Duration = Duration::from_secs(5);
/// Bytes of a key set.
const SET_BYTES_MAX: usize = 256 * 1024;
/// Keys of a set that are kept.
const KEYS_MAX: usize = 64;

pub struct Key {
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

pub struct KeySet {
    url: reqwest::Url,
    client: reqwest::Client,
    kept: RwLock<Option<Kept>>,
    last_try: Mutex<Option<Instant>>,
}

struct Kept {
    keys: HashMap<String, Arc<Key>>,
    fetched_at: Instant,
}

impl KeySet {
    pub fn at(url: &str) -> Result<Self, BadJwtConfig> {
        // The address may hold a password or a token: it is not repeated.
        let bad = |reason: &str| BadJwtConfig(format!("the JWKS address cannot be used: {reason}"));
        let url = reqwest::Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("leave out the user and password; a key set is public"));
        }
        let loopback = url.host_str().is_some_and(super::is_loopback);
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            return Err(bad("use https (http only for a loopback address)"));
        }
        // Fails where a provider is installed already: just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        #[expect(clippy::disallowed_methods, reason = "the edge: this room's one client")]
        let shaped = || {
            (reqwest::Client::builder().timeout(FETCH_MAX))
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
        };
        // Without CA certificates https fails, and a key set on loopback can be had all the same.
        let client = (shaped().build())
            .or_else(|_| shaped().tls_certs_only([]).build())
            .map_err(|error| bad(&error.without_url().to_string()))?;
        Ok(Self {
            url,
            client,
            kept: RwLock::default(),
            last_try: Mutex::default(),
        })
    }

    /// The key with this id; without an id, the only key there is.
    pub async fn key(&self, kid: Option<&str>) -> Result<Arc<Key>, Refused> {
        if let Some(key) = self.kept(kid, AGE_MAX) {
            return Ok(key);
        }
        self.fetch().await;
        match self.kept(kid, STALE_AGE_MAX) {
            Some(key) => Ok(key),
            None if self.kept.read().unwrap_or_else(PoisonError::into_inner).is_some() => Err(Refused::Invalid),
            None => Err(Refused::Unavailable(
                "the key set of the token issuer cannot be fetched".into(),
            )),
        }
    }

    fn kept(&self, kid: Option<&str>, age_max: Duration) -> Option<Arc<Key>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.as_ref().filter(|kept| kept.fetched_at.elapsed() <= age_max)?;
        match kid {
            Some(kid) => kept.keys.get(kid).cloned(),
            None if kept.keys.len() == 1 => kept.keys.values().next().cloned(),
            None => None,
        }
    }

    /// Fetches the set, unless that was just tried. Callers wait for the one that fetches.
    async fn fetch(&self) {
        let mut last_try = self.last_try.lock().await;
        if last_try.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
            return;
        }
        match self.download().await {
            Ok(keys) => {
                let kept = Kept {
                    keys,
                    fetched_at: Instant::now(),
                };
                *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(kept);
            }
            Err(error) => {
                tracing::warn!(
                    host = self.url.host_str(),
                    path = self.url.path(),
                    error,
                    "the key set of the token issuer could not be fetched"
                )
            }
        }
        *last_try = Some(Instant::now());
    }

    async fn download(&self) -> Result<HashMap<String, Arc<Key>>, String> {
        let answer = self
            .client
            .get(self.url.clone())
            .send()
            .await
            .and_then(reqwest::Response::error_for_status);
        let mut answer = answer.map_err(|error| error.without_url().to_string())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > SET_BYTES_MAX {
                return Err(format!("it is larger than {SET_BYTES_MAX} bytes"));
            }
        }
        read_keys(&bytes)
    }
}

fn read_keys(bytes: &[u8]) -> Result<HashMap<String, Arc<Key>>, String> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let usable = set.keys.iter().filter_map(|jwk| {
        let key = Key {
            algorithm: algorithm(jwk)?,
            key: DecodingKey::from_jwk(jwk).ok()?,
        };
        Some((jwk.common.key_id.clone().unwrap_or_default(), Arc::new(key)))
    });
    let keys: HashMap<_, _> = usable.take(KEYS_MAX).collect();
    if keys.is_empty() {
        Err("it holds no RS256 or ES256 key for signatures".into())
    } else {
        Ok(keys)
    }
}

/// The one algorithm a key is for. Shared secrets (`oct`) have no place in a public key set.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    if jwk
        .common
        .public_key_use
        .as_ref()
        .is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
    {
        return None;
    }
    let natural = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (KeyAlgorithm::RS256, Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (KeyAlgorithm::ES256, Algorithm::ES256)
        }
        _ => return None,
    };
    jwk.common
        .key_algorithm
        .is_none_or(|named| named == natural.0)
        .then_some(natural.1)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    proptest! {
        #[test]
        fn whatever_an_issuer_answers_is_a_key_set_or_is_refused(
            junk in prop::collection::vec(any::<u8>(), 0..32), at in any::<Index>(), over in 0..8usize,
        ) {
            let set = br#"{"keys":[{"kid":"a","kty":"RSA","n":"sXch","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"f83O","y":"x_FE"}]}"#;
            let at = at.index(set.len());
            let mut spoilt = set.to_vec();
            spoilt.splice(at..(at + over).min(set.len()), junk.iter().copied());
            for bytes in [junk, spoilt] {
                if let Ok(keys) = read_keys(&bytes) {
                    prop_assert!((1..=KEYS_MAX).contains(&keys.len()));
                }
            }
        }
    }

    #[test]
    fn only_public_keys_for_signatures_are_taken_and_each_has_one_algorithm() {
        let ec = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
        let set = format!(
            r#"{{"keys":[{{"kid":"a",{ec}}},{{"kid":"b","use":"enc",{ec}}},{{"kid":"c","alg":"HS256",{ec}}},{{"kid":"d","kty":"oct","k":"c2VjcmV0"}}]}}"#
        );
        let keys = read_keys(set.as_bytes()).expect("one key is usable");
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(keys["a"].algorithm, Algorithm::ES256);
        assert!(read_keys(br#"{"keys":[]}"#).is_err());
    }

    #[test]
    fn a_key_set_is_fetched_over_https_or_from_loopback() {
        assert!(KeySet::at("http://issuer.example/jwks").is_err());
        assert!(KeySet::at("file:///etc/passwd").is_err());
        assert!(KeySet::at("http://127.0.0.1:9/jwks").is_ok());
        let refused = KeySet::at("https://someone:s3cret@issuer.example/jwks?token=s3cret").err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(
            said.contains("leave out the user") && !said.contains("s3cret"),
            "{said}"
        );
    }
}
