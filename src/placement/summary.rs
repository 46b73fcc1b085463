//! The one sentence of an explanation, made of nothing but the explanation itself.

use super::account::{Explanation, HostClass, NamedHost, Refusal, WouldFit};
use super::resources::UNITS;
use crate::domain::group::GroupScope;

pub(super) fn of(explanation: &Explanation) -> String {
    let Explanation { need, hosts, fitting, policy, .. } = explanation;
    if let Some(chosen) = &explanation.chosen {
        if let Some(change) = explanation.would_fit_if.first() {
            return format!("a host has room; it would fit if {}", wish(change));
        }
        let host = chosen.host.as_ref().map_or("a host", |host| host.name.as_str());
        return format!(
            "{policy} chooses {host}, 1 of {fitting} that fit among {}; it keeps {} free",
            counted(*hosts),
            chosen.free_after
        );
    }
    let Some(closest) = explanation.classes.first() else {
        return format!("no host has room: need {need}; the cloud has no hosts");
    };
    let mut text = format!("no host has room: need {need}; {}", lacking(*hosts, closest));
    if explanation.fitting_when_empty == 0 && closest.is_short() {
        text.push_str("; no host that may be used is so large, even when empty");
    }
    if let Some(change) = explanation.would_fit_if.first() {
        text.push_str("; it would fit if ");
        text.push_str(&wish(change));
    }
    text
}

/// "the closest of 3 hosts, node-2, lacks 40 vCPU"
fn lacking(hosts: u64, closest: &HostClass) -> String {
    let name = closest.sample.first().map(|host| format!(", {},", host.name)).unwrap_or_default();
    let who = if hosts == 1 {
        format!("the only host{name}")
    } else {
        format!("the closest of {hosts} hosts{name}")
    };
    let (amounts, others): (Vec<_>, Vec<_>) =
        closest.refused_by.iter().partition(|refusal| refusal.amount().is_some());
    let mut reasons: Vec<_> = others.into_iter().map(reason).collect();
    if !amounts.is_empty() {
        let amounts: Vec<_> = amounts.into_iter().filter_map(Refusal::amount).collect();
        reasons.push(format!("lacks {}", amounts.join(", ")));
    }
    format!("{who} {}", reasons.join(" and "))
}

impl HostClass {
    fn is_short(&self) -> bool {
        self.refused_by.iter().any(|refusal| refusal.amount().is_some())
    }
}

impl Refusal {
    /// "40 vCPU"
    fn amount(&self) -> Option<String> {
        let (unit, shortage) = match self {
            Self::Vcpus(shortage) => (UNITS[0], shortage),
            Self::MemoryMib(shortage) => (UNITS[1], shortage),
            Self::DiskGib(shortage) => (UNITS[2], shortage),
            Self::State { .. }
            | Self::Zone { .. }
            | Self::RequiredTraits { .. }
            | Self::ForbiddenTraits { .. }
            | Self::Dedicated
            | Self::Affinity { .. }
            | Self::AntiAffinity { .. }
            | Self::Kept
            | Self::OverLimit { .. } => return None,
        };
        Some(format!("{} {unit}", shortage.lacks))
    }
}

fn reason(refusal: &Refusal) -> String {
    match refusal {
        Refusal::State { have } => have.phrase().into(),
        Refusal::Zone { need, have: Some(have) } => format!("is in zone {have}, not {need}"),
        Refusal::Zone { need, have: None } => format!("is in no zone, not in {need}"),
        Refusal::RequiredTraits { missing } => format!("is without {}", some(missing)),
        Refusal::ForbiddenTraits { present } => format!("has the forbidden {}", some(present)),
        Refusal::Dedicated => "is dedicated to other tenants".into(),
        Refusal::Affinity { by: GroupScope::Host } => "is not where its group is".into(),
        Refusal::Affinity { by: GroupScope::Zone } => "is not in the zone of its group".into(),
        Refusal::AntiAffinity { by: GroupScope::Host } => "has one of its group already".into(),
        Refusal::AntiAffinity { by: GroupScope::Zone } => {
            "is in a zone that has one of its group already".into()
        }
        Refusal::Kept => "is kept for an instance that has waited longer".into(),
        Refusal::OverLimit { .. } => "carries more than its limit".into(),
        Refusal::Vcpus(_) | Refusal::MemoryMib(_) | Refusal::DiskGib(_) => String::new(),
    }
}

/// After "it would fit if".
fn wish(change: &WouldFit) -> String {
    let who = |host: &Option<NamedHost>| {
        host.as_ref().map_or_else(|| "one host".to_owned(), |host| host.name.clone())
    };
    match change {
        WouldFit::OtherFlavor { name, .. } => format!("its flavor were {name}"),
        WouldFit::GroupSoft { .. } => "its group were not hard".into(),
        WouldFit::HostAdded { size, zone, not_in_zones, traits } => {
            let zone = zone.as_ref().map(|zone| format!(" in zone {zone}")).unwrap_or_default();
            let other = match not_in_zones.as_slice() {
                [] => String::new(),
                zones => format!(" in another zone than {}", some(zones)),
            };
            let traits = match traits.as_slice() {
                [] => String::new(),
                traits => format!(" with {}", some(traits)),
            };
            format!("a host with {size} free{traits} were added{zone}{other}")
        }
        WouldFit::FromReservation { name } => format!("it named the reservation {name}"),
        WouldFit::QuotaRaised { quota, to } => format!("the quota of {quota} were raised to {to}"),
        WouldFit::SmallerNeed { need } => format!("it needed {need}"),
        WouldFit::Freed { amount, host } => format!("{amount} more were free on {}", who(host)),
        WouldFit::HostReady { state, host, .. } => {
            format!("{} {}", who(host), state.remedy().unwrap_or_default())
        }
        WouldFit::OtherZone { zone: Some(zone), .. } => format!("it allowed zone {zone}"),
        WouldFit::OtherZone { zone: None, .. } => "it named no zone".into(),
        WouldFit::NotRequired { traits, .. } => format!("it did not require {}", some(traits)),
        WouldFit::NotForbidden { traits, .. } => format!("it did not forbid {}", some(traits)),
    }
}

/// The first two, so that the sentence stays short.
fn some(traits: &[String]) -> String {
    let first: Vec<_> = traits.iter().take(2).map(String::as_str).collect();
    let more = traits.len().saturating_sub(2);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", first.join(", "))
}

fn counted(hosts: u64) -> String {
    if hosts == 1 { "1 host".into() } else { format!("{hosts} hosts") }
}
