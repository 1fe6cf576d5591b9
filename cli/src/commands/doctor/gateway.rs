//! Does a gateway answer where the commands look for one, and would one start with this identity?

use std::time::Duration;

use super::{Diagnosis, Verdict};
use crate::{
    client::{http_client, is_loopback, reason},
    config::Settings,
    error::Failure,
    secret::shown_url,
};

const GATEWAY_WAIT: Duration = Duration::from_secs(3);
const PART: &str = "gateway";

/// That nobody answers is never a failure: the doctor is asked before anything was started, too.
pub async fn examine(diagnosis: &mut Diagnosis, settings: &Settings) -> Result<(), Failure> {
    identity(diagnosis, settings);
    let base = settings.client(None, None).url;
    let place = shown_url(&base);
    let place = place.trim_end_matches('/');
    let Some(host) = reqwest::Url::parse(&base)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .and_then(|url| url.host_str().map(str::to_owned))
    else {
        let found = format!("STEADFAST_URL is {place:?}, which is no address");
        diagnosis.trouble(Verdict::Warn, PART, found, "give one such as http://127.0.0.1:8080");
        return Ok(());
    };
    let http = http_client(is_loopback(&host), |builder| builder.timeout(GATEWAY_WAIT))?;
    match http.get(format!("{base}/healthz")).send().await {
        Ok(response) if response.status().is_success() => diagnosis.ok(PART, format!("{place}: answers")),
        Ok(response) => {
            let found = format!(
                "{place}: something answers, but not as a gateway ({})",
                response.status()
            );
            diagnosis.trouble(Verdict::Warn, PART, found, "correct STEADFAST_URL");
        }
        Err(error) => {
            let found = format!("{place}: nobody answers ({})", reason(&error));
            let remedy = "start one (`steadfast gateway`, or `steadfast dev`), or set STEADFAST_URL";
            diagnosis.trouble(Verdict::Warn, PART, found, remedy);
        }
    }
    Ok(())
}

/// As on a loopback address: whether identity is needed at all depends on where a gateway will listen.
fn identity(diagnosis: &mut Diagnosis, settings: &Settings) {
    let identity = settings
        .identity()
        .and_then(|identity| identity.identity("127.0.0.1", true));
    if let Err(failure) = identity {
        let remedy = "correct it; no gateway starts before";
        diagnosis.trouble(Verdict::Fail, "identity", failure.to_string(), remedy);
    }
}
