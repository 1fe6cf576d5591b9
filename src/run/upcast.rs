//! Older schemas of events, lifted to today's one step at a time.
//!
//! A log is never rewritten, so whatever was recorded once is read for ever. A field that every older build may ignore
//! is added with a default and keeps the schema. Anything else raises the schema of its event and adds a step here, and
//! a golden log of the old schema stays under `tests/logs/`.

use serde_json::Value;

use super::Corrupt;

/// From one schema of an event to the next.
pub struct Step {
    pub event: &'static str,
    pub from: u16,
    pub lift: fn(Value) -> Result<Value, String>,
}

/// One for each schema that was released and is no longer written.
pub const STEPS: &[Step] = &[];

/// One step up. None: nobody knows the way.
pub fn lift(steps: &[Step], name: &str, schema: u16, payload: &str) -> Result<Option<(u16, String)>, Corrupt> {
    let Some(step) = steps.iter().find(|step| (step.event, step.from) == (name, schema)) else {
        return Ok(None);
    };
    let lifted = serde_json::from_str(payload)
        .map_err(|error| error.to_string())
        .and_then(step.lift)
        .map_err(|reason| Corrupt::BadPayload {
            name: name.into(),
            reason: format!("lifting it from schema {schema}: {reason}"),
        })?;
    Ok(Some((schema + 1, lifted.to_string())))
}
