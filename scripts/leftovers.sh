#!/usr/bin/env bash
# Says what a run of tests has left on this machine, and fails if that is anything. It removes nothing.
#
#   scripts/leftovers.sh before DIR     notes what there is, in DIR.before
#   scripts/leftovers.sh after DIR      compares; DIR was the run's TMPDIR
#
# Looked for: network namespaces and interfaces, files of ours in /tmp and below libvirt's directories, anything in DIR, and
# processes that have DIR as TMPDIR, in their command line, or as their working directory.
set -euo pipefail
export LC_ALL=C

when=$1 dir=$2
grace_s=20

# A line a thing, sorted.
things() {
    {
        ip netns list 2>/dev/null | awk '{ print "network namespace " $1 }'
        # Bridges of networks, interfaces of guests, and what tests name after us.
        ip -o link show 2>/dev/null | awk -F ': ' '
            { sub(/@.*/, "", $2) }
            $2 ~ /^pl[0-9a-f]+$/ && length($2) == 14 || $2 ~ /^(vnet[0-9]+|pileus.*)$/ { print "interface " $2 }'
        find /tmp /var/tmp -mindepth 1 -maxdepth 1 -name 'pileus-*' ! -path "$dir" ! -path "$dir.*" 2>/dev/null | sed 's/^/file /'
        find /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt -name '*pileus-*' -prune 2>/dev/null | sed 's/^/file /'
    } | sort -u
}

# This process, those it descends from, and what they run for us.
ours=" "
pid=$$
while [ "$pid" -gt 1 ]; do
    ours+="$pid "
    pid=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || echo 1)
done

processes() {
    local proc pid
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        case $ours in *" $pid "*) continue ;; esac
        if tr '\0' '\n' 2>/dev/null <"$proc/environ" | grep -qxF "TMPDIR=$dir" ||
            tr '\0' ' ' 2>/dev/null <"$proc/cmdline" | grep -qF "$dir/" ||
            [[ $(readlink "$proc/cwd" 2>/dev/null || true) == "$dir"* ]]; then
            echo "process $pid: $(tr '\0' ' ' 2>/dev/null <"$proc/cmdline" | cut -c1-160)"
        fi
    done
}

left() {
    comm -13 "$dir.before" <(things)
    find "$dir" -mindepth 1 -maxdepth 1 2>/dev/null | sed 's/^/file /'
    processes
}

case $when in
    before) things >"$dir.before" ;;
    after)
        # The last processes of a namespace may be about to end.
        for ((i = 0; i < grace_s * 2; i++)); do
            found=$(left 2>/dev/null)
            [ -n "$found" ] || exit 0
            sleep 0.5
        done
        echo "leftovers: the tests have left behind:" >&2
        sed 's/^/  /' <<<"$found" >&2
        exit 1
        ;;
    *) echo "leftovers: use 'before DIR' or 'after DIR'" >&2; exit 2 ;;
esac
