#!/usr/bin/env bash
# A churn of instances, networks, ports, images, groups and reservations, while two servers, PostgreSQL, libvirtd and guests die
# by `kill -9` or stand still, and the ways between them fail; then an audit. Real libvirtd and QEMU in namespaces of their own; nothing of this machine's is touched.
#
#   scripts/soak.sh [MINUTES]     PILEUS_SOAK_SEED=n repeats the choices of an earlier one
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

scripts/setup.sh all
as_root true
scripts/guest.sh
triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${triple}_RUNNER=$PWD/scripts/as-root.sh"
PILEUS_SOAK_S=$((${1:-10} * 60)) exec cargo test --test weather soak -- --nocapture
