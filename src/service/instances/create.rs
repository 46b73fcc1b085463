//! Creating an instance: everything that it names is found and bounded, the quota is counted, and the wish is recorded with
//! its ports and addresses in one transaction, which those that are alike and come at the same time share.

mod check;
pub mod gather;
mod placing;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{App, Caller, default_grace, view};
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::event::{NewEvent, Outcome, Subject};
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
use crate::store::idempotency::Key;
use crate::store::instances::{Insert, Own};
use crate::store::ports::PortView;
use crate::store::work::Asked;
use check::{Checked, check};

/// As the OpenAPI document calls it.
const OPERATION: &str = "create_instance";

/// What a dry run answers: the instance as it would be, and placement's account.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether a host has room for it now.
    pub fits: bool,
    pub instance: Instance,
    /// Need and have, by class of hosts; host names are shown to admins only.
    pub placement: Explanation,
}

/// Somebody's wish for a new instance.
pub struct Wish {
    caller: Caller,
    new: NewInstance,
    checked: Checked,
    asked: Asked,
}

impl Wish {
    fn of(caller: &Caller, new: &NewInstance, now: Time) -> Result<Self> {
        let checked = check(new, now)?;
        let asked = service::asked(Some(&caller.request_id));
        Ok(Self { caller: caller.clone(), new: new.clone(), checked, asked })
    }
}

/// Records the wish for a new instance.
pub async fn create(app: &App, caller: &Caller, new: &NewInstance) -> Result<Instance> {
    authorize(caller, OPERATION)?;
    let wish = match Wish::of(caller, new, app.clock.now()) {
        // The answer that was given comes before every check: the end of what was accepted may have come meanwhile.
        Err(_) if caller.idempotency_key.is_some() => return alone(app, caller, new).await,
        checked => checked?,
    };
    match gather::create(app, wish).await? {
        Some(instance) => Ok(instance),
        None => alone(app, caller, new).await,
    }
}

async fn alone(app: &App, caller: &Caller, new: &NewInstance) -> Result<Instance> {
    let write = match app.begin(caller, OPERATION, new).await? {
        Begin::Replay(instance) => return Ok(instance),
        Begin::Fresh(write) => write,
    };
    let wish = Wish::of(caller, new, write.now)?;
    record(app, write, &wish).await
}

async fn record(app: &App, mut write: Write, wish: &Wish) -> Result<Instance> {
    let (instance, who) = insert_one(app, &mut write, wish).await?;
    if at_once(wish) {
        // On the heap: few creates need it, and it is large.
        Box::pin(service::placement::claim(app, &wish.caller, &mut write, &who)).await?;
    }
    write.commit(&instance).await?;
    Ok(instance)
}

/// Whether it is placed by the request itself, or refused.
fn at_once(wish: &Wish) -> bool {
    wish.new.on_no_capacity == OnNoCapacity::Fail && wish.checked.wanted == Wanted::Running
}

/// Records all of these, or none: they are alike. `None`: each is to be recorded by itself.
async fn together(app: &App, wishes: &[Wish]) -> Result<Option<Vec<Instance>>> {
    let Some(first) = wishes.first() else { return Ok(None) };
    let mut write = app.begin_for_many(&first.caller).await?;
    let keyed =
        wishes.iter().filter_map(|wish| Some((wish, wish.caller.idempotency_key.as_ref()?)));
    let keys = keyed.map(|(wish, key)| {
        let fingerprint = service::fingerprint(&wish.caller, OPERATION, &wish.new)?;
        Ok(Key { user: wish.caller.user, key, fingerprint })
    });
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let now = write.now;
    if !store::idempotency::take_all(write.conn(), &keys, OPERATION, now).await? {
        return Ok(None);
    }
    let made = insert(app, &mut write, first, wishes).await?;
    if at_once(first) {
        let each = wishes.iter().zip(&made);
        let all: Vec<_> =
            each.map(|(wish, (_, who))| ((&wish.caller).into(), who.clone())).collect();
        if !Box::pin(service::placement::claim_all(app, &mut write, &all)).await? {
            return Ok(None);
        }
    }
    let made: Vec<_> = made.into_iter().map(|(instance, _)| instance).collect();
    let keyed = wishes.iter().zip(&made).filter(|(wish, _)| wish.caller.idempotency_key.is_some());
    let answers = keyed.map(|(_, made)| serde_json::to_value(made).map_err(Error::internal));
    let answers = answers.collect::<Result<Vec<_>>>()?;
    store::idempotency::keep_all(write.conn(), &keys, &answers).await?;
    write.commit_softly().await?;
    Ok(Some(made))
}

/// Does all that `create` does, asks placement, and takes everything back.
pub async fn plan(app: &App, caller: &Caller, new: &NewInstance) -> Result<Plan> {
    authorize(caller, OPERATION)?;
    // A dry run uses up no idempotency key.
    let caller = Caller { idempotency_key: None, ..caller.clone() };
    let wish = Wish::of(&caller, new, app.clock.now())?;
    let mut write = app.begin_for_many(&caller).await?;
    let (instance, who) = insert_one(app, &mut write, &wish).await?;
    let placement = service::placement::explain(app, &caller, write.conn(), &who).await?;
    // Dropping the write takes everything back.
    Ok(Plan { fits: placement.chosen.is_some(), instance, placement })
}

