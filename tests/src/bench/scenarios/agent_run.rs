//! The run almost every agent makes, at more and more clients.

use futures::FutureExt;

use super::Scenario;
use crate::{
    Result,
    bench::{
        Figures, Options, level,
        rig::{Rig, Setup},
        settled::Ended,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "agent-run",
    about: "a post, a model call that asks for a tool, the tool, a model call of 32 streamed words, the answer, at each number of clients",
    size: None,
    distributed_only: false,
    measure: |options| measure(options).boxed_local(),
};

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let mut rig = Rig::start(options, Setup::default()).await?;
    let (mut levels, mut ended) = (vec![], Ended::default());
    for clients in &options.c {
        println!("agent-run: {clients} clients for {} s", options.seconds);
        let level = rig.load_looked_at(options, *clients, &mut figures).await?;
        level.judge(&mut figures);
        ended += level.ended();
        levels.push(level);
    }
    let title = "agent-run: CPU in ms a run without the model, then of each process; resident memory in MiB";
    figures.tables.insert(0, level::table(title, &levels));
    figures.settings = rig.settings.clone();
    figures.settings.insert("seconds".into(), options.seconds.into());
    rig.settle(&ended, &mut figures).await;
    Ok(figures)
}
