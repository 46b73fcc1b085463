//! `/healthz` and `/readyz`: whether the process lives, and whether it is fit for requests.

use axum::Json as Body;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::Problem;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(readiness))
}

/// That all is well; anything else is a problem.
// Not `Health`: that is a host's, and the document has one schema a name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Wellness {
    /// Always `ok`.
    pub status: WellnessStatus,
    /// Since when nothing is removed from the hosts, which waits for an admin; left out where all goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_since: Option<DateTime<Utc>>,
}

/// The only good news there is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = "ok")]
pub enum WellnessStatus {
    Ok,
}

const OK: Body<Wellness> = Body(Wellness { status: WellnessStatus::Ok, held_since: None });

/// Whether the process lives. It asks nothing of the database: a restart would not mend that.
#[utoipa::path(get, path = "/healthz", operation_id = "get_health", tag = "health",
    responses((status = 200, description = "The process lives.", body = Wellness)))]
async fn health() -> Body<Wellness> {
    OK
}

/// Whether the process is fit for requests: the database answers within a second, its schema is this binary's, every loop has
/// been round lately, and the process is not about to end. The problem names what is not so.
#[utoipa::path(get, path = "/readyz", operation_id = "get_readiness", tag = "health",
    responses((status = 200, description = "Send requests here.", body = Wellness)))]
async fn readiness(State(app): State<App>) -> Result<Body<Wellness>, Problem> {
    let held_since = service::health::ready(&app).await?;
    Ok(Body(Wellness { status: WellnessStatus::Ok, held_since }))
}
