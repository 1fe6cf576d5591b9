//! The gateway: HTTP in, facts out.
//!
//! A request is identified, bounded and validated here; what it causes is decided by the run and committed by the
//! store before it is answered. The gateway keeps nothing: any number of them can stand side by side, and any of them
//! can be killed at any moment.
//!
//! * [`routes`]: one file for each endpoint, and the table they are served from.
//! * [`stream`]: the event stream, the piece with the hardest promise.
//! * [`identity`]: who asks. [`limits`]: how much they may ask. [`problem`]: how they are refused.
//! * [`demand`]: whether there is room for another run, and where it waits.

pub mod identity;
pub mod limits;

mod announce;
mod body;
mod change;
mod clock;
mod demand;
mod edge;
mod gateway;
mod idempotency;
mod linger;
mod problem;
mod query;
mod rate;
mod routes;
mod serve;
mod stream;
mod task;
mod view;

#[cfg(test)]
mod tests;

pub use gateway::{Deps, Gateway};
pub use identity::{BadJwtConfig, Identity, JwtConfig, Scope, Secret, new_api_key, unknown_scopes};
pub use limits::GatewayLimits;
pub use routes::router;
pub use serve::{serve, serve_ops};
