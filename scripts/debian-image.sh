#!/usr/bin/env bash
# Builds a stock cloud image of the distribution that runs here, from its own packages, as the tests boot it to prove that
# Pileus and the real cloud-init understand each other:
#
#   scripts/debian-image.sh        -> target/debian/debian.qcow2
#
# It is what the official images are: systemd, GRUB, the cloud kernel, cloud-init, netplan, openssh-server, the QEMU guest agent,
# growpart. Left out is what costs a boot in software (TCG) most of its time and is of no use there: documentation,
# translations, drivers that a virtual machine has no device for, timers, consoles to log in at, host keys of RSA.
#
# Packages are installed into a directory, so it asks for root. No loop device and no network block device is needed: mke2fs
# fills the file system from the directory, and GRUB is put before it byte by byte. The image is made anew when this
# script changes or the release, not when packages do: `rm -r target/debian` for newer ones.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
out=$PWD/target/debian
image=$out/debian.qcow2

say() { echo "debian-image: $*"; }
die() { echo "debian-image: $*" >&2; exit 1; }
as_root() { scripts/as-root.sh "$@"; }

[ "$(uname -m)" = x86_64 ] || die "only amd64 is supported yet, this machine is $(uname -m)"
# shellcheck source=/dev/null
. /etc/os-release
case $ID in
    debian) kernel=linux-image-cloud-amd64 ;;
    ubuntu) kernel=linux-image-virtual ;;
    *) die "$PRETTY_NAME is neither Debian nor Ubuntu: no packages to build from" ;;
esac
suite=$VERSION_CODENAME
packages=("$kernel" grub-pc-bin systemd-sysv dbus openssh-server sudo netplan.io systemd-resolved
    cloud-init cloud-guest-utils qemu-guest-agent)

recipe=$({ echo "$suite"; cat scripts/debian-image.sh; } | sha256sum | cut -c1-64)
if [ -f "$image" ] && [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ]; then
    say "$image is up to date"
    exit 0
fi
PATH=$PATH:/usr/sbin:/sbin
for tool in mmdebstrap mke2fs qemu-img apt-get; do
    command -v "$tool" >/dev/null || die "$tool is missing: run 'make setup'"
done

mkdir -p "$out"
work=$out/work
root=$work/root
raw=$work/disk.raw
as_root rm -rf "$work"
mkdir -p "$work"
:

# --- packages ----------------------------------------------------------------------

# The mirrors that this machine's own apt uses for its release, in whatever form its sources are.
keyring=$(find /usr/share/keyrings -name "$ID-archive-keyring.gpg" -print -quit)
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$suite" -v key="$keyring" '
        $2 == suite || $2 == suite "-updates" || $2 == suite "-security" {
            print "deb " (key ? "[signed-by=" key "] " : "") $1, $2, $3
        }' | sort -u >"$work/sources.list"
grep -q " $suite main$" "$work/sources.list" || die "no source of apt names the suite $suite: run 'apt-get update'"
options=()
proxy=$(apt-config dump Acquire::http::Proxy | sed -n 's/^Acquire::http::Proxy "\(.*\)";$/\1/p')
[ -z "$proxy" ] || options+=(--aptopt="Acquire::http::Proxy \"$proxy\"")

# An initramfs for a virtio disk, cloud-init's seed on a disk, and units that need not be.
cat >"$work/before" <<'HOOK'
set -e
cd "$1/etc"
mkdir -p initramfs-tools/conf.d cloud/cloud.cfg.d systemd/system
printf 'MODULES=list\nCOMPRESS=zstd\n' >initramfs-tools/conf.d/virtio
printf '%s\n' virtio_pci virtio_blk ext4 >initramfs-tools/modules
cat >cloud/cloud.cfg.d/90_image.cfg <<'CONFIG'
datasource_list: [ NoCloud, None ]
locale: false
ssh_genkeytypes: [ ed25519 ]
CONFIG
for unit in modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service \
    modprobe@configfs.service modprobe@dm_mod.service sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount systemd-binfmt.service \
    e2scrub_reap.service systemd-tmpfiles-clean.timer apt-daily.timer apt-daily-upgrade.timer \
    getty@tty1.service serial-getty@ttyS0.service; do
    ln -s /dev/null "systemd/system/$unit"
done
HOOK

say "installing $suite's ${packages[*]}"
as_root mmdebstrap --quiet --mode=root --format=directory --variant=minbase \
    --include="$(IFS=,; echo "${packages[*]}")" "${options[@]}" \
    --dpkgopt=force-unsafe-io --dpkgopt=force-confold \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --essential-hook="sh $work/before \"\$1\"" \
    "$suite" "$root" - <"$work/sources.list" >"$work/log" 2>&1 ||
    { tail -n 30 "$work/log" >&2; die "mmdebstrap failed: the end of its log is above"; }

# --- what an image's maker sets -------------------------------------------------------

# Every instance makes its own host keys and machine id, and is told its name.
as_root bash -c "cd '$root' && rm -f etc/ssh/ssh_host_* vmlinuz.old initrd.img.old && : >etc/machine-id &&
    echo localhost >etc/hostname && echo 'LABEL=rootfs / ext4 errors=remount-ro 0 1' >etc/fstab"
# Debian keeps the links to its newest kernel in /, Ubuntu in /boot.
links=
[ -e "$root/vmlinuz" ] || links=/boot
as_root tee "$root/boot/grub.cfg" >/dev/null <<CONFIG
set timeout=0
linux $links/vmlinuz root=LABEL=rootfs ro console=ttyS0 no_timer_check
initrd $links/initrd.img
boot
CONFIG

# --- disk -----------------------------------------------------------------------------

say "writing the disk"
start=2048                                    # sectors before the only partition; GRUB lies among them
bytes=$(as_root du -s --block-size=1 "$root" | cut -f1)
sectors=$(((bytes / 1048576 * 5 / 4 + 64) * 2048))
truncate -s $(((start + sectors) * 512)) "$raw"
# Features that GRUB does not read in every release are left out; the file system grows online.
as_root mke2fs -q -t ext4 -L rootfs -m 1 -O '^metadata_csum_seed,^orphan_file' -J size=16 \
    -E "offset=$((start * 512)),lazy_itable_init=1,nodiscard" -d "$root" "$raw" "$((sectors / 2))k"

# GRUB as grub-bios-setup puts it: its first sector in the boot sector, before the partition table, the rest right behind.
grub=$root/usr/lib/grub/i386-pc
as_root chroot "$root" grub-mkimage -O i386-pc -o /tmp/core.img -p '(hd0,msdos1)/boot' biosdisk part_msdos ext2 linux normal configfile
[ "$(stat -c %s "$root/tmp/core.img")" -lt $(((start - 1) * 512)) ] || die "GRUB is too big for the gap before the partition"
dd if="$grub/boot.img" of="$raw" bs=440 count=1 conv=notrunc status=none
dd if="$root/tmp/core.img" of="$raw" bs=512 seek=1 conv=notrunc status=none

# le32 NUMBER: four bytes, lowest first, as printf escapes.
le32() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)); }
printf "\\x80\\xfe\\xff\\xff\\x83\\xfe\\xff\\xff$(le32 $start)$(le32 $sectors)" |
    dd of="$raw" bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of="$raw" bs=1 seek=510 conv=notrunc status=none

qemu-img convert -f raw -O qcow2 "$raw" "$image.new"
mv "$image.new" "$image"
echo "$recipe" >"$out/recipe"
say "$image: $(($(stat -c %s "$image") / 1048576)) MiB"
