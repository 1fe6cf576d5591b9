//! Group commit: many callers, few commits.
//!
//! Callers hand their appends to a lane: new runs to one, all others to another. A lane writes whatever is waiting in
//! one statement; the next batch forms while that one commits. There is no timer: an idle lane commits at once.
//!
//! When a commit's answer is lost (the connection broke, the server restarted) the outcome is unknown. The lane then
//! asks the log itself, so an append happens once or not at all, and tries again while the caller's patience lasts.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Append, Backend, Error, Outcome, Prepared, own_thread};
use crate::{metrics, simulated};

/// Appends in one commit, at the most.
pub const BATCH_MAX: usize = 256;
/// Appends waiting for a lane, at the most; more callers wait their turn.
const LANE_DEPTH: usize = 4096;
/// A caller hears so long after its patience has run out, at the latest.
const GRACE: Duration = Duration::from_millis(500);
/// A batch that has not committed by then is given up on, its connection with it, and the log is asked what became of it.
/// Where writing blocks the lane, nothing can: SQLite itself waits for 5 s at the most, and callers for their patience.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Pause between tries while the database is away.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

struct Job {
    prepared: Arc<Prepared>,
    reply: oneshot::Sender<Result<Outcome, Error>>,
    give_up: Instant,
    /// A commit of this append may have happened without our knowing.
    unsure: bool,
}

/// The handle that may add to the log.
#[derive(Clone)]
pub struct Appender {
    lanes: Arc<[mpsc::Sender<Job>]>,
}

impl Appender {
    pub(super) fn start(backend: Arc<dyn Backend>) -> Self {
        let lanes = (0..backend.lanes().max(1))
            .map(|_| {
                let (sender, receiver) = mpsc::channel(LANE_DEPTH);
                let lane = lane(backend.clone(), receiver);
                if backend.blocks() {
                    drop(own_thread("append", lane));
                } else {
                    simulated::spawn(lane);
                }
                sender
            })
            .collect();
        Self { lanes }
    }

