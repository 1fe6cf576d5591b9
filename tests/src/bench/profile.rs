//! Where a process spends its time: `perf` looks, and a flame graph shows.

use std::{fs, io, path::Path, process::Stdio};

use inferno::{
    collapse::{Collapse, perf::Folder},
    flamegraph,
};
use tokio::process::Command;

use crate::Result;

/// Samples a second of each core: an odd number, so as not to march in step with anything.
const HERTZ: &str = "299";
/// Time on a core, in nanoseconds: there is no counter of cycles in a virtual machine.
const EVENT: &str = "cpu-clock";
/// Stacks are kept as they are and read afterwards: release builds have no frame pointers.
const STACKS: &str = "dwarf,16384";
const MISSING: &str = "perf is missing, and flame graphs need it: install it (Debian: apt-get install linux-perf; \
                       Ubuntu: apt-get install linux-tools-generic)";

/// Whether there is a perf at all; the error names the remedy.
pub fn available() -> Result<()> {
    match std::process::Command::new("perf").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("perf does not run: {}", String::from_utf8_lossy(&output.stderr)).into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MISSING.into()),
        Err(error) => Err(format!("perf does not start: {error}").into()),
    }
}

/// Looks at these processes for so long and writes a flame graph. Answers the number of samples.
pub async fn flame_graph(pids: &[u32], seconds: u64, title: &str, svg: &Path) -> Result<u64> {
    available()?;
    if let Some(dir) = svg.parent() {
        fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    }
    let data = svg.with_extension("perf.data");
    let data_arg = data.display().to_string();
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let (pids, seconds) = (pids.join(","), seconds.to_string());
    let mut record = vec!["record", "--quiet", "-e", EVENT, "-F", HERTZ, "--call-graph", STACKS];
    record.extend(["-o", &data_arg, "-p", &pids, "--", "sleep", &seconds]);
    perf(&record).await?;
    // Inlined frames would be asked of addr2line, one by one, for minutes.
    let script = perf(&["script", "--no-inline", "-i", &data_arg]).await;
    fs::remove_file(&data).ok();
    let (script, title, svg) = (script?, title.to_owned(), svg.to_owned());
    tokio::task::spawn_blocking(move || draw(&script, title, &svg)).await?
}

async fn perf(args: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("perf");
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let remedy = "as another user than root it needs `sysctl kernel.perf_event_paranoid=1`";
    Err(format!("perf {}: {said} ({remedy})", args.first().unwrap_or(&"")).into())
}

/// From the text of `perf script`.
fn draw(script: &[u8], title: String, svg: &Path) -> Result<u64> {
    let mut folded = vec![];
    Folder::default().collapse(script, &mut folded)?;
    let samples = samples(script);
    if samples == 0 {
        return Err(format!("{title}: perf took no sample; did the process have anything to do?").into());
    }
    let mut options = flamegraph::Options::default();
    options.title = title;
    options.count_name = "ns".into();
    let file = fs::File::create(svg).map_err(|error| format!("cannot write {}: {error}", svg.display()))?;
    flamegraph::from_reader(&mut options, folded.as_slice(), file)?;
    Ok(samples)
}

/// Each has a head of one line, and its stack in lines that are set in.
fn samples(script: &[u8]) -> u64 {
    let heads = String::from_utf8_lossy(script);
    let heads = heads
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(char::is_whitespace));
    heads.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "steadfast 42 1.000000: 3344481 cpu-clock:\n\t55 inner (/bin/steadfast)\n\t44 outer (/bin/steadfast)\n\n\
                          steadfast 42 1.010000: 1 cpu-clock:\n\t44 outer (/bin/steadfast)\n\n";

    #[test]
    fn a_flame_graph_is_drawn_from_what_perf_says() {
        let svg = std::env::temp_dir().join(format!("steadfast_{}.svg", crate::unique()));
        assert_eq!(draw(SCRIPT.as_bytes(), "worker".into(), &svg).unwrap(), 2);
        let drawn = fs::read_to_string(&svg).unwrap();
        fs::remove_file(svg).unwrap();
        assert!(drawn.contains("<svg") && drawn.contains("worker") && drawn.contains("inner"));
        assert!(draw(b"", "nothing".into(), Path::new("/nowhere")).is_err());
    }
}
