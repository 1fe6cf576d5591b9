//! Directories of stacks: logs and data, kept when a test fails.

use std::{
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use super::binary;

/// Directories left by failed and by killed tests are removed after this.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Of each log.
const LINES_SHOWN: usize = 60;

pub fn new() -> PathBuf {
    static SWEPT: Once = Once::new();
    let all = binary::target().join("tmp/systems");
    SWEPT.call_once(|| sweep(&all));
    let dir = all.join(crate::fresh_prefix());
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("no directory {}: {error}", dir.display()));
    dir
}

fn sweep(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|data| data.modified());
        if modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT_FOR)) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// The last line of a log, as far as it fits into a report.
pub fn last_line(log: &Path) -> String {
    const CHARS_MAX: usize = 300;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().next_back().unwrap_or("nothing");
    line.chars().take(CHARS_MAX).collect()
}

/// The ends of all logs.
pub fn print_logs(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
            eprintln!("--- the end of {} ({} lines)\n{shown}", path.display(), lines.len());
        }
    }
}
