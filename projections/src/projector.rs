//! The loop that keeps the read models up to date.
//!
//! Projections that stand at the same place of the log are fed from one read and moved in one transaction; one that
//! fails is left behind, parked at the event it cannot take, and the others go on. Any number of projectors may run:
//! the checkpoint's lock lets each event count once, and whoever comes second reads on from where the first is.

use std::{sync::Arc, time::Duration};

use steadfast::{
    health::Health,
    metrics,
    store::{Db, Error, Position, Reader},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    lane::{Lane, apply, apply_alone, park_at_broken},
    log::{Log, LogPage},
    models,
    projection::{Names, Projection},
    tables::Tables,
    watch::Watch,
};

/// The part's name in `/readyz`.
pub const PART: &str = "projector";

/// From the beginning of one round to that of the next: what gathers meanwhile shares a transaction, and of a run that
/// ends meanwhile one row is written. An idle projector that is poked does not wait so long.
const PAUSE: Duration = Duration::from_millis(200);
/// From the end of a round to the next, however long it took.
const REST_MIN: Duration = Duration::from_millis(25);
/// A projector that is asked to stop takes so long at the most to come to the end of the log.
const LAST_ROUNDS_MAX: Duration = Duration::from_secs(2);
/// Between two tries while the database is away.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// A projector that has not looked at the log for so long is not ready.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often the projector asks what holds readers back, and when idle, which events.
const HELD_BACK_LOOK: Duration = Duration::from_secs(1);

pub struct Projector {
    tables: Arc<dyn Tables>,
    reader: Reader,
    health: Health,
    projections: Vec<&'static dyn Projection>,
    poke: Arc<Notify>,
}

/// What a round found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Events,
    MoreThanAPage,
}

impl Projector {
    pub fn new(db: Db, reader: Reader, health: Health) -> Self {
        Self::of(db, reader, health, models::all())
    }

    /// A projector of these projections only.
    pub fn of(db: Db, reader: Reader, health: Health, projections: Vec<&'static dyn Projection>) -> Self {
        Self::on(Arc::new(db), reader, health, projections)
    }

    /// The same wherever the tables lie.
    pub fn on(
        tables: Arc<dyn Tables>,
        reader: Reader,
        health: Health,
        projections: Vec<&'static dyn Projection>,
    ) -> Self {
        Self {
            tables,
            reader,
            health,
            projections,
            poke: Arc::default(),
        }
    }

    /// Notified, an idle projector looks at once. For processes that append themselves.
    pub fn poke(&self) -> Arc<Notify> {
        self.poke.clone()
    }

