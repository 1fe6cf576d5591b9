//! The one binary: `steadfast`.
//!
//! It composes the rooms and has no logic of its own: [`compose`] builds what they stand on, each command is one file
//! of [`commands`], and [`client`] speaks to a running Steadfast as anybody else would.

#[cfg(feature = "count-allocations")]
mod allocations;
mod args;
mod client;
mod commands;
mod compose;
mod config;
mod edge;
mod error;
mod listen;
mod lock;
mod log;
mod nats;
mod output;
mod render;
mod secret;
mod shutdown;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    config::Settings,
    error::{Context, EXIT_FAILURE, Failure},
};

/// With a thousand runs under way the system's allocator costs more CPU (docs/decisions/0022).
#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // First of all: whoever speaks TLS later finds this provider. It fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    #[cfg(feature = "count-allocations")]
    allocations::export();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let settings = Settings::load(cli.global.config.as_deref())?;
    let server = matches!(
        cli.command,
        Command::Dev(_) | Command::Gateway(_) | Command::Worker(_) | Command::Projector(_)
    );
    log::init(&settings.log(cli.global.log.as_deref(), cli.global.log_format, !server)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(dispatch(&settings, cli.command))
}

async fn dispatch(settings: &Settings, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Dev(args) => commands::dev::dev(settings, args).await,
        Command::Gateway(args) => commands::roles::gateway(settings, args).await,
        Command::Worker(args) => commands::roles::worker(settings, args).await,
        Command::Projector(args) => commands::roles::projector(settings, args).await,
        Command::Migrate(args) => commands::migrate::migrate(settings, args).await,
        Command::Run(args) => commands::run::run(settings, args).await,
        Command::Runs(args) => commands::runs::runs(settings, args).await,
        Command::Keys(args) => commands::keys::keys(settings, args).await,
        Command::Check(args) => commands::check::check(settings, args).await,
        Command::Doctor(args) => commands::doctor::doctor(settings, args).await,
        Command::Projections(args) => commands::projections::projections(settings, args).await,
        Command::Eval(args) => commands::eval::eval(settings, args).await,
        Command::Bench(args) => commands::bench::bench(settings, args).await,
    }
}
