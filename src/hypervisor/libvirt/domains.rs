//! Domains. They are transient: one call makes them and nothing is left when they end; the definition lies in PostgreSQL.

use std::thread;
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber as Code};
use virt::sys;

use super::fault::{during, fault, is, is_absent};
use super::{Libvirt, ffi};
use crate::domain::id::InstanceId;
use crate::hypervisor::xml::domain::Places;
use crate::hypervisor::{
    DomainSeen, DomainSpec, Fault, FaultKind, Halt, Power, VolumeFormat, names, xml,
};

/// A hypervisor that owes libvirt an answer for so long hangs.
const ANSWERS: Duration = Duration::from_secs(5);

pub fn find(conn: &Connect, id: InstanceId) -> Result<Option<DomainSeen>, Fault> {
    let Some(domain) = lookup(conn, id)? else { return Ok(None) };
    while let Some(since) = waits(&domain)? {
        if since >= ANSWERS {
            let seen = glance(&domain)?;
            return Ok(seen.map(|seen| DomainSeen { halt: Some(Halt::Silent), ..seen }));
        }
        thread::sleep(Duration::from_millis(50));
    }
    see(&domain)
}

/// For how long libvirt has waited for the domain's hypervisor; `None`: it does not, or there is none.
pub fn waits(domain: &Domain) -> Result<Option<Duration>, Fault> {
    match ffi::waits(domain) {
        // It does not run.
        Err(error) if is(&error, Code::OperationInvalid) => Ok(None),
        answer => Ok(present("ask for a domain's state", answer)?.flatten()),
    }
}

pub fn find_at_a_glance(conn: &Connect, id: InstanceId) -> Result<Option<DomainSeen>, Fault> {
    match lookup(conn, id)? {
        Some(domain) => glance(&domain),
        None => Ok(None),
    }
}

pub fn lookup(conn: &Connect, id: InstanceId) -> Result<Option<Domain>, Fault> {
    present(&format!("find domain {id}"), conn.lookup_domain_by_uuid(id.0))
}

/// `None` where libvirt says that the thing is surely not there.
pub fn present<T>(what: &str, answer: Result<T, Error>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(thing) => Ok(Some(thing)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(fault(what, &error)),
    }
}

/// `None`: it went away while it was looked at. Asks for nothing that libvirt answers only when what it has under way with the
/// domain is done, which may be never: its hypervisor may hang.
pub fn glance(domain: &Domain) -> Result<Option<DomainSeen>, Fault> {
    let Some(state) = present("read a domain's state", ffi::state(domain))? else {
        return Ok(None);
    };
    let uuid = domain.uuid().map_err(during("read a domain's UUID"))?;
    let name = domain.name().map_err(during("read a domain's name"))?;
    let (power, halt) = (power(state.0), halt(state));
    let (id, agent, macs) = (InstanceId(uuid), false, Vec::new());
    stamped(domain, DomainSeen { id, name, power, halt, stamp: None, agent, macs })
}

/// The same with the stamp that the domain bears now.
pub fn stamped(domain: &Domain, seen: DomainSeen) -> Result<Option<DomainSeen>, Fault> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or(2);
    let stamp = match domain.metadata(kind, Some(xml::domain::STAMP), 0) {
        Ok(text) => xml::domain::stamp(&text, seen.id.0)?,
        Err(error) if is(&error, Code::NoDomainMetadata) => None,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(fault("read a domain's stamp", &error)),
    };
    Ok(Some(DomainSeen { stamp, ..seen }))
}

/// All of it: its agent and its MAC addresses, too.
pub fn see(domain: &Domain) -> Result<Option<DomainSeen>, Fault> {
    let Some(text) = present("read a domain", domain.xml_desc(0))? else { return Ok(None) };
    let Some(state) = present("read a domain's state", ffi::state(domain))? else {
        return Ok(None);
    };
    let xml::domain::Seen { id, name, stamp, agent, macs } = xml::domain::read(&text)?;
    let (power, halt) = (power(state.0), halt(state));
    Ok(Some(DomainSeen { id, name, power, halt, stamp, agent, macs }))
}

