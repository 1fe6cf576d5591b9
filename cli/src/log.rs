//! Logs: to stderr, as text for people or JSON for collectors.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::{config::LogSettings, error::Failure};

pub fn init(settings: &LogSettings) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.filter).map_err(|error| {
        let filter = &settings.filter;
        Failure::new(format!(
            "the log filter {filter:?} (STEADFAST_LOG, --log or [log] filter) does not read: {error}; \
             give a level such as info, or levels by part such as warn,steadfast_workers=debug"
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where nobody reads stderr any more, a complaint about that would be a panic of whoever wrote.
        .log_internal_errors(false);
    if settings.json {
        builder.json().flatten_event(true).init();
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(colours).init();
    }
    Ok(())
}
