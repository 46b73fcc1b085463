//! API tokens: made by a user for their programs, at most as strong as who made them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::auth::TOKEN_PREFIX;
use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin};
use crate::domain::caller::{Caller, Role};
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::TokenId;
use crate::domain::page::Page;
use crate::domain::token::{ApiToken, NewApiToken, NewToken, ShownOnce, TOKENS_MAX};
use crate::store;
use crate::store::tokens::{Row, Viewer};

/// Makes a token for the caller's tenant.
///
/// The secret is in this answer and nowhere else, so it is not kept for an `Idempotency-Key` either: the same key again is a
/// `Conflict` that names the token which the first request made.
pub async fn create(app: &App, caller: &Caller, new: &NewToken) -> Result<NewApiToken> {
    authorize(caller, "create_token")?;
    let (name, expires_at) = new.check(app.clock.now())?;
    let mut write = match app.begin::<TokenId>(caller, "create_token", new).await? {
        Begin::Fresh(write) => write,
        Begin::Replay(made) => {
            let detail = format!(
                "this Idempotency-Key has made token {made}, whose secret was shown once and is not kept: if it was lost, delete that token and use a new key"
            );
            return Err(Error::conflict("secret-shown-once", detail));
        }
    };
    let parent = match caller.token {
        Some(id) => store::tokens::get(write.conn(), viewer(caller), id).await?,
        None => None,
    };
    let (role, expires_at) = no_stronger(caller, parent.as_ref(), new.role, expires_at)?;
    let count = store::tokens::lock_and_count(write.conn(), caller.user).await?;
    if count >= TOKENS_MAX {
        let detail = format!("you have {count} tokens, which is the most: delete some");
        return Err(Error::conflict("too-many-tokens", detail));
    }
    let random: [u8; 32] = rand::random();
    let secret = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let row = Row {
        id: TokenId(Uuid::now_v7()),
        user: caller.user,
        tenant: caller.tenant,
        name: &name,
        prefix: secret.get(..14).unwrap_or(TOKEN_PREFIX),
        hash: &Sha256::digest(&secret),
        role,
        expires_at,
    };
    let now = write.now;
    let token = store::tokens::insert(write.conn(), &row, now).await?;
    let detail = json!({ "role": token.role, "expires_at": token.expires_at });
    write.done("token.create", subject(&token), detail).await?;
    write.commit(&token.id).await?;
    Ok(NewApiToken { secret: ShownOnce(secret), token })
}

/// Role and end of a new token: no more than the caller's own. A login has no end of its own that would bind its tokens.
fn no_stronger(
    caller: &Caller,
    parent: Option<&ApiToken>,
    role: Option<Role>,
    expires_at: Option<Time>,
) -> Result<(Option<Role>, Option<Time>)> {
    if role.is_some() && caller.tenant.is_none() {
        return Err(Error::field(
            "/role",
            "you act in no tenant, so there is no role to give: leave it out",
        ));
    }
    if let Some(asked) = role
        && !caller.admin
        && caller.role.is_none_or(|own| asked > own)
    {
        return Err(Error::Forbidden(
            "a token cannot have a higher role than who makes it: ask for yours or a lower one"
                .into(),
        ));
    }
    let role = role.or(parent.and_then(|parent| parent.role));
    let expires_at = match (expires_at, parent.and_then(|parent| parent.expires_at)) {
        (asked, None) => asked,
        (None, Some(end)) => Some(end),
        (Some(asked), Some(end)) if asked <= end => Some(asked),
        (Some(_), Some(end)) => {
            return Err(Error::Forbidden(format!(
                "a token cannot live longer than the one that makes it, which ends at {end}: ask for less, or log in"
            )));
        }
    };
    Ok((role, expires_at))
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
) -> Result<(Vec<ApiToken>, Option<String>)> {
    authorize(caller, "list_tokens")?;
    let rows = store::tokens::list(&mut *app.conn().await?, viewer(caller), page).await?;
    Ok(page.cut(rows, |token| token.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: TokenId) -> Result<ApiToken> {
    authorize(caller, "get_token")?;
    let token = store::tokens::get(&mut *app.conn().await?, viewer(caller), id).await?;
    token.ok_or_else(|| Error::not_found("token", id))
}

/// Revokes it: refused at once by this process, and within seconds by others.
pub async fn delete(app: &App, caller: &Caller, id: TokenId, if_match: Option<i64>) -> Result<()> {
    authorize(caller, "delete_token")?;
    let mut write = match app.begin(caller, "delete_token", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let token = store::tokens::get(write.conn(), viewer(caller), id).await?;
    let token = token.ok_or_else(|| Error::not_found("token", id))?;
    // A token never changes.
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, 1))?;
    store::tokens::delete(write.conn(), id).await?;
    write.done("token.delete", subject(&token), json!({})).await?;
    write.commit(&()).await?;
    app.auth().forget_token(id);
    Ok(())
}

fn viewer(caller: &Caller) -> Viewer {
    Viewer { user: caller.user, token: caller.token }
}

fn subject(token: &ApiToken) -> Subject {
    Subject { kind: "token", id: token.id.0, name: token.name.to_string(), tenant: token.tenant_id }
}
