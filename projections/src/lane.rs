//! One projection on its way along the log: where it is, and the step that takes it further.

use std::time::Duration;

use steadfast::{
    crash::{self, Point},
    metrics,
    run::Time,
    store::{Error, Position},
};
use tokio::time::Instant;

use crate::{
    checkpoint::Checkpoint,
    log::{Broken, Entry},
    projection::{Names, Projection},
    tables::Tables,
};

/// A projection that stopped at an event tries it again after this pause: a newer build, or an operator, may have
/// made it readable.
const PARKED_RETRY: Duration = Duration::from_secs(5);
/// And says so in the log at most this often.
const PARKED_LOG: Duration = Duration::from_secs(60);

pub struct Lane {
    pub projection: &'static dyn Projection,
    pub names: Names,
    pub position: Position,
    parked: Option<Parked>,
    logged: Option<Instant>,
}

struct Parked {
    until: Instant,
    reason: String,
    /// Of the event it stopped at.
    time: Option<Time>,
}

impl Lane {
    pub fn new(projection: &'static dyn Projection, names: Names, position: Position) -> Self {
        Self {
            projection,
            names,
            position,
            parked: None,
            logged: None,
        }
    }

    fn key(&self) -> String {
        self.names.of(self.projection.name())
    }

    /// May it be moved now?
    pub fn is_free(&self) -> bool {
        self.parked.as_ref().is_none_or(|parked| parked.until <= Instant::now())
    }

    /// Stands still, and is about to be tried again.
    pub fn is_retried(&self) -> bool {
        self.parked.is_some() && self.is_free()
    }

    /// Why it stands still, and the time of the event it stands at.
    pub fn trouble(&self) -> Option<(&str, Option<Time>)> {
        self.parked.as_ref().map(|parked| (parked.reason.as_str(), parked.time))
    }

    /// Stops at an event it cannot get past. Nothing is skipped.
    pub fn park_at(&mut self, broken: &Broken) {
        let reason = format!("projection {} stopped at {}", self.projection.name(), broken.error);
        self.park(reason, broken.time);
    }

    fn park(&mut self, reason: String, time: Option<Time>) {
        let name = self.projection.name();
        metrics::flow().projection_errors.with_label_values(&[name]).inc();
        if self.logged.is_none_or(|last| last.elapsed() >= PARKED_LOG) {
            tracing::error!(projection = name, "{reason}; the other projections go on");
            self.logged = Some(Instant::now());
        }
        self.parked = Some(Parked {
            until: Instant::now() + PARKED_RETRY,
            reason,
            time,
        });
    }

    /// Someone else moved the checkpoint: go on from there.
    fn overtaken(&mut self, found: Option<Checkpoint>) {
        let (name, wanted) = (self.projection.name(), self.projection.version());
        match found {
            Some(found) if found.version == wanted => {
                self.position = found.position;
                self.parked = None;
            }
            Some(found) => self.park(
                format!(
                    "projection {name} is kept at version {} and this build makes version {wanted}; \
                     run the newer build, or rebuild {name} with this one",
                    found.version
                ),
                None,
            ),
            None => self.park(
                format!("projection {name} has no checkpoint; it is about to be built anew"),
                None,
            ),
        }
    }
}

/// Takes these lanes, which stand at the same place, over these events in one transaction. False if one of them was
/// overtaken: nothing was changed then.
pub async fn apply(tables: &dyn Tables, lanes: &mut [&mut Lane], entries: &[Entry]) -> Result<bool, Error> {
    let Some(end) = entries.last().map(|entry| entry.log.position) else {
        return Ok(true);
    };
    let mut change = tables.begin().await?;
    for lane in lanes.iter_mut() {
        let version = lane.projection.version();
        let found = change.lock(&lane.key()).await?;
        if found
            != Some(Checkpoint {
                version,
                position: lane.position,
            })
        {
            change.rollback().await?;
            lane.overtaken(found);
            return Ok(false);
        }
        change.apply(lane.projection, lane.names, entries).await?;
        change.put(&lane.key(), Checkpoint { version, position: end }).await?;
    }
    crash::at(Point::ProjectBefore);
    change.commit().await?;
    crash::at(Point::ProjectAfter);
    for lane in lanes {
        lane.position = end;
        lane.parked = None;
        let applied = entries.len() as u64;
        metrics::flow()
            .projection_events
            .with_label_values(&[lane.projection.name()])
            .inc_by(applied);
    }
    Ok(true)
}

/// Takes one lane as far as these events let it, in smaller and smaller steps around one that fails; parks it there.
pub async fn apply_alone(tables: &dyn Tables, lane: &mut Lane, mut entries: &[Entry]) -> Result<(), Error> {
    let mut step = entries.len();
    while !entries.is_empty() {
        step = step.min(entries.len());
        match apply(tables, &mut [lane], &entries[..step]).await {
            Ok(true) => entries = &entries[step..],
            Ok(false) => return Ok(()),
            Err(error @ Error::Unavailable(_)) => return Err(error),
            Err(_) if step > 1 => step /= 2,
            Err(error) => {
                lane.park_at(&refused(&entries[0], error));
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The event a projection could not take.
fn refused(entry: &Entry, error: Error) -> Broken {
    let event = &entry.log.event;
    let error = match error {
        Error::Corrupt { .. } | Error::Newer { .. } => error,
        other => {
            let reason = format!("{} could not be applied: {other}", event.name);
            Error::Corrupt {
                run_id: event.run_id,
                version: event.version,
                reason,
            }
        }
    };
    Broken {
        error,
        time: Some(event.time),
    }
}

/// Parks every lane that has come to the event that cannot be read.
pub fn park_at_broken(lanes: &mut [&mut Lane], at: Position, broken: &Broken) {
    for lane in lanes.iter_mut().filter(|lane| lane.position == at) {
        lane.park_at(broken);
    }
}
