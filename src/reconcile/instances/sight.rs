//! One look at an instance's host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use chrono::TimeDelta;
use uuid::Uuid;

use super::{WATCH_ADDRESSES, WATCH_CLOUD_INIT};
use crate::domain::clock::Time;
use crate::domain::id::{HostId, IncarnationId, NetworkId};
use crate::domain::instance::{Domain, Parts, Power, Situation, Wanted};
use crate::domain::volume::{disk_name, seed_name};
use crate::guest::cloud_init;
use crate::hypervisor::{self as hv, DomainSeen, Fault, FaultKind, Halt};
use crate::reconcile::{Context, Trouble, host_images};
use crate::store::instances::Record;
use crate::store::ports::PortView;

/// Leases end on whole seconds of the host's clock.
const LEASE_SLACK: TimeDelta = TimeDelta::seconds(2);

/// What one look saw.
pub struct Sight {
    pub situation: Situation,
    /// Why the hypervisor has paused the guest by itself.
    pub halt: Option<Halt>,
    pub agent: bool,
    /// cloud-init's errors, once it has finished in this boot.
    pub cloud_init_errors: Option<Vec<String>>,
    /// Whether the agent was asked and did not answer.
    pub agent_silent: bool,
    pub addresses: Vec<IpAddr>,
}

impl Sight {
    fn of(situation: Situation) -> Self {
        Self {
            situation,
            halt: None,
            agent: false,
            cloud_init_errors: None,
            agent_silent: false,
            addresses: Vec::new(),
        }
    }
}

