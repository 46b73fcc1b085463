//! Who is asking: passwords give JWTs, and a JWT or an API token gives the caller.

mod keys;
mod limits;
mod passwords;
mod recent;

use std::net::IpAddr;

use chrono::DateTime;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::App;
use crate::config::Config;
use crate::domain::auth::{JwkSet, LoggedIn, Login, TenantName, UserName, Whoami};
use crate::domain::caller::{Caller, Role};
use crate::domain::clock::{Clock, Time};
use crate::domain::error::{Error, Result};
use crate::domain::event::{Actor, NewEvent, Outcome, Subject};
use crate::domain::id::{TenantId, TokenId, UserId};
use crate::store;
use crate::store::auth::{Choice, Credentials, Standing};

/// What all API tokens begin with, so that a leaked one is recognised.
pub const TOKEN_PREFIX: &str = "pileus_";
const AUDIENCE: &str = "pileus";

/// What authentication keeps in memory.
pub struct Auth {
    pub(super) passwords: passwords::Passwords,
    pub(super) limits: limits::Limits,
    keys: keys::Keys,
    standings: recent::Recent<(UserId, Option<TenantId>), Standing>,
    tokens: recent::Recent<[u8; 32], (Caller, Option<Time>)>,
    /// JWTs by their hashes, whose signatures fitted: to check one takes as long as all else of a small answer.
    jwts: recent::Recent<[u8; 32], Claims>,
}

impl Auth {
    pub fn new(config: &Config, clock: &Clock) -> Self {
        Self {
            passwords: passwords::Passwords::new(config.argon2_concurrency),
            limits: limits::Limits::new(config.login_attempts_per_minute, clock),
            keys: keys::Keys::default(),
            standings: recent::Recent::default(),
            tokens: recent::Recent::default(),
            jwts: recent::Recent::default(),
        }
    }

    /// The user's rights have changed: what is remembered of them is wrong.
    pub(super) fn forget_user(&self, user: UserId) {
        self.standings.forget(|(id, _), _| *id == user);
        self.tokens.forget(|_, (caller, _)| caller.user == user);
    }

    /// The tenant is gone.
    pub(super) fn forget_tenant(&self, tenant: TenantId) {
        self.standings.forget(|(_, id), _| *id == Some(tenant));
        self.tokens.forget(|_, (caller, _)| caller.tenant == Some(tenant));
    }

    /// The API token is revoked.
    pub(super) fn forget_token(&self, token: TokenId) {
        self.tokens.forget(|_, (caller, _)| caller.token == Some(token));
    }
}

/// What a JWT says. Only `sub`, `tid` and `gen` are acted upon: rights are looked up, and `role` and `adm` are for others to read.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Claims {
    iss: Uuid,
    aud: String,
    sub: UserId,
    tid: Option<TenantId>,
    role: Option<Role>,
    adm: bool,
    iat: i64,
    exp: i64,
    jti: Uuid,
    /// `users.tokens_valid_from` in microseconds when the token was issued: another value refuses it, with no clocks compared.
    #[serde(rename = "gen")]
    generation: i64,
}

/// Where a login came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The peer's address as the socket has it.
    pub address: Option<IpAddr>,
    pub request_id: String,
}

/// A password for a JWT. Wrong passwords, unknown users and disabled users get the same answer after the same time.
pub async fn login(app: &App, login: &Login, origin: &Origin) -> Result<LoggedIn> {
    login.password.check_length("/password")?;
    app.auth().limits.attempt(&login.user, origin.address)?;
    // Nobody is called so, and PostgreSQL takes no such text.
    let found = if login.user.contains('\0') {
        None
    } else {
        store::auth::credentials(&mut *app.conn().await?, &login.user).await?
    };
    let kept = found.as_ref().map(|user| user.password_hash.clone());
    let right = app.auth().passwords.verify(&login.password, kept).await?;
    let user = match found {
        Some(user) if right && user.enabled => user,
        found => {
            // The name is kept only where it is a user's: what people type there by mistake is their password.
            let known = found.as_ref().map(|user| (user.id, user.name.as_str()));
            note(app, origin, known, Outcome::Failed, json!({ "address": origin.address })).await?;
            let detail = "user or password is wrong, or the user is disabled";
            return Err(Error::Unauthenticated(detail.into()));
        }
    };
    let choice = choose(app, &user, login.tenant.as_deref()).await?;
    let logged_in = issue(app, &user, choice).await?;
    let detail = json!({ "tenant": logged_in.tenant, "address": origin.address });
    note(app, origin, Some((user.id, &user.name)), Outcome::Done, detail).await?;
    Ok(logged_in)
}

