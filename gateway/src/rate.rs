//! How often a tenant may ask.

use std::num::NonZeroU32;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::{StateInformationMiddleware, StateSnapshot},
    state::keyed::DefaultKeyedStateStore,
};
use steadfast::{metrics, run::TenantId};

use crate::problem::Problem;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const WINDOW_SECONDS: u64 = 60;

type Limiter = RateLimiter<TenantId, DefaultKeyedStateStore<TenantId>, DefaultClock, StateInformationMiddleware>;

/// A limit for each tenant, at this process.
pub struct RateLimit(Option<Limits>);

struct Limits {
    per_minute: NonZeroU32,
    limiter: Limiter,
    clock: DefaultClock,
}

/// What is left, for the headers of an answer.
pub struct Left {
    per_minute: u32,
    requests: u32,
}

impl RateLimit {
    /// 0 means no limit.
    pub fn new(per_minute: u32) -> Self {
        Self(NonZeroU32::new(per_minute).map(|per_minute| Limits {
            per_minute,
            limiter: RateLimiter::keyed(Quota::per_minute(per_minute)).with_middleware(),
            clock: DefaultClock::default(),
        }))
    }

    /// Counts a request. `None`: there is no limit.
    pub fn take(&self, tenant: &TenantId) -> Result<Option<Left>, Problem> {
        let Some(limits) = &self.0 else { return Ok(None) };
        let per_minute = limits.per_minute.get();
        match limits.limiter.check_key(tenant) {
            Ok(state) => {
                let state: StateSnapshot = state;
                Ok(Some(Left {
                    per_minute,
                    requests: state.remaining_burst_capacity(),
                }))
            }
            Err(until) => Err(too_many(per_minute, &until, &limits.clock)),
        }
    }

    /// Forgets tenants that have not asked for a while.
    pub fn tidy(&self) {
        if let Some(limits) = &self.0 {
            limits.limiter.retain_recent();
        }
    }
}

impl Left {
    /// `t` is when the whole quota is there again.
    fn values(&self) -> [(HeaderName, HeaderValue); 2] {
        let used = u64::from(self.per_minute.saturating_sub(self.requests));
        let full_in = (used * WINDOW_SECONDS).div_ceil(u64::from(self.per_minute));
        let policy = format!("\"requests\";q={};w={WINDOW_SECONDS}", self.per_minute);
        let limit = format!("\"requests\";r={};t={full_in}", self.requests);
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        [(POLICY, value(policy)), (LIMIT, value(limit))]
    }

    pub fn tell(&self, headers: &mut HeaderMap) {
        headers.extend(self.values());
    }
}

fn too_many(per_minute: u32, until: &NotUntil<<DefaultClock as Clock>::Instant>, clock: &DefaultClock) -> Problem {
    metrics::http().rejected.with_label_values(&["rate"]).inc();
    let seconds = until.wait_time_from(clock.now()).as_secs_f64().ceil().max(1.0) as u64;
    let detail = format!(
        "this tenant may send {per_minute} requests a minute (gateway.requests_per_minute); try again in {seconds} s"
    );
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).retry_after(seconds);
    Left {
        per_minute,
        requests: 0,
    }
    .values()
    .into_iter()
    .fold(problem, |problem, (name, value)| problem.header(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenants_requests_are_bounded_and_anothers_are_not_touched() {
        let (limit, a, b) = (
            RateLimit::new(2),
            TenantId::default(),
            "b".parse::<TenantId>().expect("a tenant"),
        );
        let left: Vec<u32> = (0..2)
            .filter_map(|_| limit.take(&a).ok()?.map(|left| left.requests))
            .collect();
        assert_eq!(left, [1, 0]);
        let problem = limit.take(&a).err().expect("the third is over the limit");
        assert_eq!(problem.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(limit.take(&b).is_ok());
        assert!(RateLimit::new(0).take(&a).is_ok_and(|left| left.is_none()));
    }
}
