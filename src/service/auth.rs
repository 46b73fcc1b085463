//! Who is asking: API tokens now checked against their hash; the caller that they stand for.

use sha2::{Digest, Sha256};

use super::App;
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::store;

/// What all API tokens begin with, so that a leaked one is recognised.
pub const TOKEN_PREFIX: &str = "pileus_";

/// The caller behind a bearer token. The error does not tell an unknown token from an expired one.
pub async fn authenticate(app: &App, bearer: &str) -> Result<Caller> {
    let hash = Sha256::digest(bearer);
    let found =
        store::auth::caller_of_token(&mut *app.conn().await?, &hash, app.clock.now()).await?;
    found.ok_or_else(|| {
        Error::Unauthenticated("the token is unknown, expired or revoked: log in again".into())
    })
}
