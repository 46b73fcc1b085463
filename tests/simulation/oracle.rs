//! The judge: plain statements about the wishes, the database and everything on the hosts. It asks nothing of `next_step`.

mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pileus::domain::id::{HostId, IncarnationId, InstanceId};
use pileus::domain::instance::Wanted;
use pileus::hypervisor::fake::Content;
use pileus::hypervisor::{FakeHost, Power};
use pileus::store;
use sqlx::PgConnection;
use uuid::Uuid;

use self::rows::{IncarnationRow, Rows};
use crate::storm::{Storm, Wish};

const NOTES: &str = "notes.txt";
const BRIDGE: Uuid = Uuid::from_u128(0xf0);

/// What is on every host from the first, and is none of our business.
pub fn furnish(host: &FakeHost) {
    host.add_foreign_volume(NOTES, 12);
    host.add_foreign_network(
        BRIDGE,
        "their-bridge",
        vec!["192.168.77.0/24".parse().expect("a CIDR")],
    );
}

/// The complaints, one a line.
pub async fn judge(storm: &Storm<'_>) -> Result<(), String> {
    let mut conn = storm.lane.app.conn().await.map_err(|error| format!("{error:#}"))?;
    let rows = Rows::read(&mut conn).await.map_err(|error| error.to_string())?;
    let feed = feed(storm, &mut conn).await?;
    let contents: Vec<_> = storm.hosts.iter().map(|(_, host)| host.content()).collect();
    let mut trial = Trial { storm, rows: &rows, contents: &contents, complaints: feed };
    for wish in &storm.wishes {
        trial.wish(wish);
    }
    for number in 0..contents.len() {
        trial.host(number);
    }
    trial.rows();
    trial.complaints.extend(storm.faults.violations());
    if trial.complaints.is_empty() { Ok(()) } else { Err(trial.complaints.join("\n")) }
}

/// Who lost nothing left nothing lying about.
pub async fn nothing_was_swept(storm: &Storm<'_>) -> Result<(), String> {
    let swept: Vec<serde_json::Value> =
        sqlx::query_scalar("select detail from events where kind = 'host.sweep'")
            .fetch_all(&storm.lane.app.db)
            .await
            .map_err(|error| error.to_string())?;
    if swept.is_empty() {
        Ok(())
    } else {
        Err(format!("the sweeper found what no crash left: {swept:?}"))
    }
}

/// After everything was deleted, and long rest.
pub async fn nothing_is_left(storm: &Storm<'_>) -> Result<(), String> {
    let mut complaints = Vec::new();
    for (number, (_, host)) in storm.hosts.iter().enumerate() {
        let content = host.content();
        let volumes: Vec<_> = content.volumes.keys().filter(|name| *name != NOTES).collect();
        let networks: Vec<_> = content.networks.keys().filter(|uuid| **uuid != BRIDGE).collect();
        let domains: Vec<_> =
            content.domains.keys().filter(|id| !storm.foreign.contains(&(number, **id))).collect();
        let consoles = content.consoles.keys().collect::<Vec<_>>();
        if !(volumes.is_empty() && networks.is_empty() && domains.is_empty() && consoles.is_empty())
        {
            complaints.push(format!(
                "host {number} still has {volumes:?} {networks:?} {domains:?} {consoles:?}"
            ));
        }
    }
    // An image's row says that its last user went, and rests; a network's that it was mended.
    let left: Vec<(String, i64)> = sqlx::query_as(
        "select * from (
             select 'instances', count(*) from instances
             union all select 'ports', count(*) from ports
             union all select 'incarnations', count(*) from incarnations
             union all select 'host_networks', count(*) from host_networks
             union all select 'host_images', count(*) from host_images
             union all select 'addresses held', count(*) from addresses where port_id is not null
             union all select 'hosts in use', count(*) from hosts where used_vcpus + used_memory_mib + used_disk_gib > 0
             union all select 'work', count(*) from work where kind not in ('image', 'network') or due_at < 'infinity'
         ) as rows (what, count) where count > 0",
    )
    .fetch_all(&storm.lane.app.db)
    .await
    .map_err(|error| error.to_string())?;
    complaints.extend(left.iter().map(|(what, count)| format!("{count} {what} are left")));
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

