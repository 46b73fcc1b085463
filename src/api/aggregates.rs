//! `/v1/aggregates`: hosts that are dedicated to tenants.

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
use crate::domain::aggregate::{Aggregate, AggregatePatch, NewAggregate};
use crate::domain::caller::Caller;
use crate::domain::id::AggregateId;
use crate::domain::page::Page;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl Resource for Aggregate {
    fn location(&self) -> String {
        format!("/v1/aggregates/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of aggregates.
#[derive(Debug, Serialize, ToSchema)]
pub struct AggregatePage {
    #[schema(max_items = 1000)]
    pub items: Vec<Aggregate>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAggregates {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the aggregate of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "build")]
    name: Option<String>,
}

/// Make an aggregate: its hosts take new instances of its tenants alone.
#[utoipa::path(post, path = "/v1/aggregates", operation_id = "create_aggregate", tag = "aggregates", request_body = NewAggregate,
    responses((status = 201, description = "The aggregate.", body = Aggregate)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewAggregate>,
) -> Result<Created<Aggregate>, Problem> {
    Ok(Created(service::aggregates::create(&app, &caller, &new).await?))
}

/// List aggregates, oldest first.
#[utoipa::path(get, path = "/v1/aggregates", operation_id = "list_aggregates", tag = "aggregates", params(ListAggregates),
    responses((status = 200, description = "A page of aggregates.", body = AggregatePage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListAggregates>,
) -> Result<Body<AggregatePage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let name = query.name.as_deref();
    let (items, next) = service::aggregates::list(&app, &caller, &page, name).await?;
    Ok(Body(AggregatePage { items, next }))
}

/// Get an aggregate.
#[utoipa::path(get, path = "/v1/aggregates/{id}", operation_id = "get_aggregate", tag = "aggregates",
    params(("id" = AggregateId, Path, description = "The aggregate's id.")),
    responses((status = 200, description = "The aggregate.", body = Aggregate)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AggregateId>,
    conditions: Conditions,
) -> Result<Found<Aggregate>, Problem> {
    Ok(Found(service::aggregates::get(&app, &caller, id).await?, conditions))
}

/// Change an aggregate. What is placed already stays where it is.
#[utoipa::path(patch, path = "/v1/aggregates/{id}", operation_id = "update_aggregate", tag = "aggregates", request_body = AggregatePatch,
    params(("id" = AggregateId, Path, description = "The aggregate's id.")),
    responses((status = 200, description = "The aggregate as it is now.", body = Aggregate)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AggregateId>,
    conditions: Conditions,
    Json(patch): Json<AggregatePatch>,
) -> Result<Found<Aggregate>, Problem> {
    let if_match = conditions.if_match;
    let changed = service::aggregates::update(&app, &caller, id, &patch, if_match).await?;
    Ok(Found(changed, Conditions::default()))
}

/// Delete an aggregate. Its hosts are as open as without it.
#[utoipa::path(delete, path = "/v1/aggregates/{id}", operation_id = "delete_aggregate", tag = "aggregates",
    params(("id" = AggregateId, Path, description = "The aggregate's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<AggregateId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::aggregates::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
