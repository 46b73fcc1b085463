//! What was seen becomes a row and an event, where it is new.

use serde_json::json;

use super::sight::Sight;
use super::{QUICK_EXIT, subject};
use crate::domain::clock::Time;
use crate::domain::event::Outcome as EventOutcome;
use crate::domain::instance::{CloudInit, Domain, Power, Situation, Step, Wanted};
use crate::reconcile::{Context, Trouble, fault};
use crate::store;
use crate::store::instances::{Observation, Record};
use crate::store::work::Lease;

/// Stores what was seen, where it is new, and gives the record as it is then.
pub async fn observe(
    ctx: &Context,
    lease: &Lease,
    mut record: Record,
    sight: &Sight,
    step: &Step,
    now: Time,
) -> Result<Record, Trouble> {
    let (power, boot) = match &sight.situation {
        // Nothing was seen, or what may not be believed: nothing is written.
        Situation::Unknown { .. } => return Ok(record),
        Situation::Unplaced => (Power::None, None),
        Situation::Seen { domain, .. } => match *domain {
            Domain::Absent | Domain::Foreign => (Power::None, None),
            Domain::Running { boot } => (Power::Running, Some(boot)),
            Domain::Paused { boot } => (Power::Paused, Some(boot)),
            Domain::Unstamped => return Ok(record),
            Domain::Off | Domain::Stale => (Power::Off, None),
        },
    };
    let on = |power| matches!(power, Power::Running | Power::Paused);
    let started_at = match (on(power), record.started_at) {
        (false, _) => None,
        (true, Some(start)) if record.observed_boot == boot => Some(start),
        (true, _) => Some(now),
    };
    let ended = on(record.observed_power)
        && !on(power)
        && record.wanted == Wanted::Running
        && record.observed_boot == Some(record.boot);
    let quick = record.started_at.is_some_and(|start| now - start < QUICK_EXIT);
    let quick_exits = match (ended, quick) {
        (true, true) => record.quick_exits + 1,
        (true, false) => 0,
        (false, _) if on(power) && started_at.is_some_and(|start| now - start >= QUICK_EXIT) => 0,
        (false, _) => record.quick_exits,
    };
    let seen = Observation {
        power,
        boot,
        agent: sight.agent,
        cloud_init_errors: sight.cloud_init_errors.clone(),
        addresses: sight.addresses.clone(),
        matches: (*step == Step::Rest).then_some(record.revision),
        started_at,
        quick_exits,
    };
    let before = (
        record.observed_power,
        record.agent,
        record.seen_addresses.len(),
        record.observed_revision,
    );
    let after =
        (power, seen.agent, seen.addresses.len(), seen.matches.unwrap_or(record.observed_revision));
    let same = before == after
        && record.cloud_init_errors == seen.cloud_init_errors
        && record.started_at == started_at
        && record.quick_exits == quick_exits
        && boot.is_none_or(|boot| record.observed_boot == Some(boot));
    if same {
        return Ok(record);
    }
    let told = record.cloud_init_errors != seen.cloud_init_errors;
    let mut tx = ctx.note(lease).await?;
    if store::instances::observe(&mut tx, record.id, &seen, now).await? {
        if before.0 != after.0 || before.1 != after.1 || before.2 != after.2 || told {
            let detail = json!({
                "power": { "from": before.0, "to": after.0 },
                "agent": after.1,
                "cloud_init": seen.cloud_init_errors.clone().map(CloudInit::of),
                "addresses": seen.addresses,
                "boot": boot,
            });
            ctx.event(&mut tx, "instance.observed", subject(&record), EventOutcome::Seen, detail)
                .await?;
        }
        if after.3 != before.3 {
            let detail = json!({ "wanted": record.wanted, "revision": record.revision });
            ctx.event(&mut tx, "instance.settled", subject(&record), EventOutcome::Done, detail)
                .await?;
        }
    }
    tx.commit().await?;
    ctx.changes.changed(record.id.0);
    if record.observed_boot != boot && boot.is_some() {
        fault::point("start_observed");
    }
    record.observed_power = power;
    record.observed_boot = boot.or(record.observed_boot);
    record.agent = seen.agent;
    record.cloud_init_errors = seen.cloud_init_errors;
    record.seen_addresses = seen.addresses.iter().copied().map(ipnet::IpNet::from).collect();
    record.started_at = started_at;
    record.quick_exits = quick_exits;
    Ok(record)
}
