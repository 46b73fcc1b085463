//! Creating an instance: everything that it names is found and bounded, the quota is counted, and the wish is recorded with
//! its ports and addresses in one transaction.

mod check;
mod placing;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{App, Caller, default_grace, view};
use crate::domain::error::{Error, Result};
use crate::domain::event::{Outcome, Subject};
use crate::domain::flavor::Flavor;
use crate::domain::id::{InstanceId, PortId, TenantId};
use crate::domain::image::Image;
use crate::domain::instance::{
    Instance, NewInstance, NewInterface, OnNoCapacity, Unplaced, Wanted,
};
use crate::placement::Explanation;
use crate::service::authorize::authorize;
use crate::service::{self, Begin, Write, images, quota};
use crate::store;
use crate::store::instances::Insert;
use check::{Checked, check};

/// What a dry run answers: the instance as it would be, and placement's account.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether a host has room for it now.
    pub fits: bool,
    pub instance: Instance,
    /// Need and have, by class of hosts; host names are shown to admins only.
    pub placement: Explanation,
}

/// Records the wish for a new instance.
pub async fn create(app: &App, caller: &Caller, new: &NewInstance) -> Result<Instance> {
    authorize(caller, "create_instance")?;
    let checked = check(new, app.clock.now())?;
    let mut write = match app.begin(caller, "create_instance", new).await? {
        Begin::Replay(instance) => return Ok(instance),
        Begin::Fresh(write) => write,
    };
    let (instance, who) = insert(app, caller, &mut write, new, &checked).await?;
    if new.on_no_capacity == OnNoCapacity::Fail && checked.wanted == Wanted::Running {
        // On the heap: few creates need it, and it is large.
        Box::pin(service::placement::claim(app, caller, &mut write, &who)).await?;
    }
    write.commit(&instance).await?;
    Ok(instance)
}

/// Does all that `create` does, asks placement, and takes everything back.
pub async fn plan(app: &App, caller: &Caller, new: &NewInstance) -> Result<Plan> {
    authorize(caller, "create_instance")?;
    let checked = check(new, app.clock.now())?;
    // A dry run uses up no idempotency key.
    let caller = Caller { idempotency_key: None, ..caller.clone() };
    let mut write = match app.begin::<Plan>(&caller, "create_instance", new).await? {
        Begin::Replay(plan) => return Ok(plan),
        Begin::Fresh(write) => write,
    };
    let (instance, who) = insert(app, &caller, &mut write, new, &checked).await?;
    let placement = service::placement::explain(app, &caller, write.conn(), &who).await?;
    // Dropping the write takes everything back.
    Ok(Plan { fits: placement.chosen.is_some(), instance, placement })
}

async fn insert(
    app: &App,
    caller: &Caller,
    write: &mut Write,
    new: &NewInstance,
    checked: &Checked,
) -> Result<(Instance, Unplaced)> {
    let tenant = caller.tenant()?;
    let flavor = store::flavors::find(write.conn(), &new.flavor).await?;
    let flavor = flavor.ok_or_else(|| Error::absent("/flavor", "flavor", &new.flavor))?;
    let image = image(write, tenant, new, &flavor).await?;
    let ssh_keys = keys(write, tenant, &new.keypairs).await?;
    let placing = placing::find(write, tenant, new, &flavor).await?;
    let id = InstanceId(Uuid::now_v7());
    let row = Insert {
        id,
        tenant,
        name: checked.name.clone(),
        labels: new.labels.clone(),
        image: image.id,
        flavor: flavor.id,
        flavor_name: flavor.name.to_string(),
        vcpus: flavor.vcpus,
        memory_mib: flavor.memory_mib,
        disk_gib: flavor.disk_gib,
        traits: placing.traits,
        forbidden_traits: new.forbidden_traits.clone(),
        zone: new.zone.clone(),
        policy: new.policy.or(flavor.policy),
        group: placing.group.as_ref().map(|group| group.id),
        reservation: placing.reservation,
        expires_at: new.expires_at,
        user_data: new.user_data.clone(),
        ssh_keys,
        wanted: checked.wanted,
        stop_grace_s: default_grace(app),
        created_by: caller.user,
        request_id: caller.request_id.clone(),
    };
    let subject = Subject {
        kind: "instance",
        id: id.0,
        name: checked.name.to_string(),
        tenant: Some(tenant),
    };
    let detail = json!({ "image_id": image.id, "flavor": flavor.name, "wanted": checked.wanted });
    let told = write.news("instance.create", subject, Outcome::Accepted, detail);
    let asked = write.asked();
    let now = write.now;
    let record = store::instances::insert(write.conn(), &row, &asked, &told, now).await?;
    // It was found, and then deleted.
    let record = record.ok_or_else(|| {
        Error::field("/image", "the image was deleted at this moment: choose another")
    })?;
    let ports = if connect(app, write, tenant, id, new.networks.as_deref()).await? {
        store::ports::of_instance(write.conn(), id).await?
    } else {
        Vec::new()
    };
    let instance = view(&record, &ports, caller);
    let made = quota::Adding {
        instances: 1,
        vcpus: flavor.vcpus.into(),
        memory_mib: flavor.memory_mib,
        disk_gib: flavor.disk_gib,
        ..quota::Adding::default()
    };
    quota::check_made(write, tenant, made).await?;
    if let Some(group) = &placing.group {
        placing::satisfiable(write, group).await?;
    }
    Ok((instance, row.unplaced()))
}

