//! `steadfast projections rebuild`: a read model anew from the log, beside the old one, which serves meanwhile.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Instant,
};

use steadfast::store::Error;
use steadfast_projections::models;

use super::{close, open};
use crate::{args::Projections, config::Settings, error::Failure, output};

const ALL: &str = "all";

pub async fn projections(settings: &Settings, command: Projections) -> Result<ExitCode, Failure> {
    let Projections::Rebuild { name, database } = command;
    let names: Vec<&str> = match name.as_str() {
        ALL => models::all().iter().map(|projection| projection.name()).collect(),
        one => vec![models::by_name(one).map_err(unknown)?.name()],
    };
    let store = open(settings, &database).await?;
    for name in names {
        let started = Instant::now();
        let progress = |events: u64| {
            let mut stderr = std::io::stderr();
            if stderr.is_terminal() {
                let _ = write!(stderr, "\r{name}: {events} events ");
                let _ = stderr.flush();
            }
        };
        let events = steadfast_projections::rebuild(&store.db, &store.reader, name, progress).await?;
        if std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r");
        }
        output::line(&format!(
            "{name}: rebuilt from {events} events in {:.1} s",
            started.elapsed().as_secs_f64()
        ))?;
    }
    close(&store.db).await;
    Ok(ExitCode::SUCCESS)
}

/// A name nobody knows is said as it is: no database was asked yet.
fn unknown(error: Error) -> Failure {
    match error {
        Error::Refused(said) => Failure::new(said),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_model_nobody_knows_is_said_without_blaming_the_database() {
        let said = models::by_name("runlist")
            .map_err(unknown)
            .err()
            .map(|failure| failure.to_string());
        assert!(said.is_some_and(|said| said.starts_with("there is no projection \"runlist\"; there are: run_list")));
    }
}
