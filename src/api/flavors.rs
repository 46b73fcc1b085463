//! `/v1/flavors`: the sizes that instances come in.

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
use crate::domain::flavor::{Flavor, NewFlavor};
use crate::domain::id::FlavorId;
use crate::domain::page::Page;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

impl Resource for Flavor {
    fn location(&self) -> String {
        format!("/v1/flavors/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of flavors.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlavorPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Flavor>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListFlavors {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the flavor of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "nano")]
    name: Option<String>,
}

/// Make a flavor.
#[utoipa::path(post, path = "/v1/flavors", operation_id = "create_flavor", tag = "flavors", request_body = NewFlavor,
    responses((status = 201, description = "The flavor.", body = Flavor)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewFlavor>,
) -> Result<Created<Flavor>, Problem> {
    Ok(Created(service::flavors::create(&app, &caller, &new).await?))
}

/// List flavors, oldest first.
#[utoipa::path(get, path = "/v1/flavors", operation_id = "list_flavors", tag = "flavors", params(ListFlavors),
    responses((status = 200, description = "A page of flavors.", body = FlavorPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListFlavors>,
) -> Result<Body<FlavorPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (items, next) = service::flavors::list(&app, &caller, &page, query.name.as_deref()).await?;
    Ok(Body(FlavorPage { items, next }))
}

/// Get a flavor.
#[utoipa::path(get, path = "/v1/flavors/{id}", operation_id = "get_flavor", tag = "flavors",
    params(("id" = FlavorId, Path, description = "The flavor's id.")),
    responses((status = 200, description = "The flavor.", body = Flavor)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<FlavorId>,
    conditions: Conditions,
) -> Result<Found<Flavor>, Problem> {
    Ok(Found(service::flavors::get(&app, &caller, id).await?, conditions))
}

/// Delete a flavor. Instances made with it keep their size.
#[utoipa::path(delete, path = "/v1/flavors/{id}", operation_id = "delete_flavor", tag = "flavors",
    params(("id" = FlavorId, Path, description = "The flavor's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<FlavorId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::flavors::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
