//! The audit from inside: the database compared with itself, with every host and with the image store. It reads only.

mod deep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use futures_util::stream::{self, StreamExt};

use super::App;
use super::authorize::authorize;
use crate::domain::caller::Caller;
use crate::domain::cloud::{Finding, Fsck};
use crate::domain::error::{Error, Result};
use crate::domain::id::{HostId, IncarnationId, InstanceId, NetworkId};
use crate::domain::image;
use crate::domain::instance::Power;
use crate::domain::volume::{Owner, disk_name, owner, seed_name};
use crate::store;
use crate::store::fsck::HostRecord;
use crate::store::host_networks::Entry;

/// Most findings that are told.
const FINDINGS: usize = 1000;
/// Hosts that are asked at a time.
const HOSTS: usize = 16;

/// `deep`: also whether every image has the bytes that its sum names, which takes as long as to read them all.
pub async fn run(app: &App, caller: &Caller, deep: bool) -> Result<Fsck> {
    authorize(caller, "get_fsck")?;
    let mut report = Fsck {
        clean: false,
        findings: Vec::new(),
        cut: false,
        incarnations: 0,
        in_transit: 0,
        hosts: 0,
        silent: Vec::new(),
    };
    let differences = store::fsck::differences(&app.db).await?;
    report.findings.extend(differences.into_iter().map(|d| Finding {
        check: d.check,
        host_id: d.host_id,
        thing: d.thing,
        detail: d.detail,
    }));
    report.findings.extend(image_store(app, deep).await?);
    let hosts = store::fsck::hosts(&mut *app.conn().await?).await?;
    report.hosts = i64::try_from(hosts.len()).unwrap_or(i64::MAX);
    let mut silent: Vec<Finding> = Vec::new();
    let mut asked = Vec::new();
    for (id, name, health, reason, left_behind) in hosts {
        let id = HostId(id);
        match (health.as_str(), left_behind) {
            ("up", _) => asked.push(id),
            (_, 0) => silent.push(about("silent", Some(id), name, reason)),
            _ => {
                let left = "left something there, which goes when it answers";
                let reason = format!("{reason}; {left_behind} deleted instances {left}");
                silent.push(about("silent", Some(id), name, reason));
            }
        }
    }
    let mut answers = stream::iter(asked)
        .map(|id| async move { (id, host(app, id, deep).await) })
        .buffer_unordered(HOSTS);
    while let Some((id, answer)) = answers.next().await {
        match answer? {
            Ok(mut seen) => {
                report.incarnations += seen.incarnations;
                report.in_transit += seen.in_transit;
                report.findings.append(&mut seen.findings);
            }
            Err(reason) => silent.push(about("silent", Some(id), id.to_string(), reason)),
        }
    }
    silent.truncate(FINDINGS);
    report.findings.sort();
    report.clean = report.findings.is_empty() && silent.is_empty();
    report.cut = report.findings.len() > FINDINGS;
    report.findings.truncate(FINDINGS);
    report.silent = silent;
    Ok(report)
}

fn about(
    check: &str,
    host_id: Option<HostId>,
    thing: impl ToString,
    detail: impl Into<String>,
) -> Finding {
    Finding { check: check.into(), host_id, thing: thing.to_string(), detail: detail.into() }
}

#[derive(Default)]
struct Seen {
    findings: Vec<Finding>,
    incarnations: i64,
    in_transit: i64,
}

/// What a host has, in words of ours.
struct Inventory {
    /// Instance, its incarnation where the domain is ours, and its power.
    domains: Vec<(InstanceId, Option<IncarnationId>, String)>,
    volumes: HashSet<String>,
    /// With whom they serve.
    networks: HashMap<NetworkId, HashSet<(String, IpAddr)>>,
    /// Those of them that have a guest which does not hang on them.
    cut_off: Vec<NetworkId>,
    consoles: Vec<IncarnationId>,
}

