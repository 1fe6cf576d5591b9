#!/usr/bin/env bash
# Builds `steadfast` in the profile `dist`, guided by what it does under a short load: profile-guided optimization,
# https://doc.rust-lang.org/rustc/profile-guided-optimization.html. docs/performance.md says what that gives.
#
#     deploy/guided.sh                # or: make guided
#
# The result is target/guided/steadfast. It takes two builds with link-time optimization (some fifteen minutes each on two
# cores), a Postgres and a NATS from tests/services.sh, and rustup, which fetches LLVM's tools of the compiler's own version.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "guided: $*" >&2; }
die() { say "$*"; exit 1; }

host=$(rustc -vV | sed -n 's/^host: //p')
tools="$(rustc --print sysroot)/lib/rustlib/$host/bin"
out=${CARGO_TARGET_DIR:-target}/guided
mkdir -p "$out"
out=$(cd "$out" && pwd)
case $out in *' '*) die "rustc's flags are separated by blanks, and there is one in $out: set CARGO_TARGET_DIR" ;; esac
# They would win over the flags and the places below.
unset CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET

# What it is built of; without a repository that is not known, and everything is built.
sources=(Cargo.toml Cargo.lock .cargo src cli gateway workers projections evals migrations deploy/guided.sh)
state=$( {
  git ls-files --error-unmatch Cargo.toml && rustc -vV && echo "${RUSTFLAGS:-}" &&
    git ls-files -coz --exclude-standard -- "${sources[@]}" | xargs -0 sha256sum
} 2>/dev/null | sha256sum) || state=
if [ -n "$state" ] && [ -x "$out/steadfast" ] && [ "$(cat "$out/state" 2>/dev/null)" = "$state" ]; then
  say "$out/steadfast is up to date"
  exit
fi

if [ ! -x "$tools/llvm-profdata" ]; then
  command -v rustup >/dev/null || die "$tools/llvm-profdata is missing, and there is no rustup to fetch it: install rustc's llvm-tools"
  say "fetching llvm-tools of $(rustc -V)"
  rustup component add llvm-tools
  [ -x "$tools/llvm-profdata" ] || die "rustup did not put llvm-profdata into $tools: is $(command -v rustc) its compiler?"
fi

# Build scripts and macros run on the build's own machine and are not measured: they are kept apart by --target.
build() {
  RUSTFLAGS="${RUSTFLAGS:-} $1" CARGO_TARGET_DIR="$out/build" \
    cargo build --locked --profile dist --target "$host" -p steadfast-cli --bin steadfast
}

# Both builds have this one name.
program="$out/build/$host/dist/steadfast"

say "building the program that counts what it does"
build "-Cprofile-generate=$out/raw"
cp "$program" "$out/counting"

say "building the load"
cargo build -q --release -p steadfast-tests --bin bench --bin scripted-model

say "putting it under load, in both modes"
tests/services.sh start >/dev/null
services=$(tests/services.sh env)
eval "$services"
rm -rf "$out/raw"
for mode in embedded distributed; do
  # %m and %p: a file for each process.
  LLVM_PROFILE_FILE="$out/raw/%m-%p.profraw" STEADFAST_TEST_BINARY="$out/counting" \
    "${CARGO_TARGET_DIR:-target}/release/bench" --mode "$mode" --c 1,64,1024 --seconds 5 >&2 ||
    die "that load had faults: no profile is made of it"
done
compgen -G "$out/raw/*.profraw" >/dev/null || die "no process left a profile in $out/raw"
"$tools/llvm-profdata" merge -o "$out/merged" "$out"/raw/*.profraw
# Its name is its content: cargo does not look into it, and must build everything again when it has changed.
profile="$out/$(sha256sum <"$out/merged" | cut -c1-16).profdata"
mv "$out/merged" "$profile"

say "building the program with that profile"
build "-Cprofile-use=$profile"
cp "$program" "$out/new" && mv "$out/new" "$out/steadfast"
echo "$state" >"$out/state"
say "done: $out/steadfast"
