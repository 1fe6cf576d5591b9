//! The path of a run through the whole system, told once and walked in both modes: one process on SQLite, and a process
//! for each role on Postgres and NATS.

mod bad_input;
mod bad_places;
mod budget;
mod cancel;
mod client_tools;
mod commands;
mod drain;
mod idempotency;
mod limits;
mod model_faults;
mod outages;
mod runs;
mod sessions;
