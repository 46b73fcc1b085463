#!/usr/bin/env bash
# Builds the small guest image that Pileus is tried with, from packages of the
# distribution: its cloud kernel, busybox, dropbear, the QEMU guest agent.
#
#   scripts/guest.sh        -> target/guest/pileus-guest.qcow2
#
# Packages are downloaded and unpacked, never installed; nothing is mounted, so
# any user can run it. The disk is an MBR, a FAT partition with syslinux, kernel
# and initramfs, and free space on which the guest makes its data filesystem.
# What the guest does when it boots is in scripts/guest/init.
set -euo pipefail
export LC_ALL=C

cd "$(dirname "$0")/.."
out=$PWD/target/guest
image=$out/pileus-guest.qcow2
cache=$out/packages
work=$out/work

say() { echo "guest: $*"; }
die() { echo "guest: $*" >&2; exit 1; }

[ "$(uname -m)" = x86_64 ] || die "only amd64 is supported yet, this machine is $(uname -m)"

# shellcheck source=/dev/null
. /etc/os-release
case $ID in
    debian) kernel=linux-image-cloud-amd64 ;;
    ubuntu) kernel=linux-image-virtual ;;
    *) die "$PRETTY_NAME is neither Debian nor Ubuntu: no packages to build from" ;;
esac
programs=(busybox-static dropbear-bin qemu-guest-agent e2fsprogs)
boot=(syslinux syslinux-common)

# --- is there anything to do? ----------------------------------------------------

