//! `/v1/tenants`: who owns and pays, with quota and use.

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
use crate::domain::id::TenantId;
use crate::domain::page::Page;
use crate::domain::tenant::{NewTenant, Tenant, TenantPatch};
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl Resource for Tenant {
    fn location(&self) -> String {
        format!("/v1/tenants/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of tenants.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Tenant>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListTenants {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the tenant of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "default")]
    name: Option<String>,
}

/// Make a tenant. Its first members are named with `PUT /v1/tenants/{id}/members/{user_id}`.
#[utoipa::path(post, path = "/v1/tenants", operation_id = "create_tenant", tag = "tenants", request_body = NewTenant,
    responses((status = 201, description = "The tenant.", body = Tenant)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewTenant>,
) -> Result<Created<Tenant>, Problem> {
    Ok(Created(service::tenants::create(&app, &caller, &new).await?))
}

/// List the tenants that the caller is a member of, oldest first; an admin sees all.
#[utoipa::path(get, path = "/v1/tenants", operation_id = "list_tenants", tag = "tenants", params(ListTenants),
    responses((status = 200, description = "A page of tenants.", body = TenantPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListTenants>,
) -> Result<Body<TenantPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (items, next) = service::tenants::list(&app, &caller, &page, query.name.as_deref()).await?;
    Ok(Body(TenantPage { items, next }))
}

/// Get a tenant, with what it uses of its quota.
#[utoipa::path(get, path = "/v1/tenants/{id}", operation_id = "get_tenant", tag = "tenants",
    params(("id" = TenantId, Path, description = "The tenant's id.")),
    responses((status = 200, description = "The tenant.", body = Tenant)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TenantId>,
) -> Result<Found<Tenant>, Problem> {
    // Never 304: the use changes without a new revision.
    Ok(Found(service::tenants::get(&app, &caller, id).await?, Conditions::default()))
}

/// Change a tenant's description and quota. A quota below the use takes nothing away; it refuses more.
#[utoipa::path(patch, path = "/v1/tenants/{id}", operation_id = "update_tenant", tag = "tenants", request_body = TenantPatch,
    params(("id" = TenantId, Path, description = "The tenant's id.")),
    responses((status = 200, description = "The tenant as it is now.", body = Tenant)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TenantId>,
    conditions: Conditions,
    Json(patch): Json<TenantPatch>,
) -> Result<Found<Tenant>, Problem> {
    let tenant = service::tenants::update(&app, &caller, id, &patch, conditions.if_match).await?;
    Ok(Found(tenant, Conditions::default()))
}

/// Delete an empty tenant, with its memberships and API tokens. While it owns anything else this is refused.
#[utoipa::path(delete, path = "/v1/tenants/{id}", operation_id = "delete_tenant", tag = "tenants",
    params(("id" = TenantId, Path, description = "The tenant's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TenantId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::tenants::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
