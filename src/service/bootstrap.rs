//! What a new cloud begins with: its id, a tenant, an admin, flavors. May be run at every start.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{App, networks, quota};
use crate::domain::caller::{Caller, Role};
use crate::domain::error::{Error, Result};
use crate::domain::event::{Actor, NewEvent, Outcome, Subject};
use crate::domain::flavor::NewFlavor;
use crate::domain::host::VirtType;
use crate::domain::id::{FlavorId, HostId, TenantId, UserId};
use crate::domain::network::NewNetwork;
use crate::domain::password::Password;
use crate::domain::text::Name;
use crate::store;
use crate::store::work;

/// The tenant that everybody begins in.
pub const TENANT: &str = "default";

/// The network that its instances begin on.
pub const NETWORK: &str = "default";

/// What the machine of a local host keeps for itself and for us.
const LOCAL_MEMORY_MIB: i64 = 512;

/// Name, vCPUs, MiB, GiB.
const FLAVORS: [(&str, i32, i64, i64); 5] = [
    ("nano", 1, 192, 1),
    ("micro", 1, 512, 5),
    ("small", 1, 2048, 20),
    ("medium", 2, 4096, 40),
    ("large", 4, 8192, 80),
];

#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub admin_user: String,
    /// Set when the user is made; a user who is there already keeps theirs.
    pub admin_password: Password,
}

/// What is there afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrapped {
    pub tenant: TenantId,
    pub admin: UserId,
    /// The admin was made just now, with the password that was given.
    pub admin_made: bool,
}

/// Makes what is missing, in one transaction. The flavors come with the tenant `default`: those that were deleted later stay so.
pub async fn ensure(app: &App, wanted: &Bootstrap) -> Result<Bootstrapped> {
    let name = Name::parse("/admin_user", &wanted.admin_user)?;
    let existing = store::auth::credentials(&mut *app.conn().await?, name.as_str()).await?;
    // Not in the transaction, which would wait for the hash.
    let hash = match existing {
        Some(admin) => {
            let kept = Some(admin.password_hash);
            if !app.auth().passwords.verify(&wanted.admin_password, kept).await? {
                // Not set back: it may have been changed because the first one had leaked.
                tracing::warn!(user = %name, "the admin's password is not the first one any more: log in with the new one");
            }
            None
        }
        None => {
            wanted.admin_password.check_new("/admin_password")?;
            Some(app.auth().passwords.hash(&wanted.admin_password).await?)
        }
    };
    let now = app.clock.now();
    let mut tx = store::begin(&app.db).await?;
    store::cloud::ensure(&mut tx, app.cloud, now).await?;
    let cloud = store::cloud::lock(&mut tx).await?;
    if cloud != app.cloud {
        return Err(Error::Internal(anyhow::anyhow!(
            "the database belongs to cloud {cloud}, and this process is of cloud {}",
            app.cloud
        )));
    }
    let tenant = match store::tenants::find_by_name(&mut tx, TENANT).await? {
        Some(tenant) => tenant.id,
        None => {
            let name = Name::parse("/name", TENANT)?;
            let id = TenantId(Uuid::now_v7());
            store::tenants::insert(&mut tx, id, &name, "", &quota::defaults(app), now).await?;
            note(&mut tx, "tenant.create", ("tenant", id.0, TENANT), Some(id), now).await?;
            for (name, vcpus, memory_mib, disk_gib) in FLAVORS {
                let new = NewFlavor {
                    name: name.into(),
                    vcpus,
                    memory_mib,
                    disk_gib,
                    traits: vec![],
                    policy: None,
                };
                if store::flavors::find(&mut tx, name).await?.is_none() {
                    let id = FlavorId(Uuid::now_v7());
                    store::flavors::insert(&mut tx, id, &new.check()?, &new, now).await?;
                    note(&mut tx, "flavor.create", ("flavor", id.0, name), None, now).await?;
                }
            }
            id
        }
    };
    let (admin, admin_made) =
        match (store::users::find_by_name(&mut tx, name.as_str()).await?, hash) {
            (Some(user), _) => (user.id, false),
            (None, Some(hash)) => {
                let id = UserId(Uuid::now_v7());
                store::users::insert(&mut tx, id, &name, &hash, true, now).await?;
                store::memberships::put(&mut tx, tenant, id, Role::Owner, now).await?;
                note(&mut tx, "user.create", ("user", id.0, name.as_str()), None, now).await?;
                (id, true)
            }
            (None, None) => {
                return Err(Error::conflict(
                    "changed-meanwhile",
                    "the admin was deleted at this moment: start again",
                ));
            }
        };
    tx.commit().await?;
    Ok(Bootstrapped { tenant, admin, admin_made })
}

