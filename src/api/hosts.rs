//! `/v1/hosts`: the hypervisor hosts, for admins.

use axum::Json as Body;
use axum::extract::State;
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
use crate::domain::host::{Health, Host, HostFilter, HostPatch, NewHost};
use crate::domain::id::HostId;
use crate::domain::page::Page;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl Resource for Host {
    fn location(&self) -> String {
        format!("/v1/hosts/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of hosts.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Host>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListHosts {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the host of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "host-1")]
    name: Option<String>,
    /// Only hosts of this zone.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "default")]
    zone: Option<String>,
    /// Only hosts of this health.
    #[param(inline)]
    health: Option<Health>,
    /// Only those that take new instances, or only those that do not.
    #[param(example = true)]
    enabled: Option<bool>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateHost {
    /// Only say what would be.
    #[param(example = false)]
    dry_run: Option<bool>,
}

/// Register a host.
///
/// It is contacted at once and then again and again; `health` and `health_reason` say how that goes. It is known by its own
/// UUID from the first contact on: another host at the same address is refused.
#[utoipa::path(post, path = "/v1/hosts", operation_id = "create_host", tag = "hosts", params(CreateHost), request_body = NewHost,
    responses(
        (status = 200, description = "With `dry_run`: the host as it would be.", body = Host),
        (status = 202, description = "The host, about to be contacted.", body = Host)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<CreateHost>,
    Json(new): Json<NewHost>,
) -> Result<Response, Problem> {
    let dry_run = query.dry_run.unwrap_or(false);
    let host = service::hosts::create(&app, &caller, &new, dry_run).await?;
    Ok(if dry_run { Body(host).into_response() } else { Accepted(host).into_response() })
}

/// List hosts, oldest first.
#[utoipa::path(get, path = "/v1/hosts", operation_id = "list_hosts", tag = "hosts", params(ListHosts),
    responses((status = 200, description = "A page of hosts.", body = HostPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListHosts>,
) -> Result<Body<HostPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let filter = HostFilter {
        name: query.name,
        zone: query.zone,
        health: query.health,
        enabled: query.enabled,
    };
    let (items, next) = service::hosts::list(&app, &caller, &page, &filter).await?;
    Ok(Body(HostPage { items, next }))
}

/// Get a host.
#[utoipa::path(get, path = "/v1/hosts/{id}", operation_id = "get_host", tag = "hosts",
    params(("id" = HostId, Path, description = "The host's id.")),
    responses((status = 200, description = "The host.", body = Host)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<HostId>,
) -> Result<Found<Host>, Problem> {
    // Health and use change without a revision, so that a 304 would be untrue.
    Ok(Found(service::hosts::get(&app, &caller, id).await?, Conditions::default()))
}

/// Change a host. Limits follow at once; one below what the host carries only keeps more away.
#[utoipa::path(patch, path = "/v1/hosts/{id}", operation_id = "update_host", tag = "hosts",
    params(("id" = HostId, Path, description = "The host's id.")), request_body = HostPatch,
    responses((status = 202, description = "The host, about to be contacted with what changed.", body = Host)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<HostId>,
    conditions: Conditions,
    Json(patch): Json<HostPatch>,
) -> Result<Accepted<Host>, Problem> {
    Ok(Accepted(service::hosts::update(&app, &caller, id, conditions.if_match, &patch).await?))
}

/// Take a host out of the cloud. What we made on it is removed; its libvirt and what is not ours stay as they are.
#[utoipa::path(delete, path = "/v1/hosts/{id}", operation_id = "delete_host", tag = "hosts",
    params(("id" = HostId, Path, description = "The host's id.")),
    responses((status = 202, description = "The host, about to leave.", body = Host)))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<HostId>,
    conditions: Conditions,
) -> Result<Accepted<Host>, Problem> {
    Ok(Accepted(service::hosts::delete(&app, &caller, id, conditions.if_match).await?))
}