async fn image(
    write: &mut Write,
    tenant: TenantId,
    new: &NewInstance,
    flavor: &Flavor,
) -> Result<Image> {
    let image = images::choose(write.conn(), tenant, "/image", &new.image).await?;
    let gib = (image.virtual_bytes.unwrap_or(0) + (1 << 30) - 1) >> 30;
    if gib > flavor.disk_gib {
        let detail = format!(
            "the image's disk has {gib} GiB and the flavor's only {}: choose a flavor with a larger disk",
            flavor.disk_gib
        );
        return Err(Error::field("/flavor", detail));
    }
    Ok(image)
}

async fn keys(write: &mut Write, tenant: TenantId, named: &[String]) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    let found = store::keypairs::find(write.conn(), tenant, named).await?;
    for (i, (name, keypair)) in named.iter().zip(found).enumerate() {
        let keypair =
            keypair.ok_or_else(|| Error::absent(&format!("/keypairs/{i}"), "keypair", name))?;
        if !keys.contains(&keypair.public_key) {
            keys.push(keypair.public_key);
        }
    }
    Ok(keys)
}

/// Makes or attaches the ports; gives whether there are any.
async fn connect(
    app: &App,
    write: &mut Write,
    tenant: TenantId,
    id: InstanceId,
    named: Option<&[NewInterface]>,
) -> Result<bool> {
    let mut networks = Vec::new();
    match named {
        // Nobody said: the only network, if it is the only one.
        None => match store::networks::ids(write.conn(), tenant, 2).await?.as_slice() {
            [] => {}
            [only] => networks.push((0, *only, None)),
            [_, _, ..] => {
                let detail =
                    "the tenant has several networks: name those to connect, or [] for none";
                return Err(Error::field("/networks", detail));
            }
        },
        Some(named) => {
            for (i, interface) in named.iter().enumerate() {
                if let Some(name) = &interface.network {
                    let network = store::networks::find(write.conn(), tenant, name).await?;
                    let at = format!("/networks/{i}/network");
                    let network = network.ok_or_else(|| Error::absent(&at, "network", name))?;
                    networks.push((i, network.id, interface.address));
                }
            }
        }
    }
    let ids: Vec<_> = networks.iter().map(|(_, network, _)| *network).collect();
    if !ids.is_empty() {
        store::networks::lock(write.conn(), Some(tenant), &ids).await?;
    }
    let now = write.now;
    for (i, network, address) in networks {
        let made = store::ports::create_owned(
            write.conn(),
            tenant,
            network,
            id,
            position(i),
            address,
            now,
            app.quarantine(),
        );
        made.await.map_err(|error| placed_at(&format!("/networks/{i}"), error))?;
    }
    for (i, interface) in named.unwrap_or_default().iter().enumerate() {
        if let Some(port) = interface.port_id {
            let attached =
                store::ports::attach(write.conn(), tenant, PortId(port), id, position(i));
            attached.await.map_err(|error| placed_at(&format!("/networks/{i}/port_id"), error))?;
        }
    }
    Ok(!ids.is_empty() || named.is_some_and(|named| !named.is_empty()))
}

fn position(i: usize) -> i32 {
    i32::try_from(i).unwrap_or(i32::MAX)
}

/// A fault of one interface names its place in the body.
fn placed_at(pointer: &str, error: Error) -> Error {
    match error {
        Error::NotFound { kind, id } => {
            Error::field(pointer, format!("there is no {kind} {id} in this tenant"))
        }
        Error::Invalid(fields) => Error::Invalid(
            fields
                .into_iter()
                .map(|field| crate::domain::error::FieldError {
                    pointer: format!("{pointer}{}", field.pointer),
                    ..field
                })
                .collect(),
        ),
        other => other,
    }
}