/// One host, between two looks at the database: only what both agree on is held against it. `Err`: it did not answer.
async fn host(app: &App, id: HostId, deep: bool) -> Result<Result<Seen, String>> {
    let before = store::fsck::host(&mut *app.conn().await?, id).await?;
    let cloud = app.cloud;
    let asked = app
        .hosts
        .call(
            id,
            "compare the host with the database",
            app.config.host_call_deadline,
            move |host| {
                let domains = host.domains()?.into_iter().map(|seen| {
                    let ours = seen.stamp.filter(|stamp| stamp.cloud == cloud);
                    (seen.id, ours.map(|stamp| stamp.incarnation), seen.power.to_string())
                });
                Ok(Inventory {
                    domains: domains.collect(),
                    volumes: host.volumes()?.into_iter().map(|volume| volume.name).collect(),
                    networks: host
                        .networks()?
                        .into_iter()
                        .filter_map(|network| {
                            let served = network.hosts.into_iter();
                            let served = served.map(|host| (host.mac, host.address)).collect();
                            Some((network.ours?, served))
                        })
                        .collect(),
                    cut_off: host.cut_off()?,
                    consoles: host.consoles()?,
                })
            },
        )
        .await;
    let inventory = match asked {
        Ok(inventory) => inventory,
        Err(fault) => return Ok(Err(fault.message)),
    };
    let mut conn = app.conn().await?;
    let after = store::fsck::host(&mut conn, id).await?;
    let known = store::fsck::known(&mut conn).await?;
    let mut seen = missing(id, &before, &after, &inventory);
    drop(conn);
    seen.findings.extend(unowned(id, &before, &after, &inventory, &known));
    let bases = before.bases.iter().filter(|base| deep && base.1 && after.bases.contains(base));
    for (name, _) in bases {
        match deep::base(app, id, name).await? {
            Ok(finding) => seen.findings.extend(finding),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(seen))
}

/// What should be on the host and is not, or is there otherwise.
fn missing(id: HostId, before: &HostRecord, after: &HostRecord, host: &Inventory) -> Seen {
    let mut seen = Seen::default();
    let domains: BTreeMap<_, _> =
        host.domains.iter().map(|(id, of, power)| (*id, (*of, power))).collect();
    for expected in &before.incarnations {
        let Some(power) = expected.power else { continue };
        seen.incarnations += 1;
        if !expected.rests || !after.incarnations.contains(expected) {
            seen.in_transit += 1;
            continue;
        }
        let mut find = |check: &str, detail: String| {
            seen.findings.push(about(check, Some(id), expected.instance_id, detail));
        };
        let domain = domains.get(&expected.instance_id).filter(|(of, _)| *of == Some(expected.id));
        match (power, domain) {
            (Power::None, None) => {}
            (Power::Running | Power::Paused | Power::Off, None) => {
                find("domain", format!("its domain should be {}, and is not there", word(power)));
            }
            (wanted, Some((_, is))) if word(wanted) != is.as_str() => {
                find("domain", format!("its domain should be {}, and is {is}", word(wanted)));
            }
            (_, Some(_)) => {}
        }
        let files = [
            ("disk", expected.disk_made, disk_name(expected.id)),
            ("seed", expected.seed_made, seed_name(expected.id)),
        ];
        for (check, made, name) in files {
            if made && !host.volumes.contains(&name) {
                find(check, format!("its {check} {name} is not on the host"));
            }
        }
    }
    for (name, present) in &before.bases {
        if *present && after.bases.contains(&(name.clone(), true)) && !host.volumes.contains(name) {
            seen.findings.push(about("base_image", Some(id), name, "it is not on the host"));
        }
    }
    for network in &before.networks {
        if after.networks.contains(network) && !host.networks.contains_key(network) {
            seen.findings.push(about("network", Some(id), network, "it is not on the host"));
        }
    }
    for network in &host.cut_off {
        seen.findings.push(about(
            "network",
            Some(id),
            network,
            "a guest of it does not hang on it",
        ));
    }
    let after_too: HashSet<_> = after.served.iter().collect();
    for (network, Entry { mac, address }) in
        before.served.iter().filter(|served| after_too.contains(served))
    {
        let served = host.networks.get(network);
        if served.is_some_and(|served| !served.contains(&(mac.clone(), *address))) {
            let detail = format!("its DHCP does not serve the guest with {mac} and {address}");
            seen.findings.push(about("network", Some(id), network, detail));
        }
    }
    seen
}

/// What is on the host, bears our stamp, and is nobody's: neither before nor after the look.
fn unowned(
    id: HostId,
    before: &HostRecord,
    after: &HostRecord,
    host: &Inventory,
    known: &[(IncarnationId, InstanceId)],
) -> Vec<Finding> {
    let here: HashSet<_> =
        before.incarnations.iter().chain(&after.incarnations).map(|expected| expected.id).collect();
    // Files may be another host's, whose directory is this one's.
    let all: HashSet<_> = known.iter().map(|(id, _)| *id).chain(here.iter().copied()).collect();
    let mut findings = Vec::new();
    for name in &host.volumes {
        if let Some(Owner::Incarnation(of)) = owner(name)
            && all.contains(&of)
            && *name != disk_name(of)
            && *name != seed_name(of)
        {
            let what = "somebody put it on top of an instance's disk (an external snapshot): merge it (virsh blockcommit), or the next start is from the disk below";
            findings.push(about("snapshot", Some(id), name, what));
        }
    }
    let mut find = |thing: String, what: &str| {
        findings.push(about("orphan", Some(id), thing, format!("{what} that nobody owns")));
    };
    for (instance, of, _) in &host.domains {
        if of.is_some_and(|of| !here.contains(&of)) {
            find(instance.to_string(), "a domain of ours on this host");
        }
    }
    for name in &host.volumes {
        let owned = match owner(name) {
            Some(Owner::Incarnation(of)) => all.contains(&of),
            Some(Owner::Base(_)) => {
                before.bases.iter().chain(&after.bases).any(|(base, _)| base == name)
            }
            // Not ours: drift, and no fault.
            None => true,
        };
        if !owned {
            find(name.clone(), "a volume of ours");
        }
    }
    for network in host.networks.keys() {
        if !before.networks.contains(network) && !after.networks.contains(network) {
            find(network.to_string(), "a network of ours");
        }
    }
    for console in host.consoles.iter().filter(|of| !all.contains(of)) {
        find(console.to_string(), "a console log");
    }
    findings
}

fn word(power: Power) -> &'static str {
    match power {
        Power::None => "absent",
        Power::Off => "off",
        Power::Running => "running",
        Power::Paused => "paused",
    }
}

