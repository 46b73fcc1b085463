#!/usr/bin/env bash
# Shows Pileus at work: a real VM, made, used and removed by HTTP calls that are printed as they go.
#
#   scripts/demo.sh      or: make demo
#
# Installs what is missing, builds, builds the guest image, starts `pileus up` with a directory and a port of its own, and
# ends it again. Nothing is left: no process, no network, no file outside this repository. Root is asked for through sudo.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

bold='' dim='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'; }

# step TITLE: says what comes now, and how long it took when the next one begins.
title='' step_began=
step() {
    [ -z "$title" ] || echo "  ${dim}$(since "$step_began")${plain}"
    title=$1 step_began=$(now)
    [ -z "$title" ] || printf '\n%s%s%s\n' "$bold" "$title" "$plain"
}
say() { echo "  $*"; }
die() { echo "demo: $*" >&2; exit 1; }

# --- first half, as whoever calls: what is needed ------------------------------------------

if [ "${1:-}" != run ]; then
    began=$(now)
    step "Installing what is missing"
    scripts/setup.sh all
    as_root true
    step "Building Pileus (a first build takes minutes, later ones seconds)"
    cargo build --bin pileus
    step "Building the guest image"
    scripts/guest.sh
    step ""
    # From here on as root: libvirt's system instance, bridges.
    exec scripts/as-root.sh scripts/demo.sh run "$began"
fi

# --- second half, as root: the cloud ----------------------------------------------------------

began=$2
pileus=$PWD/target/debug/pileus
work=$(mktemp -d /tmp/pileus-demo-XXXXXX)
log=$work/log
# Below /var/lib, as a real one: QEMU's own user has to get at the disks, and /tmp may be small.
state=$(mktemp -d /var/lib/pileus-demo-XXXXXX)
server=
instance=
token=
url=

virsh() { command virsh -q -c qemu:///system "$@"; }
# What our things on the host are called by, see src/hypervisor/names.rs.
mark() { printf 'pileus-%.8s' "$(tr -d '-' <"$state/cloud-id")"; }
alive() { [ -n "$server" ] && kill -0 "$server" 2>/dev/null; }

# ended PID: it ends within the time given, else it is killed. Zombies have ended.
ended() {
    local tries
    for ((tries = $2 * 10; tries > 0; tries--)); do
        case $(awk '/^State:/ { print $2 }' "/proc/$1/status" 2>/dev/null) in '' | Z) return 0 ;; esac
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
    return 1
}

# Removes whatever of this cloud is on the host, by its mark: guests and networks while its libvirtd runs, and once more
# when the server has ended, which would make its storage pools anew.
sweep() {
    [ -f "$state/cloud-id" ] || return 0
    local mark name proc
    mark=$(mark)
    if virsh uri; then
        for name in $(virsh list --all --name | grep "^$mark"); do virsh destroy "$name" || virsh undefine "$name"; done
        for name in $(virsh net-list --all --name | grep "^$mark"); do
            virsh net-destroy "$name" || true
            virsh net-undefine "$name" || true
        done
    fi
    ! alive || return 0
    if virsh uri; then
        for name in $(virsh pool-list --all --name | grep "^$mark"); do
            virsh pool-destroy "$name" || true
            virsh pool-undefine "$name" || true
        done
    fi
    # A guest that no libvirtd was there to end.
    for proc in /proc/[0-9]*; do
        if tr '\0' ' ' <"$proc/cmdline" | grep -q "qemu.* guest=$mark-"; then
            kill -KILL "${proc#/proc/}" || true
        fi
    done
    # What libvirt keeps of the pools when it is not running, and QEMU's own logs, which it keeps for ever.
    rm -f "/etc/libvirt/storage/$mark"*.xml "/etc/libvirt/storage/autostart/$mark"*.xml "/var/log/libvirt/qemu/$mark"-*.log
} >/dev/null 2>&1

finish() {
    local code=$? pid record
    trap - EXIT
    # A second Ctrl-C shall not stop the tidying.
    trap '' INT TERM HUP
    if [ "$code" != 0 ]; then
        printf '\ndemo: it did not come to its end; tidying up\n' >&2
        if alive && [ -n "$instance" ]; then
            curl -sS -o /dev/null -X DELETE -H "Authorization: Bearer $token" --max-time 40 \
                "$url/v1/instances/$instance?wait=deleted&timeout=30" || true
        fi
    fi
    sweep || true
    if alive; then
        kill -TERM "$server"
        ended "$server" 30 || true
    fi
    server=
    # What a `pileus up` that died could not end.
    for record in "$state"/libvirtd.json "$state"/virtlogd.json "$state"/postgres/data/postmaster.pid; do
        [ -f "$record" ] || continue
        pid=$(head -n 1 "$record" | grep -o '[0-9]*' | head -n 1)
        case $(cat "/proc/${pid:-0}/comm" 2>/dev/null) in
            libvirtd | virtlogd) kill -TERM "$pid" && ended "$pid" 10 ;;
            postgres) kill -INT "$pid" && ended "$pid" 10 ;;
        esac || true
    done
    sweep || true
    if [ "$code" != 0 ] && [ "$code" != 130 ]; then
        if [ -s "$log" ]; then
            echo "demo: the end of the server's log:" >&2
            tail -n 30 "$log" >&2
        fi
        echo "demo: for a closer look, its state is kept in $state and its log in $log" >&2
    else
        rm -rf "$state" "$work"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# api METHOD PATH [BODY]: the call, printed; the answer's body is in $answer.
