# shellcheck shell=bash
# To be sourced by the scripts here: the Rust toolchain on PATH, and how to become root.

PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# `sudo make …` hides a toolchain that lies in the user's home: go back to being that user, who asks for root where needed.
if [ "$(id -u)" = 0 ] && ! command -v cargo >/dev/null && [ -n "${SUDO_USER:-}" ] &&
    sudo -H -u "$SUDO_USER" -- sh -c 'test -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo"'; then
    echo "$(basename "$0"): root has no Rust toolchain, going on as $SUDO_USER"
    exec sudo -H -u "$SUDO_USER" -- "$0" "$@"
fi

# as_root COMMAND...: run it as root, with the variables that tests and demo steer by.
as_root() { "$(dirname "${BASH_SOURCE[0]}")/as-root.sh" "$@"; }