pub fn power(state: sys::virDomainState) -> Power {
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => Power::Running,
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => Power::Paused,
        _ => Power::Off,
    }
}

/// Of a state and its reason.
pub fn halt((state, reason): (sys::virDomainState, u32)) -> Option<Halt> {
    match (state, reason) {
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_IOERROR) => Some(Halt::Disk),
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_CRASHED) => Some(Halt::Crashed),
        (
            sys::VIR_DOMAIN_PAUSED,
            sys::VIR_DOMAIN_PAUSED_USER | sys::VIR_DOMAIN_PAUSED_STARTING_UP,
        ) => None,
        // One that is halted for want of room right after it was resumed has no reason in libvirt 11.3.
        (sys::VIR_DOMAIN_PAUSED, _) => Some(Halt::Other),
        _ => None,
    }
}

impl Libvirt {
    pub(super) fn start_domain(&self, conn: &Connect, spec: &DomainSpec) -> Result<(), Fault> {
        let name = names::domain(spec.stamp.cloud, spec.stamp.instance);
        // Before, and not only after a failure: creating a domain over one that is defined and off would replace it.
        if let Some(there) = in_the_way(conn, spec.stamp.instance, &name)? {
            return judge_existing(spec, &there);
        }
        let xml = xml::domain::domain(spec, &self.places(conn, spec)?)?;
        let Err(error) = conn.create_domain_xml(&xml, 0) else { return Ok(()) };
        let failed = fault(&format!("start domain {name}"), &error);
        if failed.kind == FaultKind::Unreachable {
            return Err(failed);
        }
        // Two starters of the same wish may have met.
        match in_the_way(conn, spec.stamp.instance, &name)? {
            Some(there) => judge_existing(spec, &there),
            None => Err(failed),
        }
    }

    fn places(&self, conn: &Connect, spec: &DomainSpec) -> Result<Places, Fault> {
        // Made by a look at the facts too, but the log's directory must be there before the domain.
        self.pool(conn, &self.console_pool())?;
        let pool = self.pool(conn, &self.disk_pool())?;
        let look = |name: &str| {
            let missing =
                || Fault::transient(format!("start: the volume {name} is not on the host"));
            let what = format!("find volume {name}");
            let volume =
                present(&what, pool.lookup_storage_vol_by_name(name))?.ok_or_else(missing)?;
            let text = present(&what, volume.xml_desc(0))?.ok_or_else(missing)?;
            xml::storage::read(&text)
        };
        let (disk, seed) = (look(&spec.disk)?, look(&spec.seed)?);
        let base = match disk.base {
            Some((path, format)) => Some((path, backing_format(&spec.disk, &format)?)),
            None => None,
        };
        Ok(Places {
            mock: self.mock(),
            arch: self.arch(conn)?,
            disk: disk.path,
            base,
            seed: seed.path,
            console_log: self.console_path(&names::console_log(spec.stamp.incarnation)),
        })
    }

    /// The domain, if it is there and ours to touch; `Conflict` if it is somebody else's.
    fn ours(
        &self,
        conn: &Connect,
        id: InstanceId,
        what: &str,
    ) -> Result<Option<(Domain, DomainSeen)>, Fault> {
        let Some(domain) = lookup(conn, id)? else { return Ok(None) };
        let Some(seen) = glance(&domain)? else { return Ok(None) };
        if seen.stamp.is_some_and(|stamp| stamp.cloud == self.target.cloud) {
            return Ok(Some((domain, seen)));
        }
        Err(Fault::conflict(format!("{what} domain {id}: {} is not ours", describe(&seen))))
    }

    pub(super) fn shut_down(&self, conn: &Connect, id: InstanceId) -> Result<(), Fault> {
        let Some((domain, _)) = self.ours(conn, id, "shut down")? else { return Ok(()) };
        // The mock driver knows no buttons.
        let button = if self.mock() { 0 } else { sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN };
        gone_is_fine(conn, id, "shut down", domain.shutdown_flags(button))
    }