async fn insert_one(app: &App, write: &mut Write, wish: &Wish) -> Result<(Instance, Unplaced)> {
    let made = insert(app, write, wish, std::slice::from_ref(wish)).await?.pop();
    made.ok_or_else(|| Error::Internal(anyhow::anyhow!("an instance was not made")))
}

/// The wishes, which are alike: what `first` names, all of them name.
async fn insert(
    app: &App,
    write: &mut Write,
    first: &Wish,
    wishes: &[Wish],
) -> Result<Vec<(Instance, Unplaced)>> {
    let (tenant, new) = (first.caller.tenant()?, &first.new);
    let flavor = store::flavors::find(write.conn(), &new.flavor).await?;
    let flavor = flavor.ok_or_else(|| Error::absent("/flavor", "flavor", &new.flavor))?;
    let image = image(write, tenant, new, &flavor).await?;
    let ssh_keys = keys(write, tenant, &new.keypairs).await?;
    let placing = placing::find(write, tenant, new, &flavor, &image).await?;
    let row = Insert {
        tenant,
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
        ssh_keys,
        wanted: first.checked.wanted,
        stop_grace_s: default_grace(app),
    };
    let own: Vec<_> = wishes.iter().map(|wish| own(wish, &row)).collect();
    let now = write.now;
    let records = store::instances::insert(write.conn(), &row, &own, now).await?;
    if records.len() < wishes.len() {
        // It was found, and then deleted.
        let detail = "the image was deleted at this moment: choose another";
        return Err(Error::field("/image", detail));
    }
    let ports = connect(app, write, tenant, new.networks.as_deref(), &own).await?;
    let count = i64::try_from(wishes.len()).unwrap_or(i64::MAX);
    let made = quota::Adding {
        instances: count,
        vcpus: count * i64::from(flavor.vcpus),
        memory_mib: count * flavor.memory_mib,
        disk_gib: count * flavor.disk_gib,
        ..quota::Adding::default()
    };
    quota::check_made(write, tenant, made).await?;
    if let Some(group) = &placing.group {
        placing::satisfiable(write, group).await?;
    }
    let mut all = Vec::with_capacity(wishes.len());
    for (((wish, own), record), ports) in wishes.iter().zip(&own).zip(&records).zip(&ports) {
        write.wished(own.id.0);
        all.push((view(record, ports, &wish.caller), row.unplaced(own)));
    }
    Ok(all)
}

/// What is this wish's own.
fn own(wish: &Wish, row: &Insert) -> Own {
    let Wish { caller, new, checked, asked } = wish;
    let id = InstanceId(Uuid::now_v7());
    let subject = Subject {
        kind: "instance",
        id: id.0,
        name: checked.name.to_string(),
        tenant: Some(row.tenant),
    };
    let detail =
        json!({ "image_id": row.image, "flavor": row.flavor_name, "wanted": checked.wanted });
    Own {
        id,
        name: checked.name.clone(),
        labels: new.labels.clone(),
        user_data: new.user_data.clone(),
        expires_at: new.expires_at,
        created_by: caller.user,
        request_id: caller.request_id.clone(),
        asked: asked.clone(),
        told: NewEvent {
            kind: "instance.create",
            subject,
            actor: caller.into(),
            outcome: Outcome::Accepted,
            detail,
        },
    }
}

async fn image(
    write: &mut Write,
    tenant: TenantId,
    new: &NewInstance,
    flavor: &Flavor,
) -> Result<Image> {
    let image = images::choose(write.conn(), tenant, "/image", &new.image).await?;
    images::fits(&image, flavor.disk_gib, "/flavor")?;
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

/// Makes or attaches the ports of each; gives them.
async fn connect(
    app: &App,
    write: &mut Write,
    tenant: TenantId,
    named: Option<&[NewInterface]>,
    each: &[Own],
) -> Result<Vec<Vec<PortView>>> {
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
    let mut ports = Vec::with_capacity(each.len());
    for Own { id, .. } in each {
        for (i, network, address) in &networks {
            let made = store::ports::create_owned(
                write.conn(),
                tenant,
                *network,
                *id,
                position(*i),
                *address,
                now,
                app.quarantine(),
            );
            made.await.map_err(|error| placed_at(&format!("/networks/{i}"), error))?;
        }
        for (i, interface) in named.unwrap_or_default().iter().enumerate() {
            if let Some(port) = interface.port_id {
                let attached =
                    store::ports::attach(write.conn(), tenant, PortId(port), *id, position(i));
                attached
                    .await
                    .map_err(|error| placed_at(&format!("/networks/{i}/port_id"), error))?;
            }
        }
        ports.push(if ids.is_empty() && named.is_none_or(<[_]>::is_empty) {
            Vec::new()
        } else {
            store::ports::of_instance(write.conn(), *id).await?
        });
    }
    Ok(ports)
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
