//! The listening end: connections, their bounds, and an orderly end.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderMap, header},
};
use hyper::{
    Method, Version,
    body::{Body as _, Incoming},
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::{Service, service_fn},
};
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
    stream::send::Taken,
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
        // Small writes must not wait for the ones before to be acknowledged.
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
    mut stream: TcpStream,
    permit: OwnedSemaphorePermit,
    draining: CancellationToken,
) {
    while let Some((taken, mut connection)) = serve_requests(&http, &router, stream, &draining).await {
        match taken.send(&mut connection).await {
            Ok(true) if !draining.is_cancelled() => stream = connection,
            Ok(_) => break,
            Err(error) => {
                tracing::debug!(error = %error, "a stream ended early");
                break;
            }
        }
    }
    drop(permit);
}

/// Serves one request after the other, until the connection ends or one is answered with a stream.
async fn serve_requests(
    http: &http1::Builder,
    router: &Router,
    stream: TcpStream,
    draining: &CancellationToken,
) -> Option<(Taken, TcpStream)> {
    let written = Arc::new(AtomicBool::new(true));
    let taken = Arc::new(Mutex::new(None));
    let service = {
        let (router, taken) = (TowerToHyperService::new(router.clone()), taken.clone());
        service_fn(move |request: hyper::Request<Incoming>| {
            // A POST is streamed once its body was read to the end; another body might be taken for the next request.
            let whole =
                request.method() == Method::POST || request.method() != Method::HEAD && request.body().is_end_stream();
            let takes = whole && request.version() == Version::HTTP_11;
            let closes = closes(request.headers());
            let (response, taken) = (router.call(request), taken.clone());
            async move {
                let response = response.await?;
                let Some(stream) = takes.then(|| Taken::of(&response, closes)).flatten() else {
                    return Ok::<_, Infallible>(response);
                };
                *lock(&taken) = Some(stream);
                // The connection is taken from under this request.
                std::future::pending().await
            }
        })
    };
    let mut connection = http.serve_connection(
        Watched {
            io: TokioIo::new(stream),
            written: written.clone(),
        },
        service,
    );
    let mut drained = pin!(draining.cancelled());
    let mut draining = false;
    let stream = poll_fn(|context| {
        if !draining && drained.as_mut().poll(context).is_ready() {
            draining = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match Pin::new(&mut connection).poll(context) {
            Poll::Ready(ended) => Poll::Ready(ended.map(|()| None)),
            // What the library has yet to write comes first.
            Poll::Pending if !written.load(Ordering::Acquire) => Poll::Pending,
            Poll::Pending => lock(&taken)
                .take()
                .map_or(Poll::Pending, |stream| Poll::Ready(Ok(Some(stream)))),
        }
    })
    .await
    // A client that went away, or sent what is not HTTP: nothing of ours failed.
    .inspect_err(|error: &hyper::Error| tracing::debug!(error = %error, "a connection ended early"))
    .ok()??;
    let parts = connection.into_parts();
    Some((stream.after(&parts.read_buf), parts.io.io.into_inner()))
}

/// Whether the client wants the connection closed after the answer.
fn closes(headers: &HeaderMap) -> bool {
    let words = headers.get_all(header::CONNECTION).into_iter();
    let mut words = words.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A value is put and taken, nothing else.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection of which is known whether all that was to be written has been.
struct Watched {
    io: TokioIo<TcpStream>,
    written: Arc<AtomicBool>,
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.store(false, Ordering::Release);
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written.store(false, Ordering::Release);
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Called once no byte is left.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.written.store(true, Ordering::Release);
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
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