/// The feed has every number, and every accepted wish.
async fn feed(storm: &Storm<'_>, conn: &mut PgConnection) -> Result<Vec<String>, String> {
    store::events::publish(conn).await.map_err(|error| format!("publish: {error:#}"))?;
    let (count, first, last, unnumbered): (i64, i64, i64, i64) = sqlx::query_as(
        "select count(seq), coalesce(min(seq), 1), coalesce(max(seq), 0), count(*) - count(seq) from events",
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(|error| error.to_string())?;
    let mut complaints = Vec::new();
    if first != 1 || last != count || unnumbered != 0 {
        complaints.push(format!(
            "{count} events are numbered {first} to {last}, {unnumbered} have no number"
        ));
    }
    let mut noted: Vec<(InstanceId, String)> = sqlx::query_as(
        "select resource_id, kind from events where outcome = 'accepted' order by resource_id, kind",
    )
    .fetch_all(conn)
    .await
    .map_err(|error| error.to_string())?;
    let mut asked: Vec<_> =
        storm.accepted.iter().map(|(id, kind)| (*id, (*kind).to_owned())).collect();
    noted.sort();
    asked.sort();
    if noted != asked {
        complaints.push(format!("accepted were {asked:?}, and the feed has {noted:?}"));
    }
    Ok(complaints)
}

struct Trial<'a> {
    storm: &'a Storm<'a>,
    rows: &'a Rows,
    contents: &'a [Content],
    complaints: Vec<String>,
}

