//! `/v1/groups`: instances that are to share a host or a zone, or not to.

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
use crate::domain::group::{Group, NewGroup};
use crate::domain::id::GroupId;
use crate::domain::page::Page;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

impl Resource for Group {
    fn location(&self) -> String {
        format!("/v1/groups/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of groups.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Group>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListGroups {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the group of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "web")]
    name: Option<String>,
    /// Every tenant's groups: for admins.
    #[param(example = false)]
    all_tenants: Option<bool>,
}

/// Make a group. Instances name it when they are made.
#[utoipa::path(post, path = "/v1/groups", operation_id = "create_group", tag = "groups", request_body = NewGroup,
    responses((status = 201, description = "The group.", body = Group)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewGroup>,
) -> Result<Created<Group>, Problem> {
    Ok(Created(service::groups::create(&app, &caller, &new).await?))
}

/// List groups, oldest first.
#[utoipa::path(get, path = "/v1/groups", operation_id = "list_groups", tag = "groups", params(ListGroups),
    responses((status = 200, description = "A page of groups.", body = GroupPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListGroups>,
) -> Result<Body<GroupPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (name, all) = (query.name.as_deref(), query.all_tenants.unwrap_or(false));
    let (items, next) = service::groups::list(&app, &caller, &page, name, all).await?;
    Ok(Body(GroupPage { items, next }))
}

/// Get a group.
#[utoipa::path(get, path = "/v1/groups/{id}", operation_id = "get_group", tag = "groups",
    params(("id" = GroupId, Path, description = "The group's id.")),
    responses((status = 200, description = "The group.", body = Group)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<GroupId>,
    conditions: Conditions,
) -> Result<Found<Group>, Problem> {
    Ok(Found(service::groups::get(&app, &caller, id).await?, conditions))
}

/// Delete a group. Refused while it has instances.
#[utoipa::path(delete, path = "/v1/groups/{id}", operation_id = "delete_group", tag = "groups",
    params(("id" = GroupId, Path, description = "The group's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<GroupId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::groups::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
