//! How bytes become an image: gathered, weighed at the gate, kept once, recorded.

use std::path::Path;

use futures_util::Stream;
use serde_json::json;
use sqlx::PgConnection;
use tokio_util::bytes::Bytes;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::scratch::{self, Gathered};
use super::{gate, own, subject};
use crate::domain::caller::{Caller, Role};
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::id::{ImageId, TenantId, UserId};
use crate::domain::image::{self, Blob, Image, ImageFormat, ImageStatus, NewImage, Visibility};
use crate::service::authorize::authorize;
use crate::service::flavors::same_revision;
use crate::service::quota::{self, Adding};
use crate::service::{App, Begin, Write};
use crate::store;
use crate::store::work::Kind;

/// Makes the directories of the image store; says what is wrong with them before the first upload does.
pub fn prepare(app: &App) -> Result<()> {
    let (images, scratch) = (&app.config.image_dir, &app.config.image_scratch_dir);
    scratch::make_dir(images)?;
    scratch::make_dir(scratch)?;
    if scratch::on_one_filesystem(images, scratch).map_err(Error::internal)? {
        return Ok(());
    }
    Err(Error::Internal(anyhow::anyhow!(
        "image_scratch_dir {} is on another filesystem than image_dir {}: give a directory on the same one",
        scratch.display(),
        images.display()
    )))
}

/// Takes the image's bytes from `body`, whose length the client may have said. The same bytes again change nothing.
///
/// # Errors
/// The body's own, of type `E`, and ours.
pub async fn upload<E: From<Error>>(
    app: &App,
    caller: &Caller,
    id: ImageId,
    if_match: Option<i64>,
    length: Option<u64>,
    body: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Image, E> {
    authorize(caller, "put_image_data")?;
    let _permit = app.limits().upload(caller)?;
    let image = own(&mut *app.conn().await?, caller, id).await?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, image.revision))?;
    let limit = gate::limit_bytes(&app.config);
    if length.is_some_and(|length| length > limit) {
        return Err(scratch::too_large(limit).into());
    }
    let place = match image.status {
        ImageStatus::Deleting => return Err(deleting().into()),
        ImageStatus::AwaitingData => {
            fits(app, caller, &image, length.unwrap_or(1)).await?;
            Some(scratch_place(app)?)
        }
        // Perhaps the answer to the first upload was lost: the bytes are held against those that are there.
        ImageStatus::Ready if length.is_some() && length != image.size() => {
            return Err(immutable(&image).into());
        }
        ImageStatus::Ready => None,
    };
    let bytes = scratch::gather(place, limit, body).await?;
    if image.status == ImageStatus::Ready {
        return if image.sha256.as_ref() == Some(&bytes.sha256) {
            Ok(image)
        } else {
            Err(immutable(&image).into())
        };
    }
    match weigh(app, &image, &bytes).await {
        Ok(blob) => Ok(record(app, caller, &image, bytes, blob).await?),
        Err(error) => {
            if matches!(error, Error::Invalid(_)) {
                record_refusal(app, caller, &image, &error).await?;
            }
            Err(error.into())
        }
    }
}

/// Refuses bytes for which the quota has no room, before they are sent. Counted for good when they are kept.
async fn fits(app: &App, caller: &Caller, image: &Image, bytes: u64) -> Result<()> {
    // Dropping the change gives up the tenant's lock.
    let mut write = app.begin_for_many(caller).await?;
    count(&mut write, image, bytes).await
}

async fn count(write: &mut Write, image: &Image, bytes: u64) -> Result<()> {
    let tenant = image.tenant_id.ok_or_else(|| Error::not_found("image", image.id))?;
    let image_mib = i64::try_from(bytes.div_ceil(1 << 20)).unwrap_or(i64::MAX);
    quota::check(write, tenant, Adding { image_mib, ..Adding::default() }).await
}

fn scratch_place(app: &App) -> Result<scratch::Place> {
    prepare(app)?;
    let (dir, spare) =
        (app.config.image_scratch_dir.clone(), app.config.image_store_spare_mib << 20);
    Ok(scratch::Place { dir, spare })
}

fn deleting() -> Error {
    Error::conflict(
        "image-deleting",
        "the image is deleted and kept for the instances that use it: make a new one",
    )
}

fn immutable(image: &Image) -> Error {
    let sum = image.sha256.as_deref().unwrap_or_default();
    let detail = format!(
        "the image has its data already, with the SHA-256 {sum}, and images do not change: make a new one"
    );
    Error::conflict("image-has-data", detail)
}

/// Sum, then gate.
async fn weigh(app: &App, image: &Image, bytes: &Gathered) -> Result<Blob> {
    if let Some(expected) = &image.expected_sha256
        && *expected != bytes.sha256
    {
        return Err(Error::field(
            "",
            format!(
                "the data has the SHA-256 {} and {} bytes, and the image was created for {expected}: send those bytes, or create the image with their sum",
                bytes.sha256, bytes.size
            ),
        ));
    }
    let virtual_bytes = gate::check(&app.config, image.format, bytes).await?;
    Ok(Blob {
        sha256: bytes.sha256.clone(),
        format: image.format,
        size_bytes: i64::try_from(bytes.size).map_err(Error::internal)?,
        virtual_bytes: i64::try_from(virtual_bytes).map_err(Error::internal)?,
    })
}

