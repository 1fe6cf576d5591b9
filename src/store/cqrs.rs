//! The store as `cqrs-es` sees it, for tools and tests built on that crate. The worker calls the heart directly: it
//! needs leases, epochs and verdicts, which that trait has no words for.

use std::collections::HashMap;

use cqrs_es::{AggregateContext, AggregateError, DomainEvent, EventEnvelope, EventStore};

use super::{Append, Error, GENESIS, Lease, Outcome, Store};
use crate::run::{Refusal, Run, RunId, TenantId};

/// Loads and extends runs that no worker holds.
pub struct RunStore {
    store: Store,
}

/// A run as it was loaded, and where its stream stood.
pub struct Context {
    run_id: RunId,
    run: Run,
    head: Option<super::Head>,
}

impl RunStore {
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

impl AggregateContext<Run> for Context {
    fn aggregate(&mut self) -> &mut Run {
        &mut self.run
    }
}

fn fault(error: Error) -> AggregateError<Refusal> {
    match error {
        Error::Unavailable(_) => AggregateError::DatabaseConnectionError(error.into()),
        Error::Refused(_) | Error::Newer { .. } => AggregateError::UnexpectedError(error.into()),
        Error::Corrupt { .. } => AggregateError::DeserializationError(error.into()),
    }
}

fn parse(id: &str) -> Result<RunId, AggregateError<Refusal>> {
    id.parse()
        .map_err(|error: crate::run::BadId| AggregateError::UnexpectedError(error.into()))
}

impl EventStore<Run> for RunStore {
    type AC = Context;

    async fn load_events(&self, id: &str) -> Result<Vec<EventEnvelope<Run>>, AggregateError<Refusal>> {
        let stored = self.store.reader.events(parse(id)?, 0, u32::MAX).await.map_err(fault)?;
        (stored.iter())
            .map(|event| {
                Ok(EventEnvelope {
                    aggregate_id: id.into(),
                    sequence: event.version as usize,
                    payload: event.decode().map_err(fault)?,
                    metadata: HashMap::from([("time".into(), event.time.to_rfc3339())]),
                })
            })
            .collect()
    }

    async fn load_aggregate(&self, id: &str) -> Result<Context, AggregateError<Refusal>> {
        let run_id = parse(id)?;
        let loaded = self.store.reader.load(run_id).await.map_err(fault)?;
        let (run, head) = loaded.map_or((Run::default(), None), |loaded| (loaded.run, Some(loaded.head)));
        Ok(Context { run_id, run, head })
    }

    async fn commit(
        &self,
        events: Vec<crate::run::Event>,
        context: Context,
        _metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<Run>>, AggregateError<Refusal>> {
        // `handle` has applied the events to the aggregate already.
        let run = context.run;
        let (tenant, epoch, hash, accept) = match context.head {
            Some(head) => (head.tenant, head.epoch, head.hash, None),
            None => {
                let request = run
                    .request
                    .as_ref()
                    .ok_or(AggregateError::UserError(Refusal::NotRequested))?;
                let accept = super::Accept {
                    session_id: request.session_id,
                    new_session: !request.continues_session,
                    agent: request.agent.name.clone(),
                    claim_within: std::time::Duration::ZERO,
                    held: false,
                };
                (TenantId::default(), 0, GENESIS, Some(accept))
            }
        };
        let lease = if run.outcome.is_some() {
            Lease::Release { due_in: None }
        } else {
            Lease::Keep
        };
        let append = Append {
            run_id: context.run_id,
            tenant,
            expected_version: run.version - events.len() as u64,
            expected_epoch: epoch,
            prev_hash: hash,
            time: super::clock::now(),
            status: run.status(),
            usage: run.usage,
            events,
            lease,
            accept,
            idempotency: None,
            patience: std::time::Duration::from_secs(5),
        };
        let events = append.events.clone();
        match self.store.appender.append(append).await.map_err(fault)? {
            Outcome::Appended(appended) => Ok((appended.events.iter().zip(events))
                .map(|(stored, payload)| EventEnvelope {
                    aggregate_id: stored.run_id.to_string(),
                    sequence: stored.version as usize,
                    metadata: HashMap::from([("schema".into(), payload.event_version())]),
                    payload,
                })
                .collect()),
            _ => Err(AggregateError::AggregateConflict),
        }
    }
}
