//! API keys: stored hashed, found by their hash.

use sha2::{Digest, Sha256};
use steadfast::store::ApiKey;

use crate::bed::*;

pub async fn an_api_key_is_found_by_its_hash_until_it_is_revoked(bed: &Bed) {
    let reader = &bed.store.reader;
    let key = |name: &str, expires_at| ApiKey {
        id: new_id(),
        tenant: tenant("acme"),
        name: name.into(),
        scopes: "runs:write runs:read".into(),
        created_at: now(),
        expires_at,
        revoked_at: None,
    };
    let hash = |text: &str| Sha256::digest(text).into();
    let (one, two) = (key("one", None), key("two", Some(now())));
    reader.put_api_key(&one, &hash("secret-1")).await.expect("stored");
    reader.put_api_key(&two, &hash("secret-2")).await.expect("stored");
    assert!(
        reader.put_api_key(&key("copy", None), &hash("secret-1")).await.is_err(),
        "a hash belongs to one key"
    );
    assert_eq!(
        reader.api_key(&hash("secret-1")).await.expect("read"),
        Some(one.clone())
    );
    assert_eq!(
        reader.api_key(&hash("secret-2")).await.expect("read"),
        Some(two.clone())
    );
    assert_eq!(reader.api_key(&hash("guess")).await.expect("read"), None);
    assert_eq!(reader.api_keys().await.expect("read"), [one.clone(), two.clone()]);

    let end = now();
    assert!(reader.revoke_api_key(one.id, end).await.expect("revoked"));
    assert!(
        !reader.revoke_api_key(one.id, now()).await.expect("answered"),
        "it was revoked before"
    );
    assert!(!reader.revoke_api_key(new_id(), end).await.expect("answered"));
    let revoked = ApiKey {
        revoked_at: Some(end),
        ..one
    };
    assert_eq!(reader.api_key(&hash("secret-1")).await.expect("read"), Some(revoked));
    assert_eq!(reader.api_key(&hash("secret-2")).await.expect("read"), Some(two));
}
