//! Who asks: the user behind a request, the tenant that it acts in, and the role there.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, Result};
use super::id::{TenantId, TokenId, UserId};

/// A role in a tenant; each includes the ones before it. A cloud admin stands above all of them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Role {
    /// Sees everything of the tenant, changes nothing.
    Reader,
    /// Makes, changes and deletes instances, images, networks and keypairs.
    Member,
    /// Also decides who is a member.
    Owner,
}

/// The authenticated author of a request.
#[derive(Debug, Clone)]
pub struct Caller {
    pub user: UserId,
    pub user_name: String,
    /// The tenant that the token was issued for; none for a user without membership.
    pub tenant: Option<TenantId>,
    pub role: Option<Role>,
    pub admin: bool,
    /// Set where an API token was used.
    pub token: Option<TokenId>,
    pub request_id: String,
    pub idempotency_key: Option<String>,
}

impl Caller {
    /// The tenant that new things go into.
    pub fn tenant(&self) -> Result<TenantId> {
        self.tenant.ok_or_else(|| {
            Error::Forbidden(
                "this token is for no tenant: log in again and name one that you are a member of"
                    .into(),
            )
        })
    }

    /// Whose rows a list shows: the token's tenant's, or with `?all_tenants=true`, which is for admins, everyone's (`None`).
    pub fn listed(&self, all_tenants: bool) -> Result<Option<TenantId>> {
        if !all_tenants {
            return self.tenant().map(Some);
        }
        if self.admin {
            return Ok(None);
        }
        Err(Error::Forbidden("all_tenants=true is for the cloud's admins: leave it out".into()))
    }

    /// Whose rows a statement may touch: `None` means all, which only an admin gets.
    /// Every tenant-owned statement carries `($n::uuid is null or tenant_id = $n)` with this.
    pub fn scope(&self) -> Option<TenantId> {
        if self.admin { None } else { Some(self.tenant.unwrap_or(TenantId(uuid::Uuid::nil()))) }
    }
}

#[cfg(test)]
impl Caller {
    /// Somebody of the tenant with this number.
    pub fn in_tenant(tenant: u128, admin: bool) -> Self {
        Self {
            user: UserId(uuid::Uuid::from_u128(1)),
            user_name: "anne".into(),
            tenant: Some(TenantId(uuid::Uuid::from_u128(tenant))),
            role: None,
            admin,
            token: None,
            request_id: String::new(),
            idempotency_key: None,
        }
    }
}