    pub(super) fn destroy(&self, conn: &Connect, id: InstanceId) -> Result<(), Fault> {
        let Some((domain, _)) = self.ours(conn, id, "power off")? else { return Ok(()) };
        if present("look at a domain", domain.is_active())?.unwrap_or(false) {
            gone_is_fine(conn, id, "power off", domain.destroy())?;
        }
        // Somebody's `virsh edit` makes a transient domain persistent; it stays ours to remove.
        let Some(left) = lookup(conn, id)? else { return Ok(()) };
        if !present("look at a domain", left.is_persistent())?.unwrap_or(false) {
            return Ok(());
        }
        let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
        let flags = if self.mock() { 0 } else { all };
        gone_is_fine(conn, id, "undefine", left.undefine_flags(flags))
    }

    pub(super) fn set_paused(
        &self,
        conn: &Connect,
        id: InstanceId,
        paused: bool,
    ) -> Result<(), Fault> {
        let what = if paused { "pause" } else { "resume" };
        let gone = || Fault::transient(format!("{what} domain {id}: it is not on the host"));
        let (domain, seen) = self.ours(conn, id, what)?.ok_or_else(gone)?;
        let done = match (paused, seen.power) {
            (true, Power::Running) => domain.suspend(),
            (false, Power::Paused) if asleep(&domain)? => domain.pm_wakeup(0).map(drop),
            (false, Power::Paused) => domain.resume(),
            (true, Power::Paused) | (false, Power::Running) => Ok(()),
            (_, Power::Off) => return Err(gone()),
        };
        done.map_err(during(format!("{what} domain {id}")))
    }
}

/// Whether the guest has suspended itself. Ours cannot, unless they were made by a version before this one.
fn asleep(domain: &Domain) -> Result<bool, Fault> {
    let state = present("read a domain's state", ffi::state(domain))?;
    Ok(state.is_some_and(|(state, _)| state == sys::VIR_DOMAIN_PMSUSPENDED))
}

fn judge_existing(spec: &DomainSpec, there: &DomainSeen) -> Result<(), Fault> {
    let same = there.stamp.is_some_and(|stamp| {
        let (a, b) = (stamp, spec.stamp);
        (a.cloud, a.instance, a.incarnation, a.boot) == (b.cloud, b.instance, b.incarnation, b.boot)
    });
    let who = || format!("start domain {}: {}", spec.stamp.instance, describe(there));
    match (same, there.power) {
        (true, Power::Running | Power::Paused) => Ok(()),
        (true, Power::Off) => Err(Fault::transient(format!("{} is still going down", who()))),
        (false, _) => Err(Fault::conflict(format!("{} is in the way", who()))),
    }
}

/// Whoever holds the UUID, or else the name.
fn in_the_way(conn: &Connect, id: InstanceId, name: &str) -> Result<Option<DomainSeen>, Fault> {
    if let Some(seen) = find_at_a_glance(conn, id)? {
        return Ok(Some(seen));
    }
    match present(&format!("find domain {name}"), conn.lookup_domain_by_name(name))? {
        Some(domain) => glance(&domain),
        None => Ok(None),
    }
}

fn describe(seen: &DomainSeen) -> String {
    let DomainSeen { id, name, power, stamp, .. } = seen;
    match stamp {
        Some(s) => format!(
            "the {power} domain {name} ({id}; cloud {}, incarnation {}, boot {})",
            s.cloud, s.incarnation, s.boot
        ),
        None => format!("the {power} domain {name} ({id}), which no Pileus made,"),
    }
}

/// A domain that ended before or during the call is what was asked for.
fn gone_is_fine(
    conn: &Connect,
    id: InstanceId,
    what: &str,
    done: Result<(), Error>,
) -> Result<(), Fault> {
    let Err(error) = done else { return Ok(()) };
    if is_absent(&error) || (is(&error, Code::OperationInvalid) && lookup(conn, id)?.is_none()) {
        return Ok(());
    }
    Err(fault(&format!("{what} domain {id}"), &error))
}

fn backing_format(disk: &str, format: &str) -> Result<VolumeFormat, Fault> {
    match format {
        "raw" => Ok(VolumeFormat::Raw),
        "qcow2" => Ok(VolumeFormat::Qcow2),
        other => Err(Fault::permanent(format!(
            "start: the volume {disk} has a base of format {other:?}, which we never made: delete the volume"
        ))),
    }
}
