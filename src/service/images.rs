//! Images: made by a tenant, published by admins, filled once, chosen by instances.

mod gate;
mod scratch;
mod upload;

use serde_json::json;
use sqlx::PgConnection;
use tokio::fs::File;
use uuid::Uuid;

pub use upload::{ensure_public, prepare, upload};

use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin, quota};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::{ImageId, TenantId};
use crate::domain::image::{
    self, Image, ImageFilter, ImagePatch, ImageStatus, NewImage, Visibility,
};
use crate::domain::page::Page;
use crate::store;
use crate::store::work::Kind;

pub async fn create(app: &App, caller: &Caller, new: &NewImage) -> Result<Image> {
    authorize(caller, "create_image")?;
    let name = new.check()?;
    may_publish(caller, new.visibility == Visibility::Public)?;
    let tenant = caller.tenant()?;
    let mut write = match app.begin(caller, "create_image", new).await? {
        Begin::Replay(image) => return Ok(image),
        Begin::Fresh(write) => write,
    };
    quota::check(&mut write, tenant, quota::Adding { images: 1, ..quota::Adding::default() })
        .await?;
    let (id, now) = (ImageId(Uuid::now_v7()), write.now);
    let owner = store::images::Owner { tenant, user: Some(caller.user) };
    store::images::insert(write.conn(), id, owner, &name, new, now).await?;
    let image = own(write.conn(), caller, id).await?;
    write.done("image.create", subject(&image), json!({})).await?;
    write.commit(&image).await?;
    Ok(image)
}

/// Which images a list shows, and whose.
pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    filter: &ImageFilter,
    all_tenants: bool,
) -> Result<(Vec<Image>, Option<String>)> {
    authorize(caller, "list_images")?;
    let scope = caller.listed(all_tenants)?;
    let rows = store::images::list(&mut *app.conn().await?, scope, page, filter).await?;
    Ok(page.cut(rows, |image| image.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: ImageId) -> Result<Image> {
    authorize(caller, "get_image")?;
    let image = store::images::get(&mut *app.conn().await?, caller.scope(), id).await?;
    image.ok_or_else(|| Error::not_found("image", id))
}

/// The image and its bytes, which an open file keeps whatever becomes of the image.
pub async fn open(app: &App, caller: &Caller, id: ImageId) -> Result<(Image, File)> {
    authorize(caller, "get_image_data")?;
    let image = store::images::get(&mut *app.conn().await?, caller.scope(), id).await?;
    let image = image.ok_or_else(|| Error::not_found("image", id))?;
    let sum = image.sha256.as_deref().ok_or_else(awaiting_data)?;
    let file = File::open(image::path(&app.config.image_dir, sum)).await;
    let file = file.map_err(Error::internal)?;
    Ok((image, file))
}

fn awaiting_data() -> Error {
    Error::conflict(
        "image-awaits-data",
        "the image has no data yet: send it with PUT /v1/images/{id}/data",
    )
}

pub async fn update(
    app: &App,
    caller: &Caller,
    id: ImageId,
    if_match: Option<i64>,
    patch: &ImagePatch,
) -> Result<Image> {
    authorize(caller, "update_image")?;
    let name = patch.check()?;
    let mut write = match app.begin(caller, "update_image", &(id, patch)).await? {
        Begin::Replay(image) => return Ok(image),
        Begin::Fresh(write) => write,
    };
    store::images::lock(write.conn(), caller.scope(), id).await?;
    let image = own(write.conn(), caller, id).await?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, image.revision))?;
    if image.status == ImageStatus::Deleting {
        return Err(Error::conflict(
            "image-deleting",
            "the image is deleted and does not change any more",
        ));
    }
    let visibility = patch.visibility.unwrap_or(image.visibility);
    may_publish(caller, visibility == Visibility::Public && image.visibility != visibility)?;
    store::images::update(write.conn(), id, name.as_ref(), patch).await?;
    let image = own(write.conn(), caller, id).await?;
    write.done("image.update", subject(&image), json!(patch)).await?;
    write.commit(&image).await?;
    Ok(image)
}