impl Trial<'_> {
    fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }

    fn number(&self, id: HostId) -> usize {
        self.storm.hosts.iter().position(|(host, _)| *host == id).unwrap_or(usize::MAX)
    }

    fn incarnation(&self, id: InstanceId) -> Option<&IncarnationRow> {
        self.rows.incarnations.iter().find(|row| row.instance_id == id && !row.fenced)
    }

    /// One wish against the world.
    fn wish(&mut self, wish: &Wish) {
        let id = wish.id;
        // Ours, wherever they are.
        let domains: Vec<_> = self
            .contents
            .iter()
            .enumerate()
            .filter_map(|(number, content)| content.domains.get(&id).map(|domain| (number, domain)))
            .filter_map(|(number, domain)| {
                domain.seen.stamp.map(|stamp| (number, domain.seen.power, stamp))
            })
            .collect();
        let row = self.rows.instances.get(&id);
        if wish.wanted == Wanted::Deleted {
            if row.is_some() {
                self.complain(format!("{id} was deleted and is still in the database"));
            }
            if !domains.is_empty() {
                self.complain(format!(
                    "{id} was deleted and its domain is still there: {domains:?}"
                ));
            }
            return;
        }
        let Some(row) = row else { return self.complain(format!("{id} is gone")) };
        let wanted = format!("{:?}", wish.wanted).to_lowercase();
        if (&row.wanted, row.boot, row.revision) != (&wanted, wish.boot, wish.revision) {
            self.complain(format!(
                "{id} was wished {wanted}, boot {}, revision {}; the row says {}, {}, {}",
                wish.boot, wish.revision, row.wanted, row.boot, row.revision
            ));
        }
        let (observed_power, observed_revision, ran) =
            (row.observed_power.clone(), row.observed_revision, row.observed_boot.is_some());
        let placed = self.incarnation(id).map(|row| (row.id, self.number(row.host_id)));
        let Some((incarnation, host)) = placed else {
            if !domains.is_empty() {
                self.complain(format!("{id} has no host and a domain: {domains:?}"));
            }
            let room =
                self.rows.hosts.values().any(|host| host.used[0] + wish.vcpus <= host.limits[0]);
            if wish.wanted != Wanted::Stopped && room {
                self.complain(format!("{id} waits for a host, and there is room"));
            }
            return;
        };
        // What ran has its disk and its seed, whatever became of its domain.
        let volumes = &self.contents[host].volumes;
        for part in [format!("disk-{incarnation}.qcow2"), format!("seed-{incarnation}.iso")] {
            if ran && !volumes.get(&part).is_some_and(|volume| volume.filled) {
                self.complain(format!("{id} ran, and {part} is not whole on host {host}"));
            }
        }
        if self.storm.foreign.contains(&(host, id)) {
            // A stranger has its UUID there: it can only wait.
            if !domains.is_empty() {
                self.complain(format!("{id} has a domain beside a stranger's: {domains:?}"));
            }
            return;
        }
        let power = match wish.wanted {
            Wanted::Running => Some(Power::Running),
            Wanted::Paused => Some(Power::Paused),
            Wanted::Stopped | Wanted::Deleted => None,
        };
        let right = match (power, domains.as_slice()) {
            (None, []) => observed_power == "none",
            (Some(power), [(at, is, stamp)]) => {
                (*at, *is, stamp.incarnation, stamp.boot, stamp.cloud)
                    == (host, power, incarnation, wish.boot, self.storm.lane.cloud)
                    && observed_power == power.to_string()
            }
            _ => false,
        };
        if !right || observed_revision != wish.revision {
            self.complain(format!(
                "{id} is wished {wanted} as boot {} and revision {} on host {host} as {incarnation}, was seen {observed_power} with revision {observed_revision}, and there are {domains:?}",
                wish.boot, wish.revision
            ));
        }
    }

    /// Everything on a host has its reason.
    fn host(&mut self, number: usize) {
        let content = &self.contents[number];
        let host = self.storm.hosts[number].0;
        let incarnations: BTreeMap<_, _> = self
            .rows
            .incarnations
            .iter()
            .filter(|row| row.host_id == host)
            .map(|row| (row.id, row.instance_id))
            .collect();
        let owns = |name: &str, prefix: &str, suffix: &str| {
            let id = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            id.and_then(|id| id.parse().ok()).is_some_and(|id| incarnations.contains_key(&id))
        };
        let mut complaints = Vec::new();
        for (name, volume) in &content.volumes {
            let base =
                self.rows.bases.iter().find(|base| base.host_id == host && base.volume == *name);
            let owned = name == NOTES
                || owns(name, "disk-", ".qcow2")
                || owns(name, "seed-", ".iso")
                || base.is_some();
            if !owned {
                complaints.push(format!("host {number} has {name}, which nobody owns"));
            }
            if base.is_some_and(|base| base.present) && !volume.filled {
                complaints
                    .push(format!("host {number} has {name} by half, which counts as present"));
            }
        }
        for base in self.rows.bases.iter().filter(|base| base.host_id == host && base.present) {
            if !content.volumes.contains_key(&base.volume) {
                complaints.push(format!("{} counts as present on host {number}", base.volume));
            }
        }
        if !content.volumes.contains_key(NOTES) || !content.networks.contains_key(&BRIDGE) {
            complaints.push(format!("what is not ours is gone from host {number}"));
        }
        for (at, id) in &self.storm.foreign {
            let there = content.domains.get(id).is_some_and(|domain| domain.spec.is_none());
            if *at == number && !there {
                complaints.push(format!("a stranger's domain {id} is gone from host {number}"));
            }
        }
        for (id, domain) in &content.domains {
            let stamped = domain.seen.stamp.map(|stamp| incarnations.get(&stamp.incarnation));
            if stamped.is_some_and(|owner| owner != Some(id)) {
                complaints.push(format!("host {number} has a domain {id} that nobody owns"));
            }
        }
        for console in content.consoles.keys().filter(|id| !incarnations.contains_key(*id)) {
            complaints.push(format!("host {number} has a console of {console}, which is gone"));
        }
        self.complaints.append(&mut complaints);
        self.networks(number, host, &incarnations);
    }

    /// Networks are where they are needed, with the DHCP entries of those who are there.
    fn networks(
        &mut self,
        number: usize,
        host: HostId,
        incarnations: &BTreeMap<IncarnationId, InstanceId>,
    ) {
        let content = &self.contents[number];
        let here: BTreeSet<_> = incarnations.values().collect();
        let mut complaints = Vec::new();
        for network in &self.storm.lane.networks {
            let entries = |of: &dyn Fn(&InstanceId) -> bool| -> BTreeSet<(String, IpAddr)> {
                self.rows
                    .ports
                    .iter()
                    .filter(|port| port.network_id == network.0)
                    .filter(|port| port.instance_id.as_ref().is_some_and(of))
                    .map(|port| (port.mac.clone(), port.address.addr()))
                    .collect()
            };
            let may = entries(&|id| here.contains(id));
            let ours = |id: &InstanceId| content.domains.get(id).is_some_and(|d| d.spec.is_some());
            let must = entries(&|id| here.contains(id) && ours(id));
            let noted = self.rows.networks.contains(&(host, network.0));
            let has: Option<BTreeSet<_>> =
                content.networks.get(&network.0).and_then(|there| there.spec.as_ref()).map(
                    |spec| spec.hosts.iter().map(|dhcp| (dhcp.mac.clone(), dhcp.address)).collect(),
                );
            if may.is_empty() && (noted || has.is_some()) {
                complaints.push(format!(
                    "host {number} needs no {network} (noted: {noted}, there: {has:?})"
                ));
            }
            if has.is_some() && !noted {
                complaints.push(format!("nobody knows that {network} is on host {number}"));
            }
            let has = has.unwrap_or_default();
            if !(must.is_subset(&has) && has.is_subset(&may)) {
                complaints.push(format!(
                    "{network} on host {number} must hand out {must:?}, may {may:?}, and does {has:?}"
                ));
            }
        }
        self.complaints.append(&mut complaints);
    }

    /// The accounts add up.
    fn rows(&mut self) {
        let mut complaints = Vec::new();
        for (id, host) in &self.rows.hosts {
            let mut sum = vec![0, 0, 0];
            for row in self.rows.incarnations.iter().filter(|row| row.host_id == *id) {
                sum[0] += row.vcpus;
                sum[1] += row.memory_mib;
                sum[2] += row.disk_gib;
            }
            if sum != host.used {
                complaints
                    .push(format!("{id} counts {:?} as used, its claims are {sum:?}", host.used));
            }
            if host.used.iter().zip(&host.limits).any(|(used, limit)| used > limit) {
                complaints.push(format!("{id} has {:?} of {:?} used", host.used, host.limits));
            }
        }
        for row in &self.rows.incarnations {
            // Every host answers by now.
            if row.fenced || !self.rows.instances.contains_key(&row.instance_id) {
                complaints
                    .push(format!("incarnation {} of {} was left behind", row.id, row.instance_id));
            }
        }
        let nics: usize = self
            .storm
            .wishes
            .iter()
            .filter(|wish| wish.wanted != Wanted::Deleted)
            .map(|wish| wish.nics)
            .sum();
        let ports = self.rows.ports.len();
        if ports != nics || usize::try_from(self.rows.held) != Ok(nics) {
            complaints.push(format!(
                "there are {nics} interfaces, {ports} ports and {} addresses held",
                self.rows.held
            ));
        }
        for (kind, item, error) in &self.rows.stalled {
            // Whoever waits for a stranger to go fails, and says so.
            let strange = self.storm.foreign.iter().any(|(_, id)| id.0 == *item);
            if !strange {
                complaints.push(format!("{kind} {item} still fails: {error:?}"));
            }
        }
        complaints.extend(self.rows.violations.iter().cloned());
        self.complaints.append(&mut complaints);
    }
}
