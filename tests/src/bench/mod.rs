//! Measurements of whole systems: what a run costs, how that grows, and whether one build is better than another.
//!
//! A scenario is one file under `scenarios/`: a clean system ([`Rig`]), a load, and what came of it as [`Figures`].
//! Nothing here judges a time. A scenario fails when something broke or a run was lost; the figures are for people and,
//! from the same cells, for programs.

mod compare;
mod costs;
mod figures;
mod filler;
mod identity;
mod level;
mod machine;
mod options;
mod plot;
mod posts;
mod profile;
mod rig;
mod scenarios;
mod settled;
mod statements;
mod stats;
mod stream;

pub use compare::compare;
pub use figures::Figures;
pub use identity::Build;
pub use machine::{raise_open_files, versions};
pub use options::Options;
pub use scenarios::{SCENARIOS, Scenario};

/// Whether all that was ordered can be had here; the error names the remedy.
pub async fn preconditions(options: &Options) -> crate::Result<()> {
    if options.profile.is_some() {
        profile::available()?;
    }
    if options.statements && options.mode == crate::system::Mode::Embedded {
        return Err("--statements looks into Postgres: leave --mode embedded out".into());
    }
    if options.statements {
        statements::available().await?;
    }
    Ok(())
}
