# A libvirt host of its own: the first process of new PID, network, mount and UTS namespaces. It reaps orphaned QEMUs (so
# that destroying a domain is fast) and, being the namespace's first, takes everything with it when it ends.
# Usage: libvirtd.sh ROOT NAME STDIO_HANDLER ROTATE_AT. Reads commands from stdin (start, kill, stop), answers a line to each; ends at its end.
set -euo pipefail
root=$1 name=$2 stdio=$3 rotate=$4
# A build tool's environment is not a host's.
unset LD_LIBRARY_PATH
# /proc is still the outer one: this is our id for the world outside.
read -r outer _ < /proc/self/stat

hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$root"/{run,lib,etc,log,cache}
for pair in run:/run/libvirt lib:/var/lib/libvirt etc:/etc/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
  from=$root/${pair%%:*} to=${pair#*:}
  [ -d "$to" ] || mkdir -p "$to"
  # nwfilters and the default configuration come with the packages.
  [ "$to" != /etc/libvirt ] || cp -a /etc/libvirt/. "$from/"
  mount --bind "$from" "$to"
done
rm -rf /etc/libvirt/qemu/networks /etc/libvirt/qemu/autostart /etc/libvirt/storage
cat > /etc/libvirt/libvirtd.conf <<C
auth_unix_rw = "none"
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
log_outputs = "3:file:$root/libvirtd.log"
C
# No mount namespace for every guest: within ours libvirt 9 fails to set up one of its own.
cat > /etc/libvirt/qemu.conf <<C
namespaces = [ ]
security_driver = "none"
cgroup_controllers = [ ]
stdio_handler = "$stdio"
C
printf '%s\n' "max_size = $rotate" 'max_backups = 3' > /etc/libvirt/virtlogd.conf
ip link set lo up

# A daemon is up when its socket is there; SOCKET PID OUTPUT.
answers() {
  for _ in $(seq 600); do
    [ ! -S "/run/libvirt/$1" ] || return 0
    kill -0 "$2" 2> /dev/null || break
    sleep 0.05
  done
  cat "$3" >&2
  exit 1
}

virtlogd -f /etc/libvirt/virtlogd.conf -p /run/libvirt/virtlogd.pid < /dev/null > "$root/virtlogd.out" 2>&1 &
answers virtlogd-sock "$!" "$root/virtlogd.out"

start() {
  rm -f /run/libvirt/libvirt-sock
  libvirtd -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid < /dev/null > "$root/libvirtd.out" 2>&1 &
  daemon=$!
  answers libvirt-sock "$daemon" "$root/libvirtd.out"
}
while read -r command; do
  case $command in
    start) start ;;
    kill) kill -KILL "$daemon"; wait "$daemon" 2> /dev/null || true ;;
    stop) kill -TERM "$daemon"; wait "$daemon" 2> /dev/null || true ;;
  esac
  echo "$outer $command"
done
