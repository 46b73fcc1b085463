//! Tenants: the unit of isolation and quota.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::Role;
use super::error::{Error, FieldError, Result};
use super::id::{TenantId, UserId};
use super::text::{Name, check_text};

pub const DESCRIPTION_MAX: usize = 1000;

/// Who owns and pays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Tenant {
    pub id: TenantId,
    /// Unique in the cloud.
    pub name: Name,
    /// For people.
    #[schema(max_length = 1000, example = "The build team")]
    pub description: String,
    #[sqlx(flatten)]
    pub quota: Quota,
    /// What is in use of the quota: only where one tenant is asked for. It changes without a new revision.
    #[sqlx(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub usage: Option<Usage>,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// How much a tenant may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Quota {
    /// Instances whose deletion was not asked for.
    #[sqlx(rename = "quota_instances")]
    #[schema(minimum = 0, maximum = 1000000, example = 20)]
    pub instances: i64,
    #[sqlx(rename = "quota_vcpus")]
    #[schema(minimum = 0, maximum = 1000000, example = 40)]
    pub vcpus: i64,
    #[sqlx(rename = "quota_memory_mib")]
    #[schema(minimum = 0, maximum = 1000000000, example = 65536)]
    pub memory_mib: i64,
    #[sqlx(rename = "quota_disk_gib")]
    #[schema(minimum = 0, maximum = 1000000000, example = 500)]
    pub disk_gib: i64,
    /// Networks that are not being deleted.
    #[sqlx(rename = "quota_networks")]
    #[schema(minimum = 0, maximum = 1000000, example = 10)]
    pub networks: i64,
    /// Images; one that only waits for its last instance does not count.
    #[sqlx(rename = "quota_images")]
    #[schema(minimum = 0, maximum = 1000000, example = 50)]
    pub images: i64,
    /// Bytes of those images, as they were sent.
    #[sqlx(rename = "quota_image_mib")]
    #[schema(minimum = 0, maximum = 1000000000, example = 102400)]
    pub image_mib: i64,
    /// SSH keypairs.
    #[sqlx(rename = "quota_keypairs")]
    #[schema(minimum = 0, maximum = 1000000, example = 100)]
    pub keypairs: i64,
}

/// How much a tenant has, counted from the rows.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, ToSchema,
)]
pub struct Usage {
    /// Instances whose deletion was not asked for.
    #[schema(minimum = 0, example = 3)]
    pub instances: i64,
    /// vCPUs of those instances.
    #[schema(minimum = 0, example = 4)]
    pub vcpus: i64,
    /// Memory of those instances.
    #[schema(minimum = 0, example = 2432)]
    pub memory_mib: i64,
    /// Root disks of those instances.
    #[schema(minimum = 0, example = 26)]
    pub disk_gib: i64,
    /// Networks that are not being deleted.
    #[schema(minimum = 0, example = 1)]
    pub networks: i64,
    /// Images; one that only waits for its last instance does not count.
    #[schema(minimum = 0, example = 2)]
    pub images: i64,
    /// Bytes of those images, rounded up.
    #[schema(minimum = 0, example = 734)]
    pub image_mib: i64,
    /// SSH keypairs.
    #[schema(minimum = 0, example = 1)]
    pub keypairs: i64,
}

impl Usage {
    /// What is left when `part` is taken away.
    #[must_use]
    pub fn without(&self, part: &Self) -> Self {
        Self {
            instances: self.instances - part.instances,
            vcpus: self.vcpus - part.vcpus,
            memory_mib: self.memory_mib - part.memory_mib,
            disk_gib: self.disk_gib - part.disk_gib,
            networks: self.networks - part.networks,
            images: self.images - part.images,
            image_mib: self.image_mib - part.image_mib,
            keypairs: self.keypairs - part.keypairs,
        }
    }
}

impl Quota {
    /// The quotas that `adding` would go over, each with the quota that would do.
    pub fn over(&self, used: &Usage, adding: &Usage) -> Vec<(&'static str, i64)> {
        let over = self.rows(used, adding).into_iter().filter(Row::is_over);
        over.map(|row| (row.what, row.used.saturating_add(row.add))).collect()
    }

    /// Names the quotas that `adding` would go over, for the tenant of this name.
    pub fn refuse(&self, tenant: &str, used: &Usage, adding: &Usage) -> Result<()> {
        let rows = self.rows(used, adding);
        let over: Vec<_> = rows
            .iter()
            .filter(|row| row.is_over())
            .map(|Row { what, most, used, add }| {
                format!("{what} {used} of {most} used, {add} more asked")
            })
            .collect();
        if over.is_empty() {
            return Ok(());
        }
        Err(Error::QuotaExceeded(format!(
            "quota of tenant {tenant}: {}: delete some or ask an admin to raise the quota",
            over.join("; ")
        )))
    }

    fn rows(&self, used: &Usage, adding: &Usage) -> [Row; 8] {
        let rows = [
            ("instances", self.instances, used.instances, adding.instances),
            ("vcpus", self.vcpus, used.vcpus, adding.vcpus),
            ("memory_mib", self.memory_mib, used.memory_mib, adding.memory_mib),
            ("disk_gib", self.disk_gib, used.disk_gib, adding.disk_gib),
            ("networks", self.networks, used.networks, adding.networks),
            ("images", self.images, used.images, adding.images),
            ("image_mib", self.image_mib, used.image_mib, adding.image_mib),
            ("keypairs", self.keypairs, used.keypairs, adding.keypairs),
        ];
        rows.map(|(what, most, used, add)| Row { what, most, used, add })
    }
}

