//! `/v1/users`: who may log in.

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
use crate::domain::id::UserId;
use crate::domain::page::Page;
use crate::domain::user::{NewUser, User, UserPatch};
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl Resource for User {
    fn location(&self) -> String {
        format!("/v1/users/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of users.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserPage {
    #[schema(max_items = 1000)]
    pub items: Vec<User>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListUsers {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the user of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "anne")]
    name: Option<String>,
}

/// Make a user. A new user is a member of no tenant.
#[utoipa::path(post, path = "/v1/users", operation_id = "create_user", tag = "users", request_body = NewUser,
    responses((status = 201, description = "The user.", body = User)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewUser>,
) -> Result<Created<User>, Problem> {
    Ok(Created(service::users::create(&app, &caller, &new).await?))
}

/// List users, oldest first.
#[utoipa::path(get, path = "/v1/users", operation_id = "list_users", tag = "users", params(ListUsers),
    responses((status = 200, description = "A page of users.", body = UserPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListUsers>,
) -> Result<Body<UserPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (items, next) = service::users::list(&app, &caller, &page, query.name.as_deref()).await?;
    Ok(Body(UserPage { items, next }))
}

/// Get a user.
#[utoipa::path(get, path = "/v1/users/{id}", operation_id = "get_user", tag = "users",
    params(("id" = UserId, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = User)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<UserId>,
    conditions: Conditions,
) -> Result<Found<User>, Problem> {
    Ok(Found(service::users::get(&app, &caller, id).await?, conditions))
}

/// Change a user. A change of password or of rights ends the user's logins; a disabled user's API tokens are refused too.
#[utoipa::path(patch, path = "/v1/users/{id}", operation_id = "update_user", tag = "users", request_body = UserPatch,
    params(("id" = UserId, Path, description = "The user's id.")),
    responses((status = 200, description = "The user as it is now.", body = User)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<UserId>,
    conditions: Conditions,
    Json(patch): Json<UserPatch>,
) -> Result<Found<User>, Problem> {
    let user = service::users::update(&app, &caller, id, &patch, conditions.if_match).await?;
    Ok(Found(user, Conditions::default()))
}

/// Delete a user, with all memberships and API tokens. The last enabled admin stays.
#[utoipa::path(delete, path = "/v1/users/{id}", operation_id = "delete_user", tag = "users",
    params(("id" = UserId, Path, description = "The user's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<UserId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::users::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
