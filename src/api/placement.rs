//! `/v1/placement`: what placement would do now, and why.

use axum::Json as Body;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::Json;
use super::problem::Problem;
use crate::domain::caller::Caller;
use crate::service::placement::{PlacementAnswer, PlacementQuery};
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(explain))
}

/// Explain a placement: which host would be chosen now, or what stands in the way at each class of hosts, and which single changes
/// of the flavor, the hosts or the quota would do. Nothing is made or held.
#[utoipa::path(post, path = "/v1/placement/explain", operation_id = "explain_placement", tag = "placement",
    request_body = PlacementQuery,
    responses((status = 200, description = "The account.", body = PlacementAnswer)))]
async fn explain(
    State(app): State<App>,
    caller: Caller,
    Json(query): Json<PlacementQuery>,
) -> Result<Body<PlacementAnswer>, Problem> {
    Ok(Body(service::placement::ask(&app, &caller, &query).await?))
}
