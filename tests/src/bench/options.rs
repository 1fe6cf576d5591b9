//! What was ordered.

use std::path::{Path, PathBuf};

use crate::system::{self, Mode};

#[derive(Debug, Clone)]
pub struct Options {
    pub mode: Mode,
    /// Numbers of clients, one level after the other.
    pub c: Vec<u32>,
    /// How long a level is measured.
    pub seconds: u64,
    /// What a scenario is about (streams, steps, turns, runs, events), where its own number is not wanted.
    pub size: Option<u64>,
    /// The large numbers, which take their time.
    pub full: bool,
    /// Another build of `steadfast` than the one beside this program.
    pub program: Option<&'static Path>,
    /// The process of which each level gets a flame graph.
    pub profile: Option<String>,
    /// Where flame graphs go.
    pub out: PathBuf,
    /// Whether Postgres tells what each statement costs.
    pub statements: bool,
    /// Of the worker; None: as many as a scenario asks for.
    pub slots: Option<u64>,
}

impl Options {
    pub fn program(&self) -> &'static Path {
        self.program.unwrap_or_else(system::steadfast)
    }

    /// The number a scenario is about.
    pub fn size_or(&self, usual: u64, full: u64) -> u64 {
        self.size.unwrap_or(if self.full { full } else { usual })
    }
}
