//! The one place of the model code that asks what time it is: a `Retry-After` may be a date.

use chrono::{DateTime, Utc};

pub fn now() -> DateTime<Utc> {
    Utc::now()
}
