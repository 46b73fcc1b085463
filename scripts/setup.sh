#!/usr/bin/env bash
# Installs what is missing on a fresh Debian 12, Debian 13 or Ubuntu 24.04:
#
#   scripts/setup.sh [build|run|guest|test|all]      all, when nothing is named
#
#   build   compiling Pileus (the Rust toolchain is only checked for)
#   run     libvirt, QEMU, networking tools, PostgreSQL's programs
#   guest   building and checking the guest images, scripts/guest.sh and scripts/debian-image.sh
#   test    what only tests need: a Python to run schemathesis with
#
# Run it as root or as a user with sudo. It starts and enables no service, and
# does not call apt at all when nothing is missing.
set -euo pipefail
export LC_ALL=C

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

part=${1:-all}
case $part in
    build | run | guest | test | all) ;;
    *) die "unknown part '$part'; use build, run, guest, test or all" ;;
esac

# shellcheck source=/dev/null
. /etc/os-release
case "$ID $VERSION_ID" in
    "debian 12" | "debian 13" | "ubuntu 24.04") ;;
    *) say "$PRETTY_NAME is not Debian 12, Debian 13 or Ubuntu 24.04; trying all the same" ;;
esac
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    die "$PRETTY_NAME has no apt: install the packages listed in this script by hand"

build=(build-essential pkg-config libvirt-dev curl ca-certificates jq git)
run=(libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils
    dnsmasq-base iptables nftables iproute2 postgresql openssh-client curl jq)
guest=(qemu-system-x86 qemu-utils mtools cpio zstd xz-utils xorriso mmdebstrap e2fsprogs openssh-client jq)
test=(python3-venv libfaketime)
# Packages that only some releases have, or have outside libvirt-daemon-system.
if_there=(libvirt-daemon-driver-qemu)

optional=()
case $part in
    build) wanted=("${build[@]}") ;;
    run) wanted=("${run[@]}") optional=("${if_there[@]}") ;;
    guest) wanted=("${guest[@]}") ;;
    test) wanted=("${test[@]}") ;;
    all) wanted=("${build[@]}" "${run[@]}" "${guest[@]}" "${test[@]}") optional=("${if_there[@]}") ;;
esac

# --- Rust: checked, never installed -------------------------------------------------

check_rust() {
    local need=1.95 have
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    have=$(rustc --version 2>/dev/null | awk '{ print $2 }')
    if [ -z "$have" ] || ! command -v cargo >/dev/null; then
        say "no Rust toolchain found: install Rust $need or newer with rustup (https://rustup.rs), then 'rustup toolchain install stable'"
        return 1
    fi
    if [ "$(printf '%s\n' "$need" "${have%%-*}" | sort -V | head -n 1)" != "$need" ]; then
        say "Rust $have is too old, $need or newer is needed: 'rustup update stable'"
        return 1
    fi
}

finish() {
    case $part in
        build | all) check_rust || exit 1 ;;
    esac
    exit 0
}

# --- what is missing ------------------------------------------------------------------

# installed PACKAGE...: those of them that are installed.
installed() {
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | awk '$2 == "installed" { print $1 }' || true
}

# without HAVE WANT...: those of WANT that are not among the lines of HAVE.
without() { printf '%s\n' "${@:2}" | sort -u | comm -23 - <(sort -u <<<"$1"); }

have=$(installed "${wanted[@]}" "${optional[@]}")
mapfile -t missing < <(without "$have" "${wanted[@]}")

# The guest image needs a kernel that sees SATA; that of Debian 12 itself does not,
# the one in its backports does.
backports=
case "$ID $VERSION_ID $part" in
    "debian 12 guest" | "debian 12 all")
        compgen -G '/var/lib/apt/lists/*bookworm-backports_main_binary-*' >/dev/null || backports=kernel ;;
esac