# The image is made anew when these scripts or the versions of the packages change.
# As long as apt's lists are older than the last look, there is no need to ask it.
recipe=$(cat scripts/guest.sh scripts/guest/* | sha256sum | cut -c1-64)
up_to_date() {
    echo "$recipe" >"$out/recipe"
    say "$image is up to date"
    exit 0
}
if [ -f "$image" ] && [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ] &&
    [ -z "$(find /etc/apt /var/lib/apt/lists -newer "$out/recipe" -print -quit 2>/dev/null)" ]; then
    up_to_date
fi

# versions WHICH PACKAGE...: "name version" of each; WHICH is "candidate", the one
# apt would install, or "newest", the first of all that the sources offer.
versions() {
    apt-cache policy "${@:2}" | awk -v which="$1" '
        /^[^ ]/ { sub(/:$/, ""); name = $0; seen = 0 }
        which == "candidate" && /^  Candidate:/ && $2 != "(none)" { print name, $2 }
        which == "newest" && /^ (\*\*\*|   ) [^ ]/ && !seen++ { print name, $(NF - 1) }'
}

# Of the kernel we want the newest: that of Debian 12 itself has no SATA driver
# and would not see a seed on a CD-ROM, the one in its backports has.
roots=$(versions newest "$kernel"; versions candidate "${programs[@]}" "${boot[@]}" libc6)
key=$({ echo "$roots"; echo "$recipe"; } | sha256sum | cut -c1-64)
if [ -f "$image" ] && [ "$(cat "$out/key" 2>/dev/null)" = "$key" ]; then
    up_to_date
fi

for package in "$kernel" "${programs[@]}" "${boot[@]}"; do
    grep -q "^$package " <<<"$roots" ||
        die "no source of apt offers $package (on Ubuntu it may be in universe): run 'make setup' or 'apt-get update'"
done
for tool in apt-get dpkg-deb mcopy mformat cpio zstd xz qemu-img; do
    command -v "$tool" >/dev/null || die "$tool is missing: run 'make setup'"
done

# --- packages ----------------------------------------------------------------------

# depends PACKAGE=VERSION...: what they depend on, first choice of each.
depends() {
    apt-cache depends --important "$@" |
        awk '/^ +(Pre)?Depends:/ { if (!alternative) print $2 } { alternative = /^ +\|/ } /^ +\|(Pre)?Depends:/ { sub(/^ +\|/, " "); print $2 }' |
        grep -v '^<' | sort -u
}

# The kernel's package only names the one with the kernel in it.
kernel_version=$(awk -v name="$kernel" '$1 == name { print $2 }' <<<"$roots")
kernel_package=$(apt-cache show "$kernel=$kernel_version" | sed -n 's/^Depends: //p' | tr ',' '\n' |
    awk '$1 ~ /^linux-image-[0-9]/ { print $1 }')
[ -n "$kernel_package" ] || die "$kernel $kernel_version names no kernel package"
# Ubuntu keeps the modules in a package of their own.
modules_package=$(depends "$kernel_package" | grep '^linux-modules-[0-9]' || true)

# Libraries: follow the dependencies through everything called lib* (and zlib1g).
libraries=
next=$(depends "${programs[@]}" | grep -E '^z?lib')
while [ -n "$next" ]; do
    libraries=$(printf '%s\n' $libraries $next | sort -u)
    # shellcheck disable=SC2086
    next=$(comm -23 <(depends $next | grep -E '^z?lib' || true) <(echo "$libraries"))
done

mkdir -p "$cache"
# shellcheck disable=SC2086
{
    versions newest "$kernel_package" $modules_package
    versions candidate "${programs[@]}" "${boot[@]}" $libraries
} >"$out/versions"
missing=()
files=()
while read -r package version; do
    file=$cache/${package}_${version//:/%3a}_
    compgen -G "${file}*.deb" >/dev/null || missing+=("$package=$version")
    files+=("$file")
done <"$out/versions"
if [ ${#missing[@]} -gt 0 ]; then
    say "downloading ${#missing[@]} packages"
    options=(-q -o Dpkg::Use-Pty=0)
    [ "$(id -u)" != 0 ] || options+=(-o APT::Sandbox::User=root)
    (cd "$cache" && apt-get "${options[@]}" download "${missing[@]}" >"$out/download.log" 2>&1) ||
        { cat "$out/download.log" >&2; die "a download failed: 'apt-get update' may help"; }
fi

rm -rf "$work"
mkdir -p "$work/packages" "$work/root"
trap 'rm -rf "$work"' EXIT
say "unpacking"
for file in "${files[@]}"; do
    deb=$(compgen -G "${file}*.deb") || die "$file was not downloaded"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/packages" --no-same-owner --exclude='./usr/share/doc' \
        --exclude='./usr/share/locale' --exclude='./usr/share/man' --keep-directory-symlink
done
packages=$work/packages
root=$work/root

# file NAME: an unpacked program, wherever the distribution puts it.
file() {
    local directory
    for directory in bin sbin usr/bin usr/sbin usr/lib/syslinux/mbr usr/lib/SYSLINUX usr/lib/syslinux; do
        [ -f "$packages/$directory/$1" ] && { echo "$packages/$directory/$1"; return; }
    done
    die "no $1 in the packages"
}

# --- root filesystem -------------------------------------------------------------

say "packing the root filesystem"
mkdir -p "$root"/{bin,sbin,lib/modules,lib64,usr/bin,usr/sbin,etc,dev,proc,sys,run,tmp,root,data,var/log}
ln -s /run "$root/var/run"
ln -s /lib "$root/usr/lib"
chmod 1777 "$root/tmp"
chmod 700 "$root/root"

busybox=$(file busybox)
cp "$busybox" "$root/bin/busybox"
# Names that the guest's own stop script or a real program answers to stay free.
"$busybox" --list | grep -v -x -E 'busybox|init|linuxrc|poweroff|halt|reboot|shutdown|mke2fs|dpkg|dpkg-deb|rpm' |
    while read -r applet; do ln -s busybox "$root/bin/$applet"; done

binaries=(dropbear dropbearkey qemu-ga mke2fs resize2fs)
loader=$(find "$packages" -name 'ld-linux-x86-64.so.2' -type f -o -name 'ld-linux-x86-64.so.2' -type l | grep -v '/lib64/' | head -n 1)
path=$(find "$packages" -type d -path '*lib/x86_64-linux-gnu' | paste -sd:)
for name in "${binaries[@]}"; do
    cp "$(file "$name")" "$root/usr/sbin/$name"
    "$loader" --library-path "$path" --list "$(file "$name")"
done | awk '$3 ~ /^\// { print $3 }' | sort -u | while read -r library; do
    case $library in
        "$packages"/*) cp -L "$library" "$root/lib/" ;;
        *) die "$library is not from the packages" ;;
    esac
done
cp -L "$loader" "$root/lib64/ld-linux-x86-64.so.2"

install -m 755 scripts/guest/init "$root/init"
install -m 755 scripts/guest/udhcpc "$root/lib/udhcpc"
install -m 644 scripts/guest/yaml.awk "$root/lib/yaml.awk"
install -m 755 scripts/guest/stop "$root/sbin/stop"
for name in poweroff halt reboot shutdown; do ln -s stop "$root/sbin/$name"; done
echo 'root:*:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
echo 'root:*:19000:0:99999:7:::' >"$root/etc/shadow"
chmod 600 "$root/etc/shadow"
echo '/bin/sh' >"$root/etc/shells"
printf '%s\n' '::shutdown:/sbin/stop' '::ctrlaltdel:/sbin/reboot' >"$root/etc/inittab"
printf 'NAME="Pileus guest"\nID=pileus-guest\nPRETTY_NAME="Pileus guest (%s)"\n' "$PRETTY_NAME" >"$root/etc/os-release"

# --- kernel modules ------------------------------------------------------------------

tree=$(find "$packages" -type d -path '*lib/modules/*/kernel' | head -n 1)
[ -n "$tree" ] || die "no modules in $kernel_package"
find "$tree" -name '*.ko*' >"$work/modules"

# add MODULE LIST: copy it and what it depends on, and note the order to load them in.
# A name that is not there is built into this kernel, or not made for it.
add() {
    local name=${1//-/_} source depend
    [ ! -f "$root/lib/modules/$name.ko" ] || return 0
    source=$(awk -v name="$name" '{ file = $0; sub(/.*\//, ""); sub(/\.ko.*/, ""); gsub(/-/, "_") } $0 == name { print file; exit }' "$work/modules")
    [ -n "$source" ] || return 0
    case $source in
        *.xz) xz -dc "$source" ;;
        *.zst) zstd -qdc "$source" ;;
        *) cat "$source" ;;
    esac >"$root/lib/modules/$name.ko"
    for depend in $(tr '\0' '\n' <"$root/lib/modules/$name.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do
        add "$depend" "$2"
    done
    echo "$name" >>"$root/lib/modules/$2.list"
}
for list in "disk virtio_pci virtio_blk crc32c_generic ext4 isofs" \
    "cdrom ahci sr_mod" \
    "other ata_piix virtio_scsi sd_mod" \
    "fat nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 vfat" \
    "rest virtio_net virtio_console virtio_rng evdev button"; do
    # shellcheck disable=SC2086
    set -- $list
    : >"$root/lib/modules/$1.list"
    for module in "${@:2}"; do add "$module" "$1"; done
