#!/usr/bin/env bash
# Boots the guest image in bare QEMU (TCG, 192 MiB, one CPU, 1 GiB disk) and
# checks what Pileus relies on: the console's lines, the NoCloud seed on a SATA
# CD-ROM and on a virtio disk, user-data once per instance, ssh by key, DHCP and
# static addresses, the guest agent, the power button, state across a stop.
#
#   scripts/guest-check.sh [BOOTS]      BOOTS: fresh boots to time, 3 by default
#
# A boot must be ready within 10 seconds. On a busy machine that says little, so
# the CPU time QEMU took until then is shown too, and decides when the wall
# clock does not.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
image=$PWD/target/guest/pileus-guest.qcow2
boots=${1:-3}
limit=10
memory=${GUEST_CHECK_MEMORY:-192}

for tool in qemu-system-x86_64 qemu-img xorriso mformat mcopy ssh ssh-keygen ssh-keyscan jq python3; do
    command -v "$tool" >/dev/null || { echo "guest-check: $tool is missing: run 'make setup'" >&2; exit 1; }
done
[ -f "$image" ] || { echo "guest-check: no image: run 'make guest'" >&2; exit 1; }

dir=$(mktemp -d)
qemu=
cleanup() {
    [ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

failed=0
check() {
    local what=$1
    shift
    if "$@" >/dev/null 2>&1; then
        echo "  ok    $what"
    else
        echo "  FAIL  $what"
        failed=1
    fi
}
# line TEXT: TEXT is a whole line of the console.
line() { tr -d '\r' <"$dir/console" | grep -qxF "$1"; }
no_line() { ! line "$1"; }

# --- seeds ----------------------------------------------------------------------------

ssh-keygen -q -t ed25519 -N '' -C 'key: one' -f "$dir/key"
ssh-keygen -q -t ed25519 -N '' -C two -f "$dir/key2"
mkdir "$dir/script" "$dir/config"
cat >"$dir/script/meta-data" <<SEED
instance-id: i-0001
local-hostname: web-1
public-keys:
  - "$(cat "$dir/key.pub")"
SEED
cat >"$dir/script/user-data" <<'SEED'
#!/bin/sh
echo "user-data says hello from $(hostname)"
echo run >>/data/runs
exit 3
SEED
cat >"$dir/script/network-config" <<'SEED'
version: 2
ethernets:
  nic0:
    match:
      macaddress: "52:54:00:00:00:01"
    dhcp4: true
SEED
cat >"$dir/config/meta-data" <<'SEED'
instance-id: i-0002
local-hostname: db-1
SEED
cat >"$dir/config/user-data" <<SEED
#cloud-config
ssh_authorized_keys:
- $(cat "$dir/key2.pub")
runcmd:
  - echo runcmd says hello
  - 'echo second > /data/second'
SEED
cat >"$dir/config/network-config" <<'SEED'
network:
  version: 2
  ethernets:
    nic0:
      match:
        macaddress: 52:54:00:00:00:01
      addresses: [10.0.2.77/24]
      routes:
        - to: 0.0.0.0/0
          via: 10.0.2.2
      nameservers:
        addresses:
          - 10.0.2.3
SEED
xorriso -as mkisofs -quiet -J -r -V cidata -o "$dir/script.iso" "$dir/script" 2>/dev/null
xorriso -as mkisofs -quiet -J -r -V cidata -o "$dir/config.iso" "$dir/config" 2>/dev/null
mformat -C -i "$dir/config.fat" -f 1440 -v CIDATA ::
mcopy -i "$dir/config.fat" "$dir"/config/* ::

# --- one machine ----------------------------------------------------------------------

disk() {
    rm -f "$dir/disk.qcow2"
    qemu-img create -q -f qcow2 -b "$image" -F qcow2 "$dir/disk.qcow2" "${1:-1G}"
}

# start SEED [virtio|sata]
start() {
    local seed=(-drive "if=none,id=seed,format=raw,readonly=on,file=$1")
    case ${2:-sata} in
        sata) seed+=(-device ide-cd,drive=seed,bus=ide.0) ;;
        virtio) seed+=(-device virtio-blk-pci,drive=seed) ;;
    esac
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    : >"$dir/console"
    began=$(date +%s.%N)
    qemu-system-x86_64 -machine q35 -accel tcg -m "$memory" -smp 1 -nodefaults -display none -no-user-config \
        -drive "if=none,id=disk,file=$dir/disk.qcow2" -device virtio-blk-pci,drive=disk,bootindex=1 "${seed[@]}" \
        -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-10.0.2.${address:-15}:22" \
        -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01 \
        -device virtio-rng-pci -device virtio-serial-pci \
        -chardev "socket,id=agent,path=$dir/agent,server=on,wait=off" \
        -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0 \
        -serial "file:$dir/console" -qmp "unix:$dir/qmp,server=on,wait=off" </dev/null 2>"$dir/qemu.log" &
    qemu=$!
}

# ready: wait for that line, and say how long it took.
ready() {
    local wall cpu
    for _ in $(seq 600); do
        line ready && break
        kill -0 "$qemu" 2>/dev/null || { cat "$dir/qemu.log"; break; }
        sleep 0.1
    done
    wall=$(awk -v a="$began" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    cpu=$(awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); printf "%.1f", ($12 + $13) / hz }' "/proc/$qemu/stat")
    if ! line ready; then
        echo "  FAIL  no 'ready' after $wall s; the console's end:"
        tail -n 20 "$dir/console"
        exit 1
    fi
    echo "  ready after $wall s ($cpu s of CPU; load $(cut -d' ' -f1 /proc/loadavg))"
    if awk -v wall="$wall" -v limit=$limit 'BEGIN { exit !(wall < limit) }'; then
        check "ready within $limit s" true
    else
        check "not ready within $limit s on this busy machine, but within $limit s of CPU time" \
            awk -v cpu="$cpu" -v limit=$limit 'BEGIN { exit !(cpu < limit) }'
    fi
}

# ask SOCKET LINE...: send the lines, print what comes back, until the last is answered.
ask() {
    python3 - "$@" <<'PYTHON'
import json, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(10)
peer.connect(sys.argv[1])
stream = peer.makefile("rw")
for line in sys.argv[2:]:
    stream.write(line + "\n")
    stream.flush()
    while True:
        answer = json.loads(stream.readline())
        if "return" in answer or "error" in answer:
            break
    print(json.dumps(answer))
PYTHON
}
power_button() { ask "$dir/qmp" '{"execute":"qmp_capabilities"}' '{"execute":"system_powerdown"}'; }

# ended: QEMU ends by itself within ten seconds; says how long it took.
ended() {
    local from
    from=$(date +%s.%N)
    for _ in $(seq 100); do
        if ! kill -0 "$qemu" 2>/dev/null; then
            qemu=
            awk -v a="$from" -v b="$(date +%s.%N)" 'BEGIN { printf "  off after %.1f s\n", b - a }'
            return
        fi
        sleep 0.1
    done
    echo "  FAIL  still running 10 s after it was told to stop"
    failed=1
    kill -KILL "$qemu"
    wait "$qemu" 2>/dev/null || true
    qemu=
}

# on KEY COMMAND...: run it in the guest.
on() {
    ssh -q -i "$dir/$1" -p "$port" -o BatchMode=yes -o IdentitiesOnly=yes -o ConnectTimeout=10 -F none \
        -o StrictHostKeyChecking=no -o UserKnownHostsFile="$dir/known" root@127.0.0.1 "${@:2}"
}
host_key() { ssh-keyscan -T 10 -t ed25519 -p "$port" 127.0.0.1 2>/dev/null | awk '{ print $3 }'; }
says() { [ "$(on "$1" "$2")" = "$3" ]; }

# --- checks -------------------------------------------------------------------------------

echo "1: first boot, seed on a SATA CD-ROM, DHCP, user-data a script"
disk
start "$dir/script.iso"
ready
check "hostname: web-1" line "hostname: web-1"
check "address: eth0 10.0.2.15" line "address: eth0 10.0.2.15"
check "disk: 1024 MiB" line "disk: 1024 MiB"
check "user-data's output on the console" line "user-data says hello from web-1"
check "user-data: exit 3" line "user-data: exit 3"
check "ssh with the key of public-keys" says key hostname web-1
check "no ssh with another key" eval '! on key2 true'
check "user-data's output in /var/log/user-data.log" on key grep -qx '"user-data says hello from web-1"' /var/log/user-data.log
check "the data filesystem has grown with the disk" on key "test \$(df -m /data | awk 'NR == 2 { print \$2 }') -gt 900"
check "guest-ping" eval "ask $dir/agent '{\"execute\":\"guest-ping\"}' | jq -e '.return == {}'"
check "guest-network-get-interfaces" eval "ask $dir/agent '{\"execute\":\"guest-network-get-interfaces\"}' | grep -q 10.0.2.15"
check "cloud-init's result file" says key "cat /run/cloud-init/result.json" '{"v1": {"datasource": "DataSourceNoCloud [seed=/dev/sr0]", "errors": ["user-data: exit 3"]}}'
check "guest-exec" eval "ask $dir/agent '{\"execute\":\"guest-exec\",\"arguments\":{\"path\":\"/bin/true\"}}' | jq -e .return.pid"
first_key=$(host_key)
check "the power button is asked for" power_button
ended

echo "2: same disk again, grown to 2 GiB"
qemu-img resize -q "$dir/disk.qcow2" 2G
start "$dir/script.iso"
ready
check "disk: 2048 MiB" line "disk: 2048 MiB"
check "user-data is not run again" line "user-data: already ran for i-0001"
check "nor did it leave output" no_line "user-data says hello from web-1"
check "it ran once" says key "cat /data/runs" run
check "the ssh host key is the same" test "$(host_key)" = "$first_key"
check "the data filesystem has grown" on key "test \$(df -m /data | awk 'NR == 2 { print \$2 }') -gt 1900"
on key poweroff >/dev/null 2>&1 || true
ended

echo "3: same disk as another instance, seed on a virtio disk (FAT), static address, #cloud-config"
address=77
start "$dir/config.fat" virtio
ready
check "hostname: db-1" line "hostname: db-1"
check "address: eth0 10.0.2.77" line "address: eth0 10.0.2.77"
check "runcmd's output on the console" line "runcmd says hello"
check "user-data: exit 0" line "user-data: exit 0"
check "ssh with the key of ssh_authorized_keys" says key2 "cat /data/second" second
check "default route and name server" on key2 "ip route | grep -q 'default via 10.0.2.2' && grep -q 10.0.2.3 /etc/resolv.conf"
check "a new ssh host key" test "$(host_key)" != "$first_key"
check "guest-shutdown" eval "timeout 2 python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"$dir/agent\"); s.sendall(b\"{\\\"execute\\\":\\\"guest-shutdown\\\"}\\n\")'"
ended

echo "4: fresh boot, seed on a virtio disk (ISO 9660)"
disk
start "$dir/config.iso" virtio
ready
check "hostname: db-1" line "hostname: db-1"
check "runcmd's output on the console" line "runcmd says hello"
check "the power button is asked for" power_button
ended

address=15
for ((i = 1; i <= boots; i++)); do
    echo "5: fresh boot $i of $boots, timed"
    disk
    start "$dir/script.iso"
    ready
    kill -KILL "$qemu"
    wait "$qemu" 2>/dev/null || true
    qemu=
done

[ $failed = 0 ] || { echo "guest-check: something failed"; exit 1; }
echo "guest-check: all of it works"
