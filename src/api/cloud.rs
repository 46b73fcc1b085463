//! `/v1/cloud`, `/v1/drift` and `/v1/fsck`: the cloud itself, for admins.

use axum::Json as Body;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, Query};
use super::problem::Problem;
use crate::domain::caller::Caller;
use crate::domain::cloud::{Cloud, Drift, Fsck, RotateKeys};
use crate::domain::id::HostId;
use crate::domain::page::Page;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get))
        .routes(routes!(resume))
        .routes(routes!(rotate))
        .routes(routes!(drift))
        .routes(routes!(fsck))
}

/// A page of drift.
#[derive(Debug, Serialize, ToSchema)]
pub struct DriftPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Drift>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListDrift {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only what is on this host.
    #[param(value_type = Option<HostId>)]
    host_id: Option<HostId>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GetFsck {
    /// Also read all bytes of all images, in the image store and on the hosts: takes as long as that takes.
    #[param(example = false)]
    deep: Option<bool>,
}

/// Get the cloud's own state.
///
/// `held_since` is set where the world was found newer than the database: nothing is removed then, until an admin says
/// `resume`.
#[utoipa::path(get, path = "/v1/cloud", operation_id = "get_cloud", tag = "operation",
    responses((status = 200, description = "The cloud.", body = Cloud)))]
async fn get(State(app): State<App>, caller: Caller) -> Result<Body<Cloud>, Problem> {
    Ok(Body(service::cloud::get(&app, &caller).await?))
}

/// End the hold.
///
/// From now on this database is the cloud's record again: what it does not know is removed from the hosts. Look at
/// `GET /v1/drift` first.
#[utoipa::path(post, path = "/v1/cloud/actions/resume", operation_id = "resume_cloud", tag = "operation",
    responses((status = 200, description = "The cloud, which goes on.", body = Cloud)))]
async fn resume(State(app): State<App>, caller: Caller) -> Result<Body<Cloud>, Problem> {
    Ok(Body(service::cloud::resume(&app, &caller).await?))
}

/// Replace the key that signs tokens.
///
/// Tokens of the old key stay good until they end, unless `revoke` is set.
#[utoipa::path(post, path = "/v1/cloud/actions/rotate-keys", operation_id = "rotate_keys", tag = "operation",
    request_body = Option<RotateKeys>,
    responses((status = 200, description = "The cloud.", body = Cloud)))]
async fn rotate(
    State(app): State<App>,
    caller: Caller,
    how: Option<Json<RotateKeys>>,
) -> Result<Body<Cloud>, Problem> {
    let how = how.map(|Json(how)| how).unwrap_or_default();
    Ok(Body(service::cloud::rotate_keys(&app, &caller, how).await?))
}

/// List what is on the hosts and has no owner.
///
/// What bears our stamp is removed by the sweeper in its time; what does not is never touched. The list is as new as the last
/// sweep.
#[utoipa::path(get, path = "/v1/drift", operation_id = "list_drift", tag = "operation", params(ListDrift),
    responses((status = 200, description = "A page of drift.", body = DriftPage)))]
async fn drift(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListDrift>,
) -> Result<Body<DriftPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (items, next) = service::cloud::drift(&app, &caller, &page, query.host_id).await?;
    Ok(Body(DriftPage { items, next }))
}

/// Compare the database with itself, with every host and with the image store.
///
/// It reads only. What is being worked on at this moment is left out.
#[utoipa::path(get, path = "/v1/fsck", operation_id = "get_fsck", tag = "operation", params(GetFsck),
    responses((status = 200, description = "What does not agree.", body = Fsck)))]
async fn fsck(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<GetFsck>,
) -> Result<Body<Fsck>, Problem> {
    Ok(Body(service::fsck::run(&app, &caller, query.deep.unwrap_or(false)).await?))
}
