//! The bench as a program: clean systems of real processes, a table for people and JSON for programs.

use std::{panic::AssertUnwindSafe, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use futures::FutureExt;
use serde_json::{Map, Value, json};
use steadfast_tests::{
    Result,
    bench::{Build, Figures, Options, SCENARIOS, Scenario, compare, preconditions, raise_open_files, versions},
    system::{Mode, counting_allocations},
};

const ABOUT: &str = "Measures Steadfast: what runs cost, how long they take, and how that grows.

Each scenario starts a clean system of its own (gateway, worker and projector as processes on a Postgres and a NATS of
their own, or `steadfast dev`) and a scripted model as a process of its own, warms it up, measures, and ends with
`steadfast check --settled`; then the log must hold exactly the runs that were accepted, each completed (cancelled, in
idle-streams), and the model must have been asked for all of them. Times are never judged: a scenario fails when something
broke, a run was lost or did not complete, also while warming up, or the program was built anew meanwhile.";

const MORE: &str = "CPU is user and system time of a process and its children, divided by what was done. `cpu ms per run` is the sum over
all processes but the model. The clients share the machine with what they measure.

Exit codes: 0 measured; 1 a run failed or was lost, or a scenario broke off; 2 wrong arguments, or something is missing.

Examples:
  bench                                      agent-run at 1, 16, 64, 256 and 1024 clients
  bench --mode embedded --c 64 --json f.json one process on SQLite; the figures as JSON too
  bench --scenario long-run,idle-streams     two other scenarios
  bench --scenario all                       every scenario; --full for the large numbers
  bench --profile worker --c 64              and a flame graph of the worker, in target/bench
  bench --statements --c 64                  and what each statement cost Postgres
  bench --allocations --c 64                 and what each process allocates, with a build that counts
  bench --compare ../before/steadfast        this build against another, pair by pair";

const LEVELS: [u32; 5] = [1, 16, 64, 256, 1024];
/// Where one level is enough.
const LEVEL: u32 = 64;
const SECONDS: u64 = 10;
/// Of each of a pair.
const SECONDS_OF_A_PAIR: u64 = 5;

#[derive(Parser)]
#[command(about = "Measures Steadfast on real processes", long_about = ABOUT, after_long_help = MORE)]
struct Args {
    /// What to measure, or `all`; may be given more than once, or with commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "agent-run")]
    scenario: Vec<String>,
    #[arg(long, value_enum, default_value_t = ModeArg::Distributed)]
    mode: ModeArg,
    /// Numbers of clients of agent-run, one level after the other [default: 1,16,64,256,1024; 64 with --profile,
    /// --statements, --allocations and --compare]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    c: Vec<u32>,
    /// Runs the worker executes at the same time [default: 256; as many as a scenario holds open where that is more]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    slots: Option<u64>,
    /// How long a level is measured, after two seconds of warming up [default: 10; 5 with --compare]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// How many streams, steps, turns, runs or events a scenario is about, instead of its own number: see --list
    #[arg(long, value_name = "N")]
    size: Option<u64>,
    /// The large numbers, which take their time: see --list
    #[arg(long)]
    full: bool,
    /// Write versions, settings and figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw how costs grow into this directory, one SVG for each scenario that looks at it
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Draw a flame graph of this process (gateway, worker, projector, postgres, nats, model; steadfast where embedded)
    /// at each level of agent-run
    #[arg(long, value_name = "PROCESS")]
    profile: Option<String>,
    /// Where flame graphs go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Say what each statement cost Postgres at each level of agent-run
    #[arg(long)]
    statements: bool,
    /// Say what each process allocates at each level of agent-run; builds `steadfast` with a counting allocator
    #[arg(long)]
    allocations: bool,
    /// Measure agent-run with this build and with another `steadfast`, in turn; both are named by version and SHA-256, and
    /// each one's figures of each pair are told beside the ratios
    #[arg(long, value_name = "BINARY", conflicts_with_all = ["scenario", "profile", "statements", "allocations"])]
    compare: Option<PathBuf>,
    /// How often --compare measures both
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=100))]
    pairs: u64,
    /// List the scenarios, what each does and how large it is
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    /// A process for each role, on Postgres and NATS
    Distributed,
    /// One process on SQLite
    Embedded,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        SCENARIOS.iter().for_each(list);
        return ExitCode::SUCCESS;
    }
    match measure(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::from(2)
        }
    }
}

