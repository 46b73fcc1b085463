#!/usr/bin/env bash
# Installs schemathesis, pinned with its dependencies and their hashes, into a virtual environment below target/, unless it is
# there, and prints the path of its program. tests/api/conformance.rs runs it.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
wanted=$PWD/scripts/schemathesis/requirements.txt
dir=$PWD/target/schemathesis
mkdir -p "$dir"
# Two runs at a time would install over each other.
exec 9>"$dir/lock"
flock 9
if ! cmp -s "$wanted" "$dir/installed.txt"; then
    rm -rf "$dir/venv" "$dir/installed.txt"
    python3 -m venv "$dir/venv" >&2
    "$dir/venv/bin/pip" --quiet --disable-pip-version-check install --require-hashes -r "$wanted" >&2
    cp "$wanted" "$dir/installed.txt"
fi
echo "$dir/venv/bin/schemathesis"
