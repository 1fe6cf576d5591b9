//! The path tests, in one binary: the heart's ports against every adapter with real servers behind them, and whole
//! paths through the rooms.
//!
//! `cargo test -p steadfast-tests --test it`; a part of it by name, as in `… --test it store::postgres`.

// What the modules share: clock, ids, a store of a test's own, runs to put into it.
mod bed;

// The ports, each with one suite for all its adapters.
mod feed;
mod queue;
mod store;

// Paths through several rooms are modules below this line, one for each subject.
mod auth_matrix;
mod bench;
mod crash_points;
mod evals_and_dashboard;
mod kill;
mod path;
mod poison;
mod providers;
mod real_model;
mod restore;
mod stream;
mod upgrade;

// What those stand on: systems of real processes, clients, and judges of what clients saw.
mod support;
