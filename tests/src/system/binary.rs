//! The program under test: `steadfast`, as cargo built it beside the program that tests it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

/// Names a binary to test instead of the one of this build, which is then neither checked nor built.
const OVERRIDE: &str = "STEADFAST_TEST_BINARY";

/// The path of `steadfast`, built anew if it is missing or older than its sources.
pub fn steadfast() -> &'static Path {
    // A build that failed is not tried again by every test.
    static PATH: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os(OVERRIDE) {
            return Ok(path.into());
        }
        let path = profile().join("steadfast");
        if is_fresh(&path) { Ok(path) } else { build(path) }
    });
    path.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

/// Another program of this build, such as `scripted-model`. Cargo builds it with the tests and with `--bins`.
pub fn beside(name: &str) -> Result<PathBuf, String> {
    let path = profile().join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!(
        "{} is missing; see `cargo build -p steadfast-tests --bins`",
        path.display()
    ))
}

/// `target/<profile>`; a test is `target/<profile>/deps/it-…`, a program lies in it.
fn profile() -> PathBuf {
    let me = std::env::current_exe().expect("the path of this program");
    let dir = me.parent().expect("a program lies in a directory");
    let dir = if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    dir.to_owned()
}

/// Cargo's `target` directory.
pub fn target() -> PathBuf {
    let profile = profile();
    profile.parent().unwrap_or(&profile).to_owned()
}

/// Cargo writes beside a binary which files it was made of.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let Some(built) = modified(binary) else { return false };
    let Ok(list) = std::fs::read_to_string(binary.with_extension("d")) else {
        return false;
    };
    let Some((_, sources)) = list.split_once(": ") else {
        return false;
    };
    let unchanged = |source: &str| modified(Path::new(source)).is_some_and(|at: SystemTime| at <= built);
    sources.split_whitespace().all(unchanged)
}

fn build(binary: PathBuf) -> Result<PathBuf, String> {
    if cargo_build(&binary, &[], &[]) {
        return Ok(binary);
    }
    Err(
        "`steadfast` is missing or older than its sources, and does not build: see `cargo build -p steadfast-cli`"
            .into(),
    )
}

fn cargo_build(binary: &Path, args: &[&str], env: &[(&str, PathBuf)]) -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let release = binary.parent().is_some_and(|dir| dir.ends_with("release"));
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--package", "steadfast-cli"])
        .args(release.then_some("--release"))
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.status().is_ok_and(|status| status.success())
}

/// The same program with its crash points.
pub fn with_crash_points() -> &'static Path {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    with_feature("crash-points", &PATH)
}

/// The same program, counting what it allocates.
pub fn counting_allocations() -> &'static Path {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    with_feature("count-allocations", &PATH)
}

/// In a place of its own: nobody takes it for the one that ships. Cargo keeps what both are made of together.
fn with_feature(feature: &'static str, path: &'static OnceLock<Option<PathBuf>>) -> &'static Path {
    let path = path.get_or_init(|| {
        let (place, profile) = (target().join(feature), profile());
        let binary = place.join(profile.file_name().unwrap_or_default()).join("steadfast");
        let env = [("CARGO_TARGET_DIR", place), ("CARGO_BUILD_BUILD_DIR", target())];
        cargo_build(&binary, &["--features", feature], &env).then_some(binary)
    });
    path.as_deref().unwrap_or_else(|| {
        panic!("`steadfast` does not build so: see `cargo build -p steadfast-cli --features {feature}`")
    })
}
