//! Logging in, and who one is afterwards.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::Role;
use super::id::{TenantId, TokenId, UserId};
use super::password::Password;

/// User, password, and the tenant to act in.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user's name.
    #[schema(min_length = 1, max_length = 63, example = "admin")]
    pub user: String,
    /// The user's password.
    #[schema(value_type = String, format = Password, max_length = 256, example = "correct horse battery staple")]
    pub password: Password,
    /// Id or name of the tenant that the token is for. Left out: the one that the user has been a member of for longest.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = "default")]
    pub tenant: Option<String>,
}

/// A token, what it is good for, and until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoggedIn {
    /// A signed JWT (EdDSA): send it as `Authorization: Bearer TOKEN`.
    #[schema(max_length = 4096, example = "eyJ0eXAiOiJKV1Qi...")]
    pub token: String,
    /// Always `Bearer`.
    #[schema(max_length = 6, example = "Bearer")]
    pub token_type: String,
    /// When the token ends; log in again before.
    pub expires_at: DateTime<Utc>,
    pub user: UserName,
    /// The tenant that the token is for; null for a user without membership.
    pub tenant: Option<TenantName>,
    /// The user's role in the tenant; null where there is no membership.
    pub role: Option<Role>,
    /// True for an admin of the cloud.
    #[schema(example = false)]
    pub admin: bool,
}

/// Who the caller is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    pub user: UserName,
    /// The tenant that the token is for; null for a user without membership.
    pub tenant: Option<TenantName>,
    /// The role that the token gives in the tenant; null where there is no membership.
    pub role: Option<Role>,
    /// True where the token gives the rights of an admin of the cloud.
    #[schema(example = false)]
    pub admin: bool,
    /// The API token that was used; null for a login's JWT.
    pub token_id: Option<TokenId>,
}

/// A user, by id and name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UserName {
    pub id: UserId,
    #[schema(max_length = 63, example = "admin")]
    pub name: String,
}

/// A tenant, by id and name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct TenantName {
    pub id: TenantId,
    #[schema(max_length = 63, example = "default")]
    pub name: String,
}

/// The public keys that verify our JWTs, as RFC 7517 has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JwkSet {
    /// The keys that sign now, or signed tokens that may still be good.
    #[schema(max_items = 100)]
    pub keys: Vec<Jwk>,
}

/// One public key: Ed25519, as RFC 8037 has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Jwk {
    /// Always `OKP`.
    #[schema(max_length = 3, example = "OKP")]
    pub kty: String,
    /// Always `Ed25519`.
    #[schema(max_length = 7, example = "Ed25519")]
    pub crv: String,
    /// Always `sig`.
    #[schema(max_length = 3, example = "sig")]
    pub r#use: String,
    /// Always `EdDSA`.
    #[schema(max_length = 5, example = "EdDSA")]
    pub alg: String,
    /// The key's id, which the head of a token names.
    #[schema(max_length = 64, example = "0199c8f0a1b27c3e9d4f5a6b7c8d9e0f")]
    pub kid: String,
    /// The key, 32 bytes in base64url.
    #[schema(max_length = 43, example = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")]
    pub x: String,
}
