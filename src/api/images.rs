//! `/v1/images`: bootable disks.

use axum::Json as Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bounds;
use super::extract::{Conditions, Json, Path, Query};
use super::problem::Problem;
use super::reply::{Accepted, Created, Found, Resource};
use crate::domain::caller::Caller;
use crate::domain::id::ImageId;
use crate::domain::image::{Image, ImageFilter, ImagePatch, ImageStatus, NewImage, Visibility};
use crate::domain::page::Page;
use crate::domain::text;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl Resource for Image {
    fn location(&self) -> String {
        format!("/v1/images/{}", self.id)
    }

    fn revision(&self) -> i64 {
        self.revision
    }
}

/// A page of images.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImagePage {
    #[schema(max_items = 1000)]
    pub items: Vec<Image>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListImages {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
    /// Only images of exactly this name.
    #[serde(default, deserialize_with = "bounds::text::<63, _>")]
    #[param(max_length = 63, example = "debian-13")]
    name: Option<String>,
    /// Only images with all these labels: `key=value`, separated by commas.
    #[serde(default, deserialize_with = "bounds::text::<4096, _>")]
    #[param(max_length = 4096, example = "os=debian,arch=amd64")]
    label: Option<String>,
    /// Only private ones, or only public ones.
    #[param(inline)]
    visibility: Option<Visibility>,
    /// Only images in this state.
    #[param(inline)]
    status: Option<ImageStatus>,
    /// Every tenant's images: for admins.
    #[param(example = false)]
    all_tenants: Option<bool>,
}

/// Make an image; its bytes follow with `PUT /v1/images/{id}/data`.
///
/// A public image is seen and used by every tenant. Only the cloud's admins publish: a tenant that could might pass its own
/// image off as one of the cloud's.
#[utoipa::path(post, path = "/v1/images", operation_id = "create_image", tag = "images", request_body = NewImage,
    responses((status = 201, description = "The image, without data yet.", body = Image)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewImage>,
) -> Result<Created<Image>, Problem> {
    Ok(Created(service::images::create(&app, &caller, &new).await?))
}

/// List the tenant's images and the public ones, oldest first.
#[utoipa::path(get, path = "/v1/images", operation_id = "list_images", tag = "images", params(ListImages),
    responses((status = 200, description = "A page of images.", body = ImagePage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListImages>,
) -> Result<Body<ImagePage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let filter = ImageFilter {
        name: query.name,
        labels: text::parse_labels("?label", query.label.as_deref().unwrap_or_default())?,
        visibility: query.visibility,
        status: query.status,
    };
    let all = query.all_tenants.unwrap_or(false);
    let (items, next) = service::images::list(&app, &caller, &page, &filter, all).await?;
    Ok(Body(ImagePage { items, next }))
}

/// Get an image.
#[utoipa::path(get, path = "/v1/images/{id}", operation_id = "get_image", tag = "images",
    params(("id" = ImageId, Path, description = "The image's id.")),
    responses((status = 200, description = "The image.", body = Image)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ImageId>,
    conditions: Conditions,
) -> Result<Found<Image>, Problem> {
    Ok(Found(service::images::get(&app, &caller, id).await?, conditions))
}

/// Change an image's name, description, labels or visibility. Its bytes never change.
#[utoipa::path(patch, path = "/v1/images/{id}", operation_id = "update_image", tag = "images",
    params(("id" = ImageId, Path, description = "The image's id.")), request_body = ImagePatch,
    responses((status = 200, description = "The image.", body = Image)))]
async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ImageId>,
    conditions: Conditions,
    Json(patch): Json<ImagePatch>,
) -> Result<Found<Image>, Problem> {
    let image = service::images::update(&app, &caller, id, conditions.if_match, &patch).await?;
    Ok(Found(image, Conditions::default()))
}

/// Delete an image. One that instances use is hidden from everyone else, and goes with the last of them.
#[utoipa::path(delete, path = "/v1/images/{id}", operation_id = "delete_image", tag = "images",
    params(("id" = ImageId, Path, description = "The image's id.")),
    responses(
        (status = 202, description = "It goes with the last instance that uses it.", body = Image),
        (status = 204, description = "It is gone.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ImageId>,
    conditions: Conditions,
) -> Result<Response, Problem> {
    Ok(match service::images::delete(&app, &caller, id, conditions.if_match).await? {
        Some(left) => Accepted(left).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}