answer=
api() {
    local method=$1 path=$2 body=${3:-} code
    local curl=(curl -sS -X "$method" --max-time 300 -o "$work/answer" -w '%{http_code}')
    [ -z "$token" ] || curl+=(-H "Authorization: Bearer $token")
    [ -z "$body" ] || curl+=(-H 'Content-Type: application/json' --data-binary "$body")
    if [ -z "${quiet:-}" ]; then
        local shown=$body
        [ "$path" != /v1/auth/login ] || shown='{"user":"admin","password":"…"}'
        say "${bold}\$ curl${plain} -X $method \"\$URL$path\"${shown:+ -d '$shown'}"
    fi
    code=$("${curl[@]}" "$url$path") || die "no answer from $url$path"
    answer=$(cat "$work/answer")
    case $code in
        2*) ;;
        *)
            jq . "$work/answer" 2>/dev/null || cat "$work/answer"
            die "$method $path was answered with $code"
            ;;
    esac
}
# show FILTER: part of the answer.
show() { jq -rc "$1" <<<"$answer" | sed 's/^/    /'; }

# reached GOAL METHOD PATH [BODY]: the call with ?wait=GOAL, and GETs after it where that was not enough.
reached() {
    local goal=$1 holds said='' now
    case $goal in
        address) holds='.status == "running" and all(.interfaces[]; .seen)' ;;
        *) holds=".status == \"$goal\"" ;;
    esac
    api "$2" "$3?wait=$goal&timeout=20" "${4:-}"
    [ -n "$instance" ] || instance=$(jq -r .id <<<"$answer")
    for ((i = 0; i < 15; i++)); do
        if jq -e "$holds" <<<"$answer" >/dev/null; then
            show '{status, power, revision, observed_revision}'
            return
        fi
        # Without KVM a guest takes its time: say where it is.
        now=$(jq -r '.status + (if .reason then ": " + .reason else "" end)' <<<"$answer")
        [ "$said" = "$now" ] || say "  $now"
        said=$now
        quiet=1 api GET "/v1/instances/$instance?wait=$goal&timeout=20"
    done
    show .
    die "the instance did not come to '$goal'"
}

console() {
    curl -sS --max-time 30 -H "Authorization: Bearer $token" "$url/v1/instances/$instance/console" | tr -d '\r'
}
# until_ready COUNT: the console says `ready` for the COUNTth time.
until_ready() {
    local tries
    say "${bold}\$ curl${plain} \"\$URL/v1/instances/$instance/console\"   ${dim}(until it says ready)${plain}"
    for tries in $(seq 240); do
        [ "$(console | grep -cx ready)" -lt "$1" ] || return 0
        alive || die "the server has ended"
        sleep 0.5
    done
    console | tail -n 20
    die "the guest did not say 'ready' within two minutes"
}

# --- start ---------------------------------------------------------------------------------------

step "Starting a cloud: pileus up"
for _ in $(seq 100); do
    port=$((20000 + RANDOM % 12000))
    # Free, if nobody answers.
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
url=http://127.0.0.1:$port
chmod 711 "$state"
say "${bold}\$ pileus up${plain} --state-dir $state --listen 127.0.0.1:$port"
# In a session of its own: Ctrl-C is for the demo, which ends it in order.
setsid "$pileus" up --state-dir "$state" --listen "127.0.0.1:$port" \
    --guest-image "$PWD/target/guest/pileus-guest.qcow2" >"$log" 2>&1 </dev/null &
server=$!
for ((i = 0; ; i++)); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' --max-time 2 "$url/readyz")" != 200 ] || break
    alive || die "pileus up has ended"
    case $(since "$step_began") in 1[2-9][0-9].*) die "pileus up was not ready within two minutes" ;; esac
    [ $((i % 10)) != 9 ] || say "  not ready yet ($(since "$step_began"))"
    sleep 0.25
done
say "ready: its own PostgreSQL, libvirt, and the API at $url (documents at $url/docs)"

# --- calls ---------------------------------------------------------------------------------------

step "Logging in with the password of admin.json"
api POST /v1/auth/login "$(jq -c '{user, password}' "$state/admin.json")"
token=$(jq -r .token <<<"$answer")
show '"user \(.user.name), tenant \(.tenant.name), admin \(.admin), token until \(.expires_at)"'
say "${dim}every further call has -H \"Authorization: Bearer \$TOKEN\"${plain}"

