#!/usr/bin/env bash
# Compares what a cloud's database says with what its hosts have, and names whatever is missing, doubled or left over. It
# changes nothing, and shares no code with the server: SQL through psql, domains and networks through virsh, files,
# dnsmasq's tables and processes as they lie on the host.
#
#   scripts/audit.sh [--here] [--images DIR] [--deep] [--settle SECONDS] DATABASE_URL
#
# --here      every host of the database is the machine that this runs on, whatever its URI
# --images    the server's image_dir: its files are compared too
# --deep      reads images and base images and checks their checksums, and asks qemu-img on what each disk stands
# --settle    what is on its way needs a moment: looks again until nothing is found, for so long at most
#
# A host is looked at through its URI. Files and processes are seen where that gives a shell: qemu:/// here, qemu+ssh://
# through ssh. Exit status: 0 nothing found, 1 something, 2 the audit could not be made.
set -euo pipefail
export LC_ALL=C

here='' images='' deep='' settle=0 database=''
usage() { sed -n '6s/^# *//p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
        --here) here=1 ;;
        --images) images=${2:?}; shift ;;
        --deep) deep=1 ;;
        --settle) settle=${2:?}; shift ;;
        -*) usage ;;
        *) database=$1 ;;
    esac
    shift
done
[ -n "$database" ] || usage
command -v psql >/dev/null || { echo "audit: there is no psql" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# sql [NAME=VALUE...] <QUERY: rows, a line each.
sql() {
    local settings=()
    for pair; do settings+=(-v "$pair"); done
    # Here a failure may be in a pipeline or a condition: it is told at the end.
    psql -X -q -A -t -F ' ' -v ON_ERROR_STOP=1 "${settings[@]}" "$database" 2>>"$work/errors" || echo "psql failed" >>"$work/errors"
}

mark=pileus-$(sql <<<"select left(replace(id::text, '-', ''), 8) from cloud")
[ ! -s "$work/errors" ] || { sed 's/^/audit: /' "$work/errors" >&2; exit 2; }

# The host that is being looked at: its URI, and a shell on it where there is one.
uri='' shell=()
reach() {
    uri=$1 shell=()
    if [ -n "$here" ]; then uri=qemu:///system; fi
    case $uri in
        qemu:///*) shell=(bash -s) ;;
        qemu+ssh://*)
            local rest=${uri#*://} port=()
            rest=${rest%%/*}
            case $rest in *:*) port=(-p "${rest##*:}"); rest=${rest%:*} ;; esac
            shell=(ssh -o BatchMode=yes "${port[@]}" "$rest" bash -s) ;;
    esac
}
# on_host ARGUMENTS... <SCRIPT
on_host() { "${shell[@]}" -- "$@"; }
virsh_() { virsh -q -c "$uri" "$@" </dev/null; }

# --- what there must be: lines `kind name…` -------------------------------------------------------------------------

expected() {
    sql host="$1" mark="$mark" <<'SQL'
create temp view placed as
    select i.*, c.id as incarnation, c.disk_made, c.seed_made from instances i
    join incarnations c on c.instance_id = i.id and c.fenced_at is null and c.host_id = :'host';
-- A network is made with the first start that needs it: who was stopped before theirs needs none.
create temp view nics as
    select p.mac, host(a.address) as address, p.network_id, n.cidr, placed.* from placed
    join ports p on p.instance_id = placed.id join addresses a on a.port_id = p.id join networks n on n.id = p.network_id
    where wanted in ('running', 'paused')
    or exists (select from host_networks h where h.host_id = :'host' and h.network_id = p.network_id);
create temp view domains as
    select :'mark' || '-' || id as domain, * from placed where wanted in ('running', 'paused');
select 'domain', domain, wanted, id, incarnation, boot from domains
union all select 'process', domain, '', null, null, null from domains
union all select 'pool', :'mark' || part, '', null, null, null from (values (''), ('-consoles')) as parts (part)
union all select 'disks', 'disk-' || incarnation || '.qcow2', '', null, null, null from placed where disk_made
union all select 'disks', 'seed-' || incarnation || '.iso', '', null, null, null from placed where seed_made
union all select 'disks', 'base-' || h.sha256 || '.' || b.format, '', null, null, null
    from host_images h join blobs b using (sha256) where h.host_id = :'host' and h.present
union all select 'consoles', incarnation || '.log', '', null, null, null from placed where observed_boot is not null
union all select distinct 'network', :'mark' || '-' || network_id, '', null::uuid, null::uuid, null::bigint from nics
union all select distinct 'dnsmasq', :'mark' || '-' || network_id, '', null::uuid, null::uuid, null::bigint from nics
union all select 'dhcp', :'mark' || '-' || network_id, mac || ' ' || address, null, null, null from nics
union all select 'nic', :'mark' || '-' || id, mac, null, null, null from nics where wanted in ('running', 'paused');
SQL
}

# What may be there and need not.
allowed() {
    sql host="$1" mark="$mark" <<'SQL'
select 'consoles', id || '.log' from incarnations where host_id = :'host';
-- Begun and not yet noted: a start makes it anew, a deletion takes it away.
select 'disks', unnest(array['disk-' || id || '.qcow2', 'seed-' || id || '.iso'])
    from incarnations where host_id = :'host' and not (disk_made and seed_made);
select 'lease', :'mark' || '-' || a.network_id, p.mac || ' ' || host(a.address)
    from addresses a join ports p on p.id = a.port_id;
-- A network tells every address that it may give to the one MAC address that follows from it, guest or no guest.
select 'dhcp', :'mark' || '-' || n.id, '52:54:' || mac.text || ' ' || host(n.range_start + i)
    from networks n, generate_series(0, n.range_end - n.range_start) i,
    lateral (select string_agg(lpad(to_hex(octet::int), 2, '0'), ':' order by place) as text
             from unnest(string_to_array(host(n.range_start + i), '.')) with ordinality as t (octet, place)) mac
    where n.range_end - n.range_start < 1024;
select 'noted', :'mark' || '-' || network_id from host_networks where host_id = :'host';
-- Whoever held it is gone, and the address rests until the lease has run out.
select 'resting', :'mark' || '-' || network_id, host(address) from addresses where released_at is not null;
SQL
}

# --- what there is --------------------------------------------------------------------------------------------------

domains() {
    local name state stamp
    taps
    for name in $(virsh_ list --all --name); do
        case $name in "$mark"-*) ;; *) continue ;; esac
        state=$(virsh_ domstate "$name" 2>/dev/null | head -n 1) || continue
        stamp=$(virsh_ metadata "$name" --uri https://pileus.dev/xmlns/instance/1 2>/dev/null | tr -d '\n') || true
        printf 'domain %s %s %s %s %s\n' "$name" "$state" "$(virsh_ domuuid "$name" | head -n 1)" \
            "$(field incarnation '[0-9a-f-]+' <<<"$stamp")" "$(field boot '[0-9]+' <<<"$stamp")"
    done
    grep -E "^nic $mark-" "$work/taps" || true
}
# What libvirt knows of interfaces of guests, whosever they are: their taps, whose they are, on which network they are to hang.
taps() {
    local name
    for name in $(virsh_ list --all --name); do
        virsh_ domiflist "$name" 2>/dev/null |
            awk -v name="$name" 'NF >= 5 { print "tap", $1; print "nic", name, $5; print "hangs", name, $1, $3 }' || true
    done >"$work/taps"
}
# The bridge of a network as it lives now: a network that was made again has perhaps another.
bridge() { virsh_ net-info "$1" 2>/dev/null | awk '$1 == "Bridge:" { print $2 }'; }
# field NAME PATTERN <STAMP
field() { grep -oE "$1(=['\"]|>)$2" | grep -oE "$2\$" || echo none; }

# Runs on the host: files, dnsmasq's tables, processes.
read -r -d '' LOOK <<'LOOK' || true
mark=$1 pools=$2
for pool in disks consoles; do
    # A rotated part of a log belongs to its log.
    find "$pools/$pool" -mindepth 1 -printf "$pool %f\n" 2>/dev/null | sed -E 's/(\.log)\.[0-9]+$/\1/' | sort -u
done
ps -eo args= | awk -v mark="guest=$mark-" '
    match($0, mark "[0-9a-f-]+") && $1 ~ /qemu/ { print "process", substr($0, RSTART + 6, RLENGTH - 6) }'
# Each dnsmasq is two processes: it and its helper. One without a bridge was left by a libvirtd that was killed while it made
# or destroyed the network: it serves nobody, and no call of libvirt's ends it.
ps -eo args= | grep -oE "dnsmasq/$mark-[0-9a-f-]+\.conf" | sed -E 's,^dnsmasq/(.*)\.conf$,\1,' | sort -u | while read -r network; do
    if ip -o link show | grep -qE ": pl${network: -12}[1-3]?[:@]"; then
        echo "dnsmasq $network"
    else
        echo "note: a dnsmasq of $network without a bridge: \`pkill -f $network.conf\` on the host ends it" >&2
    fi
done
tables=/var/lib/libvirt/dnsmasq
for file in "$tables/$mark"-*.hostsfile; do
    [ -s "$file" ] || continue
    network=$(basename "$file" .hostsfile)
    awk -F , -v network="$network" '{ print "dhcp", network, $1, $2 }' "$file"
    # The table of leases is named after the bridge: `pl` and the network's last 12 digits, and a number if it is not the first.
    for status in "$tables/pl${network: -12}"{,1,2,3}.status; do [ ! -s "$status" ] || tr -d ' \n"' <"$status" | grep -oE '\{[^}]*\}' | while IFS= read -r lease; do
        mac=$(grep -oE 'mac-address:[0-9a-f:]+' <<<"$lease" | cut -d: -f2-)
        address=$(grep -oE 'ip-address:[0-9.]+' <<<"$lease" | cut -d: -f2)
        until=$(grep -oE 'expiry-time:[0-9]+' <<<"$lease" | cut -d: -f2)
        [ "${until:-0}" -le "$(date +%s)" ] || echo "lease $network $mac $address"
    done; done
done
# Bridges like ours, and interfaces of guests with what they are part of.
ip -o link show 2>/dev/null | awk -F ': ' '
    { sub(/@.*/, "", $2) }
    $2 ~ /^vnet[0-9]+$/ { print "on", $2, match($0, / master [^ ]+/) ? substr($0, RSTART + 8, RLENGTH - 8) : "nothing" }
    $2 ~ /^pl[0-9a-f]+$/ && length($2) ~ /^1[45]$/ { print "bridge", $2 }
    $2 ~ /^vnet[0-9]+$/ { print "tap", $2 }'
LOOK

found() {
    domains
    virsh_ net-list --all --name | awk -v mark="$mark-" 'index($1, mark) == 1 { print "network", $1 }'
    virsh_ pool-list --all --name | awk -v mark="$mark" 'index($1, mark) == 1 { print "pool", $1 }'
    if [ ${#shell[@]} -gt 0 ]; then on_host "$mark" "$2" <<<"$LOOK"; fi
}

# --- the comparison -------------------------------------------------------------------------------------------------

tidy() { sed -E 's/ +/ /g; s/ $//' | sort; }

host() {
    local id=$1 name=$2 pools=$4
    reach "$3"
    virsh_ uri >/dev/null 2>&1 || { echo "host $name does not answer at $uri: it was not looked at"; return; }
    # The world first: what is made after that has its row already when the rows are read.
    found "$id" "$pools" | tidy >"$work/all"
    expected "$id" | tidy >"$work/expected"
    allowed "$id" | tidy >"$work/allowed"
    grep -vE '^(lease|bridge|tap|on) ' "$work/all" >"$work/found" || true
    if [ ${#shell[@]} -eq 0 ]; then
        sed -i -nE '/^(domain|nic|network|pool) /p' "$work/expected"
        echo "note: host $name: its URI gives no shell, so that files and processes were not looked at" >&2
    fi
    # A stale domain state reads as a word of virsh's.
    uniq -d "$work/found" | sed "s/^/host $name: doubled: /"
    sort -u "$work/found" -o "$work/found"
    comm -23 "$work/expected" "$work/found" | sed "s/^/host $name: missing: /"
    comm -13 "$work/expected" "$work/found" | comm -23 - "$work/allowed" | sed "s/^/host $name: left over: /"
    leases "$name"
    awk '$1 == "network" { print "noted", $2 }' "$work/found" | sort -u | comm -23 - <(sort -u "$work/allowed") |
        sed "s/^noted/host $name: no row notes: network/"
    [ ${#shell[@]} -eq 0 ] || cut_off "$name"
    # Those of other clouds and of others have a libvirt network or domain that knows them; some may have come since.
    cp "$work/taps" "$work/taps.before"
    taps
    cat "$work/taps.before" >>"$work/taps"
    { awk '$1 == "tap"' "$work/taps"
      for network in $(virsh_ net-list --name); do bridge "$network" | sed 's/^/bridge /'; done
    } | sort -u >"$work/known"
    grep -E '^(bridge|tap) ' "$work/all" | sort -u | comm -23 - "$work/known" | sed "s/^/host $name: left over: /"
    [ -z "$deep" ] || [ ${#shell[@]} -eq 0 ] || bytes "$id" "$name" "$pools"
}

# A lease is that of a port, or its address rests.
leases() {
    awk -v name="$1" '
        NR == FNR { known[$0] = 1; next }
        $1 == "lease" && !($0 in known) && !(("resting " $2 " " $4) in known) { print "host " name ": left over: " $0 }
    ' "$work/allowed" "$work/all"
}

# Guests of ours that do not hang on the bridge of their network.
cut_off() {
    local domain tap network is should
    grep -E "^hangs $mark-" "$work/taps" | while read -r _ domain tap network; do
        is=$(awk -v tap="$tap" '$1 == "on" && $2 == tap { print $3 }' "$work/all")
        should=$(bridge "$network")
        [ "${is:-gone}" = "${should:-none}" ] ||
            echo "host $1: cut off: $domain: its $tap hangs on ${is:-gone}, and $network is ${should:-none}"
    done
}

# What base images and disks are made of.
bytes() {
    sql host="$1" <<'SQL' >"$work/disks"
select 'disk-' || c.id || '.qcow2', 'base-' || m.sha256 || '.' || b.format from incarnations c
join instances i on i.id = c.instance_id join images m on m.id = i.image_id join blobs b using (sha256)
where c.host_id = :'host' and c.disk_made
SQL
    on_host "$3/disks" "$(cat "$work/disks")" <<'BYTES' | sed "s/^/host $2: /"
cd "$1" 2>/dev/null || exit 0
for base in base-*; do
    [ -e "$base" ] || continue
    sum=${base#base-} sum=${sum%%.*}
    [ "$(sha256sum <"$base" | cut -d' ' -f1)" = "$sum" ] || echo "damaged: $base is not what its name says"
done
while read -r disk base; do
    [ -e "$disk" ] || continue
    stands=$(qemu-img info -U -f qcow2 "$disk" 2>/dev/null | sed -nE 's/^backing file: ([^ ]*).*/\1/p')
    [ "$(basename "${stands:-nothing}")" = "$base" ] || echo "damaged: $disk stands on ${stands:-nothing} and not on $base"
done <<<"$2"
BYTES
}

# What the rows say among themselves.
rows() {
    sql <<'SQL'
select 'instance ' || id || ' is still there, though its deletion was wished' from instances where wanted = 'deleted'
union all select 'instance ' || id || ' (' || wanted || ') is not as wished: ' || observed_power || ', revision '
    || observed_revision || ' of ' || revision from instances
    where wanted <> 'deleted' and (observed_revision <> revision or observed_power <>
        case wanted when 'stopped' then 'none' else wanted end)
union all select 'instance ' || i.id || ' is to run and has no host' from instances i
    where i.wanted in ('running', 'paused')
    and not exists (select from incarnations c where c.instance_id = i.id and c.fenced_at is null)
union all select 'incarnation ' || c.id || ' has no instance' from incarnations c
    where c.fenced_at is null and not exists (select from instances i where i.id = c.instance_id)
union all select 'incarnation ' || id || ' was left behind and not yet cleaned up' from incarnations where fenced_at is not null
union all select 'host ' || h.name || ' counts ' || concat_ws('/', h.used_vcpus, h.used_memory_mib, h.used_disk_gib)
    || ' used, its claims are ' || concat_ws('/', coalesce(sum(c.vcpus), 0), coalesce(sum(c.memory_mib), 0), coalesce(sum(c.disk_gib), 0))
    from hosts h left join (select host_id, vcpus, memory_mib, disk_gib from incarnations i
                            where not exists (select from reservation_slots s where s.incarnation_id = i.id)
                            union all
                            select host_id, vcpus, memory_mib, disk_gib from reservation_slots) c
        on c.host_id = h.id group by h.id
    having (h.used_vcpus, h.used_memory_mib, h.used_disk_gib) is distinct from
        (coalesce(sum(c.vcpus), 0), coalesce(sum(c.memory_mib), 0), coalesce(sum(c.disk_gib), 0))
union all select 'tenant ' || t.name || ' counts ' || concat_ws('/', u.n, u.vcpus, u.memory, u.disk) || ' used, its instances are '
    || concat_ws('/', i.n, i.vcpus, i.memory, i.disk)
    from tenants t,
    lateral (select coalesce(sum(instances), 0) as n, coalesce(sum(vcpus), 0) as vcpus, coalesce(sum(memory_mib), 0) as memory,
                    coalesce(sum(disk_gib), 0) as disk from instance_use where tenant_id = t.id) u,
    lateral (select count(*) as n, coalesce(sum(vcpus), 0) as vcpus, coalesce(sum(memory_mib), 0) as memory,
                    coalesce(sum(disk_gib), 0) as disk from instances where tenant_id = t.id and wanted <> 'deleted') i
    where (u.n, u.vcpus, u.memory, u.disk) is distinct from (i.n, i.vcpus, i.memory, i.disk)
union all select 'host ' || name || ' has more promised than it has' from hosts
    where used_vcpus > limit_vcpus or used_memory_mib > limit_memory_mib or used_disk_gib > limit_disk_gib
union all select 'host ' || h.name || ' may give ' || concat_ws('/', limit_vcpus, limit_memory_mib, limit_disk_gib)
    || ', of what it has and keeps for itself follows ' || concat_ws('/', f.vcpus, f.memory, f.disk)
    from hosts h,
    lateral (select greatest(0, floor(((facts ->> 'vcpus')::bigint - reserved_vcpus)::numeric * cpu_ratio::numeric)) as vcpus,
                    greatest(0, floor(((facts ->> 'memory_mib')::bigint - reserved_memory_mib)::numeric * memory_ratio::numeric)) as memory,
                    greatest(0, floor(((facts ->> 'disk_gib')::bigint - reserved_disk_gib)::numeric * disk_ratio::numeric)) as disk) f
    where facts is not null and (limit_vcpus, limit_memory_mib, limit_disk_gib) is distinct from (f.vcpus, f.memory, f.disk)
union all select 'reservation ' || r.name || ' has ' || count(s.id) || ' slots of ' || r.slots
    from reservations r left join reservation_slots s on s.reservation_id = r.id group by r.id having count(s.id) <> r.slots
union all select 'reservation ' || r.name || ' has a slot that is not as large as it says' from reservations r
    join reservation_slots s on s.reservation_id = r.id
    where (s.vcpus, s.memory_mib, s.disk_gib) is distinct from (r.vcpus, r.memory_mib, r.disk_gib)
union all select 'reservation ' || name || ' is over since ' || expires_at from reservations where expires_at < now()
union all select 'slot ' || s.id || ' is held by incarnation ' || s.incarnation_id || ', which is not on its host' from reservation_slots s
    where s.incarnation_id is not null
    and not exists (select from incarnations c where c.id = s.incarnation_id and c.host_id = s.host_id)
union all select 'instance ' || i.id || ' has no slot of its reservation' from instances i
    join incarnations c on c.instance_id = i.id and c.fenced_at is null
    where i.reservation_id is not null and not exists
        (select from reservation_slots s where s.reservation_id = i.reservation_id and s.incarnation_id = c.id)
union all select 'instance ' || id || ' is over since ' || expires_at from instances where expires_at < now()
union all select 'image ' || id || ' is deleted, and nobody uses it' from images m
    where hidden_at is not null and not exists (select from instances where image_id = m.id)
union all select 'network ' || id || ' is deleted and still there' from networks where deleted_at is not null
union all select 'port ' || p.id || ' has ' || count(a.address) || ' addresses' from ports p
    left join addresses a on a.port_id = p.id group by p.id having count(a.address) <> 1
union all select 'port ' || p.id || ' was made for an instance that is gone' from ports p where owned and instance_id is null
union all select 'work for ' || kind || ' ' || item || ', which is gone' from work w where not case kind
    when 'instance' then exists (select from instances where id = w.item)
    when 'fence' then exists (select from incarnations where id = w.item and fenced_at is not null)
    when 'host' then exists (select from hosts where id = w.item)
    when 'host_image' then exists (select from host_images where id = w.item)
    when 'network' then exists (select from networks where id = w.item)
    when 'image' then exists (select from images where id = w.item) else true end
union all select kind || ' ' || item || ' fails since ' || failing_since || ': ' || last_error from work where failing_since is not null
union all select 'no work for instance ' || i.id from instances i
    where not exists (select from work w where w.kind = 'instance' and w.item = i.id)
union all select 'orphan ' || kind || ' ' || name || ', seen since ' || first_seen_at from orphans where ours
union all select 'network ' || n.network_id || ' is noted on a host where nobody has a port on it' from host_networks n
    where not exists (select from ports p join incarnations c on c.instance_id = p.instance_id
        where p.network_id = n.network_id and c.host_id = n.host_id)
union all select 'instance ' || resource_id || ' was accepted ' || count(*) || ' times' from events
    where kind = 'instance.create' and outcome = 'accepted' group by resource_id having count(*) > 1
union all select 'instance ' || resource_id || ' was deleted ' || count(*) || ' times' from events
    where kind = 'instance.delete' and outcome = 'done' group by resource_id having count(*) > 1
union all select 'instance ' || e.resource_id || ' was accepted, is not there, and was never deleted' from events e
    where e.kind = 'instance.create' and e.outcome = 'accepted' and not exists (select from instances i where i.id = e.resource_id)
    and not exists (select from events d where d.resource_id = e.resource_id and d.kind = 'instance.delete' and d.outcome = 'done')
union all select 'the feed has ' || count(*) filter (where seq is null) || ' unnumbered events and a gap of '
    || coalesce(max(seq) - (select forgotten_seq from event_feed) - count(seq), 0) from events
    having count(*) filter (where seq is null) > 0 or max(seq) - (select forgotten_seq from event_feed) <> count(seq);
SQL
    [ -z "$images" ] || image_store
}

image_store() {
    local sha256 size used
    sql <<'SQL' | sort >"$work/blobs"
select sha256, size_bytes, exists (select from images where sha256 = b.sha256) from blobs b
SQL
    find "$images" -mindepth 1 -type f -printf '%P %s\n' | sort >"$work/files"
    # The bytes of a deleted image go first; their row goes with the last copy on a host.
    awk 'NR == FNR { there[$1] = 1; next } $3 == "t" && !($1 in there) { print "image store: missing: " $1 }
         $3 == "f" { print "image store: left over: row of " $1 ", which no image has" }' "$work/files" "$work/blobs"
    awk 'NR == FNR { known[$1] = 1; next } !($1 in known) { print "image store: left over: " $1 }' "$work/blobs" "$work/files"
    while read -r sha256 size used; do
        [ "$used" = t ] && [ -e "$images/$sha256" ] || continue
        if [ "$(stat -c %s "$images/$sha256")" != "$size" ] ||
            { [ -n "$deep" ] && [ "$(sha256sum <"$images/$sha256" | cut -d' ' -f1)" != "$sha256" ]; }; then
            echo "image store: damaged: $sha256 is not what its name says"
        fi
    done <"$work/blobs"
}

audit() {
    rows
    sql <<<"select id, name, uri, pool_path from hosts where removed_at is null order by id" >"$work/hosts"
    while read -r id name address pools; do
        [ -z "$id" ] || host "$id" "$name" "$address" "$pools"
    done <"$work/hosts"
}

end=$((SECONDS + settle))
while
    : >"$work/errors"
    audit >"$work/findings" || true
    [ -s "$work/findings" ] || [ -s "$work/errors" ]
do
    [ "$SECONDS" -lt "$end" ] || break
    sleep 1
done
if [ -s "$work/errors" ]; then
    sed 's/^/audit: /' "$work/errors" >&2
    exit 2
fi
if [ -s "$work/findings" ]; then
    sed 's/^/audit: /' "$work/findings"
    exit 1
fi
echo "audit: $(sql <<<"select count(*) || ' instances on ' || (select count(*) from hosts) || ' hosts' from instances"): nothing is missing, doubled or left over"
