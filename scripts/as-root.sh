#!/usr/bin/env bash
# Runs a command as root: at once where we are root, else through sudo, which keeps only a few variables of its own choice.
# Cargo runs test binaries through it, so that compiling stays the user's (see scripts/test.sh).
set -euo pipefail

[ "$(id -u)" != 0 ] || exec "$@"
command -v sudo >/dev/null || { echo "as-root: not root, and no sudo: run it as root" >&2; exit 1; }

kept=()
while IFS= read -r -d '' pair; do
    case ${pair%%=*} in
        PATH | TMPDIR | LD_LIBRARY_PATH | CI | CARGO* | RUST* | PROPTEST* | PILEUS*) kept+=("$pair") ;;
    esac
done < <(env -0)
exec sudo -- env "${kept[@]}" "$@"
