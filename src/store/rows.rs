//! What rows mean: heads, events, and runs that are due.

use super::{Due, Error, Head, StoredEvent, sql::Row};
use crate::run::{RunId, SessionId, Status};

pub const EVENT_COLUMNS: &str = "run_id, version, tenant_id, type, schema, time, payload, hash";

pub fn due_of(row: &Row) -> Result<Due, Error> {
    Ok(Due {
        run_id: RunId(row.get("run_id")?),
        tenant: row.tenant("tenant_id")?,
        version: row.count("version")?,
        dispatch: row.count("dispatches")?,
    })
}

pub fn event_of(row: &Row) -> Result<StoredEvent, Error> {
    Ok(StoredEvent {
        run_id: RunId(row.get("run_id")?),
        version: row.count("version")?,
        tenant: row.tenant("tenant_id")?,
        name: row.get("type")?,
        schema: row.get::<i16>("schema")? as u16,
        time: row.get("time")?,
        payload: row.get("payload")?,
        hash: row.hash("hash")?,
    })
}

pub fn head_of(row: &Row) -> Result<Head, Error> {
    let status: String = row.get("status")?;
    Ok(Head {
        run_id: RunId(row.get("run_id")?),
        tenant: row.tenant("tenant_id")?,
        session_id: SessionId(row.get("session_id")?),
        session_seq: row.count("session_seq")?,
        agent: row.get("agent")?,
        status: status_of(&status)?,
        version: row.count("version")?,
        epoch: row.count("epoch")?,
        hash: row.hash("hash")?,
        lease_owner: row.get("lease_owner")?,
        lease_until: row.get("lease_until")?,
        due_at: row.get("due_at")?,
        usage: row.usage()?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

pub fn status_of(text: &str) -> Result<Status, Error> {
    Status::parse(text).ok_or_else(|| Error::Refused(format!("runs.status holds {text:?}")))
}
