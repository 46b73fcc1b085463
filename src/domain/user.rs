//! Users: who may log in.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::Result;
use super::id::UserId;
use super::password::Password;
use super::text::Name;

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct User {
    pub id: UserId,
    /// Unique in the cloud.
    pub name: Name,
    /// An admin of the cloud may do everything, in every tenant.
    #[schema(example = false)]
    pub admin: bool,
    /// A disabled user cannot log in, and their tokens are refused.
    #[schema(example = true)]
    pub enabled: bool,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// What a new user is made of.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the cloud.
    #[schema(min_length = 1, max_length = 63, example = "anne")]
    pub name: String,
    /// The first password: 12 to 256 characters.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 256, example = "correct horse battery staple")]
    pub password: Password,
    /// An admin of the cloud may do everything, in every tenant.
    #[serde(default)]
    #[schema(example = false)]
    pub admin: bool,
}

/// What is to be changed of a user; the rest stays.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPatch {
    /// A disabled user cannot log in, and their tokens are refused.
    #[schema(example = true)]
    pub enabled: Option<bool>,
    /// An admin of the cloud may do everything, in every tenant. A change ends the user's logins.
    #[schema(example = false)]
    pub admin: Option<bool>,
    /// A new password: 12 to 256 characters. Ends every login of the user; API tokens stay.
    #[schema(value_type = Option<String>, format = Password, min_length = 12,
        max_length = 256,
        example = "correct horse battery staple"
    )]
    pub password: Option<Password>,
}

/// One's own password.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The password until now.
    #[schema(value_type = String, format = Password, max_length = 256, example = "correct horse battery staple")]
    pub old_password: Password,
    /// 12 to 256 characters.
    #[schema(value_type = String, format = Password, min_length = 12, max_length = 256, example = "staple battery horse correct")]
    pub new_password: Password,
}

impl NewUser {
    pub fn check(&self) -> Result<Name> {
        self.password.check_new("/password")?;
        Name::parse("/name", &self.name)
    }
}

impl UserPatch {
    pub fn check(&self) -> Result<()> {
        self.password.as_ref().map_or(Ok(()), |password| password.check_new("/password"))
    }
}

impl PasswordChange {
    pub fn check(&self) -> Result<()> {
        self.old_password.check_length("/old_password")?;
        self.new_password.check_new("/new_password")
    }
}
