//! One number of clients, measured by `steadfast bench`, and what can be looked at beside it.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;

use super::{
    Figures, Options,
    costs::Watched,
    figures::{Cell, Table, count, number},
    profile,
    rig::{AGENT, CALLS, Rig, TASK},
    settled::Ended,
    statements,
};
use crate::{
    Result,
    system::{Role, steadfast},
};

/// What `steadfast bench` takes to try a task and to warm up, before it measures.
const BEFORE: Duration = Duration::from_millis(2_500);
/// For a level that hangs: its runs may each take a minute.
const GRACE: Duration = Duration::from_secs(150);
/// Events that the read model furthest behind has not applied.
pub const BEHIND: &str =
    "select (select coalesce(max(position), 0) from events) - coalesce(min(seq), 0) from projection_checkpoints";
/// Kept only in a build with this feature.
const ALLOCATIONS: [&str; 2] = ["steadfast_allocations_total", "steadfast_allocated_bytes_total"];

/// A row of `steadfast bench --json`. A time is null where no run ended.
#[derive(Debug, Clone, Deserialize)]
pub struct Level {
    pub clients: u32,
    /// Ended in the measured time.
    pub runs: u64,
    /// Ended at all, while warming up too.
    pub completed: u64,
    pub errors: u64,
    pub runs_per_second: f64,
    pub first_event_ms_p50: Option<f64>,
    pub first_event_ms_p99: Option<f64>,
    pub final_ms_p50: Option<f64>,
    pub final_ms_p99: Option<f64>,
    pub processes: Vec<Cost>,
    /// What read models still had to apply when the last client was through: cost that is in no figure.
    #[serde(skip)]
    pub events_behind: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Cost {
    pub name: String,
    pub cpu_ms_per_run: f64,
    pub resident_mib: f64,
}

impl Level {
    /// Of all but the model.
    pub fn cpu_ms_per_run(&self) -> f64 {
        self.ours().map(|cost| cost.cpu_ms_per_run).sum()
    }

    fn ours(&self) -> impl Iterator<Item = &Cost> {
        self.processes.iter().filter(|cost| cost.name != "model")
    }

    /// Of [`AGENT`], with the one that `steadfast bench` tries before it begins.
    pub fn ended(&self) -> Ended {
        Ended::completed(self.completed + 1, CALLS)
    }

    /// Errors and runs that did not end are faults.
    pub fn judge(&self, figures: &mut Figures) {
        let Self {
            clients, runs, errors, ..
        } = self;
        figures.require(
            *errors == 0,
            format!("{errors} of the runs of {clients} clients did not complete"),
        );
        figures.require(*runs > 0, format!("no run of {clients} clients ended in time"));
    }
}

/// All levels as a table.
pub fn table(title: &str, levels: &[Level]) -> Table {
    let mut table = Table::new(title, levels.first().map(columns).unwrap_or_default());
    levels.iter().for_each(|level| table.row(cells(level)));
    table
}

/// What [`cells`] are, in a system of the same processes.
pub fn columns(level: &Level) -> Vec<String> {
    let measures = [
        "clients",
        "runs",
        "errors",
        "runs_per_second",
        "first_event_ms_p50",
        "first_event_ms_p99",
        "final_ms_p50",
        "final_ms_p99",
        "cpu_ms_per_run",
        "events_behind",
    ];
    let mut columns: Vec<String> = measures.map(String::from).into();
    columns.extend(level.processes.iter().map(|cost| format!("{}_cpu_ms", cost.name)));
    columns.extend(level.processes.iter().map(|cost| format!("{}_mib", cost.name)));
    columns
}

pub fn cells(level: &Level) -> Vec<Cell> {
    let ms = |ms: Option<f64>| number(ms.unwrap_or(f64::NAN), 1);
    let mut cells: Vec<Cell> = vec![count(level.clients), count(level.runs), count(level.errors)];
    cells.push(number(level.runs_per_second, 0));
    cells.push(ms(level.first_event_ms_p50));
    cells.push(ms(level.first_event_ms_p99));
    cells.push(ms(level.final_ms_p50));
    cells.push(ms(level.final_ms_p99));
    cells.push(number(level.cpu_ms_per_run(), 3));
    cells.push(count(level.events_behind));
    cells.extend(level.processes.iter().map(|cost| number(cost.cpu_ms_per_run, 3)));
    cells.extend(level.processes.iter().map(|cost| number(cost.resident_mib, 0)));
    cells
}

impl Rig {
    /// A closed loop of clients for so many seconds.
    pub async fn load(&self, clients: u32, seconds: u64) -> Result<Level> {
        let pids: Vec<String> = self
            .watched()
            .iter()
            .map(|Watched { name, pid }| format!("{name}={pid}"))
            .collect();
        let (clients, secs) = (clients.to_string(), seconds.to_string());
        let mut command = tokio::process::Command::new(steadfast());
        command
            .args([
                "bench",
                "--json",
                "--agent",
                AGENT,
                "--task",
                TASK,
                "--c",
                &clients,
                "--seconds",
                &secs,
            ])
            .args(["--url", &self.stack.gateways[0].url(), "--pids", &pids.join(",")])
            // No steadfast.toml of anybody's but ours.
            .current_dir(self.stack.file("."))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(seconds) + BEFORE + GRACE, command.output()).await;
        let output = output.map_err(|_| format!("{clients} clients: `steadfast bench` hangs"))??;
        // It exits with 1 when runs failed, and says so in the row.
        let rows: Vec<Level> = serde_json::from_slice(&output.stdout).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{clients} clients: `steadfast bench` gave no figures ({error}): {said}")
        })?;
        let behind: Vec<(i64,)> = self.rows(BEHIND).await?;
        let mut level = rows.into_iter().next().ok_or("`steadfast bench` gave no row")?;
        level.events_behind = behind.first().map_or(0, |(events,)| (*events).max(0).unsigned_abs());
        Ok(level)
    }

    /// As [`Rig::load`], with what was ordered beside the figures: a flame graph, statements, allocations.
    pub async fn load_looked_at(&self, options: &Options, clients: u32, figures: &mut Figures) -> Result<Level> {
        let statements = match options.statements {
            true => Some(statements::Statements::begin(&self.database()?).await?),
            false => None,
        };
        let before = self.allocations().await;
        let completed_before = self.completed().await.unwrap_or_default();
        let level = match &options.profile {
            None => self.load(clients, options.seconds).await?,
            Some(name) => {
                let svg = options.out.join(format!("{name}-c{clients}.svg"));
                let family = self.named(name)?.family();
                let title = format!("{name}, {clients} clients");
                let graph = async {
                    tokio::time::sleep(BEFORE).await;
                    profile::flame_graph(&family, options.seconds, &title, &svg).await
                };
                let (level, samples) = tokio::join!(self.load(clients, options.seconds), graph);
                let samples = samples?;
                figures.note(format!(
                    "{}: {samples} samples of {name} at {clients} clients; the figures of that level are of a profiled process",
                    svg.display()
                ));
                level?
            }
        };
        for (name, runs, [allocations, bytes]) in since(&before, &self.allocations().await) {
            figures.note(format!(
                "{name} at {clients} clients: {:.0} allocations and {:.1} kB allocated a run",
                allocations / runs,
                bytes / runs / 1e3
            ));
        }
        if let Some(statements) = statements {
            let runs = self.completed().await.unwrap_or_default() - completed_before;
            figures.tables.push(statements.end(clients, runs).await?);
        }
        Ok(level)
    }

    /// Runs that completed in this system so far, as whoever executes them counts.
    pub async fn completed(&self) -> Option<f64> {
        let executes = self.stack.workers.first().or(self.stack.gateways.first())?;
        executes.metric("steadfast_runs_total", "status=\"completed\"").await
    }

    /// What each process allocated so far, and the runs it did that for. Of builds that count.
    async fn allocations(&self) -> Vec<(String, f64, [f64; 2])> {
        let (stack, mut found) = (&self.stack, vec![]);
        let runs = self.completed().await.unwrap_or_default();
        let roles = stack.gateways.iter().chain(&stack.workers).chain(&stack.projectors);
        for role in roles {
            if let Some(counts) = counts(role).await {
                found.push((role.name.clone(), runs, counts));
            }
        }
        found
    }
}

