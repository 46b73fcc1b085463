//! One look at an instance's host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use chrono::TimeDelta;

use super::{WATCH_ADDRESSES, disk_name, seed_name};
use crate::domain::clock::Time;
use crate::domain::id::{IncarnationId, NetworkId};
use crate::domain::instance::{Domain, Parts, Power, Situation};
use crate::hypervisor::{self as hv, DomainSeen, Fault, FaultKind};
use crate::reconcile::{Context, Trouble, host_images};
use crate::store::instances::Record;
use crate::store::ports::PortView;

/// Leases end on whole seconds of the host's clock.
const LEASE_SLACK: TimeDelta = TimeDelta::seconds(2);

/// What one look saw.
pub struct Sight {
    pub situation: Situation,
    pub agent: bool,
    pub addresses: Vec<IpAddr>,
}

impl Sight {
    fn of(situation: Situation) -> Self {
        Self { situation, agent: false, addresses: Vec::new() }
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
    let asked = if silent {
        Err(Fault::unreachable(record.host_reason.clone().unwrap_or_default()))
    } else {
        ctx.look(host, "look at an instance", move |host| {
            let domain = host.domain(id)?;
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
            let agent = domain.as_ref().is_some_and(|domain| domain.agent);
            let domain = domain.map_or(Domain::Absent, |seen| judge(ctx, incarnation, &seen));
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
            Ok(Sight {
                situation: Situation::Seen { domain, parts },
                agent,
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
        Domain::Absent | Domain::Off | Domain::Stale | Domain::Foreign => false,
    }
}

/// Whose the domain is, by its stamp.
fn judge(ctx: &Context, incarnation: IncarnationId, seen: &DomainSeen) -> Domain {
    match (&seen.stamp, seen.power) {
        (Some(stamp), _) if stamp.cloud != ctx.cloud => Domain::Foreign,
        (None, _) => Domain::Foreign,
        (Some(stamp), _) if stamp.incarnation != incarnation => Domain::Stale,
        (Some(stamp), hv::Power::Running) => Domain::Running { boot: stamp.boot },
        (Some(stamp), hv::Power::Paused) => Domain::Paused { boot: stamp.boot },
        (Some(_), hv::Power::Off) => Domain::Off,
    }
}
