//! Hosts: registered, changed and removed by admins; contacted by the reconciler, never by a request.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin, Write};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::host::{Host, HostFilter, HostPatch, NewHost, VirtType};
use crate::domain::host_uri;
use crate::domain::id::HostId;
use crate::domain::page::Page;
use crate::store;
use crate::store::work::Kind;

/// Registers the host; with `dry_run`, says what would be and changes nothing.
pub async fn create(app: &App, caller: &Caller, new: &NewHost, dry_run: bool) -> Result<Host> {
    authorize(caller, "create_host")?;
    let name = new.check(app.config.allow_test_hosts)?;
    let mut write = match app.begin(caller, "create_host", &(new, dry_run)).await? {
        Begin::Replay(host) => return Ok(host),
        Begin::Fresh(write) => write,
    };
    let (id, now) = (HostId(Uuid::now_v7()), write.now);
    store::hosts::insert(write.conn(), id, &name, &complete(app, new), now).await?;
    if !dry_run {
        write.touch(Kind::Host, id.0).await?;
    }
    let host = store::hosts::get(write.conn(), id).await?;
    let host = host.ok_or_else(|| Error::not_found("host", id))?;
    if dry_run {
        // Dropped, the write leaves nothing.
        return Ok(host);
    }
    write.accepted("host.create", subject(&host), json!({ "uri": host.uri })).await?;
    write.commit(&host).await?;
    Ok(host)
}

/// With what the settings say where the request says nothing.
fn complete(app: &App, new: &NewHost) -> NewHost {
    let config = &app.config;
    let own_path = || {
        // Two clouds may share a host: each has its own directory.
        let cloud = app.cloud.simple().to_string();
        format!("/var/lib/pileus/hosts/{}", &cloud[..8])
    };
    NewHost {
        pool_path: Some(new.pool_path.clone().unwrap_or_else(own_path)),
        cpu_ratio: Some(new.cpu_ratio.unwrap_or(config.overcommit_cpu)),
        memory_ratio: Some(new.memory_ratio.unwrap_or(config.overcommit_memory)),
        disk_ratio: Some(new.disk_ratio.unwrap_or(config.overcommit_disk)),
        ..new.clone()
    }
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    filter: &HostFilter,
) -> Result<(Vec<Host>, Option<String>)> {
    authorize(caller, "list_hosts")?;
    let rows = store::hosts::list(&mut *app.conn().await?, page, filter).await?;
    Ok(page.cut(rows, |host| host.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: HostId) -> Result<Host> {
    authorize(caller, "get_host")?;
    let host = store::hosts::get(&mut *app.conn().await?, id).await?;
    host.ok_or_else(|| Error::not_found("host", id))
}

/// A host may be left with less than it carries: that stays, and nothing more is placed there.
pub async fn update(
    app: &App,
    caller: &Caller,
    id: HostId,
    if_match: Option<i64>,
    patch: &HostPatch,
) -> Result<Host> {
    authorize(caller, "update_host")?;
    patch.check(app.config.allow_test_hosts)?;
    let mut write = match app.begin(caller, "update_host", &(id, patch)).await? {
        Begin::Replay(host) => return Ok(host),
        Begin::Fresh(write) => write,
    };
    let host = locked(&mut write, id, if_match).await?;
    if host.leaving {
        return Err(Error::conflict(
            "host-leaving",
            "the host is leaving the cloud: register it again when it is gone",
        ));
    }
    let moves = patch.pool_path.as_ref().is_some_and(|path| *path != host.pool_path);
    if moves && store::hosts::holds_anything(write.conn(), id).await? {
        return Err(Error::conflict(
            "host-in-use",
            "the pool's path stays while volumes of ours may be in it: disable the host and delete its instances first",
        ));
    }
    let other = patch.uri.as_ref().is_some_and(|uri| !host_uri::same_daemon(uri, &host.uri));
    if other && store::hosts::holds_anything(write.conn(), id).await? {
        return Err(Error::conflict(
            "host-in-use",
            "another daemon of the same machine does not know what runs there: keep the URI's path, or delete the host's instances first",
        ));
    }
    if patch.zone.as_ref().is_some_and(|zone| *zone != host.zone) {
        let (instances, slots) = store::hosts::bound_by_zone(write.conn(), id).await?;
        if instances + slots > 0 {
            let detail = format!(
                "{instances} instances and {slots} slots of reservations are on the host because it is in the zone {}: they named it, or their \
                 hard group goes by zones; delete them first",
                host.zone
            );
            return Err(Error::conflict("host-in-use", detail));
        }
    }
    if patch.virt_type == Some(VirtType::Kvm) && host.lacks_kvm() {
        return Err(Error::conflict(
            "no-kvm",
            "the host tells that guests do not run on KVM there: see to its /dev/kvm and its CPU's virtualisation, or leave virt_type auto, which takes KVM as soon as it is there",
        ));
    }
    store::hosts::update(write.conn(), id, patch).await?;
    write.touch(Kind::Host, id.0).await?;
    let host = store::hosts::get(write.conn(), id).await?;
    let host = host.ok_or_else(|| Error::not_found("host", id))?;
    // Perhaps there is room now for what found none.
    write.wake_queue();
    write.accepted("host.update", subject(&host), json!(patch)).await?;
    write.commit(&host).await?;
    Ok(host)
}

/// The host takes nothing more, and goes once what we made on it is gone. Refused while it carries instances.
pub async fn delete(app: &App, caller: &Caller, id: HostId, if_match: Option<i64>) -> Result<Host> {
    authorize(caller, "delete_host")?;
    let mut write = match app.begin(caller, "delete_host", &id).await? {
        Begin::Replay(host) => return Ok(host),
        Begin::Fresh(write) => write,
    };
    let host = locked(&mut write, id, if_match).await?;
    if host.incarnations > 0 {
        let detail = format!(
            "the host carries {} incarnations of instances: disable it, delete the instances, and wait until they are gone",
            host.incarnations
        );
        return Err(Error::conflict("host-in-use", detail));
    }
    let slots = store::reservations::on_host(write.conn(), id).await?;
    if slots > 0 {
        let detail = format!(
            "the host has {slots} slots of reservations: disable it, and delete the reservations or wait for their end"
        );
        return Err(Error::conflict("host-in-use", detail));
    }
    let now = write.now;
    store::hosts::retire(write.conn(), id, now).await?;
    write.touch(Kind::Host, id.0).await?;
    let host = store::hosts::get(write.conn(), id).await?;
    let host = host.ok_or_else(|| Error::not_found("host", id))?;
    write.accepted("host.delete", subject(&host), json!({})).await?;
    write.commit(&host).await?;
    Ok(host)
}

async fn locked(write: &mut Write, id: HostId, if_match: Option<i64>) -> Result<Host> {
    let host = store::hosts::get_locked(write.conn(), id).await?;
    let host = host.ok_or_else(|| Error::not_found("host", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, host.revision))?;
    Ok(host)
}

fn subject(host: &Host) -> Subject {
    Subject { kind: "host", id: host.id.0, name: host.name.to_string(), tenant: None }
}
