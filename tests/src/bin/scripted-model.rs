//! The scripted model as a program, for demonstrations, load tests and clients in other languages.

use std::net::{IpAddr, SocketAddr};

use clap::Parser;
use steadfast_tests::{
    Result, ScriptedModel, Settings,
    model::{DIRECTIVES, SettingsPatch},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ABOUT: &str = "An OpenAI-compatible model server that does what the user message orders.

Left alone it calls a tool once (`lookup`, if offered, with {\"q\": the user text}; else the first offered) and then
answers some words that end in `done.`. Point a client at http://HOST:PORT/v1 with any key.";

const ROUTES: &str = r#"Routes:
  POST /v1/chat/completions      streaming and not
  GET  /v1/models
  GET  /stats                    requests in all, by kind, and by the text of their last user message
  GET  /ledger                   the last ten thousand calls, one by one
  POST /ctl?error_rate=0.3       change any setting while it runs (names with _ for -); reset=true forgets all counts

Try:
  curl -s localhost:9100/v1/chat/completions -d '{"messages":[{"role":"user","content":"[[say:hello]]"}]}'"#;

#[derive(Parser)]
#[command(about = "A model server that does what it is told", long_about = ABOUT, after_long_help = format!("{DIRECTIVES}\n\n{ROUTES}"))]
struct Args {
    /// The port to listen on; 0 for any
    #[arg(long, default_value_t = 9100)]
    port: u16,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    #[command(flatten)]
    settings: SettingsPatch,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let settings = Settings::default().patched(&args.settings);
    let model = ScriptedModel::start_at(SocketAddr::new(args.host, args.port), settings).await?;
    println!("scripted-model: listening on {}", model.base_url());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
