//! `/v1/tenants/{id}/members`: who is what in a tenant.

use axum::Json as Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, Path, Query};
use super::problem::Problem;
use crate::domain::caller::Caller;
use crate::domain::id::{TenantId, UserId};
use crate::domain::page::Page;
use crate::domain::tenant::{Membership, NewMembership};
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(put, delete))
}

/// A page of a tenant's members.
#[derive(Debug, Serialize, ToSchema)]
pub struct MembershipPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Membership>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListMembers {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
}

/// List a tenant's members, in the order in which the users were made.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/members", operation_id = "list_members", tag = "tenants",
    params(("tenant_id" = TenantId, Path, description = "The tenant's id."), ListMembers),
    responses((status = 200, description = "A page of members.", body = MembershipPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Path(tenant): Path<TenantId>,
    Query(query): Query<ListMembers>,
) -> Result<Body<MembershipPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (items, next) = service::memberships::list(&app, &caller, tenant, &page).await?;
    Ok(Body(MembershipPage { items, next }))
}

/// Make a user a member of a tenant, or give a member another role. It holds from the next request on, also for logins that
/// are open.
#[utoipa::path(put, path = "/v1/tenants/{tenant_id}/members/{user_id}", operation_id = "put_member", tag = "tenants",
    request_body = NewMembership,
    params(("tenant_id" = TenantId, Path, description = "The tenant's id."),
        ("user_id" = UserId, Path, description = "The user's id.")),
    responses((status = 200, description = "The membership.", body = Membership)))]
async fn put(
    State(app): State<App>,
    caller: Caller,
    Path((tenant, user)): Path<(TenantId, UserId)>,
    Json(new): Json<NewMembership>,
) -> Result<Body<Membership>, Problem> {
    Ok(Body(service::memberships::put(&app, &caller, tenant, user, new.role).await?))
}

/// End a membership. The user's logins and API tokens for this tenant are refused from then on.
#[utoipa::path(delete, path = "/v1/tenants/{tenant_id}/members/{user_id}", operation_id = "delete_member", tag = "tenants",
    params(("tenant_id" = TenantId, Path, description = "The tenant's id."),
        ("user_id" = UserId, Path, description = "The user's id.")),
    responses((status = 204, description = "The user is no member any more.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path((tenant, user)): Path<(TenantId, UserId)>,
) -> Result<StatusCode, Problem> {
    service::memberships::delete(&app, &caller, tenant, user).await?;
    Ok(StatusCode::NO_CONTENT)
}
