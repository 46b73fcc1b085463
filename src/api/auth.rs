//! `/v1/auth`: login, who one is, and the keys that tokens are checked with.

use axum::Json as Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, Peer, request_id};
use super::problem::Problem;
use crate::domain::auth::{JwkSet, LoggedIn, Login, Whoami};
use crate::domain::caller::Caller;
use crate::domain::user::PasswordChange;
use crate::service::auth::Origin;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(whoami))
        .routes(routes!(password))
        .routes(routes!(jwks))
}

/// Log in with user and password.
///
/// The answer holds a JWT that is good for one tenant, for as long as the server's `token_ttl_s` says. Attempts are limited per
/// user name and per client address.
#[utoipa::path(post, path = "/v1/auth/login", operation_id = "login", tag = "auth", request_body = Login,
    responses((status = 200, description = "A token.", body = LoggedIn)))]
async fn login(
    State(app): State<App>,
    Peer(address): Peer,
    headers: HeaderMap,
    Json(login): Json<Login>,
) -> Result<([(HeaderName, HeaderValue); 1], Body<LoggedIn>), Problem> {
    let origin = Origin { address, request_id: request_id(&headers) };
    let logged_in = service::auth::login(&app, &login, &origin).await?;
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Body(logged_in)))
}

/// Who the caller is, in which tenant, with which role.
#[utoipa::path(get, path = "/v1/auth/whoami", operation_id = "get_whoami", tag = "auth",
    responses((status = 200, description = "The caller.", body = Whoami)))]
async fn whoami(State(app): State<App>, caller: Caller) -> Result<Body<Whoami>, Problem> {
    Ok(Body(service::auth::whoami(&app, &caller).await?))
}

/// Change one's own password. Ends every login of the caller, this one too; API tokens stay.
#[utoipa::path(post, path = "/v1/auth/password", operation_id = "change_password", tag = "auth", request_body = PasswordChange,
    responses((status = 204, description = "Log in with the new password.")))]
async fn password(
    State(app): State<App>,
    caller: Caller,
    Peer(address): Peer,
    Json(change): Json<PasswordChange>,
) -> Result<StatusCode, Problem> {
    let origin = Origin { address, request_id: caller.request_id.clone() };
    service::users::change_password(&app, &caller, &change, &origin).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The public keys that verify our JWTs, as a JWKS document.
#[utoipa::path(get, path = "/v1/auth/jwks.json", operation_id = "get_signing_keys", tag = "auth",
    responses((status = 200, description = "The keys.", body = JwkSet)))]
async fn jwks(
    State(app): State<App>,
) -> Result<([(HeaderName, HeaderValue); 1], Body<JwkSet>), Problem> {
    let keys = service::auth::public_keys(&app).await?;
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"))], Body(keys)))
}
