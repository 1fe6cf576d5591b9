//! The deterministic simulator: the real rooms in a simulated world.
//!
//! What runs is the code that ships: the run's rules, appender and reader, the gateway's router and streams, the
//! worker's loop, leases and redriver, the projector's loop. What is simulated lies behind their ports: the database
//! ([`database`], [`backend`]), the queue, the feed, the model and its tools, the read models' tables, clocks, and the
//! clients. Everything happens on one thread in virtual time, and every choice is drawn from the seed: the same seed
//! is the same story, to the last line.
//!
//! [`plan`]: what a seed stands for. [`simulation`]: how it is played. [`check`]: what must hold afterwards.
//! [`shrink`]: a failing seed made small enough to read. [`guard`]: what is taken away to see that it is missed.

mod backend;
mod calls;
mod calm;
pub mod check;
mod client;
mod database;
mod deaf;
mod feed;
pub mod guard;
mod house;
mod http;
mod model;
pub mod plan;
mod process;
mod queue;
mod rows;
pub mod shrink;
pub mod simulation;
mod tables;
mod transcript;
mod world;

pub use calm::Calm;
pub use guard::Guard;
pub use plan::Plan;
pub use simulation::{Outcome, Simulator};
