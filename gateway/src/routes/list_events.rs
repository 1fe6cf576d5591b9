//! `GET /v1/runs/{id}/events`: a run's events as a list.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use serde_json::value::RawValue;
use steadfast::{run::RunId, store::StoredEvent, wire};

use super::stream_events::{check_range, read_cursor};
use crate::{
    gateway::Gateway,
    identity::Who,
    limits::{EVENTS_BYTES_MAX, EVENTS_PAGE_DEFAULT, EVENTS_PAGE_MAX, EVENTS_SCANNED_MAX},
    problem::Problem,
    query::{PathId, Query},
    stream::text::Types,
    view::List,
};

/// Events read from the store at once.
const PAGE: u32 = 100;

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(run_id): PathId<RunId>,
    RawQuery(query): RawQuery,
) -> Result<Json<List<Box<RawValue>>>, Problem> {
    let query = Query::read(query.as_deref(), &["after", "types", "limit"])?;
    let limit = query.number("limit", 1, EVENTS_PAGE_MAX.into(), EVENTS_PAGE_DEFAULT.into())?;
    let types = query.get("types").map_or(Ok(Types::default()), Types::read)?;
    let cursor = query
        .get("after")
        .map_or(Ok(wire::Cursor::default()), |text| read_cursor("after", text))?;
    let head = gateway.head(&who, run_id).await?;
    check_range(cursor, &head)?;

    let mut page = Page {
        types,
        limit: usize::try_from(limit).unwrap_or(1),
        ..Page::default()
    };
    let mut after = cursor.events_seen();
    loop {
        let events = gateway.store.reader.events(run_id, after, PAGE).await?;
        let last_page = events.len() < PAGE as usize;
        for event in &events {
            after = event.version;
            if !page.add(event)? {
                page.has_more = true;
                break;
            }
        }
        if last_page || page.has_more {
            break;
        }
    }
    let Page {
        data,
        first,
        last,
        has_more,
        ..
    } = page;
    Ok(Json(List::new(
        data,
        first.map(|id| id.to_string()),
        last.map(|id| id.to_string()),
        has_more,
    )))
}

/// A page being filled.
#[derive(Default)]
struct Page {
    types: Types,
    limit: usize,
    data: Vec<Box<RawValue>>,
    bytes: usize,
    scanned: usize,
    first: Option<u64>,
    /// Up to where the run was read: the cursor of the next page.
    last: Option<u64>,
    has_more: bool,
}

impl Page {
    /// False: this event belongs to the next page.
    fn add(&mut self, event: &StoredEvent) -> Result<bool, Problem> {
        let full =
            self.data.len() >= self.limit || self.bytes >= EVENTS_BYTES_MAX || self.scanned >= EVENTS_SCANNED_MAX;
        if full {
            return Ok(false);
        }
        self.scanned += 1;
        self.last = Some(event.version);
        if self.types.include(&event.name) {
            let value = wire::event_value(event).ok_or_else(|| {
                Problem::internal(format!("event {} of run {} is not JSON", event.version, event.run_id))
            })?;
            self.bytes += value.get().len();
            self.data.push(value);
            self.first.get_or_insert(event.version);
        }
        Ok(true)
    }
}