/// The tenant that was named, or the one that the user has been a member of for longest: a membership that somebody gives later
/// changes no login.
async fn choose(app: &App, user: &Credentials, named: Option<&str>) -> Result<Option<Choice>> {
    let mut conn = app.conn().await?;
    if let Some(named) = named {
        let choice = store::auth::choose(&mut conn, user.id, user.admin, named).await?;
        let none = "there is no such tenant that you are a member of: give another id or name";
        return choice.map(Some).ok_or_else(|| Error::field("/tenant", none));
    }
    store::auth::home(&mut conn, user.id).await
}

async fn issue(app: &App, user: &Credentials, choice: Option<Choice>) -> Result<LoggedIn> {
    let key = app.auth().keys.signing(app).await?;
    let role = choice.as_ref().and_then(|choice| choice.role);
    let tenant = choice.map(|choice| choice.tenant);
    let iat = app.clock.now().timestamp();
    let claims = Claims {
        iss: app.cloud,
        aud: AUDIENCE.into(),
        sub: user.id,
        tid: tenant.as_ref().map(|tenant| tenant.id),
        role,
        adm: user.admin,
        iat,
        exp: iat.saturating_add_unsigned(app.config.token_ttl.as_secs()),
        jti: Uuid::new_v4(),
        generation: user.tokens_valid_from.timestamp_micros(),
    };
    let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
    let token = jsonwebtoken::encode(&header, &claims, &key.encoding).map_err(Error::internal)?;
    Ok(LoggedIn {
        token,
        token_type: "Bearer".into(),
        expires_at: DateTime::from_timestamp(claims.exp, 0).unwrap_or_default(),
        user: UserName { id: user.id, name: user.name.clone() },
        tenant,
        role,
        admin: user.admin,
    })
}

async fn note(
    app: &App,
    origin: &Origin,
    user: Option<(UserId, &str)>,
    outcome: Outcome,
    detail: serde_json::Value,
) -> Result<()> {
    let (id, name) = user.unwrap_or((UserId(Uuid::nil()), "unknown user"));
    let event = NewEvent {
        kind: "auth.login",
        subject: Subject { kind: "user", id: id.0, name: name.into(), tenant: None },
        actor: Actor {
            user: user.map(|(id, _)| id).filter(|_| outcome == Outcome::Done),
            name: if outcome == Outcome::Done { name.into() } else { "anonymous".into() },
            request_id: Some(origin.request_id.clone()),
        },
        outcome,
        detail,
    };
    store::events::insert(&mut *app.conn().await?, &event, app.clock.now()).await?;
    app.changes.changed(id.0);
    Ok(())
}

/// The caller behind a bearer token, which is an API token or a JWT. The error does not tell an unknown token from an ended one.
pub async fn authenticate(app: &App, bearer: &str) -> Result<Caller> {
    let caller = if bearer.starts_with(TOKEN_PREFIX) {
        by_api_token(app, bearer).await?
    } else {
        by_jwt(app, bearer).await?
    };
    caller.ok_or_else(|| {
        Error::Unauthenticated("the token is unknown, expired or revoked: log in again".into())
    })
}

