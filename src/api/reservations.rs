//! `/v1/reservations`: capacity that a tenant holds for a while.

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
use crate::domain::id::ReservationId;
use crate::domain::page::Page;
use crate::domain::reservation::{NewReservation, Reservation, ReservationPatch};
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl Resource for Reservation {
    fn location(&self) -> String {
        format!("/v1/reservations/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of reservations.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReservationPage {
    #[schema(max_items = 1000)]
    pub items: Vec<Reservation>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListReservations {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only the reservation of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "nightly")]
    name: Option<String>,
    /// Every tenant's reservations: for admins.
    #[param(example = false)]
    all_tenants: Option<bool>,
}

/// Reserve capacity: all slots at once, or none and a 409 that says what is missing.
#[utoipa::path(post, path = "/v1/reservations", operation_id = "create_reservation", tag = "reservations", request_body = NewReservation,
    responses((status = 201, description = "The reservation.", body = Reservation)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewReservation>,
) -> Result<Created<Reservation>, Problem> {
    Ok(Created(service::reservations::create(&app, &caller, &new).await?))
}

/// List reservations, oldest first.
#[utoipa::path(get, path = "/v1/reservations", operation_id = "list_reservations", tag = "reservations", params(ListReservations),
    responses((status = 200, description = "A page of reservations.", body = ReservationPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListReservations>,
) -> Result<Body<ReservationPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (name, all) = (query.name.as_deref(), query.all_tenants.unwrap_or(false));
    let (items, next) = service::reservations::list(&app, &caller, &page, name, all).await?;
    Ok(Body(ReservationPage { items, next }))
}

/// Get a reservation.
#[utoipa::path(get, path = "/v1/reservations/{id}", operation_id = "get_reservation", tag = "reservations",
    params(("id" = ReservationId, Path, description = "The reservation's id.")),
    responses((status = 200, description = "The reservation.", body = Reservation)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ReservationId>,
    conditions: Conditions,
) -> Result<Found<Reservation>, Problem> {
    Ok(Found(service::reservations::get(&app, &caller, id).await?, conditions))
}

/// Move the end of a reservation.
#[utoipa::path(patch, path = "/v1/reservations/{id}", operation_id = "update_reservation", tag = "reservations", request_body = ReservationPatch,
    params(("id" = ReservationId, Path, description = "The reservation's id.")),
    responses((status = 200, description = "The reservation as it is now.", body = Reservation)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ReservationId>,
    conditions: Conditions,
    Json(patch): Json<ReservationPatch>,
) -> Result<Found<Reservation>, Problem> {
    let if_match = conditions.if_match;
    let changed = service::reservations::update(&app, &caller, id, &patch, if_match).await?;
    Ok(Found(changed, Conditions::default()))
}

/// End a reservation now. What instances have of it stays theirs.
#[utoipa::path(delete, path = "/v1/reservations/{id}", operation_id = "delete_reservation", tag = "reservations",
    params(("id" = ReservationId, Path, description = "The reservation's id.")),
    responses((status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ReservationId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::reservations::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
