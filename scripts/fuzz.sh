#!/usr/bin/env bash
# Asks more than the tests do, and other things each time: schemathesis over the served document, arbitrary text over HTTP, and
# proptest over everything that reads foreign bytes. What it finds becomes a test.
#
#   EXAMPLES=50 SEED=7 scripts/fuzz.sh      or: make fuzz EXAMPLES=50 SEED=7
#
# EXAMPLES: cases of an operation, where they are arbitrary (50 if not given; proptest runs a hundred times as many). SEED:
# printed, to do it again.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

scripts/setup.sh all
scripts/schemathesis.sh >/dev/null
export PILEUS_FUZZ_EXAMPLES=${EXAMPLES:-50} PILEUS_FUZZ_SEED=${SEED:-$RANDOM}
export PROPTEST_CASES=$((PILEUS_FUZZ_EXAMPLES * 100))
echo "fuzz: EXAMPLES=$PILEUS_FUZZ_EXAMPLES SEED=$PILEUS_FUZZ_SEED"
triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${triple}_RUNNER=$PWD/scripts/as-root.sh"
cargo test --lib -- qcow2 seed xml subnet host_uri keypair
cargo test --test api -- conformance fuzz
