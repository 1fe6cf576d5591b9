//! What is read before and after a call: the configuration, and for how long the provider asks to be left alone.

use chrono::{TimeZone, Utc};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::super::{BadProvider, fault};
use super::*;

#[test]
fn retry_after_is_read_in_every_spelling() {
    let now = Utc.with_ymd_and_hms(2026, 11, 22, 12, 0, 0).single().expect("a moment");
    let read = |headers: &[(&'static str, &'static str)]| {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        fault::retry_after(&headers.collect::<HeaderMap>(), now)
    };
    assert_eq!(read(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
    assert_eq!(read(&[("retry-after", " 0.5 ")]), Some(Duration::from_millis(500)));
    assert_eq!(
        read(&[("retry-after-ms", "1500"), ("retry-after", "9")]),
        Some(Duration::from_millis(1500))
    );
    assert_eq!(
        read(&[("retry-after", "Sun, 22 Nov 2026 12:00:30 GMT")]),
        Some(Duration::from_secs(30))
    );
    let skewed = [
        ("retry-after", "Sun, 22 Nov 2026 18:00:30 GMT"),
        ("date", "Sun, 22 Nov 2026 18:00:00 GMT"),
    ];
    assert_eq!(
        read(&skewed),
        Some(Duration::from_secs(30)),
        "by the server's own clock"
    );
    assert_eq!(
        read(&[("retry-after", "Sun, 22 Nov 2026 11:00:00 GMT")]),
        Some(Duration::ZERO)
    );
    for nonsense in ["-1", "soon", "", "nan", "inf", "1e300"] {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("retry-after"),
            HeaderValue::from_static(nonsense),
        )]);
        assert_eq!(fault::retry_after(&headers, now), None, "{nonsense:?}");
    }
    assert_eq!(read(&[]), None);
}

#[test]
fn a_provider_that_cannot_be_spoken_to_is_refused_at_start_without_showing_its_secrets() {
    let refused = |base_url: &str, key: &str| {
        let options = OpenAiOptions {
            base_url: base_url.into(),
            api_key: Some(ApiKey::new(key)),
            timeouts: Timeouts::default(),
        };
        OpenAi::new(options).err()
    };
    for address in ["", "api.openai.com/v1", "ftp://x/", "file:///x", "http://"] {
        assert!(
            matches!(refused(address, "k"), Some(BadProvider::NotAnAddress(_))),
            "{address:?}"
        );
    }
    for address in [
        "http://user:pw@host/v1",
        "https://host/v1?key=secret",
        "https://host/v1#x",
    ] {
        let error = refused(address, "k").expect("it holds a secret");
        assert!(
            !error.to_string().contains("pw") && !error.to_string().contains("secret"),
            "{error}"
        );
    }
    assert_eq!(
        refused("https://host/v1", "line\nbreak"),
        Some(BadProvider::KeyNotAHeader)
    );
    assert_eq!(refused("https://api.openai.com/v1", "k"), None);
}
