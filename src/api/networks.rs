//! `/v1/networks`: isolated segments with a subnet.

use axum::Json as Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bounds;
use super::extract::{Conditions, Json, Path, Query};
use super::problem::Problem;
use super::reply::{Accepted, Created, Found, Resource};
use crate::domain::caller::Caller;
use crate::domain::id::NetworkId;
use crate::domain::network::{Network, NetworkPatch, NewNetwork};
use crate::domain::page::Page;
use crate::domain::text;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl Resource for Network {
    fn location(&self) -> String {
        format!("/v1/networks/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of networks.
#[derive(Debug, Serialize, ToSchema)]
pub struct NetworkPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Network>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListNetworks {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only networks of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "ci")]
    name: Option<String>,
    /// Only networks with all these labels: `key=value`, separated by commas.
    #[serde(default, deserialize_with = "bounds::text::<4096, _>")]
    #[param(max_length = 4096, example = "team=ci,stage=test")]
    label: Option<String>,
    /// Every tenant's networks: for admins.
    #[param(example = false)]
    all_tenants: Option<bool>,
}

/// Make a network.
///
/// Without `cidr` a free one of the cloud's pool is chosen. A host learns of the network when the first instance there has a
/// port on it.
#[utoipa::path(post, path = "/v1/networks", operation_id = "create_network", tag = "networks", request_body = NewNetwork,
    responses((status = 201, description = "The network.", body = Network)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewNetwork>,
) -> Result<Created<Network>, Problem> {
    Ok(Created(service::networks::create(&app, &caller, &new).await?))
}

/// List networks, oldest first.
#[utoipa::path(get, path = "/v1/networks", operation_id = "list_networks", tag = "networks", params(ListNetworks),
    responses((status = 200, description = "A page of networks.", body = NetworkPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListNetworks>,
) -> Result<Body<NetworkPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let labels = text::parse_labels("?label", query.label.as_deref().unwrap_or_default())?;
    let (name, all) = (query.name.as_deref(), query.all_tenants.unwrap_or(false));
    let (items, next) = service::networks::list(&app, &caller, &page, name, &labels, all).await?;
    Ok(Body(NetworkPage { items, next }))
}

/// Get a network.
#[utoipa::path(get, path = "/v1/networks/{id}", operation_id = "get_network", tag = "networks",
    params(("id" = NetworkId, Path, description = "The network's id.")),
    responses((status = 200, description = "The network.", body = Network)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<NetworkId>,
    conditions: Conditions,
) -> Result<Found<Network>, Problem> {
    Ok(Found(service::networks::get(&app, &caller, id).await?, conditions))
}

/// Change a network's name, labels or name servers.
#[utoipa::path(patch, path = "/v1/networks/{id}", operation_id = "update_network", tag = "networks",
    params(("id" = NetworkId, Path, description = "The network's id.")), request_body = NetworkPatch,
    responses((status = 200, description = "The network as it is now.", body = Network)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<NetworkId>,
    conditions: Conditions,
    Json(patch): Json<NetworkPatch>,
) -> Result<Found<Network>, Problem> {
    let network = service::networks::update(&app, &caller, id, conditions.if_match, &patch).await?;
    Ok(Found(network, Conditions::default()))
}

/// Delete a network without ports. It is then removed from every host, and gone: 404.
#[utoipa::path(delete, path = "/v1/networks/{id}", operation_id = "delete_network", tag = "networks",
    params(("id" = NetworkId, Path, description = "The network's id.")),
    responses((status = 202, description = "The network, which is being deleted.", body = Network)))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<NetworkId>,
    conditions: Conditions,
) -> Result<Accepted<Network>, Problem> {
    Ok(Accepted(service::networks::delete(&app, &caller, id, conditions.if_match).await?))
}
