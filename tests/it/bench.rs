//! The bench measures, and what it says can be read: on a debug build, for a second, so no figure of it means anything.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

#[test]
fn the_bench_measures_a_clean_system_and_loses_nothing() {
    let file: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "bench.json"].iter().collect();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench
        .args(["--mode", "embedded", "--c", "2", "--seconds", "1", "--json"])
        .arg(&file);
    let output = bench.output().expect("the bench starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{error}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("a report")).expect("JSON");
    let measured = &report["scenarios"]["agent-run"];
    let row = &measured["tables"][0]["rows"][0];
    assert_eq!(
        (&measured["ok"], &row["clients"], &row["errors"]),
        (&true.into(), &2.0.into(), &0.0.into()),
        "{report}"
    );
    for name in [
        "runs",
        "runs_per_second",
        "final_ms_p50",
        "cpu_ms_per_run",
        "model_cpu_ms",
        "steadfast_mib",
    ] {
        assert!(row[name].as_f64().is_some_and(|value| value > 0.0), "{name} in {row}");
    }
    assert_eq!(measured["settings"]["worker.slots"], 256, "{report}");
    for name in ["commit", "tree", "program", "program_path"] {
        assert!(report["versions"][name].is_string(), "{name} in {report}");
    }
    let sha256 = report["versions"]["program_sha256"].as_str().unwrap_or_default();
    assert_eq!(sha256.len(), 64, "{report}");
    assert!(said.contains("runs per second"), "{said}");
}
