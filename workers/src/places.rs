//! The places of a worker, and who gets the next one.
//!
//! A worker executes so many runs at the same time, and so many of one tenant. What finds no place waits in the store,
//! in its tenant's line ([`crate::line`]), never in front of others in the queue. A free place goes to the tenant that
//! has the fewest here, so whoever comes new has the next one, however long the lines of others are.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use steadfast::run::TenantId;
use tokio::sync::Notify;

#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    all: usize,
    per_tenant_max: usize,
    taken: Mutex<Taken>,
    /// For whoever pulls commands, and for whoever takes from the lines.
    freed: [Notify; 2],
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_tenant: BTreeMap<TenantId, usize>,
}

/// A place taken; free again when dropped, also by a panic.
pub struct Place {
    tenant: TenantId,
    places: Arc<Shared>,
}

impl Places {
    pub fn new(all: usize, per_tenant_max: usize) -> Self {
        let all = all.max(1);
        Self(Arc::new(Shared {
            all,
            per_tenant_max: per_tenant_max.clamp(1, all),
            taken: Mutex::default(),
            freed: Default::default(),
        }))
    }

    /// A place for a run of this tenant, if there is one.
    pub fn take(&self, tenant: &TenantId) -> Option<Place> {
        let mut taken = self.0.lock();
        let of_tenant = taken.by_tenant.get(tenant).copied().unwrap_or_default();
        if taken.all >= self.0.all || of_tenant >= self.0.per_tenant_max {
            return None;
        }
        taken.all += 1;
        taken.by_tenant.insert(tenant.clone(), of_tenant + 1);
        Some(Place {
            tenant: tenant.clone(),
            places: self.0.clone(),
        })
    }

    pub fn free(&self) -> usize {
        self.0.all - self.0.lock().all
    }

    /// Returns once a place has become free since the last call.
    pub async fn freed_for_commands(&self) {
        self.0.freed[0].notified().await;
    }

    /// As above, for the lines.
    pub async fn freed_for_lines(&self) {
        self.0.freed[1].notified().await;
    }

    /// How many of the free places each of these tenants gets; among equals the first come first.
    pub fn share_out(&self, tenants: &[TenantId]) -> Vec<usize> {
        let taken = self.0.lock();
        let running = |tenant| taken.by_tenant.get(tenant).copied().unwrap_or_default();
        let running: Vec<usize> = tenants.iter().map(running).collect();
        share_out(self.0.all - taken.all, self.0.per_tenant_max, &running)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(of_tenant) = taken.by_tenant.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                taken.by_tenant.remove(&self.tenant);
            }
        }
        drop(taken);
        self.places.freed.iter().for_each(Notify::notify_one);
    }
}

/// One place after the other, each to whoever has the fewest by then.
fn share_out(free: usize, per_tenant_max: usize, running: &[usize]) -> Vec<usize> {
    let mut given = vec![0; running.len()];
    let mut fewest: BinaryHeap<_> = running
        .iter()
        .enumerate()
        .map(|(at, running)| Reverse((*running, at)))
        .collect();
    for _ in 0..free {
        let Some(Reverse((has, at))) = fewest.pop() else { break };
        // Who has fewest has the limit already: so have all.
        if has >= per_tenant_max {
            break;
        }
        given[at] += 1;
        fewest.push(Reverse((has + 1, at)));
    }
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().expect("a tenant")
    }

    #[test]
    fn a_tenant_has_no_more_than_its_share_and_the_worker_no_more_than_its_slots() {
        let places = Places::new(5, 3);
        let (a, b) = (tenant("a"), tenant("b"));
        let mut of_a: Vec<Place> = (0..3).filter_map(|_| places.take(&a)).collect();
        assert_eq!(of_a.len(), 3);
        assert!(places.take(&a).is_none(), "its share is used up");
        let of_b: Vec<Place> = (0..3).map_while(|_| places.take(&b)).collect();
        assert_eq!((of_b.len(), places.free()), (2, 0));
        of_a.pop();
        assert_eq!(places.free(), 1);
        assert_eq!(
            places.share_out(&[a.clone(), b.clone()]),
            [1, 0],
            "among equals the first"
        );
        assert!(places.take(&b).is_some());
    }

    #[tokio::test]
    async fn both_who_wait_for_a_place_hear_of_one() {
        let places = Places::new(1, 1);
        drop(places.take(&tenant("a")));
        places.freed_for_commands().await;
        places.freed_for_lines().await;
    }

    proptest! {
        #[test]
        fn no_place_is_given_twice_nor_left_empty_and_nobody_gets_one_while_another_has_less(
            free in 0_usize..40,
            max in 1_usize..12,
            running in prop::collection::vec(0_usize..12, 0..20),
        ) {
            let given = share_out(free, max, &running);
            let sum: usize = given.iter().sum();
            prop_assert!(sum <= free);
            for (had, got) in running.iter().zip(&given) {
                prop_assert!(*got == 0 || had + got <= max);
                prop_assert!(sum == free || had + got >= max, "a place is left though {had} + {got} < {max}");
                let fewest = running.iter().zip(&given).map(|(had, got)| had + got).min();
                prop_assert!(*got == 0 || fewest.is_none_or(|fewest| had + got <= fewest + 1));
            }
        }
    }
}
