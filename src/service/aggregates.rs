//! Aggregates: admins dedicate hosts to tenants.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin, Write};
use crate::domain::aggregate::{Aggregate, AggregatePatch, FAULTS, NewAggregate};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, FieldError, Result};
use crate::domain::event::Subject;
use crate::domain::id::AggregateId;
use crate::domain::page::Page;
use crate::store;

pub async fn create(app: &App, caller: &Caller, new: &NewAggregate) -> Result<Aggregate> {
    authorize(caller, "create_aggregate")?;
    let name = new.check()?;
    let mut write = match app.begin(caller, "create_aggregate", new).await? {
        Begin::Replay(aggregate) => return Ok(aggregate),
        Begin::Fresh(write) => write,
    };
    let (id, now) = (AggregateId(Uuid::now_v7()), write.now);
    store::aggregates::insert(write.conn(), id, &name, now).await?;
    let members = AggregatePatch {
        description: Some(new.description.clone()),
        hosts: Some(new.hosts.clone()),
        tenants: Some(new.tenants.clone()),
    };
    let aggregate = set(&mut write, id, &members, false).await?;
    write.done("aggregate.create", subject(&aggregate), json!(new)).await?;
    write.commit(&aggregate).await?;
    Ok(aggregate)
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
) -> Result<(Vec<Aggregate>, Option<String>)> {
    authorize(caller, "list_aggregates")?;
    let rows = store::aggregates::list(&mut *app.conn().await?, page, name).await?;
    Ok(page.cut(rows, |aggregate| aggregate.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: AggregateId) -> Result<Aggregate> {
    authorize(caller, "get_aggregate")?;
    let aggregate = store::aggregates::get(&mut *app.conn().await?, id).await?;
    aggregate.ok_or_else(|| Error::not_found("aggregate", id))
}

/// What is placed already stays where it is.
pub async fn update(
    app: &App,
    caller: &Caller,
    id: AggregateId,
    patch: &AggregatePatch,
    if_match: Option<i64>,
) -> Result<Aggregate> {
    authorize(caller, "update_aggregate")?;
    patch.check()?;
    let mut write = match app.begin(caller, "update_aggregate", &(id, patch)).await? {
        Begin::Replay(aggregate) => return Ok(aggregate),
        Begin::Fresh(write) => write,
    };
    locked(&mut write, id, if_match).await?;
    let aggregate = set(&mut write, id, patch, true).await?;
    write.done("aggregate.update", subject(&aggregate), json!(patch)).await?;
    write.commit(&aggregate).await?;
    Ok(aggregate)
}

pub async fn delete(
    app: &App,
    caller: &Caller,
    id: AggregateId,
    if_match: Option<i64>,
) -> Result<()> {
    authorize(caller, "delete_aggregate")?;
    let mut write = match app.begin(caller, "delete_aggregate", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let aggregate = locked(&mut write, id, if_match).await?;
    store::aggregates::delete(write.conn(), id).await?;
    write.wake_queue();
    write.done("aggregate.delete", subject(&aggregate), json!({})).await?;
    write.commit(&()).await
}

async fn locked(write: &mut Write, id: AggregateId, if_match: Option<i64>) -> Result<Aggregate> {
    let aggregate = store::aggregates::get_locked(write.conn(), id).await?;
    let aggregate = aggregate.ok_or_else(|| Error::not_found("aggregate", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, aggregate.revision))?;
    Ok(aggregate)
}

async fn set(
    write: &mut Write,
    id: AggregateId,
    patch: &AggregatePatch,
    counts: bool,
) -> Result<Aggregate> {
    let (hosts, tenants) =
        (patch.hosts.as_deref().unwrap_or_default(), patch.tenants.as_deref().unwrap_or_default());
    let no_hosts = store::aggregates::unknown_hosts(write.conn(), hosts).await?;
    let no_tenants = store::aggregates::unknown_tenants(write.conn(), tenants).await?;
    let fault = |pointer: &str, kind: &str, at: usize, id: Uuid| FieldError {
        pointer: format!("/{pointer}/{at}"),
        detail: format!("there is no {kind} {id}: see GET /v1/{pointer}"),
    };
    let hosts = (0..).zip(hosts).filter(|(_, host)| no_hosts.contains(&host.0));
    let tenants = (0..).zip(tenants).filter(|(_, tenant)| no_tenants.contains(&tenant.0));
    let faults: Vec<_> = hosts
        .map(|(at, host)| fault("hosts", "host", at, host.0))
        .chain(tenants.map(|(at, tenant)| fault("tenants", "tenant", at, tenant.0)))
        .take(FAULTS)
        .collect();
    if !faults.is_empty() {
        return Err(Error::Invalid(faults));
    }
    store::aggregates::update(write.conn(), id, patch, counts).await?;
    write.wake_queue();
    let aggregate = store::aggregates::get(write.conn(), id).await?;
    aggregate.ok_or_else(|| Error::not_found("aggregate", id))
}

fn subject(aggregate: &Aggregate) -> Subject {
    Subject {
        kind: "aggregate",
        id: aggregate.id.0,
        name: aggregate.name.to_string(),
        tenant: None,
    }
}
