//! The command queue's promises: one suite for every adapter, and what only a server can be put through.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::ConnectOptions;
use futures::future::join_all;
use steadfast::{
    queue::{Advance, CommandQueue, Delivery, Error, JetStreamQueue, LocalQueue, QueueOptions},
    run::TenantId,
};
use steadfast_simulation::Calm;
use steadfast_tests::{PrivateNats, fresh_prefix, services};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

use crate::bed::*;

/// The same queue as two processes hold it.
type Queues = [Arc<dyn CommandQueue>; 2];

fn local() -> Queues {
    let queue: Arc<dyn CommandQueue> = Arc::new(LocalQueue::new(new_id()));
    [queue.clone(), queue]
}

fn simulated() -> Queues {
    let calm = Calm::new(now());
    [calm.queue(), calm.queue()]
}

fn options(prefix: &str) -> QueueOptions {
    QueueOptions {
        prefix: prefix.into(),
        pool: "default".into(),
        replicas: 1,
    }
}

async fn jetstream_at(url: &str, prefix: &str) -> Result<JetStreamQueue, Error> {
    let client = ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(20))
        .connect(url)
        .await
        .expect("a NATS server");
    JetStreamQueue::new(client, options(prefix)).await
}

async fn pair_at(url: &str) -> Queues {
    let prefix = fresh_prefix();
    let queue =
        || async { Arc::new(jetstream_at(url, &prefix).await.expect("a usable server")) as Arc<dyn CommandQueue> };
    [queue().await, queue().await]
}

async fn jetstream() -> Queues {
    pair_at(&services().await.nats_url).await
}

macro_rules! conformance {
    ($($name:ident,)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::local()).await })*
        }
        mod simulated {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::simulated()).await })*
        }
        mod on_jetstream {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name(super::jetstream().await).await })*
        }
    };
}

conformance! {
    a_command_is_published_pulled_and_done_with,
    a_pull_takes_no_more_than_asked_and_waits_only_a_while,
    four_workers_share_a_thousand_commands_without_delay,
    what_is_on_its_way_to_a_worker_that_lets_go_comes_to_another,
    a_hint_arrives_where_nothing_fails,
    a_command_may_come_twice_and_tells_the_same,
    the_incarnation_stays_while_nothing_was_lost,
}

fn advance(version: u64) -> Advance {
    Advance {
        run_id: new_run(),
        tenant: TenantId::default(),
        version,
        dispatch: 0,
    }
}

/// Pulls until so many came.
async fn pulled(queue: &dyn CommandQueue, count: usize) -> Vec<Delivery> {
    let pull = async {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            deliveries.extend(queue.pull(count - deliveries.len()).await.expect("the queue answers"));
        }
        deliveries
    };
    timeout(PATIENCE, pull).await.expect("the commands come")
}

async fn is_empty(queue: &dyn CommandQueue) -> bool {
    queue.pull(10).await.expect("the queue answers").is_empty()
}

async fn a_command_is_published_pulled_and_done_with(queues: Queues) {
    let [gateway, worker] = queues;
    assert!(is_empty(&*worker).await);
    let sent: Vec<Advance> = (1..=5).map(advance).collect();
    for command in &sent {
        gateway.publish(command).await.expect("published");
    }
    assert_eq!(gateway.depth().await.expect("a number"), 5);
    let deliveries = pulled(&*worker, 5).await;
    assert_eq!(
        deliveries.iter().map(|d| d.command.clone()).collect::<Vec<_>>(),
        sent,
        "in the order they were sent"
    );
    for delivery in deliveries {
        delivery.ack().await;
    }
    assert!(is_empty(&*worker).await);
    // An acknowledgement is on its way for a moment.
    let done = async { while worker.depth().await.expect("a number") > 0 {} };
    timeout(PATIENCE, done).await.expect("nothing is left");
}

