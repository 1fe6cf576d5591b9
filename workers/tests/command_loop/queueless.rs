//! A queue that is away, and one that takes commands and delivers none: runs reach their workers through the store.

use async_trait::async_trait;
use steadfast::queue::{Delivery, Error};

use super::*;

/// Takes what it is given and hands nothing out, as a broker does whose consumer is stuck.
struct Silent;

#[async_trait]
impl CommandQueue for Silent {
    async fn publish(&self, _: &Advance) -> Result<(), Error> {
        Ok(())
    }

    async fn pull(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.pull_ready(max).await
    }

    async fn pull_ready(&self, _: usize) -> Result<Vec<Delivery>, Error> {
        Ok(Vec::new())
    }

    async fn incarnation(&self) -> Result<String, Error> {
        Ok("the same for ever".into())
    }

    async fn depth(&self) -> Result<u64, Error> {
        Ok(0)
    }
}

struct Away;

fn away<T>() -> Result<T, Error> {
    Err(Error::Unavailable("a test's queue is away".into()))
}

#[async_trait]
impl CommandQueue for Away {
    async fn publish(&self, _: &Advance) -> Result<(), Error> {
        away()
    }

    async fn pull(&self, _: usize) -> Result<Vec<Delivery>, Error> {
        away()
    }

    async fn pull_ready(&self, _: usize) -> Result<Vec<Delivery>, Error> {
        away()
    }

    fn is_connected(&self) -> bool {
        false
    }

    async fn incarnation(&self) -> Result<String, Error> {
        away()
    }

    async fn depth(&self) -> Result<u64, Error> {
        away()
    }
}

/// Two runs of one session, accepted before the worker starts, and one accepted later: all end.
async fn all_end(queue: impl CommandQueue) {
    let house = House::new().await;
    let mut runs = vec![house.post("first", None, vec![]).await];
    let session = house.load(runs[0]).await.head.session_id;
    runs.push(house.post("second", Some(session), vec![]).await);
    let toolbox = Toolbox::builtin(Default::default());
    let (stop, worker) = house.start_on(Arc::new(queue), House::options("w1"), Duration::ZERO, toolbox);
    house.ended(runs[0]).await;
    runs.push(house.post("after", None, vec![]).await);
    for run_id in runs {
        assert_eq!(house.ended(run_id).await.head.status, Status::Completed);
    }
    stop.cancel();
    worker.await.expect("drained");
}

#[tokio::test]
async fn runs_end_while_the_queue_is_away() {
    all_end(Away).await;
}

#[tokio::test]
async fn runs_end_although_the_queue_delivers_nothing() {
    all_end(Silent).await;
}
