//! `/v1/keypairs`: the public SSH keys that instances are given.

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
use crate::domain::id::KeypairId;
use crate::domain::keypair::{Keypair, NewKeypair};
use crate::domain::page::Page;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

impl Resource for Keypair {
    fn location(&self) -> String {
        format!("/v1/keypairs/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of keypairs.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeypairPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Keypair>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListKeypairs {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the keypair of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "laptop")]
    name: Option<String>,
    /// Every tenant's keypairs: for admins.
    #[param(example = false)]
    all_tenants: Option<bool>,
}

/// Register a public SSH key. The private key never leaves its owner.
#[utoipa::path(post, path = "/v1/keypairs", operation_id = "create_keypair", tag = "keypairs", request_body = NewKeypair,
    responses((status = 201, description = "The keypair.", body = Keypair)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewKeypair>,
) -> Result<Created<Keypair>, Problem> {
    Ok(Created(service::keypairs::create(&app, &caller, &new).await?))
}

/// List keypairs, oldest first.
#[utoipa::path(get, path = "/v1/keypairs", operation_id = "list_keypairs", tag = "keypairs", params(ListKeypairs),
    responses((status = 200, description = "A page of keypairs.", body = KeypairPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListKeypairs>,
) -> Result<Body<KeypairPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (name, all) = (query.name.as_deref(), query.all_tenants.unwrap_or(false));
    let (items, next) = service::keypairs::list(&app, &caller, &page, name, all).await?;
    Ok(Body(KeypairPage { items, next }))
}

/// Get a keypair.
#[utoipa::path(get, path = "/v1/keypairs/{id}", operation_id = "get_keypair", tag = "keypairs",
    params(("id" = KeypairId, Path, description = "The keypair's id.")),
    responses((status = 200, description = "The keypair.", body = Keypair)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<KeypairId>,
    conditions: Conditions,
) -> Result<Found<Keypair>, Problem> {
    Ok(Found(service::keypairs::get(&app, &caller, id).await?, conditions))
}

/// Delete a keypair. Instances that were made with it keep the key.
#[utoipa::path(delete, path = "/v1/keypairs/{id}", operation_id = "delete_keypair", tag = "keypairs",
    params(("id" = KeypairId, Path, description = "The keypair's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<KeypairId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::keypairs::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
