//! A run a newer build has written to: left alone, due again, and taken by whoever knows it.

use steadfast::{metrics, store::chain};

use super::*;

const FUTURE: &str = "warp.engaged";

impl House {
    /// As a newer build would: one event at the end of the chain, with its head, in one transaction.
    async fn add_from_the_future(&self, run_id: RunId) {
        let (id, payload, time) = (run_id.0, r#"{"warp":9}"#, chrono::Utc::now());
        let mut tx = self.store.db.begin().await.expect("a transaction");
        let head = tx
            .fetch("select version, hash from runs where run_id = $1", &[id.into()])
            .await;
        let head = &head.expect("the head")[0];
        let version = head.count("version").expect("a version") + 1;
        let tenant = TenantId::default();
        let hash = chain(
            &head.hash("hash").expect("a hash"),
            run_id,
            version,
            &tenant,
            FUTURE,
            1,
            time,
            payload,
        );
        let event = "insert into events (run_id, version, tenant_id, type, schema, time, payload, hash)
                     values ($1, $2, $3, $4, 1, $5, $6, $7)";
        let hash = hash.to_vec();
        let args = [
            id.into(),
            version.into(),
            tenant.as_str().into(),
            FUTURE.into(),
            time.into(),
            payload.into(),
            hash.clone().into(),
        ];
        tx.execute(event, &args).await.expect("the event");
        let sql = "update runs set version = $2, hash = $3 where run_id = $1";
        tx.execute(sql, &[id.into(), version.into(), hash.into()])
            .await
            .expect("the head");
        tx.commit().await.expect("committed");
    }

    /// Waits until the redriver has offered the run and a worker has said that it leaves it.
    async fn offered(&self, run_id: RunId, left_before: u64) {
        let sql = "select dispatches from runs where run_id = $1";
        let offered = async {
            loop {
                let rows = self.store.db.fetch(sql, &[run_id.0.into()]).await.expect("the head");
                if rows[0].count("dispatches").expect("a number") > 0
                    && metrics::runs().left_to_newer.get() > left_before
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, offered)
            .await
            .expect("it is offered again");
    }

    /// And takes it back: what is left is what this build knows, as if it were the newer one now.
    async fn understand(&self, run_id: RunId) {
        let args = [run_id.0.into(), FUTURE.into()];
        let sql = "delete from events where run_id = $1 and type = $2";
        assert_eq!(self.store.db.execute(sql, &args).await.expect("understood"), 1);
        let sql = "update runs set version = (select max(version) from events e where e.run_id = runs.run_id),
                          hash = (select hash from events e where e.run_id = runs.run_id order by version desc limit 1)
                   where run_id = $1";
        self.store.db.execute(sql, &[run_id.0.into()]).await.expect("the head");
    }
}

#[tokio::test]
async fn a_run_add_from_the_future_is_left_as_it_is_and_its_neighbours_go_on() {
    let house = House::new().await;
    let strange = house.post("What is 6 * 7?", None, vec![]).await;
    house.add_from_the_future(strange).await;
    let before = house.store.reader.head(strange).await.expect("head").expect("the run");
    let (stop, worker) = house.worker("w1", Duration::ZERO);
    let left = metrics::runs().left_to_newer.get();
    house.announce(strange).await;
    let neighbours = [
        house.post("What is 1 + 1?", None, vec![]).await,
        house.post("Hello", None, vec![]).await,
    ];
    for run_id in neighbours {
        assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
    }
    house.offered(strange, left).await;
    let after = house.store.reader.head(strange).await.expect("head").expect("the run");
    assert_eq!(
        (after.status, after.version, after.epoch, after.lease_owner.as_deref()),
        (before.status, before.version, before.epoch, None)
    );
    assert!(after.due_at > before.due_at, "it is offered again, later");

    // The newer worker comes.
    house.understand(strange).await;
    house.announce(strange).await;
    assert_eq!(house.ended(strange).await.head.status, Status::Completed);
    stop.cancel();
    worker.await.expect("the worker stops");
}

#[tokio::test]
async fn a_worker_whose_run_gets_an_event_add_from_the_future_lets_go_and_writes_nothing_more() {
    let house = House::new().await;
    let (stop, worker) = house.worker("w1", Duration::from_millis(100));
    let run_id = house.post("What is 6 * 7?", None, vec![]).await;
    house.announce(run_id).await;
    house
        .until(run_id, "running", |loaded| loaded.head.status == Status::Running)
        .await;
    house.add_from_the_future(run_id).await;
    house.feed.signal(run_id, Signal::Changed).await;
    let written = house.store.reader.head(run_id).await.expect("head").expect("the run");
    let left = metrics::runs().left_to_newer.get();
    // Its lease ends, the redriver offers the run, and it is left alone.
    house.offered(run_id, left).await;
    let after = house.store.reader.head(run_id).await.expect("head").expect("the run");
    assert_eq!(
        (after.version, after.epoch, after.status),
        (written.version, written.epoch, written.status)
    );
    stop.cancel();
    worker.await.expect("the worker stops");
}
