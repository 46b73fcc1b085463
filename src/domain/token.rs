//! API tokens: long-lived credentials for programs, at most as strong as who made them.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::Role;
use super::clock::Time;
use super::error::{Error, Result};
use super::id::{TenantId, TokenId, UserId};
use super::text::Name;

/// Most tokens of a user.
pub const TOKENS_MAX: i64 = 100;
/// Shortest and longest life that can be asked for, in seconds: a minute, ten years.
const LIFE: std::ops::RangeInclusive<i64> = 60..=315_360_000;

/// An API token, without its secret, of which only a hash is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct ApiToken {
    pub id: TokenId,
    pub name: Name,
    /// The first characters of the secret, to recognise it by.
    #[schema(max_length = 14, example = "pileus_4fTx8Zq")]
    pub prefix: String,
    pub user_id: UserId,
    /// The tenant that it is good for; null for a user without one.
    pub tenant_id: Option<TenantId>,
    /// At most this role, and not an admin's rights; null: whatever its user may.
    pub role: Option<Role>,
    pub created_at: DateTime<Utc>,
    /// Null: it does not end.
    pub expires_at: Option<DateTime<Utc>>,
    /// To the minute; null: never.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A token that was made just now: the only time that its secret is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewApiToken {
    /// Send it as `Authorization: Bearer SECRET`. It cannot be shown again.
    #[schema(value_type = String, min_length = 50,
        max_length = 50,
        example = "pileus_4fTx8ZqWc0nJkV2mYb7RsE1uHd9PgLoA3iQyXe5tFwU"
    )]
    pub secret: ShownOnce,
    pub token: ApiToken,
}

/// A secret on its way to its owner; its `Debug` says nothing.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct ShownOnce(pub String);

impl std::fmt::Debug for ShownOnce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What a new token is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for, for people; need not be unique.
    #[schema(min_length = 1, max_length = 63, example = "ci")]
    pub name: String,
    /// How long it lives, in seconds. With neither this nor `expires_at` it does not end.
    #[schema(minimum = 60, maximum = 315360000, example = 86400)]
    pub expires_in_s: Option<i64>,
    /// When it ends, instead of `expires_in_s`.
    #[schema(example = "2027-01-31T12:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// At most this role, and not an admin's rights; left out: whatever its user may.
    pub role: Option<Role>,
}

impl NewToken {
    /// Name and end.
    pub fn check(&self, now: Time) -> Result<(Name, Option<Time>)> {
        let name = Name::parse("/name", &self.name)?;
        let (pointer, life) = match (self.expires_in_s, self.expires_at) {
            (None, None) => return Ok((name, None)),
            (Some(_), Some(_)) => {
                return Err(Error::field("/expires_at", "give this or expires_in_s, not both"));
            }
            (Some(seconds), None) => ("/expires_in_s", seconds),
            (None, Some(at)) => ("/expires_at", (at - now).num_seconds()),
        };
        if !LIFE.contains(&life) {
            let (least, most) = LIFE.into_inner();
            let detail = format!("must end {least} to {most} s from now, not {life} s");
            return Err(Error::field(pointer, detail));
        }
        let ends = self.expires_at.unwrap_or_else(|| now + TimeDelta::seconds(life));
        Ok((name, Some(ends)))
    }
}
