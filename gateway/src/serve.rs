//! The listening end: connections, their bounds, and an orderly end.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use steadfast::{health::Health, metrics, run::RunId};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    gateway::Gateway,
    limits::{DRAIN_MAX, GatewayLimits, HEAD_BYTES_MAX},
    routes,
};

/// The part of [`Health`] that says whether this gateway reaches its store.
const PART: &str = "gateway";
/// How often it is tried, and how long it may stay silent.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_MAX: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// After a failed accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections of a role that serves only operators.
const OPS_CONNECTIONS_MAX: usize = 256;
/// What a connection over the limit is told.
const FULL_HEAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
                         connection: close\r\n";
const FULL_BODY: &str = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"code":"too_many_connections","detail":"this process has all the connections it may have (gateway.connections_max); try again, or reuse one you have","retryable":true}"#;

/// Serves the API until `shutdown`, then lets requests in progress end, for a while.
pub async fn serve(gateway: Gateway, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    gateway.health.expect(PART, SILENCE_MAX);
    let probe = tokio::spawn(probe(gateway.clone(), shutdown.clone()));
    let watching = tokio::spawn(gateway.clone().watch_demand(shutdown.clone()));
    let draining = gateway.draining.clone();
    let limits = gateway.limits.clone();
    accept(routes::router(gateway), listener, &limits, shutdown, draining).await;
    probe.abort();
    watching.abort();
    Ok(())
}

/// Serves only `/healthz`, `/readyz` and `/metrics`: for the roles that have no API.
pub async fn serve_ops(health: Health, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let limits = GatewayLimits {
        connections_max: OPS_CONNECTIONS_MAX,
        ..GatewayLimits::default()
    };
    accept(
        routes::ops_router(health),
        listener,
        &limits,
        shutdown,
        CancellationToken::new(),
    )
    .await;
    Ok(())
}

pub(crate) async fn accept(
    router: Router,
    listener: TcpListener,
    limits: &GatewayLimits,
    shutdown: CancellationToken,
    draining: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            metrics::http().rejected.with_label_values(&["connections"]).inc();
            let length = FULL_BODY.len();
            let _ = stream.try_write(format!("{FULL_HEAD}content-length: {length}\r\n\r\n{FULL_BODY}").as_bytes());
            continue;
        };
        // Head and first event are two small writes: without this the second waits for the first to be acknowledged.
        let _ = stream.set_nodelay(true);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_read_max())
            .max_buf_size(HEAD_BYTES_MAX);
        connections.spawn(connection(http, router.clone(), stream, permit, draining.clone()));
    }
    drop(listener);
    draining.cancel();
    connections.close();
    if tokio::time::timeout(DRAIN_MAX, connections.wait()).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests in progress were cut off at the end of the drain"
        );
    }
}

async fn connection(
    http: http1::Builder,
    router: Router,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    draining: CancellationToken,
) {
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that went away, or sent what is not HTTP: nothing of ours failed.
        tracing::debug!(error = %error, "a connection ended early");
    }
    drop(permit);
}

/// Says whether the store answers, and uses the occasion to tidy up.
async fn probe(gateway: Gateway, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let ask = async {
            gateway.keep_agents().await?;
            gateway.store.reader.head(RunId::default()).await
        };
        match tokio::time::timeout(PROBE_MAX, ask).await {
            Ok(Ok(_)) => gateway.health.progress(PART),
            Ok(Err(error)) => gateway.health.trouble(PART, error.to_string()),
            Err(_) => gateway.health.trouble(PART, "the database does not answer"),
        }
        gateway.rate.tidy();
    }
}