async fn record(
    app: &App,
    caller: &Caller,
    image: &Image,
    bytes: Gathered,
    blob: Blob,
) -> Result<Image> {
    let id = image.id;
    let mut write = match app.begin(caller, "put_image_data", &(id, &blob.sha256)).await? {
        Begin::Replay(image) => return Ok(image),
        Begin::Fresh(write) => write,
    };
    let now = write.now;
    store::images::lock(write.conn(), caller.scope(), id).await?;
    let image = own(write.conn(), caller, id).await?;
    match image.status {
        ImageStatus::AwaitingData => {}
        ImageStatus::Deleting => return Err(deleting()),
        // Another upload of the same image was faster.
        ImageStatus::Ready if image.sha256.as_ref() == Some(&blob.sha256) => return Ok(image),
        ImageStatus::Ready => return Err(immutable(&image)),
    }
    count(&mut write, &image, bytes.size).await?;
    keep(app, write.conn(), bytes, &blob, now).await?;
    store::images::set_data(write.conn(), id, &blob.sha256).await?;
    let image = own(write.conn(), caller, id).await?;
    let detail = json!({ "sha256": blob.sha256, "size_bytes": blob.size_bytes });
    write.done("image.upload", subject(&image), detail).await?;
    write.commit(&image).await?;
    Ok(image)
}

/// File first, row second, both under the blob's lock: a row without its file is never seen, and a file that a lost transaction
/// leaves without its row is swept.
async fn keep(
    app: &App,
    conn: &mut PgConnection,
    bytes: Gathered,
    blob: &Blob,
    now: Time,
) -> Result<()> {
    store::images::lock_blob(conn, &blob.sha256).await?;
    let path = image::path(&app.config.image_dir, &blob.sha256);
    let scratch = bytes.scratch;
    let kept = tokio::task::spawn_blocking(move || scratch.map_or(Ok(()), |s| s.keep(&path)));
    kept.await.map_err(Error::internal)?.map_err(scratch::disk)?;
    store::images::keep_blob(conn, blob, now).await
}

async fn record_refusal(app: &App, caller: &Caller, image: &Image, error: &Error) -> Result<()> {
    // A refusal is no answer to keep: the same key may bring the right bytes.
    let caller = Caller { idempotency_key: None, ..caller.clone() };
    match app.begin::<()>(&caller, "put_image_data", &image.id).await? {
        Begin::Replay(()) => Ok(()),
        Begin::Fresh(mut write) => {
            let detail = json!({ "error": error.to_string() });
            write.failed("image.upload", subject(image), detail).await?;
            write.commit(&()).await
        }
    }
}

/// Imports a local qcow2 file as a public image of `tenant`, through the same gate. The same bytes under the same name again
/// change nothing; other bytes are a new image, and the former ones of that name are deleted.
pub async fn ensure_public(app: &App, tenant: TenantId, name: &str, file: &Path) -> Result<Image> {
    let caller = ourselves(tenant);
    let limit = gate::limit_bytes(&app.config);
    let new = NewImage {
        name: name.into(),
        format: ImageFormat::Qcow2,
        visibility: Visibility::Public,
        sha256: None,
        description: String::new(),
        labels: std::collections::BTreeMap::new(),
        required_traits: Vec::new(),
    };
    let name = new.check()?;
    let sum = scratch::gather(None, limit, read(file).await?).await?.sha256;
    let (same, _) = store::images::published(&mut *app.conn().await?, tenant, &name, &sum).await?;
    if let Some(id) = same {
        return own(&mut *app.conn().await?, &caller, id).await;
    }
    let bytes = scratch::gather(Some(scratch_place(app)?), limit, read(file).await?).await?;
    let virtual_bytes = gate::check(&app.config, new.format, &bytes).await?;
    let blob = Blob {
        sha256: bytes.sha256.clone(),
        format: new.format,
        size_bytes: i64::try_from(bytes.size).map_err(Error::internal)?,
        virtual_bytes: i64::try_from(virtual_bytes).map_err(Error::internal)?,
    };
    let mut write = match app.begin::<()>(&caller, "create_image", &new).await? {
        Begin::Replay(()) => return Err(Error::conflict("replayed", "this write has no key")),
        Begin::Fresh(write) => write,
    };
    let (id, now) = (ImageId(Uuid::now_v7()), write.now);
    let owner = store::images::Owner { tenant, user: None };
    let (_, former) = store::images::published(write.conn(), tenant, &name, &blob.sha256).await?;
    store::images::insert(write.conn(), id, owner, &name, &new, now).await?;
    keep(app, write.conn(), bytes, &blob, now).await?;
    store::images::set_data(write.conn(), id, &blob.sha256).await?;
    for old in former {
        let image = own(write.conn(), &caller, old).await?;
        store::images::hide(write.conn(), old, now).await?;
        write.touch(Kind::Image, old.0).await?;
        write.accepted("image.delete", subject(&image), json!({ "superseded_by": id })).await?;
    }
    let image = own(write.conn(), &caller, id).await?;
    write.done("image.create", subject(&image), json!({ "sha256": blob.sha256 })).await?;
    write.commit(&()).await?;
    Ok(image)
}

/// The file in chunks of 256 KiB.
async fn read(file: &Path) -> Result<impl Stream<Item = Result<Bytes>> + use<>> {
    use futures_util::TryStreamExt;
    let opened = tokio::fs::File::open(file).await;
    let opened = opened.map_err(|e| {
        Error::Internal(anyhow::Error::new(e).context(format!("{} cannot be read", file.display())))
    })?;
    Ok(ReaderStream::with_capacity(opened, 256 * 1024).map_err(Error::internal))
}

/// Pileus itself, as the author of what it imports.
fn ourselves(tenant: TenantId) -> Caller {
    Caller {
        user: UserId(Uuid::nil()),
        user_name: "pileus".into(),
        tenant: Some(tenant),
        role: Some(Role::Owner),
        admin: true,
        token: None,
        request_id: String::new(),
        idempotency_key: None,
    }
}
