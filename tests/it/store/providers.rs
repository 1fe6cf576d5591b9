//! What workers say of their providers: replaced as a whole, marked when it is old, gone when it is very old.

use steadfast::store::{ProviderState, ProviderStates};

use crate::bed::*;

fn state(worker: &str, model: &str) -> ProviderState {
    ProviderState {
        worker: worker.into(),
        provider: "spare".into(),
        model: model.into(),
        state: "open".into(),
        since: now(),
        paused_until: Some(now()),
        in_flight: 3,
        calls: 20,
        failures: 11,
    }
}

pub async fn what_a_worker_says_of_its_providers_is_replaced_and_grows_old(bed: &Bed) {
    let states = ProviderStates::new(bed.store.db.clone());
    let (one, two, other) = (state("w1", "a"), state("w1", "b"), state("w2", "a"));
    states.put("w1", &[two.clone(), one.clone()]).await.expect("written");
    states.put("w2", std::slice::from_ref(&other)).await.expect("written");
    let listed = states.list().await.expect("read");
    assert!(listed.iter().all(|known| !known.stale), "{listed:?}");
    let listed: Vec<_> = listed.into_iter().map(|known| known.state).collect();
    assert_eq!(listed, [one, other.clone(), two.clone()]);

    let two = ProviderState {
        paused_until: None,
        ..two
    };
    states
        .put("w1", std::slice::from_ref(&two))
        .await
        .expect("written again");
    let age = async |worker: &str, seconds: i64| {
        let sql = "update provider_states set updated_at = $1 where worker = $2";
        let then = now() - chrono::TimeDelta::seconds(seconds);
        let aged = bed.store.db.execute(sql, &[then.into(), worker.into()]).await;
        assert_eq!(aged.expect("aged"), 1);
    };
    age("w2", 60).await;
    let listed = states.list().await.expect("read");
    let listed: Vec<_> = listed.into_iter().map(|known| (known.state, known.stale)).collect();
    assert_eq!(listed, [(other, true), (two, false)]);

    age("w2", 3_600).await;
    assert_eq!(states.list().await.expect("read").len(), 1, "nobody is told of it");
    states.put("w1", &[]).await.expect("taken back");
    let left = bed.store.db.fetch("select worker from provider_states", &[]).await;
    assert_eq!(left.expect("read").len(), 0, "who writes next deletes what is very old");
}
