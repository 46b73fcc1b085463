//! `/v1/instances`: the VMs themselves.

use std::time::Duration;

use axum::Json as Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bounds;
use super::extract::{Conditions, Json, Path, Query};
use super::problem::Problem;
use super::reply::{Accepted, Found, Resource};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::id::{HostId, InstanceId};
use crate::domain::instance::{Action, Instance, InstanceChange, NewInstance, Status};
use crate::domain::page::Page;
use crate::domain::text::parse_labels;
use crate::service::App;
use crate::service::instances::{self, Goal, Plan};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(reboot))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(retry))
        .routes(routes!(console))
}

impl Resource for Instance {
    fn location(&self) -> String {
        format!("/v1/instances/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }

    fn rests(&self) -> bool {
        let complete = match self.status {
            Status::Running => self.agent && self.interfaces.iter().all(|nic| nic.seen),
            Status::Stopped | Status::Paused => true,
            Status::Scheduling
            | Status::WaitingForCapacity
            | Status::Building
            | Status::Starting
            | Status::Rebooting
            | Status::Pausing
            | Status::Resuming
            | Status::Stopping
            | Status::Deleting
            | Status::Deleted
            | Status::Unknown => false,
        };
        complete && self.observed_revision == self.revision && self.reason.is_none()
    }
}

/// A page of instances.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstancePage {
    #[schema(max_items = 1000)]
    pub items: Vec<Instance>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListInstances {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only instances of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "ci-runner-1")]
    name: Option<String>,
    /// Only instances with these labels: `key=value`, several parted by commas.
    #[serde(default, deserialize_with = "bounds::text::<2000, _>")]
    #[param(max_length = 2000, example = "pipeline=4711")]
    label: Option<String>,
    /// Only instances of this status.
    #[param(inline)]
    status: Option<Status>,
    /// Only instances on this host; for admins.
    host_id: Option<HostId>,
    /// Those of all tenants; for admins.
    #[serde(default)]
    all_tenants: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Waiting {
    /// Answer as soon as this holds, and at the timeout with what there is.
    #[param(inline)]
    wait: Option<Goal>,
    /// Seconds to wait at most; 60 if not given. What is more than the server's `wait_max_s` (600 by default) counts as that.
    #[serde(default, deserialize_with = "bounds::number::<3600, _>")]
    #[param(minimum = 0, maximum = 3600, example = 60)]
    timeout: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateInstance {
    /// Answer as soon as this holds, and at the timeout with what there is.
    #[param(inline)]
    wait: Option<Goal>,
    /// Seconds to wait at most; 60 if not given. What is more than the server's `wait_max_s` (600 by default) counts as that.
    #[serde(default, deserialize_with = "bounds::number::<3600, _>")]
    #[param(minimum = 0, maximum = 3600, example = 60)]
    timeout: Option<u32>,
    /// Validate, place and explain, and change nothing: answers 200 with a plan.
    #[serde(default)]
    dry_run: bool,
}

/// How a running guest is brought down.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BringDown {
    /// At once, as by pulling the plug; false: by the ACPI button, and then off after the grace.
    #[serde(default)]
    #[schema(example = false)]
    hard: bool,
    /// Seconds that a guest may take after the ACPI button; the cloud's default if left out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 3600, example = 30)]
    grace_s: Option<i64>,
}

/// Make an instance. It is being built when this answers; add `wait=running` to be answered when it runs.
#[utoipa::path(post, path = "/v1/instances", operation_id = "create_instance", tag = "instances", params(CreateInstance),
    request_body = NewInstance,
    responses(
        (status = 202, description = "The instance, being built.", body = Instance),
        (status = 200, description = "With `dry_run`: what would be made, and where.", body = Plan)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<CreateInstance>,
    Json(new): Json<NewInstance>,
) -> Result<Response, Problem> {
    if query.dry_run {
        return Ok(Body(instances::plan(&app, &caller, &new).await?).into_response());
    }
    let instance = instances::create(&app, &caller, &new).await?;
    Ok(Accepted(waited(&app, &caller, instance, query.wait, query.timeout).await?).into_response())
}

/// List instances, oldest first.
#[utoipa::path(get, path = "/v1/instances", operation_id = "list_instances", tag = "instances", params(ListInstances),
    responses((status = 200, description = "A page of instances.", body = InstancePage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListInstances>,
) -> Result<Body<InstancePage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let filter = instances::Filter {
        name: query.name,
        labels: query
            .label
            .as_deref()
            .map(|text| parse_labels("?label", text))
            .transpose()?
            .unwrap_or_default(),
        status: query.status,
        host: query.host_id,
        all_tenants: query.all_tenants,
    };
    let (items, next) = instances::list(&app, &caller, &page, &filter).await?;
    Ok(Body(InstancePage { items, next }))
}

/// Get an instance, at once or when something has come to be.
#[utoipa::path(get, path = "/v1/instances/{id}", operation_id = "get_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting),
    responses((status = 200, description = "The instance.", body = Instance)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
    conditions: Conditions,
) -> Result<Found<Instance>, Problem> {
    let instance = instances::get(&app, &caller, id).await?;
    // The revision counts wishes: what a wait is for changes without it.
    let conditions = if query.wait.is_some() { Conditions::default() } else { conditions };
    Ok(Found(waited(&app, &caller, instance, query.wait, query.timeout).await?, conditions))
}

/// Change an instance's name or labels.
#[utoipa::path(patch, path = "/v1/instances/{id}", operation_id = "update_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id.")), request_body = InstanceChange,
    responses((status = 200, description = "The instance.", body = Instance)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    conditions: Conditions,
    Json(change): Json<InstanceChange>,
) -> Result<Found<Instance>, Problem> {
    let instance = instances::update(&app, &caller, id, &change, conditions.if_match).await?;
    Ok(Found(instance, Conditions::default()))
}

/// Delete an instance, in whatever state it is. It is gone when `wait=deleted` answers with the status `deleted`.
#[utoipa::path(delete, path = "/v1/instances/{id}", operation_id = "delete_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting),
    responses((status = 202, description = "The instance, being deleted.", body = Instance)))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
    conditions: Conditions,
) -> Result<Accepted<Instance>, Problem> {
    act(&app, &caller, id, "delete_instance", Action::Delete, &query, conditions).await
}