step "What there is: flavors, images, networks"
api GET /v1/flavors
show '.items[] | "\(.name): \(.vcpus) vCPU, \(.memory_mib) MiB, disk \(.disk_gib) GiB"'
api GET /v1/images
show '.items[] | "\(.name): \(.format), \(.status)"'
api GET /v1/networks
show '.items[] | "\(.name): \(.cidr)"'

step "A keypair"
ssh-keygen -q -t ed25519 -N '' -C demo -f "$work/key"
api POST /v1/keypairs "$(jq -nc --arg key "$(cat "$work/key.pub")" '{name: "demo", public_key: $key}')"
show '"\(.name) \(.fingerprint)"'

step "An instance, with a script of its own; answered when it runs"
reached running POST /v1/instances "$(jq -nc '{
    name: "demo", image: "pileus-guest", flavor: "nano", keypairs: ["demo"],
    user_data: "#!/bin/sh\necho \"user data says hello from $(hostname)\"\n"}')"

step "Its address; answered when the guest holds it"
reached address GET "/v1/instances/$instance"
address=$(jq -r '.interfaces[0].address' <<<"$answer")
show '.interfaces[] | {mac, address, seen}'

step "Its console"
until_ready 1
console | tail -n 8 | sed 's/^/    /'
console | grep -qx 'user data says hello from demo' || die "the user data's script was not run"

step "Into the guest, with the key"
# Only over a bridge of our own: anything else would leave this machine.
ip route get "$address" | grep -q ' dev pl' || die "there is no bridge to $address"
say "${bold}\$ ssh${plain} root@$address 'uname -a; uptime'"
ssh_options=(-q -F none -i "$work/key" -o BatchMode=yes -o IdentitiesOnly=yes -o ConnectTimeout=10
    -o StrictHostKeyChecking=no -o "UserKnownHostsFile=$work/known_hosts")
ssh "${ssh_options[@]}" "root@$address" 'uname -a; uptime' </dev/null | sed 's/^/    /'

step "Stop: the ACPI button, the guest goes down by itself"
reached stopped POST "/v1/instances/$instance/actions/stop"

step "Start: same disk, same address"
reached running POST "/v1/instances/$instance/actions/start"
until_ready 2
console | grep -x "address: .* $address" | tail -n 1 | sed 's/^/    /'

step "Delete; answered when nothing of it is left"
reached deleted DELETE "/v1/instances/$instance"
gone=$instance

# --- proof ----------------------------------------------------------------------------------------

step "What is left of it?"
api GET /v1/instances
show '"instances: \(.items | length)"'
[ "$(jq '.items | length' <<<"$answer")" = 0 ] || die "the instance is still listed"
api GET /v1/ports
show '"ports and addresses: \(.items | length)"'
[ "$(jq '.items | length' <<<"$answer")" = 0 ] || die "a port is still there"
api GET /v1/hosts
show '.items[] | "claimed on host \(.name): \(.used.vcpus) vCPU, \(.used.memory_mib) MiB, \(.used.disk_gib) GiB"'
[ "$(jq '[.items[].used | .vcpus + .memory_mib + .disk_gib] | add' <<<"$answer")" = 0 ] || die "capacity is still claimed"

mark=$(mark)
# left WHAT COMMAND...: lines of the output with our mark, which there must not be.
left() {
    local what=$1 found
    shift
    found=$("$@" | grep "$mark" || true)
    say "$what: $(grep -c . <<<"$found" || true)"
    [ -z "$found" ] || die "left on the host: $found"
}
left "domains in libvirt" virsh list --all --name
left "networks in libvirt" virsh net-list --all --name
files=$(find "$state" -path '*/disks/*' -type f -printf '%f\n' -o -path '*/consoles/*' -type f -printf '%f\n')
say "files in its pool: $(grep -c . <<<"$files" || true), the cached base image $(grep -c '^base-' <<<"$files" || true) of them"
[ -z "$(grep -v '^base-' <<<"$files" || true)" ] || die "left in the pool: $files"

step "What happened, in the feed's order"
api GET "/v1/events?resource_id=$gone&limit=100"
show '.items[] | "\(.seq)  \(.at | sub("\\.[0-9]+"; ""))  \(.kind)  \(.outcome)\(.detail.power.to // "" | if . != "" then ": " + . else . end)  by \(.actor.name? // .actor)"'
instance=

step "Ending the cloud (SIGTERM)"
kill -TERM "$server"
ended "$server" 30 || die "pileus up did not end within 30 seconds"
server=
left_files=$(find "$state" -name postmaster.pid -o -name libvirtd.json)
[ -z "$left_files" ] || die "something of it still runs: $left_files"
say "ended"
step ""

cat <<TEXT

${bold}Done in $(since "$began").${plain} A cloud that stays:

  sudo target/debug/pileus up          API at http://127.0.0.1:7460, documents at /docs,
                                       url, user and password in /var/lib/pileus/admin.json
  target/debug/pileus --help           the same by command line

README.md goes on from here.
TEXT
