//! The log as projections read it: decoded, in order, each event with what is known of its run from the first.

use std::{collections::HashMap, sync::Arc};

use steadfast::{
    run::{Event, RunId, SessionId, Time, event::RunRequested},
    store::{Error, LogEntry, Position, Reader},
};

/// Events read at once, and applied in one transaction, at the most.
const PAGE_EVENTS_MAX: u32 = 4000;
/// And at the least, however large they are.
const PAGE_EVENTS_MIN: u32 = 50;
/// The size of the first page, when nothing is known of how large the events are.
const PAGE_EVENTS_FIRST: u32 = 500;
/// Payload bytes a page should hold: the larger the events were, the fewer are read next.
const PAGE_BYTES_TARGET: usize = 4 * 1024 * 1024;
/// Open runs whose origin is remembered; the others are looked up again.
const ORIGINS_MAX: usize = 50_000;

/// One event of the log.
#[derive(Debug)]
pub struct Entry {
    pub log: LogEntry,
    pub event: Event,
    pub origin: Arc<Origin>,
}

/// What the first event of a run says and the later ones do not repeat. It never changes, so a memory of it cannot
/// be wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    pub session_id: SessionId,
    pub agent: String,
    /// The model the run asks for; what answers may call itself something longer.
    pub model: String,
}

impl Origin {
    pub fn of(request: &RunRequested) -> Self {
        Self {
            session_id: request.session_id,
            agent: request.agent.name.clone(),
            model: request.model.clone(),
        }
    }
}

/// A stretch of the log.
#[derive(Default)]
pub struct LogPage {
    pub entries: Vec<Entry>,
    /// There may be more behind it.
    pub full: bool,
    /// The event behind the last entry cannot be read: nothing after it may be applied.
    pub broken: Option<Broken>,
}

/// An event no projection gets past.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Names the run and the version.
    pub error: Error,
    pub time: Option<Time>,
}

impl LogPage {
    pub fn end(&self) -> Option<Position> {
        self.entries.last().map(|entry| entry.log.position)
    }

    /// Where the next page begins, if there is one to read.
    pub fn next(&self) -> Option<Position> {
        self.end().filter(|_| self.full && self.broken.is_none())
    }
}

/// Reads pages of the log; remembers the origin of the runs that are open.
pub struct Log {
    reader: Reader,
    origins: HashMap<RunId, Arc<Origin>>,
    /// Events of the next page.
    limit: u32,
    /// A page read before it was asked for, and the place it begins after.
    ahead: Option<(Position, LogPage)>,
}

impl Log {
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            origins: HashMap::new(),
            limit: PAGE_EVENTS_FIRST,
            ahead: None,
        }
    }

    /// Reads a page while the one before it is being applied. If that fails, it fails when the page is asked for.
    pub async fn read_ahead(&mut self, after: Option<Position>) {
        let Some(after) = after else { return };
        self.ahead = self.page(after).await.ok().map(|page| (after, page));
    }

    pub async fn page(&mut self, after: Position) -> Result<LogPage, Error> {
        if let Some((_, page)) = self.ahead.take().filter(|(place, _)| *place == after) {
            return Ok(page);
        }
        let mut limit = self.limit;
        let stored = loop {
            match self.reader.log(after, limit).await {
                Ok(stored) => break stored,
                Err(error @ Error::Unavailable(_)) => return Err(error),
                // One of the events cannot be read: come as close to it as possible.
                Err(_) if limit > 1 => limit /= 2,
                Err(error) => {
                    let broken = Some(Broken { error, time: None });
                    return Ok(LogPage {
                        broken,
                        ..LogPage::default()
                    });
                }
            }
        };
        let mut page = LogPage {
            full: stored.len() >= limit as usize,
            ..LogPage::default()
        };
        if !stored.is_empty() {
            let bytes: usize = stored.iter().map(|log| log.event.payload.len()).sum();
            let fit = PAGE_BYTES_TARGET / (bytes / stored.len()).max(1);
            self.limit = u32::try_from(fit).map_or(PAGE_EVENTS_MAX, |fit| fit.clamp(PAGE_EVENTS_MIN, PAGE_EVENTS_MAX));
        }
        page.entries.reserve(stored.len());
        for log in stored {
            let decoded = match log.event.decode() {
                Ok(event) => self
                    .origin(log.event.run_id, &event)
                    .await
                    .map(|origin| (event, origin)),
                Err(error) => Err(error),
            };
            match decoded {
                Ok((event, origin)) => {
                    if event.is_terminal() {
                        self.origins.remove(&log.event.run_id);
                    }
                    page.entries.push(Entry { log, event, origin });
                }
                Err(error @ Error::Unavailable(_)) => return Err(error),
                Err(error) => {
                    page.broken = Some(Broken {
                        error,
                        time: Some(log.event.time),
                    });
                    break;
                }
            }
        }
        Ok(page)
    }

    async fn origin(&mut self, run_id: RunId, event: &Event) -> Result<Arc<Origin>, Error> {
        if let Event::RunRequested(request) = event {
            return Ok(self.remember(run_id, Origin::of(request)));
        }
        if let Some(origin) = self.origins.get(&run_id) {
            return Ok(origin.clone());
        }
        let first = self.reader.events(run_id, 0, 1).await?;
        let corrupt = |reason: &str| Error::Corrupt {
            run_id,
            version: 1,
            reason: reason.into(),
        };
        let first = first
            .first()
            .filter(|first| first.version == 1)
            .ok_or_else(|| corrupt("the first event is missing"))?;
        match first.decode()? {
            Event::RunRequested(request) => Ok(self.remember(run_id, Origin::of(&request))),
            other => Err(corrupt(&format!("expected run.requested, found {}", other.name()))),
        }
    }

    fn remember(&mut self, run_id: RunId, origin: Origin) -> Arc<Origin> {
        if self.origins.len() >= ORIGINS_MAX {
            self.origins.clear();
        }
        let origin = Arc::new(origin);
        self.origins.insert(run_id, origin.clone());
        origin
    }
}
