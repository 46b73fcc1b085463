//! What a tenant may still have: counted from the rows, under a lock, in the transaction that adds to them.

use super::{App, Write};
use crate::domain::error::{Error, Result};
use crate::domain::id::TenantId;
use crate::domain::tenant::{Quota, Usage};
use crate::store;

/// What a change adds to the use, e.g. `Adding { images: 1, ..Adding::default() }`.
pub type Adding = Usage;

/// Refuses the change with `QuotaExceeded` where the tenant would go over its quota. The tenant stays locked until the change
/// ends, so that of two that want the last place one waits and is then refused. Call it before inserting.
pub async fn check(write: &mut Write, tenant: TenantId, adding: Adding) -> Result<()> {
    let held = store::tenants::lock(write.conn(), tenant).await?;
    let held = held.ok_or_else(|| Error::not_found("tenant", tenant))?;
    let used = store::tenants::usage(write.conn(), tenant).await?;
    held.quota.refuse(held.name.as_str(), &used, &adding)
}

/// The same after the rows were inserted, for what many make at once: the tenant is locked for the end of the change alone.
pub async fn check_made(write: &mut Write, tenant: TenantId, made: Adding) -> Result<()> {
    let held = store::tenants::hold_in_turn(write.conn(), tenant).await?;
    let held = held.ok_or_else(|| Error::not_found("tenant", tenant))?;
    held.quota.refuse(held.name.as_str(), &held.usage.without(&made), &made)
}

/// The quota of a new tenant.
pub fn defaults(app: &App) -> Quota {
    let config = &app.config;
    Quota {
        instances: config.quota_instances,
        vcpus: config.quota_vcpus,
        memory_mib: config.quota_memory_mib,
        disk_gib: config.quota_disk_gib,
        networks: config.quota_networks,
        images: config.quota_images,
        image_mib: config.quota_image_mib,
        keypairs: config.quota_keypairs,
    }
}