done
for module in ahci sr_mod; do
    find "$tree" -name "$module.ko*" | grep -q . || grep -q "/$module.ko" "$tree/../modules.builtin" ||
        die "$kernel_package has no $module, and would not see a seed on a SATA CD-ROM; on Debian 12 a newer kernel is in backports: run 'make setup'"
done

# --- disk --------------------------------------------------------------------------------

say "writing the disk"
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . | sort | cpio --quiet --reproducible -o -H newc -R 0:0) | zstd -q -19 -T0 >"$work/initrd"
vmlinuz=$(find "$packages/boot" -name 'vmlinuz-*' | head -n 1)
cp "$vmlinuz" "$work/vmlinuz"
cat >"$work/syslinux.cfg" <<'CONFIG'
DEFAULT pileus
PROMPT 0
NOESCAPE 1
LABEL pileus
  KERNEL /vmlinuz
  INITRD /initrd
  APPEND console=ttyS0 no_timer_check quiet panic=10 cryptomgr.notests init_on_alloc=0
CONFIG
touch -d @0 "$work"/{initrd,vmlinuz,syslinux.cfg}

start=2048                                    # sectors before the partition
size=$(($(stat -c %s "$work/initrd") + $(stat -c %s "$work/vmlinuz")))
sectors=$(((size / 1048576 + 3) * 2048))      # the partition: what it holds and a little
raw=$work/disk.raw
truncate -s 64M "$raw"
[ $((start + sectors)) -lt 98304 ] || die "kernel and initramfs are too big for the disk: $size bytes"

# le32 NUMBER: four bytes, lowest first, as printf escapes.
le32() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)); }
dd if="$(file mbr.bin)" of="$raw" conv=notrunc status=none
printf "\\x80\\xfe\\xff\\xff\\x0e\\xfe\\xff\\xff$(le32 $start)$(le32 $sectors)" |
    dd of="$raw" bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of="$raw" bs=1 seek=510 conv=notrunc status=none

export MTOOLS_SKIP_CHECK=1
at="$raw@@$((start * 512))"
mformat -i "$at" -T "$sectors" -h 255 -s 63 -H "$start" -c 4 -N 50494c45 -v PILEUSBOOT ::
mcopy -m -i "$at" "$work/vmlinuz" "$work/initrd" "$work/syslinux.cfg" ::
"$(file syslinux)" --install --offset $((start * 512)) "$raw"

qemu-img convert -f raw -O qcow2 "$raw" "$image.new"
mv "$image.new" "$image"
echo "$key" >"$out/key"
echo "$recipe" >"$out/recipe"
say "$image: $(($(stat -c %s "$image") / 1048576)) MiB (kernel $(basename "$vmlinuz" | cut -d- -f2-), $(($(stat -c %s "$work/initrd") / 1024)) KiB of initramfs)"
