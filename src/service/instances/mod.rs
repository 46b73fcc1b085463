//! Instances: what a caller may wish for, and what it sees of them.

mod create;
mod wait;

pub use create::gather::Gatherings;
pub use create::{Plan, create, plan};
pub use wait::{Goal, wait, waited};

use chrono::TimeDelta;
use serde_json::json;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::{HostId, InstanceId};
use crate::domain::instance::{
    Account, Action, CloudInit, FlavorCopy, Instance, InstanceChange, Interface, Status, Wanted,
    check_expiry, status,
};
use crate::domain::page::Page;
use crate::domain::text::{Labels, Name, check_labels, without_places};
use crate::store::instances::Record;
use crate::store::ports::PortView;
use crate::store::work::Kind;
use crate::store::{self};

/// Rows that one list request looks at for a status, which is computed and has no index.
const SCAN_MAX: usize = 10_000;

pub async fn get(app: &App, caller: &Caller, id: InstanceId) -> Result<Instance> {
    authorize(caller, "get_instance")?;
    read(app, caller, id).await
}

async fn read(app: &App, caller: &Caller, id: InstanceId) -> Result<Instance> {
    let mut conn = app.conn().await?;
    let record = store::instances::get(&mut conn, caller.scope(), id).await?;
    let record = record.ok_or_else(|| Error::not_found("instance", id))?;
    let ports = store::ports::of_instance(&mut conn, id).await?;
    let mut instance = [view(&record, &ports, caller)];
    stand(&mut conn, &mut instance).await?;
    let [instance] = instance;
    Ok(instance)
}

/// Adds where those stand that wait for capacity.
async fn stand(conn: &mut sqlx::PgConnection, instances: &mut [Instance]) -> Result<()> {
    let wait = instances.iter().filter(|one| one.status == Status::WaitingForCapacity);
    let wait: Vec<_> = wait.map(|one| one.id).collect();
    if wait.is_empty() {
        return Ok(());
    }
    let mut places = store::queue::places(conn, &wait).await?;
    for instance in instances {
        instance.queue = places.remove(&instance.id);
    }
    Ok(())
}

/// Which instances a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub name: Option<String>,
    pub labels: Labels,
    pub status: Option<Status>,
    /// For admins.
    pub host: Option<HostId>,
    pub all_tenants: bool,
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    filter: &Filter,
) -> Result<(Vec<Instance>, Option<String>)> {
    authorize(caller, "list_instances")?;
    if (filter.all_tenants || filter.host.is_some()) && !caller.admin {
        return Err(Error::Forbidden("all_tenants and host are for the cloud's admins".into()));
    }
    let tenant = if filter.all_tenants { None } else { Some(caller.tenant()?) };
    let stored = store::instances::Filter {
        tenant,
        name: filter.name.clone(),
        labels: filter.labels.clone(),
        host: filter.host,
    };
    let mut conn = app.conn().await?;
    let mut found = Vec::new();
    let mut next = *page;
    let mut looked_at = 0;
    // Where the search was given up, for another request to go on.
    let mut given_up = None;
    loop {
        let rows = store::instances::list(&mut conn, &stored, &next).await?;
        let complete = i64::try_from(rows.len()).unwrap_or(i64::MAX) < next.fetch();
        looked_at += rows.len();
        let last = rows.last().map(|row| row.id.0);
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let mut ports = store::ports::of_instances(&mut conn, &ids).await?;
        for record in &rows {
            let instance = view(record, &ports.remove(&record.id).unwrap_or_default(), caller);
            if filter.status.is_none_or(|wanted| wanted == instance.status) {
                found.push(instance);
            }
        }
        let full = i64::try_from(found.len()).unwrap_or(i64::MAX) >= page.fetch();
        let Some(last) = last.filter(|_| !complete && !full) else { break };
        if looked_at >= SCAN_MAX {
            given_up = Some(Page::cursor(last));
            break;
        }
        next.after = last;
    }
    let (mut items, next) = page.cut(found, |instance| instance.id.0);
    stand(&mut conn, &mut items).await?;
    Ok((items, next.or(given_up)))
}

