//! `clock`: what time it is, by the time the context brings.

use async_trait::async_trait;
use chrono::{FixedOffset, SecondsFormat};
use serde_json::{Value, json};
use steadfast::run::ToolSpec;

use super::{Tool, ToolContext};

/// From Baker Island to Kiribati, with room for a mistake of the law.
const UTC_OFFSET_MINUTES_MAX: i64 = 15 * 60;

pub struct Clock;

#[async_trait]
impl Tool for Clock {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "clock".into(),
            description: "Tells the current date, time and day of the week in UTC and, given an offset, locally."
                .into(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "utc_offset_minutes": {
                        "type": "integer",
                        "minimum": -UTC_OFFSET_MINUTES_MAX,
                        "maximum": UTC_OFFSET_MINUTES_MAX,
                        "description": "Minutes to add to UTC for local time, such as 120 for UTC+2."
                    }
                }
            }),
        }
    }

    fn retry_safe(&self) -> bool {
        true
    }

    fn immediate(&self) -> bool {
        true
    }

    async fn call(&self, arguments: &Value, context: &ToolContext) -> Result<String, String> {
        let now = context.now;
        let utc = format!(
            "{} UTC, {}",
            now.to_rfc3339_opts(SecondsFormat::Secs, true),
            now.format("%A")
        );
        let Some(offset) = offset(arguments)? else {
            return Ok(utc);
        };
        let local = now.with_timezone(&offset);
        Ok(format!(
            "{utc}; local time {}, {}",
            local.to_rfc3339_opts(SecondsFormat::Secs, false),
            local.format("%A")
        ))
    }
}

fn offset(arguments: &Value) -> Result<Option<FixedOffset>, String> {
    let given = match arguments.get("utc_offset_minutes") {
        None | Some(Value::Null) => return Ok(None),
        Some(given) => given,
    };
    let wanted = || {
        format!("utc_offset_minutes must be a whole number from -{UTC_OFFSET_MINUTES_MAX} to {UTC_OFFSET_MINUTES_MAX}")
    };
    let minutes = given
        .as_i64()
        .or_else(|| given.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as i64));
    let in_range = minutes.filter(|minutes| (-UTC_OFFSET_MINUTES_MAX..=UTC_OFFSET_MINUTES_MAX).contains(minutes));
    let seconds = in_range.and_then(|minutes| i32::try_from(minutes * 60).ok());
    seconds.and_then(FixedOffset::east_opt).map(Some).ok_or_else(wanted)
}