fn list(scenario: &Scenario) {
    let size = scenario.size.map(|(what, usual, full)| match usual == full {
        true => format!(" ({usual} {what})"),
        false => format!(" ({usual} {what}; {full} with --full)"),
    });
    let only = if scenario.distributed_only {
        " (distributed only)"
    } else {
        ""
    };
    println!(
        "{:13} {}{}{only}",
        scenario.name,
        scenario.about,
        size.unwrap_or_default()
    );
}

/// Whether all went well. An error: it could not begin.
async fn measure(args: Args) -> Result<bool> {
    let scenarios = chosen(&args)?;
    let options = options(&args)?;
    raise_open_files()?;
    preconditions(&options).await?;
    let program = Build::of(options.program())?;
    let other = args.compare.as_deref().map(Build::of).transpose()?;
    // What breaks off says why in the report; where in the code is of no use to whoever reads it.
    std::panic::set_hook(Box::new(|_| {}));
    let versions = versions(&options, &program).await;
    let mut all = Map::new();
    let mut ok = true;
    let mut drawn = vec![];
    let mut add = |name: &str, mut figures: Figures| {
        for build in [Some(&program), other.as_ref()].into_iter().flatten() {
            let changed = format!("{} was changed while it was measured", build.path.display());
            figures.require(build.is_still_there(), changed);
        }
        println!("\n## {name}\n{figures}");
        drawn.append(&mut figures.plots);
        ok &= figures.ok();
        all.insert(name.into(), figures.json());
    };
    if let Some(other) = &other {
        add("compare", guarded(compare(&options, &program, other, args.pairs)).await);
    } else {
        for scenario in scenarios {
            println!("{}: {}", scenario.name, scenario.about);
            add(scenario.name, guarded((scenario.measure)(&options)).await);
        }
    }
    println!("\n{}", on(&versions));
    if let Some(dir) = &args.plots {
        let failed = |error: std::io::Error| format!("cannot draw into {}: {error}", dir.display());
        std::fs::create_dir_all(dir).map_err(failed)?;
        for plot in &drawn {
            if let Some(svg) = plot.svg() {
                std::fs::write(dir.join(format!("{}.svg", plot.name)), svg).map_err(failed)?;
            }
        }
    }
    if let Some(file) = &args.json {
        let text = json!({"versions": versions, "scenarios": all}).to_string();
        std::fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(ok)
}

/// What broke off is a fault among the figures; the other scenarios are measured all the same.
async fn guarded(figures: impl Future<Output = Result<Figures>>) -> Figures {
    let broke = |why: String| {
        let mut figures = Figures::default();
        figures.fault(format!("it did not come to its end: {why}"));
        figures
    };
    match AssertUnwindSafe(figures).catch_unwind().await {
        Ok(Ok(figures)) => figures,
        Ok(Err(error)) => broke(error.to_string()),
        // A fixture that gives up panics.
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            broke(
                said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                    .unwrap_or_default(),
            )
        }
    }
}

fn on(versions: &Map<String, Value>) -> String {
    let pairs = versions
        .iter()
        .map(|(name, value)| format!("{name} {}", value.as_str().unwrap_or_default()));
    format!("on: {}", pairs.collect::<Vec<_>>().join(", "))
}

fn options(args: &Args) -> Result<Options> {
    let one = args.profile.is_some() || args.statements || args.allocations || args.compare.is_some();
    let levels = if one { vec![LEVEL] } else { LEVELS.into() };
    let seconds = if args.compare.is_some() {
        SECONDS_OF_A_PAIR
    } else {
        SECONDS
    };
    Ok(Options {
        mode: match args.mode {
            ModeArg::Embedded => Mode::Embedded,
            ModeArg::Distributed => Mode::Distributed,
        },
        c: if args.c.is_empty() { levels } else { args.c.clone() },
        seconds: args.seconds.unwrap_or(seconds),
        size: args.size,
        full: args.full,
        program: args.allocations.then(counting_allocations),
        profile: args.profile.clone(),
        out: args.out.clone(),
        statements: args.statements,
        slots: args.slots,
    })
}

fn chosen(args: &Args) -> Result<Vec<&'static Scenario>> {
    let mut chosen = vec![];
    for name in &args.scenario {
        let named = SCENARIOS
            .iter()
            .filter(|scenario| name == "all" || scenario.name == name);
        let before = chosen.len();
        chosen.extend(named);
        if chosen.len() == before {
            let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            return Err(format!("there is no scenario {name:?}; there are all, {}", names.join(", ")).into());
        }
    }
    let embedded = matches!(args.mode, ModeArg::Embedded);
    if let Some(scenario) = chosen.iter().find(|scenario| embedded && scenario.distributed_only) {
        return Err(format!("{} needs --mode distributed", scenario.name).into());
    }
    Ok(chosen)
}