if [ ${#missing[@]} -eq 0 ] && [ -z "$backports" ]; then
    say "$part: everything is there"
    finish
fi

if [ "$(id -u)" = 0 ]; then
    as_root() { "$@"; }
elif command -v sudo >/dev/null; then
    as_root() { sudo "$@"; }
else
    die "not root and no sudo; missing: ${missing[*]:-the backports suite}"
fi
apt() { as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -o Dpkg::Use-Pty=0 "$@"; }

[ ${#missing[@]} -eq 0 ] || say "$part: missing ${missing[*]}"
say "updating the package lists"
apt -q update || die "apt-get update failed: are the sources in /etc/apt right, is the network up?"

# --- Debian 12: its backports -----------------------------------------------------------

# The mirror that this machine's own sources use for bookworm, and their key.
own_source() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] || continue
        sed 's/#.*//' "$file" | awk '
            $1 == "deb" {
                key = ""
                line = $0
                if (match(line, /\[[^]]*\]/)) {
                    options = substr(line, RSTART + 1, RLENGTH - 2)
                    line = "deb" substr(line, RSTART + RLENGTH)
                    if (match(options, /signed-by=[^ ]*/)) key = substr(options, RSTART + 10, RLENGTH - 10)
                }
                split(line, part, " ")
                if (part[3] == "bookworm") { print part[2], key; exit }
            }'
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        { sed '/^#/d' "$file"; echo; } | awk '
            /^$/ { if (ours && !off) { print uri, key; exit } uri = key = ""; ours = off = 0 }
            tolower($1) == "uris:" { uri = $2 }
            tolower($1) == "signed-by:" { key = $2 }
            tolower($1) == "enabled:" && tolower($2) == "no" { off = 1 }
            tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == "bookworm") ours = 1 }'
    done
}

add_backports() {
    # Read whole before it is searched: `grep -q` closes its pipe early, which would count as a failure.
    local policy
    policy=$(apt-cache policy)
    if grep -q 'n=bookworm-backports,' <<<"$policy"; then
        return
    fi
    local uri key
    read -r uri key < <(own_source) || die "no source of apt in /etc/apt names the suite bookworm: add bookworm-backports by hand"
    say "adding bookworm-backports from the mirror already in use"
    {
        echo "# Written by the setup script of Pileus."
        echo "Types: deb"
        echo "URIs: $uri"
        echo "Suites: bookworm-backports"
        echo "Components: main"
        echo "Signed-By: ${key:-/usr/share/keyrings/debian-archive-keyring.gpg}"
    } | as_root tee /etc/apt/sources.list.d/pileus-backports.sources >/dev/null
    apt -q update || die "apt-get update failed with bookworm-backports; its source is /etc/apt/sources.list.d/pileus-backports.sources"
}

[ -z "$backports" ] || add_backports

# Parts of QEMU or libvirt that came from backports fit only the rest from there.
suite=()
# dpkg-query fails where one of the patterns matches nothing; what it prints of the others counts.
parts=$(dpkg-query -W -f '${db:Status-Status} ${Version}\n' 'qemu-*' 'libvirt*' 2>/dev/null || true)
if [ "$ID $VERSION_ID" = "debian 12" ] && grep -q '^installed .*bpo12' <<<"$parts"; then
    add_backports
    suite=(-t bookworm-backports)
fi

# --- install -------------------------------------------------------------------------------

for package in "${optional[@]}"; do
    ! apt-cache show "$package" >/dev/null 2>&1 || missing+=("$package")
done

# Pileus runs its own PostgreSQL: the distribution need not make and start one.
if printf '%s\n' "${missing[@]}" | grep -qx postgresql && [ -z "$(installed postgresql-common)" ]; then
    as_root mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
fi

if [ ${#missing[@]} -gt 0 ]; then
    # A configuration file that is already there, such as the one above, stays.
    apt -q -y --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
        "${suite[@]}" install "${missing[@]}" ||
        die "apt-get could not install: ${missing[*]}"
fi
say "$part: done"
finish
