//! `/v1/ports`: MAC and IP addresses on networks, of instances and free-standing.

use axum::Json as Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bounds;
use super::extract::{Conditions, Json, Path, Query};
use super::problem::Problem;
use super::reply::{Created, Found, Resource};
use crate::domain::caller::Caller;
use crate::domain::id::{InstanceId, NetworkId, PortId};
use crate::domain::page::Page;
use crate::domain::port::{NewPort, Port};
use crate::service::ports::Wanted;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

impl Resource for Port {
    fn location(&self) -> String {
        format!("/v1/ports/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of ports.
#[derive(Debug, Serialize, ToSchema)]
pub struct PortPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Port>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListPorts {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only ports of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "db-vip")]
    name: Option<String>,
    /// Only ports on this network.
    network_id: Option<NetworkId>,
    /// Only ports of this instance.
    instance_id: Option<InstanceId>,
    /// Every tenant's ports: for admins.
    #[param(example = false)]
    all_tenants: Option<bool>,
}

/// Make a free-standing port: it can be given to an instance, and stays when that goes.
#[utoipa::path(post, path = "/v1/ports", operation_id = "create_port", tag = "ports", request_body = NewPort,
    responses((status = 201, description = "The port.", body = Port)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewPort>,
) -> Result<Created<Port>, Problem> {
    Ok(Created(service::ports::create(&app, &caller, &new).await?))
}

/// List ports, oldest first: those of instances and free-standing ones.
#[utoipa::path(get, path = "/v1/ports", operation_id = "list_ports", tag = "ports", params(ListPorts),
    responses((status = 200, description = "A page of ports.", body = PortPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListPorts>,
) -> Result<Body<PortPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let wanted = Wanted {
        network: query.network_id,
        instance: query.instance_id,
        name: query.name,
        all_tenants: query.all_tenants.unwrap_or(false),
    };
    let (items, next) = service::ports::list(&app, &caller, &page, wanted).await?;
    Ok(Body(PortPage { items, next }))
}

/// Get a port.
#[utoipa::path(get, path = "/v1/ports/{id}", operation_id = "get_port", tag = "ports",
    params(("id" = PortId, Path, description = "The port's id.")),
    responses((status = 200, description = "The port.", body = Port)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PortId>,
    conditions: Conditions,
) -> Result<Found<Port>, Problem> {
    Ok(Found(service::ports::get(&app, &caller, id).await?, conditions))
}

/// Delete a port that no instance has. Its address is not given out again for a while.
#[utoipa::path(delete, path = "/v1/ports/{id}", operation_id = "delete_port", tag = "ports",
    params(("id" = PortId, Path, description = "The port's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PortId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::ports::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