/// Start a stopped instance.
#[utoipa::path(post, path = "/v1/instances/{id}/actions/start", operation_id = "start_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting),
    responses((status = 202, description = "The instance, being started.", body = Instance)))]
async fn start(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
    conditions: Conditions,
) -> Result<Accepted<Instance>, Problem> {
    act(&app, &caller, id, "start_instance", Action::Start, &query, conditions).await
}

/// Stop an instance: by the ACPI button, then off after a grace; its disk and addresses stay.
#[utoipa::path(post, path = "/v1/instances/{id}/actions/stop", operation_id = "stop_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting), request_body = Option<BringDown>,
    responses((status = 202, description = "The instance, being stopped.", body = Instance)))]
async fn stop(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
    conditions: Conditions,
    how: Option<Json<BringDown>>,
) -> Result<Accepted<Instance>, Problem> {
    let (hard, grace_s) = bring_down(&app, how);
    act(&app, &caller, id, "stop_instance", Action::Stop { hard, grace_s }, &query, conditions)
        .await
}

/// Reboot an instance: down as a stop would, then up in a new power-on.
#[utoipa::path(post, path = "/v1/instances/{id}/actions/reboot", operation_id = "reboot_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting), request_body = Option<BringDown>,
    responses((status = 202, description = "The instance, being rebooted.", body = Instance)))]
async fn reboot(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
    conditions: Conditions,
    how: Option<Json<BringDown>>,
) -> Result<Accepted<Instance>, Problem> {
    let (hard, grace_s) = bring_down(&app, how);
    act(&app, &caller, id, "reboot_instance", Action::Reboot { hard, grace_s }, &query, conditions)
        .await
}

