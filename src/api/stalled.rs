//! `/v1/stalled`: what is not where it was wished to be, for admins.

use axum::Json as Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::extract::{Path, Query};
use super::problem::Problem;
use crate::domain::caller::Caller;
use crate::domain::error::Error;
use crate::domain::page::Page;
use crate::domain::stalled::{Stalled, StalledFilter, StalledKind, StalledState};
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(retry))
}

/// A page of stalled items.
#[derive(Debug, Serialize, ToSchema)]
pub struct StalledPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Stalled>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListStalled {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only items of this kind.
    #[param(inline)]
    kind: Option<StalledKind>,
    /// Only items that stand so.
    #[param(inline)]
    state: Option<StalledState>,
    /// What only waits is shown once it has waited for so many seconds; 60 if not given.
    #[param(minimum = 0, maximum = 86400, example = 60)]
    waiting_s: Option<i64>,
}

/// List what is not where it was wished to be.
///
/// Everything that failed at its last attempt, that waits for long, and every host that does not answer: why, since when, how
/// often it was tried and when it is tried next. Empty where all is as wished.
#[utoipa::path(get, path = "/v1/stalled", operation_id = "list_stalled", tag = "operation", params(ListStalled),
    responses((status = 200, description = "A page of items.", body = StalledPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListStalled>,
) -> Result<Body<StalledPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let waiting_s = query.waiting_s.unwrap_or(60);
    if !(0..=86400).contains(&waiting_s) {
        return Err(
            Error::field("?waiting_s", format!("must be 0 to 86400, is {waiting_s}")).into()
        );
    }
    let filter = StalledFilter { kind: query.kind, state: query.state, waiting_s };
    let (items, next) = service::stalled::list(&app, &caller, &page, &filter).await?;
    Ok(Body(StalledPage { items, next }))
}

/// Try an item now.
///
/// Its failures are forgotten and it is looked at at once: for when what stood in the way was mended. A host is contacted, and
/// a base image is uploaded anew.
#[utoipa::path(post, path = "/v1/stalled/{kind}/{id}/actions/retry", operation_id = "retry_stalled", tag = "operation",
    params(("kind" = StalledKind, Path, description = "The item's kind."), ("id" = Uuid, Path, description = "The item's id.")),
    responses((status = 202, description = "The item, about to be looked at.", body = Stalled)))]
async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path((kind, id)): Path<(String, Uuid)>,
) -> Result<(StatusCode, Body<Stalled>), Problem> {
    let item = service::stalled::retry(&app, &caller, &kind, id).await?;
    Ok((StatusCode::ACCEPTED, Body(item)))
}