    /// Runs until told to stop, and then to the end of the log. A database that is away is waited for.
    pub async fn run(self, shutdown: CancellationToken) {
        self.health.expect(PART, SILENCE_MAX);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            // A round cut off here was a transaction that never happened.
            () = self.follow() => {}
        }
        // What was appended until now is applied: a system that was stopped in order is up to date when it rests.
        let _ = tokio::time::timeout(LAST_ROUNDS_MAX, self.catch_up()).await;
    }

    async fn catch_up(&self) -> Result<(), Error> {
        let (mut log, mut lanes) = (Log::new(self.reader.clone()), self.lanes().await?);
        while self.round(&mut log, &mut lanes).await? == Found::MoreThanAPage {}
        Ok(())
    }

    async fn follow(&self) {
        let mut log = Log::new(self.reader.clone());
        let mut lanes = Vec::new();
        let mut watch = Watch::default();
        let mut last_look = Instant::now() - HELD_BACK_LOOK;
        loop {
            let began = Instant::now();
            let round = async {
                if lanes.is_empty() {
                    lanes = self.lanes().await?;
                }
                if lanes.iter().any(Lane::is_retried) {
                    // Its tables may have been deleted under it: made anew, they start at the first event.
                    self.tables.create(&self.projections).await?;
                }
                let found = self.round(&mut log, &mut lanes).await?;
                if last_look.elapsed() >= HELD_BACK_LOOK {
                    last_look = Instant::now();
                    watch.look(&*self.tables).await?;
                    if found == Found::Nothing {
                        self.look_for_held_back(&lanes).await?;
                    }
                }
                Ok(found)
            };
            match round.await {
                Ok(found) => {
                    self.tell(&lanes, &watch);
                    match found {
                        Found::MoreThanAPage => tokio::task::yield_now().await,
                        Found::Events => tokio::time::sleep_until((began + PAUSE).max(Instant::now() + REST_MIN)).await,
                        Found::Nothing => {
                            let _ = tokio::time::timeout(PAUSE, self.poke.notified()).await;
                        }
                    }
                }
                Err::<_, Error>(error) => {
                    tracing::warn!(error = %error, "the projector could not go on; it will try again");
                    self.health.trouble(PART, error.to_string());
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Where every projection stands. One whose tables another version made is built anew beside them.
    async fn lanes(&self) -> Result<Vec<Lane>, Error> {
        self.tables.create(&self.projections).await?;
        let mut lanes = Vec::with_capacity(self.projections.len());
        for projection in &self.projections {
            let checkpoint = self.tables.checkpoint(projection.name()).await?;
            lanes.push(match checkpoint {
                Some(checkpoint) if checkpoint.version >= projection.version() => {
                    // A newer version's tables are left alone: the lane finds out and parks.
                    Lane::new(*projection, Names::Live, checkpoint.position)
                }
                _ => {
                    tracing::info!(
                        projection = projection.name(),
                        version = projection.version(),
                        "building anew"
                    );
                    Lane::new(*projection, Names::New, self.tables.open_build(*projection).await?)
                }
            });
        }
        Ok(lanes)
    }

    async fn round(&self, log: &mut Log, lanes: &mut [Lane]) -> Result<Found, Error> {
        let mut places: Vec<Position> = lanes
            .iter()
            .filter(|lane| lane.is_free())
            .map(|lane| lane.position)
            .collect();
        places.sort_unstable();
        places.dedup();
        let mut most = Found::Nothing;
        for place in places {
            let page = log.page(place).await?;
            let mut here: Vec<&mut Lane> = lanes
                .iter_mut()
                .filter(|lane| lane.is_free() && lane.position == place)
                .collect();
            tokio::join!(self.take_over(&mut here, &page), log.read_ahead(page.next())).0?;
            if let Some(broken) = &page.broken {
                park_at_broken(&mut here, page.end().unwrap_or(place), broken);
            }
            most = most.max(match (&page.full, page.entries.is_empty()) {
                (true, false) => Found::MoreThanAPage,
                (_, false) => Found::Events,
                (_, true) => Found::Nothing,
            });
            self.tell_lag(&here, &page);
            if !page.full && page.broken.is_none() {
                for lane in here
                    .iter_mut()
                    .filter(|lane| lane.names == Names::New && lane.trouble().is_none())
                {
                    self.tables.swap_in(log, lane).await?;
                    tracing::info!(projection = lane.projection.name(), "built anew and swapped in");
                }
            }
        }
        Ok(most)
    }

    async fn take_over(&self, lanes: &mut [&mut Lane], page: &LogPage) -> Result<(), Error> {
        match apply(&*self.tables, lanes, &page.entries).await {
            Ok(_) => Ok(()),
            Err(error @ Error::Unavailable(_)) => Err(error),
            // One of them cannot take one of the events: find out which, and let the others pass.
            Err(_) => {
                for lane in lanes {
                    apply_alone(&*self.tables, lane, &page.entries).await?;
                }
                Ok(())
            }
        }
    }

    fn tell(&self, lanes: &[Lane], watch: &Watch) {
        let stopped = lanes.iter().find_map(|lane| lane.trouble()).map(|(reason, _)| reason);
        match watch.trouble().or(stopped) {
            Some(reason) => self.health.trouble(PART, reason),
            None => self.health.progress(PART),
        }
        for lane in lanes {
            metrics::flow()
                .projection_stopped
                .with_label_values(&[lane.projection.name()])
                .set(lane.trouble().is_some().into());
            if let Some((_, Some(time))) = lane.trouble() {
                set_lag(lane, Some(time));
            }
        }
    }

    fn tell_lag(&self, lanes: &[&mut Lane], page: &LogPage) {
        let newest = page
            .entries
            .last()
            .map(|entry| entry.log.event.time)
            .filter(|_| page.full);
        for lane in lanes.iter().filter(|lane| lane.trouble().is_none()) {
            // An empty page is no proof that nothing is left: see `look_for_held_back`.
            if !page.entries.is_empty() {
                set_lag(lane, newest);
            }
        }
    }

    /// A transaction left open somewhere in the cluster hides all newer events from readers of the whole log. The
    /// lag must show it.
    async fn look_for_held_back(&self, lanes: &[Lane]) -> Result<(), Error> {
        for lane in lanes.iter().filter(|lane| lane.trouble().is_none()) {
            set_lag(lane, self.tables.first_behind(lane.position).await?);
        }
        Ok(())
    }
}

/// The age of the oldest event not applied; none means there is no such event.
fn set_lag(lane: &Lane, oldest: Option<steadfast::run::Time>) {
    let age = oldest.map_or(0.0, |time| (clock::now() - time).as_seconds_f64().max(0.0));
    metrics::flow()
        .projection_lag
        .with_label_values(&[lane.projection.name()])
        .set(age);
}
