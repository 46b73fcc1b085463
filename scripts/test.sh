#!/usr/bin/env bash
# All tests: installs what is missing, builds the guest image, compiles and runs everything, and looks whether something
# was left behind, and whether a secret came out. Needs no terminal. Root is asked for through sudo: tests with real guests make namespaces.
#
#   scripts/test.sh [FILTER...]     FILTER: as for `cargo test`
#
# Plain `cargo test`, also where cargo-nextest is installed: the tests of a binary share one PostgreSQL, and nextest, which
# runs each test in a process of its own, would make a cluster a test.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

# Hung tests must not hold a pipeline for ever.
deadline_s=${TEST_DEADLINE_S:-2700}
targets=(--lib --bins --tests)

say() { echo "test: $*"; }

scripts/setup.sh all
as_root true
scripts/guest.sh
scripts/schemathesis.sh >/dev/null

# Mostly downloads, and the compiler's processors are not always busy: beside it.
debian_log=$(mktemp)
scripts/debian-image.sh >"$debian_log" 2>&1 &
debian=$!

say "compiling"
compiled=0
cargo test "${targets[@]}" --no-run || compiled=$?
wait "$debian" || { cat "$debian_log" >&2; say "no Debian image"; exit 1; }
cat "$debian_log"
rm "$debian_log"
[ "$compiled" = 0 ] || exit "$compiled"

# Whatever tests write goes below one directory, by which files and processes of theirs are known.
run=$(mktemp -d /tmp/pileus-test-XXXXXX)
# Mode 1777 like /tmp itself: PostgreSQL and QEMU run as users of their own.
chmod 1777 "$run"
# What servers have written there outlives their tests, to be searched in the end.
kept=$run.kept
mkdir -m 1777 "$kept"
began=$(date +%s)
finish() {
    # Not removed when something of a test still lives in it.
    as_root scripts/leftovers.sh after "$run" || return 1
    as_root rm -rf "$run" "$run.before" "$run.log" ${kept:+"$kept"}
}
trap 'finish || true' EXIT
as_root scripts/leftovers.sh before "$run"

triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${triple}_RUNNER=$PWD/scripts/as-root.sh"
say "running"
failed=0
# Without a terminal, that is; at one, a person ends them.
limit=(timeout --kill-after=30 "$deadline_s")
[ ! -t 0 ] || limit=()
TMPDIR=$run "${limit[@]}" cargo test "${targets[@]}" --no-fail-fast -- "$@" 2>&1 | tee "$run.log" || failed=${PIPESTATUS[0]}
# Once more at the end, since much is printed in between.
bad_tests=$(grep -E '^test .* FAILED$' "$run.log" || true)
[ "$failed" != 124 ] || say "not done after $deadline_s s: ended"

read -r total passed ignored < <(awk '
    /^test result: / { passed += $4; failed += $6; ignored += $8 }
    END { print passed + failed + 0, passed + 0, ignored + 0 }' "$run.log")
trap - EXIT
# Some of all tests have servers.
[ $# -gt 0 ] || [ -n "$(ls "$kept")" ] || { say "nothing was kept to be searched for secrets"; failed=1; }
if ! as_root scripts/secrets.sh "$kept" "$run.log"; then
    say "$kept stays, to be looked at"
    failed=1 kept=''
fi
finish || failed=1
[ -z "$bad_tests" ] || printf '\n%s\n' "$bad_tests"
# One line for all binaries, in the form of nextest's summary.
bad=$((total - passed))
printf '     Summary [%8.3fs] %d tests run: %d passed, %s%d skipped\n' \
    "$(($(date +%s) - began))" "$total" "$passed" "$([ "$bad" = 0 ] || echo "$bad failed, ")" "$ignored"
[ "$total" -gt 0 ] || { say "no test was run"; exit 1; }
[ "$failed" = 0 ] || { say "FAILED"; exit 1; }