pub async fn update(
    app: &App,
    caller: &Caller,
    id: InstanceId,
    change: &InstanceChange,
    if_match: Option<i64>,
) -> Result<Instance> {
    authorize(caller, "update_instance")?;
    let name = change.name.as_deref().map(|name| Name::parse("/name", name)).transpose()?;
    change.labels.as_ref().map_or(Ok(()), |labels| check_labels("/labels", labels))?;
    let mut write = match app.begin(caller, "update_instance", &(id, change)).await? {
        Begin::Replay(instance) => return Ok(instance),
        Begin::Fresh(write) => write,
    };
    check_expiry("/expires_at", change.expires_at, write.now)?;
    let record = locked(&mut write, caller, id, if_match).await?;
    if record.wanted == Wanted::Deleted {
        return Err(Error::conflict(
            "instance-deleting",
            "the instance is being deleted: make a new one",
        ));
    }
    let (labels, end) = (change.labels.as_ref(), change.expires_at);
    store::instances::rename(write.conn(), id, name.as_ref(), labels, end).await?;
    write
        .done(
            "instance.update",
            subject(&record),
            serde_json::to_value(change).map_err(Error::internal)?,
        )
        .await?;
    let instance = reread(&mut write, caller, id).await?;
    write.commit(&instance).await?;
    Ok(instance)
}

/// Records what is asked of the instance. A wish that is the present one changes nothing, not even the revision.
pub async fn act(
    app: &App,
    caller: &Caller,
    id: InstanceId,
    operation: &'static str,
    action: Action,
    if_match: Option<i64>,
) -> Result<Instance> {
    authorize(caller, operation)?;
    if let Action::Stop { grace_s, .. } | Action::Reboot { grace_s, .. } = action
        && !(0..=3600).contains(&grace_s)
    {
        return Err(Error::field("/grace_s", format!("must be 0 to 3600 seconds, is {grace_s}")));
    }
    let mut write = match app.begin(caller, operation, &(id, action)).await? {
        Begin::Replay(instance) => return Ok(instance),
        Begin::Fresh(write) => write,
    };
    let record = locked(&mut write, caller, id, if_match).await?;
    if let Some(wish) = record.wish().after(action, write.now)? {
        store::instances::wish(write.conn(), id, &wish).await?;
        if !matches!(wish.wanted, Wanted::Running | Wanted::Paused) {
            store::queue::leave(write.conn(), &[id]).await?;
            // It may have been in the way of others.
            if record.queued_at.is_some() {
                write.wake_queue();
            }
        }
        write.touch(Kind::Instance, id.0).await?;
        let detail = json!({ "from": record.wanted, "to": wish.wanted, "hard": wish.hard, "boot": wish.boot });
        write.accepted(event_of(action), subject(&record), detail).await?;
    }
    let instance = reread(&mut write, caller, id).await?;
    write.commit(&instance).await?;
    Ok(instance)
}

/// Looks at the instance now, its failures forgotten: for when what stood in the way was mended.
pub async fn retry(app: &App, caller: &Caller, id: InstanceId) -> Result<Instance> {
    authorize(caller, "retry_instance")?;
    let mut write = match app.begin(caller, "retry_instance", &id).await? {
        Begin::Replay(instance) => return Ok(instance),
        Begin::Fresh(write) => write,
    };
    let record = locked(&mut write, caller, id, None).await?;
    write.touch(Kind::Instance, id.0).await?;
    write.accepted("instance.retry", subject(&record), json!({})).await?;
    let instance = reread(&mut write, caller, id).await?;
    write.commit(&instance).await?;
    Ok(instance)
}

/// Most bytes of a console that one request gets.
pub const CONSOLE_MAX: usize = 1 << 20;

/// Up to `max` bytes of the console log from `offset`, as far as the host has kept it (2 MiB and its rotated parts).
pub async fn console(
    app: &App,
    caller: &Caller,
    id: InstanceId,
    offset: u64,
    max: usize,
) -> Result<Vec<u8>> {
    authorize(caller, "get_instance_console")?;
    let _permit = app.limits().console(caller)?;
    let record = store::instances::get(&mut *app.conn().await?, caller.scope(), id).await?;
    let record = record.ok_or_else(|| Error::not_found("instance", id))?;
    let Some((incarnation, host)) = record.incarnation_id.zip(record.host_id) else {
        return Ok(Vec::new());
    };
    let deadline = app.config.host_call_deadline;
    let turn = app.hosts.console_turn(host).await;
    let read = app
        .hosts
        .look(host, "read the console", deadline, move |host| {
            // Also while it hangs, and nobody waits for it any more.
            let _turn = turn;
            host.console(incarnation, offset, max)
        })
        .await;
    read.map_err(|fault| {
        tracing::info!(instance = %id, %fault, "a console could not be read");
        // Where the host is, which libvirt's words tell, is the admins' business.
        let why = if caller.admin { fault.message } else { "ask again, or ask an admin".into() };
        Error::Unavailable {
            detail: format!("the host of this instance could not be asked for its console: {why}"),
            retry_after: std::time::Duration::from_secs(5),
        }
    })
}

