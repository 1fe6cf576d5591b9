//! The fault suite as a program: real processes, real kills, one table.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use steadfast_tests::{
    chaos::{SCENARIOS, Scenario, Suite},
    system::{Chance, with_crash_points},
};

const ABOUT: &str = "Plays scenarios of faults against real processes under load, and judges what came of it.

Each scenario starts a system of its own (a Postgres, a NATS, gateways, workers, a projector, a scripted model), lets
clients ask for run after run, kills or freezes parts of it, and then holds four things against each other: what was
promised to the clients, what they saw, what is in the log (`steadfast check --settled`), and what the model was asked.
Without --minutes each scenario is played once, in a form that fits into minutes.";

const MORE: &str = "The table:
  faults                    kills, freezes, wipes and the like that were done
  accepted                  runs that were answered with a 2xx
  lost                      of these, not ended at the end
  doubled                   runs in the log beyond one for each idempotency key
  calls repeated / allowed  model calls made again because a crash took the outcome of the first, against the calls
                            the log holds as orphaned, each with its cost
  extra deliveries          commands delivered beyond those that led to a claim
  takeovers, p99 / max ms   from the kill of the worker that held a run to the next claim of it
  checked                   invariants by number, as docs/reliability names them, that were looked at in every round, and
                            checks of the scenario's own
  verdict                   ok, FAILED, or not played: it needs something that is not there, and a note says what

Exit codes: 0 every promise was kept; 1 one was not, or a scenario did not come to its end; 2 wrong arguments.
Logs and data of a scenario that failed are kept, and the table says where.

Examples:
  chaos                                 every scenario once
  chaos --minutes 30 --report out.md    the long form: full numbers of faults, again and again for half an hour
  chaos --scenario worker-kill          one scenario
  chaos --scenario worker-kill --seed 7 the same victims and pauses again (the rest of the world stays real)";

/// Needs another build of the program.
const CRASH_POINTS: &str = "crash-points";

#[derive(Parser)]
#[command(about = "The fault suite on real processes", long_about = ABOUT, after_long_help = MORE)]
struct Args {
    /// Play the long form for so many minutes, and each scenario at least once
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Only these scenarios; may be given more than once, or with commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// What decides victims and pauses; printed, and new each time where it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// A promised time that was not kept fails its scenario too: for a machine with nothing else to do
    #[arg(long)]
    strict: bool,
    /// Write the table to this file too, as Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// List the scenarios and what each does
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for scenario in SCENARIOS {
            let when = if scenario.long_only { " (long form only)" } else { "" };
            println!("{:16} {}{when}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    let scenarios = match chosen(&args) {
        Ok(scenarios) => scenarios,
        Err(why) => {
            eprintln!("chaos: {why}");
            return ExitCode::from(2);
        }
    };
    // Before anything is timed, and before the programs that wait for it.
    if scenarios.iter().any(|scenario| scenario.name == CRASH_POINTS) {
        println!("building `steadfast` with its crash points");
        with_crash_points();
    }
    // A scenario that breaks off says why in the report; where in the code is of no use to whoever reads it.
    std::panic::set_hook(Box::new(|_| {}));
    let seed = args.seed.unwrap_or_else(|| Chance::seed("chaos"));
    let time = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let report = Suite {
        scenarios,
        time,
        seed,
        strict: args.strict,
    }
    .play()
    .await;
    let text = report.markdown();
    println!("\n{text}");
    if let Some(file) = args.report
        && let Err(error) = std::fs::write(&file, &text)
    {
        eprintln!("chaos: the report could not be written to {}: {error}", file.display());
        return ExitCode::from(2);
    }
    if report.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn chosen(args: &Args) -> Result<Vec<&'static Scenario>, String> {
    if args.scenario.is_empty() {
        let long = args.minutes.is_some();
        return Ok(SCENARIOS
            .iter()
            .filter(|scenario| long || !scenario.long_only)
            .collect());
    }
    let by_name = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            format!("there is no scenario {name:?}; there are {}", names.join(", "))
        })
    };
    args.scenario.iter().map(by_name).collect()
}