/// Pause a running instance: its CPUs stand still, its memory stays.
#[utoipa::path(post, path = "/v1/instances/{id}/actions/pause", operation_id = "pause_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting),
    responses((status = 202, description = "The instance, being paused.", body = Instance)))]
async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
    conditions: Conditions,
) -> Result<Accepted<Instance>, Problem> {
    act(&app, &caller, id, "pause_instance", Action::Pause, &query, conditions).await
}

/// Resume a paused instance.
#[utoipa::path(post, path = "/v1/instances/{id}/actions/resume", operation_id = "resume_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting),
    responses((status = 202, description = "The instance, being resumed.", body = Instance)))]
async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
    conditions: Conditions,
) -> Result<Accepted<Instance>, Problem> {
    act(&app, &caller, id, "resume_instance", Action::Resume, &query, conditions).await
}

/// Try again now, past failures forgotten: for when what stood in the way was mended.
#[utoipa::path(post, path = "/v1/instances/{id}/actions/retry", operation_id = "retry_instance", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), Waiting),
    responses((status = 202, description = "The instance, being looked at.", body = Instance)))]
async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<Waiting>,
) -> Result<Accepted<Instance>, Problem> {
    let instance = instances::retry(&app, &caller, id).await?;
    Ok(Accepted(waited(&app, &caller, instance, query.wait, query.timeout).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadConsole {
    /// The byte to begin at, counted from the oldest that the host has kept.
    #[serde(default, deserialize_with = "bounds::natural")]
    #[param(minimum = 0, example = 0)]
    offset: u64,
    /// How many bytes at most; 1 MiB if not given.
    #[param(minimum = 1, maximum = 1048576, example = 65536)]
    limit: Option<u32>,
}

/// Read the serial console's log, from power-on. `X-Next-Offset` says where to go on.
#[utoipa::path(get, path = "/v1/instances/{id}/console", operation_id = "get_instance_console", tag = "instances",
    params(("id" = InstanceId, Path, description = "The instance's id."), ReadConsole),
    responses((status = 200, description = "The bytes, as the guest wrote them.", body = String, content_type = "text/plain",
        headers(("X-Next-Offset" = u64, description = "The offset to go on at.")))))]
async fn console(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<InstanceId>,
    Query(query): Query<ReadConsole>,
) -> Result<Response, Problem> {
    let max = query.limit.map_or(instances::CONSOLE_MAX, |limit| limit as usize);
    if !(1..=instances::CONSOLE_MAX).contains(&max) {
        let detail = format!("must be 1 to {}", instances::CONSOLE_MAX);
        return Err(Error::field("?limit", detail).into());
    }
    let bytes = instances::console(&app, &caller, id, query.offset, max).await?;
    let mut headers = HeaderMap::new();
    // Text that a guest wrote: never to be taken for anything else.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-next-offset", HeaderValue::from(query.offset + bytes.len() as u64));
    Ok((StatusCode::OK, headers, bytes).into_response())
}

fn bring_down(app: &App, how: Option<Json<BringDown>>) -> (bool, i64) {
    let how = how.map(|Json(how)| how).unwrap_or_default();
    (how.hard, how.grace_s.unwrap_or_else(|| instances::default_grace(app)))
}

async fn act(
    app: &App,
    caller: &Caller,
    id: InstanceId,
    operation: &'static str,
    action: Action,
    query: &Waiting,
    conditions: Conditions,
) -> Result<Accepted<Instance>, Problem> {
    let instance = instances::act(app, caller, id, operation, action, conditions.if_match).await?;
    Ok(Accepted(waited(app, caller, instance, query.wait, query.timeout).await?))
}

async fn waited(
    app: &App,
    caller: &Caller,
    instance: Instance,
    goal: Option<Goal>,
    timeout: Option<u32>,
) -> Result<Instance> {
    match goal {
        None => Ok(instance),
        Some(goal) => {
            let timeout = Duration::from_secs(timeout.unwrap_or(60).into());
            instances::wait(app, caller, instance, goal, timeout).await
        }
    }
}