async fn a_pull_takes_no_more_than_asked_and_waits_only_a_while(queues: Queues) {
    let [gateway, worker] = queues;
    let started = Instant::now();
    assert!(is_empty(&*worker).await);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    for version in 1..=7 {
        gateway.publish(&advance(version)).await.expect("published");
    }
    let mut left: usize = 7;
    while left > 0 {
        let taken = worker.pull(3).await.expect("the queue answers");
        assert!(taken.len() <= 3, "{} at once", taken.len());
        left -= taken.len();
        for delivery in taken {
            delivery.ack().await;
        }
    }
    // One that waits is woken by what comes.
    let (woken, _) = futures::join!(pulled(&*worker, 1), async { gateway.publish(&advance(8)).await });
    assert_eq!(woken[0].command.version, 8);
}

/// Nothing is handed to a worker that has stopped asking: it would come back only after the ack wait of 30 seconds.
async fn four_workers_share_a_thousand_commands_without_delay(queues: Queues) {
    const COMMANDS: usize = 1000;
    let commands: Vec<Advance> = (1..=COMMANDS as u64).map(advance).collect();
    let started = Instant::now();
    let done = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let publish = async {
        for some in commands.chunks(20) {
            let sent = join_all(some.iter().map(|command| queues[0].publish(command))).await;
            assert!(sent.iter().all(Result::is_ok), "{sent:?}");
        }
    };
    let work = |at: usize| {
        let (queue, done) = (queues[at % 2].clone(), done.clone());
        async move {
            while done.lock().expect("no panic").len() < COMMANDS {
                for delivery in queue.pull(16).await.expect("the queue answers") {
                    done.lock().expect("no panic").insert(delivery.command.version);
                    delivery.ack().await;
                }
            }
        }
    };
    let all = async { futures::join!(publish, join_all((0..4).map(work))) };
    timeout(Duration::from_secs(25), all)
        .await
        .unwrap_or_else(|_| panic!("{} of {COMMANDS} came at once", done.lock().expect("no panic").len()));
    println!("{COMMANDS} commands in {:?}", started.elapsed());
}

/// Not only after the ack wait of 30 seconds.
async fn what_is_on_its_way_to_a_worker_that_lets_go_comes_to_another(queues: Queues) {
    let [one, other] = queues;
    one.publish(&advance(1)).await.expect("published");
    let first = one.pull(10).await.expect("the queue answers");
    assert_eq!(first.len(), 1);
    for version in 2..=5 {
        other.publish(&advance(version)).await.expect("published");
    }
    one.let_go().await;
    let rest = timeout(Duration::from_secs(25), pulled(&*other, 4)).await;
    let rest = rest.expect("they came before the ack wait was over");
    let versions: BTreeSet<u64> = rest.iter().map(|delivery| delivery.command.version).collect();
    assert_eq!(versions, (2..=5).collect());
    for delivery in first.into_iter().chain(rest) {
        delivery.ack().await;
    }
    // It may ask again.
    other.publish(&advance(6)).await.expect("published");
    assert_eq!(pulled(&*one, 1).await.remove(0).command.version, 6);
}

async fn a_hint_arrives_where_nothing_fails(queues: Queues) {
    let [gateway, worker] = queues;
    let command = advance(1);
    gateway.hint(&command).await.expect("sent");
    assert_eq!(pulled(&*worker, 1).await.remove(0).command, command);
}

async fn a_command_may_come_twice_and_tells_the_same(queues: Queues) {
    let [gateway, worker] = queues;
    let first = advance(1);
    let again = Advance {
        dispatch: 1,
        ..first.clone()
    };
    gateway.publish(&first).await.expect("published");
    gateway.publish(&again).await.expect("published");
    let both = pulled(&*worker, 2).await;
    assert_eq!(both.iter().map(|d| &d.command).collect::<Vec<_>>(), [&first, &again]);
    for delivery in both {
        delivery.ack().await;
    }
}

