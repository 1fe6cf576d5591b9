//! The end of a process: what is open ends cleanly, and nothing is lost.

use std::time::Duration;

use super::{
    house::House,
    reading::{Reading, ids},
};
use crate::serve_ops;

#[tokio::test]
async fn streams_and_long_polls_end_cleanly_when_the_process_ends() {
    let mut house = House::open().await;
    let run_id = house.accept(r#"{"input":"a"}"#).await;
    let path = format!("/v1/runs/{run_id}");
    let mut stream = Reading::new(house.send("GET", &format!("{path}/events/stream"), &[], "").await);
    assert_eq!(ids(&stream.take(1).await), ["1"]);
    let house_ref = &house;
    let wait = async move { house_ref.call("GET", &format!("{path}/wait?timeout_s=60"), "").await };
    let end = async {
        house_ref.feed.subscribed(2).await;
        house_ref.shutdown.cancel();
    };
    let (polled, ()) = tokio::join!(wait, end);
    assert_eq!(polled.json["status"], "queued", "{polled:?}");
    assert!(stream.rest().await.is_empty());
    let served = tokio::time::timeout(Duration::from_secs(8), &mut house.serving).await;
    assert!(
        served.is_ok_and(|joined| joined.is_ok_and(|served| served.is_ok())),
        "the drain takes no longer than needed"
    );
}

#[tokio::test]
async fn other_roles_serve_operators_only() {
    let house = House::open().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(serve_ops(house.health.clone(), listener, house.shutdown.clone()));
    for (path, status) in [("/healthz", 200), ("/metrics", 200), ("/v1/runs", 404)] {
        let answer = house
            .client
            .get(format!("{url}{path}"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
    }
}