pub async fn look(ctx: &Context, record: &Record, ports: &[PortView]) -> Result<Sight, Trouble> {
    let Some((incarnation, host)) = record.incarnation_id.zip(record.host_id) else {
        return Ok(Sight::of(Situation::Unplaced));
    };
    // The watch found another host at this address, or none: what answers there is no answer of ours.
    let silent = record.host_health.as_deref() != Some("up");
    let id = record.id;
    let names = (disk_name(incarnation), seed_name(incarnation));
    let made = (record.disk_made, record.seed_made);
    let networks = networks_to_ask(ctx, record, ports);
    let cloud = ctx.cloud;
    // Nobody waits for the agent of one that is to end, whose hypervisor may hang.
    let waits = matches!(record.wanted, Wanted::Running | Wanted::Paused)
        && record.observed_boot == Some(record.boot);
    let asked = if silent {
        Err(Fault::unreachable(record.host_reason.clone().unwrap_or_default()))
    } else {
        ctx.look(host, "look at an instance", move |host| {
            let domain = match if waits { host.domain(id)? } else { host.glance(id)? } {
                // Of one that is not ours more is asked than a glance tells: it may have been.
                Some(seen) if !waits && !is_ours(&seen, cloud) => host.domain(id)?,
                domain => domain,
            };
            let volumes = match domain {
                Some(_) => (false, false),
                None => (
                    made.0 && host.volume(&names.0)?.is_some(),
                    made.1 && host.volume(&names.1)?.is_some(),
                ),
            };
            let mut leases = Vec::new();
            if domain.as_ref().is_some_and(|domain| domain.power == hv::Power::Running) {
                for network in networks {
                    leases.extend(host.leases(network)?);
                }
            }
            Ok((domain, volumes, leases))
        })
        .await
    };
    match asked {
        Ok((domain, (disk, seed), leases)) => {
            let halt = domain.as_ref().and_then(|domain| domain.halt);
            let agent = domain.as_ref().is_some_and(|domain| domain.agent);
            let domain =
                domain.map_or(Domain::Absent, |seen| judge(cloud, incarnation, ports, &seen));
            let mut parts = Parts { base: false, disk, seed, ran: record.observed_boot.is_some() };
            if matches!(domain, Domain::Absent) && !disk {
                parts.base = host_images::is_present(ctx, host, record.image_id).await?;
            }
            let ours = |mac: &str, address: IpAddr| {
                ports.iter().any(|p| p.mac == mac && p.address == address)
            };
            // A lease is renewed at half its life, so that one which began before this power-on soon shows a later end.
            let fresh = |until: Time| {
                record.started_at.is_none_or(|start| until >= start + hv::DHCP_LEASE - LEASE_SLACK)
            };
            let addresses = leases
                .iter()
                .filter(|l| ours(&l.mac, l.address) && fresh(l.expires_at))
                .map(|l| l.address)
                .chain(
                    record
                        .seen_addresses
                        .iter()
                        .map(ipnet::IpNet::addr)
                        .filter(|_| same_boot(record, domain)),
                )
                .collect::<BTreeSet<_>>();
            let (cloud_init_errors, agent_silent) = match &record.cloud_init_errors {
                _ if !same_boot(record, domain) => (None, false),
                Some(errors) => (Some(errors.clone()), false),
                // cloud-init ends after the network is up: before that nobody need be asked.
                None if agent
                    && matches!(domain, Domain::Running { .. })
                    && networks_to_ask(ctx, record, ports).is_empty()
                    && may_tell_of_cloud_init(record, ctx.clock.now()) =>
                {
                    ask_for_cloud_init(ctx, record, host).await
                }
                None => (None, false),
            };
            Ok(Sight {
                situation: Situation::Seen { domain, parts },
                halt,
                agent,
                cloud_init_errors,
                agent_silent,
                addresses: addresses.into_iter().collect(),
            })
        }
        Err(fault) if fault.kind == FaultKind::Unreachable => {
            let gone = silent
                && record
                    .host_since
                    .is_some_and(|since| ctx.clock.now() - since >= ctx.gone_after());
            Ok(Sight::of(Situation::Unknown { gone }))
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Whether the guest may yet say that its cloud-init has finished.
pub fn may_tell_of_cloud_init(record: &Record, now: Time) -> bool {
    let young = record.started_at.is_some_and(|start| now - start < WATCH_CLOUD_INIT);
    record.agent
        && record.cloud_init_errors.is_none()
        && record.observed_power == Power::Running
        && young
}

/// cloud-init's errors where it has finished, and whether the agent did not answer.
async fn ask_for_cloud_init(
    ctx: &Context,
    record: &Record,
    host: HostId,
) -> (Option<Vec<String>>, bool) {
    let id = record.id;
    let asked = ctx
        .look(host, "ask a guest for its cloud-init", move |host| {
            host.agent_file(id, cloud_init::RESULT, cloud_init::RESULT_MAX)
        })
        .await;
    match asked {
        Ok(file) => (file.as_deref().and_then(cloud_init::errors), false),
        Err(fault) => {
            tracing::debug!(instance = %id, %fault, "a guest's agent");
            (None, true)
        }
    }
}

/// Networks whose leases still matter: those of addresses that the guest was not yet seen to hold.
fn networks_to_ask(ctx: &Context, record: &Record, ports: &[PortView]) -> Vec<NetworkId> {
    let young = record.started_at.is_some_and(|start| ctx.clock.now() - start < WATCH_ADDRESSES);
    if record.observed_power != Power::Running || !young {
        return Vec::new();
    }
    ports.iter().filter(|p| !record.saw_address(p.address)).map(|p| p.network_id).collect()
}

fn same_boot(record: &Record, domain: Domain) -> bool {
    match domain {
        Domain::Running { boot } | Domain::Paused { boot } => {
            record.observed_boot == Some(boot) && record.started_at.is_some()
        }
        Domain::Absent | Domain::Off | Domain::Stale | Domain::Foreign | Domain::Unstamped => false,
    }
}

fn is_ours(seen: &DomainSeen, cloud: Uuid) -> bool {
    seen.stamp.is_some_and(|stamp| stamp.cloud == cloud)
}

/// Whose the domain is, by its stamp; without one, by its name and its MAC addresses.
fn judge(cloud: Uuid, incarnation: IncarnationId, ports: &[PortView], seen: &DomainSeen) -> Domain {
    let Some(stamp) = seen.stamp.filter(|stamp| stamp.cloud == cloud) else {
        let named = seen.name == hv::domain_name(cloud, seen.id);
        let has_ours = named || ports.iter().any(|port| seen.macs.contains(&port.mac));
        return if has_ours { Domain::Unstamped } else { Domain::Foreign };
    };
    match seen.power {
        _ if stamp.incarnation != incarnation => Domain::Stale,
        hv::Power::Running => Domain::Running { boot: stamp.boot },
        hv::Power::Paused => Domain::Paused { boot: stamp.boot },
        hv::Power::Off => Domain::Off,
    }
}