async fn locked(
    write: &mut super::Write,
    caller: &Caller,
    id: InstanceId,
    if_match: Option<i64>,
) -> Result<Record> {
    // The item before the instance, as the reconciler's writes have it.
    store::work::lock(write.conn(), Kind::Instance, id.0).await?;
    let record = store::instances::lock(write.conn(), caller.scope(), id).await?;
    let record = record.ok_or_else(|| Error::not_found("instance", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, record.revision))?;
    Ok(record)
}

async fn reread(write: &mut super::Write, caller: &Caller, id: InstanceId) -> Result<Instance> {
    let record = store::instances::get(write.conn(), None, id).await?;
    let record = record.ok_or_else(|| Error::not_found("instance", id))?;
    let ports = store::ports::of_instance(write.conn(), id).await?;
    let mut instance = [view(&record, &ports, caller)];
    stand(write.conn(), &mut instance).await?;
    let [instance] = instance;
    Ok(instance)
}

fn event_of(action: Action) -> &'static str {
    match action {
        Action::Start => "instance.start",
        Action::Stop { .. } => "instance.stop",
        Action::Reboot { .. } => "instance.reboot",
        Action::Pause => "instance.pause",
        Action::Resume => "instance.resume",
        Action::Delete => "instance.delete",
    }
}

fn subject(record: &Record) -> Subject {
    Subject {
        kind: "instance",
        id: record.id.0,
        name: record.name.to_string(),
        tenant: Some(record.tenant_id),
    }
}

/// The instance as this caller sees it: where it runs is for admins.
fn view(record: &Record, ports: &[PortView], caller: &Caller) -> Instance {
    let down = record.host_health.as_deref().is_some_and(|health| health != "up");
    let reason = record
        .host_reason
        .as_deref()
        .filter(|_| caller.admin)
        .unwrap_or("ask an admin to look at the host");
    let tell = |said: &String| if caller.admin { said.clone() } else { without_places(said) };
    let last_error = record.last_error.as_ref().map(tell);
    let waiting = record.waiting.as_ref().map(tell);
    let failing = last_error.as_deref().filter(|_| record.attempts > 0);
    let (status, reason) = status(&Account {
        wanted: record.wanted,
        boot: record.boot,
        power: record.observed_power,
        observed_boot: record.observed_boot,
        placed: record.incarnation_id.is_some(),
        queued: record.queued_at.is_some(),
        host_down: record.host_since.filter(|_| down).map(|since| (reason, since)),
        // The placer writes its account before the reconciler does what it waits for.
        waiting: waiting.as_deref().or(record.queued_for.as_deref()),
        failing,
        seen_since: record.observed_revision == record.revision
            && record.last_error_at < record.observed_at,
        stalled_since: record.stalled_at,
    });
    Instance {
        id: record.id,
        tenant_id: record.tenant_id,
        name: record.name.clone(),
        labels: record.labels.0.clone(),
        status,
        reason,
        wanted: record.wanted,
        power: record.observed_power,
        observed_at: record.observed_at,
        revision: record.revision,
        observed_revision: record.observed_revision,
        image_id: record.image_id,
        flavor: FlavorCopy {
            id: record.flavor_id,
            name: record.flavor_name.clone(),
            vcpus: record.vcpus,
            memory_mib: record.memory_mib,
            disk_gib: record.disk_gib,
        },
        interfaces: ports
            .iter()
            .map(|port| Interface {
                port_id: port.id,
                network_id: port.network_id,
                mac: port.mac.clone(),
                address: port.address.to_string(),
                seen: record.saw_address(port.address),
            })
            .collect(),
        queue: None,
        policy: record.policy,
        zone: record.zone.clone(),
        required_traits: record.traits.clone(),
        forbidden_traits: record.forbidden_traits.clone(),
        group_id: record.group_id,
        reservation_id: record.reservation_id,
        expires_at: record.expires_at,
        agent: record.agent,
        cloud_init: record.cloud_init_errors.clone().map(CloudInit::of),
        started_at: record.started_at,
        boot: record.boot,
        last_error,
        last_error_at: record.last_error_at,
        attempts: record.attempts,
        next_attempt_at: record.due_at,
        stalled_since: record.stalled_at,
        host_id: record.host_id.filter(|_| caller.admin),
        created_at: record.created_at,
        created_by: record.created_by,
    }
}

/// The grace of a stop where the caller names none.
pub fn default_grace(app: &App) -> i64 {
    TimeDelta::from_std(app.config.stop_grace).map_or(30, |grace| grace.num_seconds())
}
