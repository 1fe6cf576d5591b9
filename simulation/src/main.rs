//! `simulate`: many seeds, or one and its story.

use std::{
    collections::BTreeMap,
    io::Write,
    ops::Range,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use clap::Parser;
use steadfast_simulation::{Guard, Outcome, Plan, Simulator, shrink::shrink};

/// Runs the real rooms in a simulated world, with every fault drawn from a seed.
#[derive(Parser)]
struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// One seed only, and its whole story
    #[arg(long)]
    seed: Option<u64>,
    /// Processes to spread the seeds over; 0 means one for each processor
    #[arg(long, default_value_t = 0)]
    processes: u64,
    /// Take a guard away: then seeds are expected to fail
    #[arg(long, value_enum)]
    without: Option<Guard>,
    /// Print counts for another process of this program to read
    #[arg(long, hide = true)]
    part: bool,
}

/// What many seeds add up to. As lines of `name<TAB>count` it travels between processes.
#[derive(Default)]
struct Sums(BTreeMap<String, u64>);

impl Sums {
    fn add(&mut self, name: impl Into<String>, count: u64) {
        *self.0.entry(name.into()).or_default() += count;
    }

    fn count(&mut self, outcome: &Outcome) {
        self.add("seeds", 1);
        self.add("runs", outcome.runs as u64);
        self.add("reconnects of streams", outcome.reconnects);
        self.add("lines of trace", outcome.trace.lines);
        self.add("failures", u64::from(!outcome.violations.is_empty()));
        for (kind, count) in &outcome.trace.faults {
            self.add(format!("fault: {kind}"), *count);
        }
        for (invariant, count) in &outcome.checks {
            self.add(format!("check: {invariant}"), *count);
        }
    }

    fn read(&mut self, text: &str) {
        for (name, count) in text.lines().filter_map(|line| line.split_once('\t')) {
            self.add(name, count.parse().unwrap_or_default());
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.seed {
        Some(seed) => tell(seed, args.without),
        None if args.part => part(args.from..args.from + args.seeds, args.without),
        None => all(&args),
    };
    result.unwrap_or_else(|reason| {
        eprintln!("simulate: {reason}");
        ExitCode::from(2)
    })
}

/// One seed; where it fails, the smallest story that fails the same way.
fn tell(seed: u64, without: Option<Guard>) -> Result<ExitCode, String> {
    let simulator = Simulator::new()?;
    let plan = Plan::of(seed);
    let outcome = simulator.run(&plan, without, true)?;
    let Some(first) = outcome.violations.first() else {
        print(&outcome.trace.story);
        println!(
            "seed {seed}: {} runs, trace {:016x}, all invariants hold",
            outcome.runs, outcome.trace.hash
        );
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!(
        "seed {seed} breaks {}; looking for the smallest story that does",
        first.invariant
    );
    let (small, tried) = shrink(&simulator, &plan, without, first.invariant)?;
    let outcome = simulator.run(&small, without, true)?;
    print(&outcome.trace.story);
    println!(
        "\nseed {seed}, after {tried} simulations: {} of {} runs, {} of {} faults, noise {:?}",
        small.runs(),
        plan.runs(),
        small.faults.len(),
        plan.faults.len(),
        small.noise
    );
    small.faults.iter().for_each(|fault| println!("  {fault}"));
    for violation in &outcome.violations {
        println!("broken: {}: {}", violation.invariant, violation.what);
    }
    println!("again: make simulate SEED={seed}");
    Ok(ExitCode::FAILURE)
}

fn print(story: &[String]) {
    let mut out = std::io::stdout().lock();
    for line in story {
        let _ = writeln!(out, "{line}");
    }
}

/// A range of seeds in this process.
fn part(seeds: Range<u64>, without: Option<Guard>) -> Result<ExitCode, String> {
    let simulator = Simulator::new()?;
    let mut sums = Sums::default();
    for seed in seeds {
        let outcome = simulator.run(&Plan::of(seed), without, false)?;
        for violation in &outcome.violations {
            eprintln!(
                "seed {seed} breaks {}: {} (make simulate SEED={seed})",
                violation.invariant, violation.what
            );
        }
        sums.count(&outcome);
    }
    for (name, count) in &sums.0 {
        println!("{name}\t{count}");
    }
    Ok(ExitCode::SUCCESS)
}

/// All seeds, in several processes, and the table.
fn all(args: &Args) -> Result<ExitCode, String> {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let processes = if args.processes == 0 {
        processors
    } else {
        args.processes
    };
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let started = Instant::now();
    let share = args.seeds.div_ceil(processes.max(1));
    let mut parts = Vec::new();
    for part in 0..processes {
        let from = args.from + (part * share).min(args.seeds);
        let to = args.from + ((part + 1) * share).min(args.seeds);
        let mut command = Command::new(&program);
        command.args([
            "--part",
            "--from",
            &from.to_string(),
            "--seeds",
            &(to - from).to_string(),
        ]);
        if let Some(guard) = args
            .without
            .and_then(|guard| clap::ValueEnum::to_possible_value(&guard))
        {
            command.args(["--without", guard.get_name()]);
        }
        parts.push(
            command
                .stdout(Stdio::piped())
                .spawn()
                .map_err(|error| error.to_string())?,
        );
    }
    let mut sums = Sums::default();
    for part in parts {
        let output = part.wait_with_output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("a part of the seeds ended with {}", output.status));
        }
        sums.read(&String::from_utf8_lossy(&output.stdout));
    }
    let seconds = started.elapsed().as_secs_f64();
    for (name, count) in &sums.0 {
        println!("{name:<36} {count:>12}");
    }
    println!("{:<36} {:>12.1}", "seeds per second", args.seeds as f64 / seconds);
    let failures = sums.0.get("failures").copied().unwrap_or_default();
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