/// One quota, what is used of it and what is to come.
struct Row {
    what: &'static str,
    most: i64,
    used: i64,
    add: i64,
}

impl Row {
    /// A quota that was lowered below the use refuses only more of the same.
    fn is_over(&self) -> bool {
        self.add > 0 && self.used.saturating_add(self.add) > self.most
    }
}

/// What a new tenant is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the cloud.
    #[schema(min_length = 1, max_length = 63, example = "build")]
    pub name: String,
    /// For people.
    #[serde(default)]
    #[schema(max_length = 1000, example = "The build team")]
    pub description: String,
    /// What is left out is as the server's settings have it.
    #[serde(default)]
    pub quota: QuotaPatch,
}

/// What is to be changed of a tenant; the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantPatch {
    #[schema(max_length = 1000, example = "The build team")]
    pub description: Option<String>,
    #[serde(default)]
    pub quota: QuotaPatch,
}

/// Some of the quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaPatch {
    /// Instances whose deletion was not asked for.
    #[schema(minimum = 0, maximum = 1000000, example = 20)]
    pub instances: Option<i64>,
    #[schema(minimum = 0, maximum = 1000000, example = 40)]
    pub vcpus: Option<i64>,
    #[schema(minimum = 0, maximum = 1000000000, example = 65536)]
    pub memory_mib: Option<i64>,
    #[schema(minimum = 0, maximum = 1000000000, example = 500)]
    pub disk_gib: Option<i64>,
    /// Networks that are not being deleted.
    #[schema(minimum = 0, maximum = 1000000, example = 10)]
    pub networks: Option<i64>,
    /// Images; one that only waits for its last instance does not count.
    #[schema(minimum = 0, maximum = 1000000, example = 50)]
    pub images: Option<i64>,
    /// Bytes of those images, as they were sent.
    #[schema(minimum = 0, maximum = 1000000000, example = 102400)]
    pub image_mib: Option<i64>,
    /// SSH keypairs.
    #[schema(minimum = 0, maximum = 1000000, example = 100)]
    pub keypairs: Option<i64>,
}

impl QuotaPatch {
    /// Every bound; every field at fault at once.
    pub fn check(&self, pointer: &str) -> Result<()> {
        let rows = [
            ("instances", self.instances, 1_000_000),
            ("vcpus", self.vcpus, 1_000_000),
            ("memory_mib", self.memory_mib, 1_000_000_000),
            ("disk_gib", self.disk_gib, 1_000_000_000),
            ("networks", self.networks, 1_000_000),
            ("images", self.images, 1_000_000),
            ("image_mib", self.image_mib, 1_000_000_000),
            ("keypairs", self.keypairs, 1_000_000),
        ];
        let faults: Vec<_> = rows
            .iter()
            .filter_map(|(field, value, most)| {
                let value = value.filter(|value| !(0..=*most).contains(value))?;
                let detail = format!("must be 0 to {most}, is {value}");
                Some(FieldError { pointer: format!("{pointer}/{field}"), detail })
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
    }

    /// `quota` with these changes.
    pub fn over(&self, quota: Quota) -> Quota {
        Quota {
            instances: self.instances.unwrap_or(quota.instances),
            vcpus: self.vcpus.unwrap_or(quota.vcpus),
            memory_mib: self.memory_mib.unwrap_or(quota.memory_mib),
            disk_gib: self.disk_gib.unwrap_or(quota.disk_gib),
            networks: self.networks.unwrap_or(quota.networks),
            images: self.images.unwrap_or(quota.images),
            image_mib: self.image_mib.unwrap_or(quota.image_mib),
            keypairs: self.keypairs.unwrap_or(quota.keypairs),
        }
    }
}

impl NewTenant {
    pub fn check(&self) -> Result<Name> {
        let name = Name::parse("/name", &self.name)?;
        check_text("/description", &self.description, DESCRIPTION_MAX)?;
        self.quota.check("/quota")?;
        Ok(name)
    }
}

impl TenantPatch {
    pub fn check(&self) -> Result<()> {
        if let Some(description) = &self.description {
            check_text("/description", description, DESCRIPTION_MAX)?;
        }
        self.quota.check("/quota")
    }
}

/// A user's place in a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Membership {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    /// The user's name.
    #[schema(max_length = 63, example = "anne")]
    pub user_name: String,
    pub role: Role,
    pub created_at: DateTime<Utc>,
}

/// The role that a user is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMembership {
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Quota {
        let most = 20;
        Quota {
            instances: most,
            vcpus: most,
            memory_mib: most,
            disk_gib: most,
            networks: most,
            images: most,
            image_mib: most,
            keypairs: most,
        }
    }

    #[test]
    fn a_refusal_names_the_tenant_each_quota_and_the_remedy() {
        let used = Usage { instances: 20, vcpus: 19, ..Usage::default() };
        let one = Usage { instances: 1, vcpus: 1, ..Usage::default() };
        let error = quota().refuse("build", &used, &one).expect_err("over").to_string();
        assert_eq!(
            error,
            "quota of tenant build: instances 20 of 20 used, 1 more asked: delete some or ask an admin to raise the quota"
        );
        let two = Usage { instances: 0, vcpus: 1, ..one };
        assert!(quota().refuse("build", &used, &two).is_ok(), "the last vCPU may be had");
        assert!(quota().refuse("build", &used, &Usage { vcpus: i64::MAX, ..two }).is_err());
    }

    #[test]
    fn a_quota_below_the_use_does_not_refuse_other_things() {
        let used = Usage { instances: 99, ..Usage::default() };
        let image = Usage { images: 1, ..Usage::default() };
        assert!(quota().refuse("build", &used, &image).is_ok());
    }
}