/// `None`: it is gone. Else it is kept, hidden, for the instances that use it, and goes with the last of them.
pub async fn delete(
    app: &App,
    caller: &Caller,
    id: ImageId,
    if_match: Option<i64>,
) -> Result<Option<Image>> {
    authorize(caller, "delete_image")?;
    let mut write = match app.begin(caller, "delete_image", &id).await? {
        Begin::Replay(left) => return Ok(left),
        Begin::Fresh(write) => write,
    };
    let now = write.now;
    store::images::lock(write.conn(), caller.scope(), id).await?;
    let image = own(write.conn(), caller, id).await?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, image.revision))?;
    let left = if store::images::remove_unused(write.conn(), id).await? {
        write.done("image.delete", subject(&image), json!({})).await?;
        None
    } else {
        store::images::hide(write.conn(), id, now).await?;
        write.accepted("image.delete", subject(&image), json!({ "in_use": true })).await?;
        Some(own(write.conn(), caller, id).await?)
    };
    // The reconciler frees the bytes, and the image itself when it can.
    write.touch(Kind::Image, id.0).await?;
    write.commit(&left).await?;
    Ok(left)
}

/// The image that a new instance of `tenant` is made of, named by id or by name: the tenant's own images come before public
/// ones. `pointer` is the field that names it.
///
/// # Errors
/// `Invalid` where there is none, where it has no data yet, and where the name is that of several.
pub async fn choose(
    conn: &mut PgConnection,
    tenant: TenantId,
    pointer: &str,
    id_or_name: &str,
) -> Result<Image> {
    let mut found = store::images::find(conn, tenant, id_or_name).await?;
    // One without data is meant only where there is no other.
    if found.iter().any(|image| image.status == ImageStatus::Ready) {
        found.retain(|image| image.status == ImageStatus::Ready);
    }
    match found.as_slice() {
        [] => Err(Error::field(
            pointer,
            format!("there is no image {id_or_name}: see GET /v1/images"),
        )),
        [image] if image.status == ImageStatus::Ready => Ok(image.clone()),
        [image] => {
            let detail =
                format!("the image has no data yet: send it with PUT /v1/images/{}/data", image.id);
            Err(Error::field(pointer, detail))
        }
        [image, ..] => {
            let detail = format!(
                "several images are named {id_or_name}: name one by its id, such as {}",
                image.id
            );
            Err(Error::field(pointer, detail))
        }
    }
}

/// A disk of this size has room for the image; `pointer` is the field that says how large it is.
pub fn fits(image: &Image, disk_gib: i64, pointer: &str) -> Result<()> {
    let gib = (image.virtual_bytes.unwrap_or(0) + (1 << 30) - 1) >> 30;
    if gib <= disk_gib {
        return Ok(());
    }
    let detail = format!(
        "the image's disk has {gib} GiB, and {disk_gib} are asked for: choose a flavor with a larger disk"
    );
    Err(Error::field(pointer, detail))
}

fn may_publish(caller: &Caller, publishes: bool) -> Result<()> {
    if !publishes || caller.admin {
        return Ok(());
    }
    Err(Error::Forbidden("a public image reaches every tenant, so only the cloud's admins publish: leave visibility private, or ask one".into()))
}

/// The image, to be changed: another tenant's is not found, or, where it is public, not allowed.
async fn own(conn: &mut PgConnection, caller: &Caller, id: ImageId) -> Result<Image> {
    let image = store::images::get(conn, caller.scope(), id).await?;
    let image = image.ok_or_else(|| Error::not_found("image", id))?;
    if image.tenant_id.is_none() {
        return Err(Error::Forbidden(
            "this public image belongs to another tenant, which alone changes it".into(),
        ));
    }
    Ok(image)
}

fn subject(image: &Image) -> Subject {
    Subject { kind: "image", id: image.id.0, name: image.name.to_string(), tenant: image.tenant_id }
}