async fn by_api_token(app: &App, bearer: &str) -> Result<Option<Caller>> {
    let now = app.clock.now();
    let hash: [u8; 32] = Sha256::digest(bearer).into();
    let live = |ends: Option<Time>| ends.is_none_or(|ends| ends > now);
    if let Some((caller, ends)) = app.auth().tokens.get(&hash, now) {
        return Ok(Some(caller).filter(|_| live(ends)));
    }
    let found = store::auth::caller_of_token(&mut *app.conn().await?, &hash, now).await?;
    let Some((caller, ends)) = found else { return Ok(None) };
    app.auth().tokens.put(hash, (caller.clone(), ends), now);
    Ok(Some(caller))
}

async fn by_jwt(app: &App, bearer: &str) -> Result<Option<Caller>> {
    let Some(claims) = verify(app, bearer).await? else { return Ok(None) };
    let Some(standing) = standing(app, claims.sub, claims.tid).await? else { return Ok(None) };
    let member = claims.tid.is_none() || standing.role.is_some();
    let may_act = member || (standing.admin && standing.tenant_exists);
    if !may_act || standing.tokens_valid_from.timestamp_micros() != claims.generation {
        return Ok(None);
    }
    Ok(Some(Caller {
        user: claims.sub,
        user_name: standing.user_name,
        tenant: claims.tid,
        role: standing.role,
        admin: standing.admin,
        token: None,
        request_id: String::new(),
        idempotency_key: None,
    }))
}

/// Signature, issuer, audience and end. A token that is no JWT, or not one of ours, is `None`.
async fn verify(app: &App, bearer: &str) -> Result<Option<Claims>> {
    let Ok(Header { kid: Some(kid), .. }) = jsonwebtoken::decode_header(bearer) else {
        return Ok(None);
    };
    let Some(key) = app.auth().keys.verifying(app, &kid).await? else { return Ok(None) };
    // Its key is still good, which is not for the cache to say.
    let (now, hash) = (app.clock.now(), Sha256::digest(bearer).into());
    let live = |claims: &Claims| claims.exp > now.timestamp();
    if let Some(claims) = app.auth().jwts.get(&hash, now) {
        return Ok(Some(claims).filter(live));
    }
    // The algorithm is ours to say, not the token's.
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[app.cloud]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // By our own clock, below, and without a leeway.
    validation.validate_exp = false;
    let Ok(token) = jsonwebtoken::decode::<Claims>(bearer, &key.decoding, &validation) else {
        return Ok(None);
    };
    app.auth().jwts.put(hash, token.claims.clone(), now);
    Ok(Some(token.claims).filter(live))
}

async fn standing(app: &App, user: UserId, tenant: Option<TenantId>) -> Result<Option<Standing>> {
    let now = app.clock.now();
    if let Some(standing) = app.auth().standings.get(&(user, tenant), now) {
        return Ok(Some(standing));
    }
    let standing = store::auth::standing(&mut *app.conn().await?, user, tenant).await?;
    if let Some(standing) = &standing {
        app.auth().standings.put((user, tenant), standing.clone(), now);
    }
    Ok(standing)
}

/// Who the caller is.
pub async fn whoami(app: &App, caller: &Caller) -> Result<Whoami> {
    super::authorize::authorize(caller, "get_whoami")?;
    let tenant: Option<TenantName> = match caller.tenant {
        Some(id) => store::auth::tenant_name(&mut *app.conn().await?, id).await?,
        None => None,
    };
    Ok(Whoami {
        user: UserName { id: caller.user, name: caller.user_name.clone() },
        tenant,
        role: caller.role,
        admin: caller.admin,
        token_id: caller.token,
    })
}

/// The public keys, for those who check our tokens themselves.
pub async fn public_keys(app: &App) -> Result<JwkSet> {
    app.auth().keys.public(app).await
}

/// Replaces the key that signs where it has come of age, and removes those that verify nothing any more.
pub async fn rotate_keys(app: &App) -> Result<()> {
    keys::rotate(app).await.map(drop)
}

/// A new key, in the transaction of `conn`; see `keys::replace`.
pub async fn replace_keys(app: &App, conn: &mut sqlx::PgConnection, revoke: bool) -> Result<()> {
    keys::replace(app, conn, revoke).await
}

/// This process looks at the keys in the database before it uses one again.
pub fn forget_keys(app: &App) {
    app.auth().keys.forget();
}
