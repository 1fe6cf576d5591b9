//! How many streams may be open, in this process and for one tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use steadfast::{metrics, run::TenantId};

use crate::problem::Problem;

const RETRY_AFTER_SECONDS: u64 = 5;

#[derive(Default)]
struct Open {
    all: usize,
    by_tenant: HashMap<TenantId, usize>,
}

/// The streams of this process.
#[derive(Clone)]
pub struct Slots {
    open: Arc<Mutex<Open>>,
    all_max: usize,
    tenant_max: usize,
}

/// Room for one stream; given back when dropped.
pub struct Slot {
    slots: Slots,
    tenant: TenantId,
}

impl Slots {
    pub fn new(all_max: usize, tenant_max: usize) -> Self {
        Self {
            open: Arc::default(),
            all_max,
            tenant_max,
        }
    }

    pub fn take(&self, tenant: &TenantId) -> Result<Slot, Problem> {
        let mut open = self.lock();
        if open.all >= self.all_max {
            return Err(full("this server", self.all_max, "gateway.streams_max"));
        }
        let of_tenant = open.by_tenant.entry(tenant.clone()).or_default();
        if *of_tenant >= self.tenant_max {
            return Err(full("this tenant", self.tenant_max, "gateway.streams_per_tenant_max"));
        }
        *of_tenant += 1;
        open.all += 1;
        metrics::http().sse_clients.inc();
        Ok(Slot {
            slots: self.clone(),
            tenant: tenant.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.lock();
        open.all -= 1;
        if let Some(of_tenant) = open.by_tenant.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                open.by_tenant.remove(&self.tenant);
            }
        }
        metrics::http().sse_clients.dec();
    }
}

fn full(whose: &str, max: usize, name: &str) -> Problem {
    metrics::http().rejected.with_label_values(&["streams"]).inc();
    let detail = format!("{whose} has {max} event streams open ({name}); close some, or poll GET /v1/runs/{{id}}/wait");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", detail).retry_after(RETRY_AFTER_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_over_the_limit_is_refused_until_another_ends() {
        let (slots, a, b) = (
            Slots::new(3, 2),
            TenantId::default(),
            "b".parse::<TenantId>().expect("a tenant"),
        );
        let first = slots.take(&a).expect("room");
        let _second = slots.take(&a).expect("room");
        assert!(slots.take(&a).is_err(), "the tenant is at its limit");
        let _third = slots.take(&b).expect("room for another tenant");
        assert!(slots.take(&b).is_err(), "the process is at its limit");
        drop(first);
        assert!(slots.take(&b).is_ok());
    }
}