/// What `pileus up` adds: the host that it runs on.
pub async fn local_host(
    app: &App,
    uri: &str,
    virt_type: VirtType,
    reserved_disk_gib: i64,
) -> Result<HostId> {
    let config = &app.config;
    let local = store::hosts::Local {
        uri: uri.into(),
        pool_path: config.state_dir.join("pools").display().to_string(),
        virt_type,
        cpu_ratio: config.overcommit_cpu,
        memory_ratio: config.overcommit_memory,
        disk_ratio: config.overcommit_disk,
        reserved_memory_mib: LOCAL_MEMORY_MIB,
        reserved_disk_gib,
    };
    let now = app.clock.now();
    let mut tx = store::begin(&app.db).await?;
    let id = store::hosts::ensure_local(&mut tx, &local, now).await?;
    let (host, nobody) = (work::Kind::Host, work::Asked::default());
    work::touch_afresh(&mut tx, host, id.0, now, &nobody).await?;
    tx.commit().await?;
    app.changes.wake();
    Ok(id)
}

/// A network for a tenant that has none, so that a first instance has somewhere to go. Its CIDR keeps clear of what the
/// hosts have told of themselves so far.
pub async fn first_network(app: &App, begun: Bootstrapped) -> Result<()> {
    if !store::networks::ids(&mut *app.conn().await?, begun.tenant, 1).await?.is_empty() {
        return Ok(());
    }
    let caller = Caller {
        user: begun.admin,
        user_name: "bootstrap".into(),
        tenant: Some(begun.tenant),
        role: Some(Role::Owner),
        admin: true,
        token: None,
        request_id: String::new(),
        idempotency_key: None,
    };
    let new = NewNetwork { name: NETWORK.into(), ..NewNetwork::default() };
    networks::create(app, &caller, &new).await.map(|_| ())
}

/// Waits until the host has answered for the first time, for `patience` at most; gives whether it has.
pub async fn host_answered(app: &App, id: HostId, patience: Duration) -> Result<bool> {
    let mut changes = app.changes.subscribe();
    let end = Instant::now() + patience;
    loop {
        let host = store::hosts::reached(&mut *app.conn().await?, id).await?;
        if host.is_some_and(|host| host.health == "up") {
            return Ok(true);
        }
        if Instant::now() >= end || app.shutdown.is_cancelled() {
            return Ok(false);
        }
        // Any news will do, and now and then none.
        let _ = timeout_at((Instant::now() + Duration::from_millis(200)).min(end), changes.recv())
            .await;
    }
}

async fn note(
    conn: &mut sqlx::PgConnection,
    kind: &'static str,
    (noun, id, name): (&'static str, Uuid, &str),
    tenant: Option<TenantId>,
    now: crate::domain::clock::Time,
) -> Result<()> {
    let event = NewEvent {
        kind,
        subject: Subject { kind: noun, id, name: name.into(), tenant },
        actor: Actor { name: "bootstrap".into(), ..Actor::default() },
        outcome: Outcome::Done,
        detail: json!({}),
    };
    store::events::insert(conn, &event, now).await
}