async fn counts(role: &Role) -> Option<[f64; 2]> {
    let [allocations, bytes] = ALLOCATIONS;
    let counts = [role.metric(allocations, "").await?, role.metric(bytes, "").await?];
    (counts[0] > 0.0).then_some(counts)
}

type Allocations = (String, f64, [f64; 2]);

fn since(before: &[Allocations], after: &[Allocations]) -> Vec<Allocations> {
    let pairs = before.iter().zip(after);
    let differences = pairs.map(|((name, runs, then), (_, runs_now, now))| {
        let counts = [now[0] - then[0], now[1] - then[1]];
        (name.clone(), runs_now - runs, counts)
    });
    differences.filter(|(_, runs, _)| *runs > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level() -> Level {
        let cost = |name, cpu| json!({"name": name, "cpu_ms_per_run": cpu, "resident_mib": 20.0});
        let row = json!({
            "clients": 16, "runs": 100, "completed": 120, "errors": 0, "runs_per_second": 50.0, "first_event_ms_p50": 1.0,
            "first_event_ms_p99": 2.0, "final_ms_p50": 3.0, "final_ms_p99": null,
            "processes": [cost("gateway", 0.5), cost("worker", 1.0), cost("model", 9.0)],
        });
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn the_model_is_no_cost_of_ours() {
        assert_eq!(level().cpu_ms_per_run(), 1.5);
        let shown = table("", &[level()]).to_string();
        assert!(shown.contains("model cpu ms") && shown.contains("1.500"), "{shown}");
    }

    #[test]
    fn the_log_must_hold_every_run_that_was_seen_to_complete() {
        assert_eq!(level().ended(), Ended::completed(121, CALLS));
    }

    #[test]
    fn runs_that_did_not_complete_are_faults() {
        let mut figures = Figures::default();
        level().judge(&mut figures);
        assert!(figures.ok());
        let failed = Level {
            errors: 3,
            runs: 0,
            ..level()
        };
        failed.judge(&mut figures);
        assert_eq!(figures.faults.len(), 2);
    }

    #[test]
    fn allocations_are_those_since_and_only_where_runs_ended() {
        let at = |runs, counts| vec![("worker1".to_owned(), runs, counts)];
        let differences = since(&at(10.0, [100.0, 1000.0]), &at(30.0, [500.0, 9000.0]));
        assert_eq!(differences, [("worker1".to_owned(), 20.0, [400.0, 8000.0])]);
        assert!(since(&at(1.0, [0.0; 2]), &at(1.0, [5.0; 2])).is_empty());
    }
}