async fn the_incarnation_stays_while_nothing_was_lost(queues: Queues) {
    let [one, two] = queues;
    let before = one.incarnation().await.expect("known");
    one.publish(&advance(1)).await.expect("published");
    assert_eq!(two.incarnation().await.expect("known"), before);
    let other = LocalQueue::new(new_id());
    assert_ne!(other.incarnation().await.expect("known"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_given_back_comes_again() {
    let [gateway, worker] = jetstream().await;
    let command = advance(1);
    gateway.publish(&command).await.expect("published");
    for _ in 0..3 {
        for delivery in pulled(&*worker, 1).await {
            assert_eq!(delivery.command, command);
            delivery.give_back(Duration::ZERO).await;
        }
    }
    let pause = Duration::from_millis(700);
    let given_back = Instant::now();
    pulled(&*worker, 1).await.remove(0).give_back(pause).await;
    pulled(&*worker, 1).await.remove(0).ack().await;
    assert!(
        given_back.elapsed() >= pause,
        "came back after {:?}",
        given_back.elapsed()
    );
    assert!(is_empty(&*worker).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_is_swallowed_also_after_its_command_was_done_with() {
    let [gateway, worker] = jetstream().await;
    let command = advance(1);
    for _ in 0..3 {
        gateway.publish(&command).await.expect("published");
    }
    pulled(&*worker, 1).await.remove(0).ack().await;
    gateway.publish(&command).await.expect("published");
    assert!(is_empty(&*worker).await);
    let next = Advance { dispatch: 1, ..command };
    gateway.publish(&next).await.expect("published");
    assert_eq!(
        pulled(&*worker, 1).await.remove(0).command,
        next,
        "a new dispatch is a new message"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_command_is_removed() {
    let (url, prefix) = (&services().await.nats_url, fresh_prefix());
    let queue = jetstream_at(url, &prefix).await.expect("a usable server");
    let client = async_nats::connect(url).await.expect("a NATS server");
    let js = async_nats::jetstream::new(client);
    let subject = format!("{prefix}.commands.default.default");
    for junk in ["", "junk", "{\"run_id\":\"run_x\"}"] {
        js.publish(subject.clone(), junk.into())
            .await
            .expect("sent")
            .await
            .expect("stored");
    }
    queue.publish(&advance(1)).await.expect("published");
    pulled(&queue, 1).await.remove(0).ack().await;
    let gone = async { while queue.depth().await.expect("a number") > 0 {} };
    timeout(PATIENCE, gone).await.expect("the junk is gone");
}

/// After a loss of everything the queue makes itself anew, and says that it did.
async fn works_again(queues: &Queues, before: &str) {
    let back = async {
        loop {
            match queues[0].incarnation().await {
                Ok(incarnation) if incarnation != before => return,
                Ok(_) | Err(Error::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(PATIENCE, back).await.expect("the incarnation changes");
    let command = advance(2);
    let published = async { while queues[0].publish(&command).await.is_err() {} };
    timeout(PATIENCE, published).await.expect("publishing works again");
    let pulled = async {
        loop {
            // The consumer went with the stream: a pull or two find that out.
            if let Some(delivery) = queues[1].pull(1).await.unwrap_or_default().pop() {
                assert_eq!(delivery.command, command);
                return delivery.ack().await;
            }
        }
    };
    timeout(PATIENCE, pulled).await.expect("pulling works again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_is_made_again_and_counts_as_a_loss() {
    let (url, prefix) = (&services().await.nats_url, fresh_prefix());
    let queue = || async { Arc::new(jetstream_at(url, &prefix).await.expect("usable")) as Arc<dyn CommandQueue> };
    let queues = [queue().await, queue().await];
    queues[0].publish(&advance(1)).await.expect("published");
    pulled(&*queues[1], 1).await.remove(0).ack().await;
    let before = queues[0].incarnation().await.expect("known");
    let js = async_nats::jetstream::new(async_nats::connect(url).await.expect("a NATS server"));
    let stream = format!("{}_COMMANDS", prefix.to_uppercase());
    js.delete_stream(&stream).await.expect("deleted");
    works_again(&queues, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_made_again_and_nothing_is_lost() {
    let (url, prefix) = (&services().await.nats_url, fresh_prefix());
    let queue = jetstream_at(url, &prefix).await.expect("usable");
    assert!(is_empty(&queue).await);
    let js = async_nats::jetstream::new(async_nats::connect(url).await.expect("a NATS server"));
    let stream = js
        .get_stream(format!("{}_COMMANDS", prefix.to_uppercase()))
        .await
        .expect("there");
    stream.delete_consumer("workers_default").await.expect("deleted");
    let command = advance(1);
    queue.publish(&command).await.expect("published");
    let pulled = async {
        loop {
            if let Some(delivery) = queue.pull(1).await.unwrap_or_default().pop() {
                return delivery;
            }
        }
    };
    let delivery = timeout(PATIENCE, pulled).await.expect("pulled");
    assert_eq!(delivery.command, command);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_server_is_used_again_and_counts_as_a_loss() {
    let mut server = PrivateNats::start().await.expect("a NATS of our own");
    let queues = pair_at(&server.url()).await;
    queues[0].publish(&advance(1)).await.expect("published");
    pulled(&*queues[1], 1).await.remove(0).ack().await;
    let before = queues[0].incarnation().await.expect("known");
    server.wipe();
    server.restart().await.expect("back");
    works_again(&queues, &before).await;
    // A restart that kept its files is no loss.
    let before = queues[0].incarnation().await.expect("known");
    server.kill9();
    server.restart().await.expect("back");
    let same = async {
        loop {
            if let Ok(incarnation) = queues[0].incarnation().await {
                return incarnation;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, same).await.expect("back"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_unavailable_in_bounded_time() {
    const BOUND: Duration = Duration::from_secs(15);
    let mut server = PrivateNats::start().await.expect("a NATS of our own");
    let queues = pair_at(&server.url()).await;
    assert!(is_empty(&*queues[1]).await, "its consumer is known");
    for frozen in [true, false] {
        if frozen {
            server.sigstop()
        } else {
            server.kill9()
        }
        for queue in &queues {
            let command = advance(1);
            let (publish, pull, incarnation, depth) = timeout(BOUND, async {
                futures::join!(
                    queue.publish(&command),
                    queue.pull(1),
                    queue.incarnation(),
                    queue.depth()
                )
            })
            .await
            .expect("every answer is bounded");
            assert!(matches!(publish, Err(Error::Unavailable(_))), "{publish:?}");
            assert!(
                matches!(pull, Err(Error::Unavailable(_))),
                "{:?}",
                pull.map(|d| d.len())
            );
            assert!(matches!(incarnation, Err(Error::Unavailable(_))), "{incarnation:?}");
            assert!(matches!(depth, Err(Error::Unavailable(_))), "{depth:?}");
        }
        if frozen {
            server.sigcont();
        }
    }
}

#[tokio::test]
async fn an_old_server_is_refused_with_the_reason_and_the_remedy() {
    let old =
        pretend_server(r#"{"server_id":"x","version":"2.9.10","jetstream":true,"headers":true,"max_payload":1048576}"#);
    let Err(Error::Unusable(told)) = jetstream_at(&old.await, "p").await else {
        panic!("an old server was accepted")
    };
    assert!(told.contains("2.9.10") && told.contains("2.11"), "{told}");
    let bare = pretend_server(r#"{"server_id":"x","version":"2.15.1","headers":true,"max_payload":1048576}"#);
    let Err(Error::Unusable(told)) = jetstream_at(&bare.await, "p").await else {
        panic!("a server without JetStream was accepted")
    };
    assert!(told.contains("JetStream") && told.contains("-js"), "{told}");
}

/// Says what it is and answers pings, as a NATS server does; nothing else. Its URL.
async fn pretend_server(info: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (reader, mut writer) = socket.into_split();
                writer.write_all(format!("INFO {info}\r\n").as_bytes()).await?;
                let mut lines = BufReader::new(reader).lines();
                while let Some(line) = lines.next_line().await? {
                    if line.starts_with("PING") {
                        writer.write_all(b"PONG\r\n").await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    url
}