/// Every blob has its file, of its size, and every file its blob.
async fn image_store(app: &App, deep: bool) -> Result<Vec<Finding>> {
    let before = store::fsck::blobs(&mut *app.conn().await?).await?;
    let dir = app.config.image_dir.clone();
    let files = tokio::task::spawn_blocking(move || files(&dir));
    let files = files.await.map_err(Error::internal)?.map_err(Error::internal)?;
    let after = store::fsck::blobs(&mut *app.conn().await?).await?;
    let mut findings = Vec::new();
    // What no image uses may be gone already, and waits only for its copies on hosts to go.
    let used = before.iter().filter(|blob| blob.2 && after.contains(blob));
    for (sha256, size, _) in used {
        let detail = match files.get(sha256) {
            None => "its bytes are not in the image store".to_owned(),
            Some(bytes) if i64::try_from(*bytes) != Ok(*size) => {
                format!("its file has {bytes} bytes, and should have {size}")
            }
            Some(_) if deep => match deep::blob(app, sha256).await? {
                Some(detail) => detail,
                None => continue,
            },
            Some(_) => continue,
        };
        findings.push(about("blob", None, sha256, detail));
    }
    for sha256 in files.keys() {
        let named = |blobs: &[(String, i64, bool)]| blobs.iter().any(|(of, ..)| of == sha256);
        if !named(&before) && !named(&after) {
            let path = image::path(&app.config.image_dir, sha256);
            findings.push(about("blob", None, path.display(), "a file that no image stands for"));
        }
    }
    Ok(findings)
}

/// Names and sizes of the files that are called like a checksum.
fn files(dir: &Path) -> std::io::Result<BTreeMap<String, u64>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            // It may go meanwhile.
            if let Ok(metadata) = entry.metadata() {
                files.insert(name, metadata.len());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::fsck::Expected;

    #[test]
    fn a_domain_on_another_host_than_its_own_is_an_orphan_and_files_may_lie_where_pools_are_shared()
    {
        let (of, instance) = (IncarnationId(Uuid::new_v4()), InstanceId(Uuid::new_v4()));
        let host = Inventory {
            domains: vec![(instance, Some(of), "running".into())],
            volumes: [disk_name(of), seed_name(of)].into(),
            networks: HashMap::new(),
            cut_off: Vec::new(),
            consoles: vec![of],
        };
        let here = HostId(Uuid::new_v4());
        let told = |record: &HostRecord| -> Vec<_> {
            let findings = unowned(here, record, record, &host, &[(of, instance)]);
            findings.into_iter().map(|finding| (finding.check, finding.thing)).collect()
        };
        // The incarnation is known, and not this host's.
        let elsewhere = HostRecord::default();
        assert_eq!(told(&elsewhere), [("orphan".to_owned(), instance.to_string())]);
        let power = Some(Power::Running);
        let expected = Expected {
            id: of,
            instance_id: instance,
            disk_made: true,
            seed_made: true,
            power,
            rests: true,
        };
        let its_own = HostRecord { incarnations: vec![expected], ..HostRecord::default() };
        assert_eq!(told(&its_own), []);
    }
}