    /// Adds to the log. When it answers `Appended`, the facts are durable.
    pub async fn append(&self, append: Append) -> Result<Outcome, Error> {
        // New runs have a lane of their own where there are two: they need another statement.
        let lane = usize::from(append.accept.is_none()).min(self.lanes.len() - 1);
        let give_up = Instant::now() + append.patience;
        let (reply, answer) = oneshot::channel();
        let patience = append.patience;
        let job = Job {
            prepared: Prepared::new(append).into(),
            reply,
            give_up,
            unsure: false,
        };
        let stopped = || Error::Unavailable("the appender has stopped".into());
        let outcome = async {
            self.lanes[lane].send(job).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        // The lane gives up by itself; this is for a lane that is held by a database that neither answers nor fails.
        let late = |_| Err(Error::Unavailable("the database does not answer".into()));
        tokio::time::timeout(patience + GRACE, outcome)
            .await
            .unwrap_or_else(late)
    }
}

async fn lane(backend: Arc<dyn Backend>, mut jobs: mpsc::Receiver<Job>) {
    let mut waiting: Vec<Job> = Vec::new();
    loop {
        if waiting.is_empty() {
            match jobs.recv().await {
                Some(job) => waiting.push(job),
                None => return,
            }
        }
        // Whoever is about to append, and only waits for a turn on this thread, shares the commit. A thread of the lane's own
        // has nobody else.
        tokio::task::yield_now().await;
        while waiting.len() < BATCH_MAX {
            let Ok(job) = jobs.try_recv() else { break };
            waiting.push(job);
        }
        // Whoever has stopped waiting was told nothing, and nothing need happen any more.
        waiting.retain(|job| !job.reply.is_closed());
        let mut batch = take_batch(&mut waiting);
        if batch.is_empty() {
            continue;
        }
        metrics::store().append_batch.observe(batch.len() as f64);
        let started = Instant::now();
        if let Err(error) = write(&*backend, &mut batch).await {
            tracing::warn!(error = %error, appends = batch.len(), "an append batch failed; it will be tried again");
            metrics::store().append_errors.inc();
            put_back(batch, &mut waiting, &error);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        metrics::store().append_seconds.observe(started.elapsed().as_secs_f64());
    }
}

/// Takes what may share a commit: one append for each run, each existing session and each idempotency key.
fn take_batch(waiting: &mut Vec<Job>) -> Vec<Job> {
    let mut runs = HashSet::new();
    let mut sessions = HashSet::new();
    let mut keys = HashSet::new();
    let mut batch = Vec::with_capacity(waiting.len());
    let mut rest = Vec::new();
    for job in waiting.drain(..) {
        let order = &job.prepared.append;
        let session = order
            .accept
            .as_ref()
            .filter(|accept| !accept.new_session)
            .map(|accept| accept.session_id);
        let key = order
            .idempotency
            .as_ref()
            .map(|key| (order.tenant.clone(), key.key.clone()));
        let free = !runs.contains(&order.run_id)
            && !session.is_some_and(|session| sessions.contains(&session))
            && !key.as_ref().is_some_and(|key| keys.contains(key));
        if free && batch.len() < BATCH_MAX {
            runs.insert(order.run_id);
            sessions.extend(session);
            keys.extend(key);
            batch.push(job);
        } else {
            // Later appends of the same run must not overtake this one.
            runs.insert(order.run_id);
            rest.push(job);
        }
    }
    *waiting = rest;
    // Every writer locks heads in the same order, so two batches never wait for each other in a circle.
    batch.sort_unstable_by_key(|job| job.prepared.append.run_id);
    batch
}

/// Writes the batch and answers every caller, or answers none and says why.
async fn write(backend: &dyn Backend, batch: &mut Vec<Job>) -> Result<(), Error> {
    if batch.iter().any(|job| job.unsure) {
        let mut open = Vec::new();
        for mut job in batch.drain(..) {
            match if job.unsure {
                backend.was_appended(&job.prepared).await
            } else {
                Ok(None)
            } {
                Ok(Some(outcome)) => drop(job.reply.send(Ok(outcome))),
                Ok(None) => open.push(job),
                Err(error) => {
                    job.unsure = true;
                    open.push(job);
                    tracing::debug!(error = %error, "could not ask whether an append had happened");
                }
            }
        }
        *batch = open;
        // A job still unsure here is written again: the version check makes a second copy impossible.
    }
    if batch.is_empty() {
        return Ok(());
    }
    let (orders, replies): (Vec<Arc<Prepared>>, Vec<_>) = batch
        .drain(..)
        .map(|job| (job.prepared, (job.reply, job.give_up, job.unsure)))
        .unzip();
    let verdicts = write_in_time(backend, &orders).await;
    let jobs = orders.into_iter().zip(replies);
    match verdicts {
        Ok(verdicts) => {
            for ((prepared, (reply, give_up, unsure)), verdict) in jobs.zip(verdicts) {
                if unsure && !matches!(verdict, Ok(Outcome::Appended(_))) {
                    // Our own first try may be what it conflicts with, or what used its key.
                    match backend.was_appended(&prepared).await {
                        Ok(found) => drop(reply.send(found.map_or(verdict, Ok))),
                        Err(_) => batch.push(Job {
                            prepared,
                            reply,
                            give_up,
                            unsure,
                        }),
                    }
                } else {
                    // The caller may be gone; the facts stay.
                    drop(reply.send(verdict));
                }
            }
            if batch.is_empty() {
                Ok(())
            } else {
                Err(Error::Unavailable("an append's outcome is not known yet".into()))
            }
        }
        Err(error) => {
            batch.extend(jobs.map(|(prepared, (reply, give_up, unsure))| Job {
                prepared,
                reply,
                give_up,
                unsure,
            }));
            Err(error)
        }
    }
}

type Verdicts = Vec<Result<Outcome, Error>>;

async fn write_in_time(backend: &dyn Backend, orders: &[Arc<Prepared>]) -> Result<Verdicts, Error> {
    let write = async |orders| match tokio::time::timeout(WRITE_MAX, backend.write(orders)).await {
        Ok(written) => written,
        Err(_) => Err(no_answer()),
    };
    match write(orders).await {
        // A statement that is refused for one append fails its neighbours too: each is tried alone.
        Err(Error::Refused(_)) if orders.len() > 1 => {
            let mut verdicts = Verdicts::with_capacity(orders.len());
            for order in orders {
                match write(std::slice::from_ref(order)).await {
                    Ok(written) => verdicts.extend(written.into_iter().map(Ok)),
                    Err(error @ Error::Unavailable(_)) => return Err(error),
                    Err(error) => verdicts.push(Err(error)),
                }
            }
            Ok(verdicts)
        }
        written => Ok(written?.into_iter().map(Ok).collect()),
    }
}

fn no_answer() -> Error {
    Error::Unavailable(format!("no answer within {} s", WRITE_MAX.as_secs()))
}

fn put_back(batch: Vec<Job>, waiting: &mut Vec<Job>, error: &Error) {
    let retry = matches!(error, Error::Unavailable(_));
    let mut kept: Vec<Job> = Vec::new();
    for mut job in batch {
        if retry && Instant::now() < job.give_up {
            job.unsure = true;
            kept.push(job);
        } else {
            drop(job.reply.send(Err(error.clone())));
        }
    }
    kept.append(waiting);
    *waiting = kept;
}
