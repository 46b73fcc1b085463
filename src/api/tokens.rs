//! `/v1/tokens`: the caller's own API tokens.

use axum::Json as Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Conditions, Json, Path, Query};
use super::problem::Problem;
use super::reply::{Created, Found, Resource};
use crate::domain::caller::Caller;
use crate::domain::id::TokenId;
use crate::domain::page::Page;
use crate::domain::token::{ApiToken, NewApiToken, NewToken};
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

/// Nothing of a token changes but the time of its last use.
impl Resource for ApiToken {
    fn location(&self) -> String {
        format!("/v1/tokens/{}", self.id)
    }

    fn revision(&self) -> i64 {
        1
    }
}

impl Resource for NewApiToken {
    fn location(&self) -> String {
        self.token.location()
    }

    fn revision(&self) -> i64 {
        1
    }
}

/// A page of API tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenPage {
    #[schema(max_items = 1000)]
    pub items: Vec<ApiToken>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64)]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListTokens {
    /// How many at most; 100 if not given.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before.
    #[param(max_length = 64)]
    cursor: Option<String>,
}

/// Make an API token for the tenant that the caller acts in.
///
/// The secret is shown in this answer only. It is not kept, so a repeated `Idempotency-Key` is answered with 409 and the id of
/// the token that the first request made. A token has at most the rights, and the life, of the token that makes it.
#[utoipa::path(post, path = "/v1/tokens", operation_id = "create_token", tag = "tokens", request_body = NewToken,
    responses((status = 201, description = "The token and its secret.", body = NewApiToken)))]
async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<([(HeaderName, HeaderValue); 1], Created<NewApiToken>), Problem> {
    let made = service::tokens::create(&app, &caller, &new).await?;
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Created(made)))
}

/// List the caller's API tokens, oldest first. A token with a role of its own sees itself alone.
#[utoipa::path(get, path = "/v1/tokens", operation_id = "list_tokens", tag = "tokens", params(ListTokens),
    responses((status = 200, description = "A page of tokens.", body = TokenPage)))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListTokens>,
) -> Result<Body<TokenPage>, Problem> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let (items, next) = service::tokens::list(&app, &caller, &page).await?;
    Ok(Body(TokenPage { items, next }))
}

/// Get one of the caller's API tokens.
#[utoipa::path(get, path = "/v1/tokens/{id}", operation_id = "get_token", tag = "tokens",
    params(("id" = TokenId, Path, description = "The token's id.")),
    responses((status = 200, description = "The token.", body = ApiToken)))]
async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TokenId>,
) -> Result<Found<ApiToken>, Problem> {
    // Never 304: the time of the last use has no revision.
    Ok(Found(service::tokens::get(&app, &caller, id).await?, Conditions::default()))
}

/// Revoke one of the caller's API tokens.
#[utoipa::path(delete, path = "/v1/tokens/{id}", operation_id = "delete_token", tag = "tokens",
    params(("id" = TokenId, Path, description = "The token's id.")),
    responses((status = 204, description = "It is refused from now on.")))]
async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TokenId>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    service::tokens::delete(&app, &caller, id, conditions.if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}
