//! Base images on hosts: uploaded once for all who wait, counted, and removed when nobody has used them for a while.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;

use super::verified::Verified;
use super::{Context, Outcome, Trouble, fault, hold};
use crate::domain::clock::Time;
use crate::domain::id::{HostId, ImageId};
use crate::domain::image::{self, Blob};
use crate::hypervisor::{Fault, Upload};
use crate::store::host_images::HostImage;

use crate::store::work::{self, Asked, Kind, Lease};
use crate::store::{self, Tx};

/// An upload of any length ends by this time, or is begun anew.
const UPLOAD_MAX: Duration = Duration::from_secs(6 * 3600);
/// How often the progress of an upload is written down.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// The bytes of an image; an image of an instance cannot be without.
pub async fn blob(ctx: &Context, image: ImageId) -> Result<Blob, Trouble> {
    let blob = store::images::blob_of(&mut *ctx.conn().await?, image).await?;
    blob.ok_or_else(|| {
        Fault::permanent("the image has no data any more: delete the instance").into()
    })
}

pub async fn is_present(ctx: &Context, host: HostId, image: ImageId) -> Result<bool, Trouble> {
    Ok(store::host_images::is_present(&mut *ctx.conn().await?, host, image).await?)
}

/// Asks for the base image on the host; whoever asks is looked at again when it is there.
pub async fn want(
    ctx: &Context,
    lease: &Lease,
    host: HostId,
    image: ImageId,
) -> Result<Outcome, Trouble> {
    let blob = blob(ctx, image).await?;
    let now = ctx.clock.now();
    let mut tx = ctx.write(lease).await?;
    if !store::host_images::lock_in(&mut tx, host, &blob.sha256).await? {
        let why = "a forgotten copy of the image is being removed from the host";
        return Ok(Outcome::wait(TimeDelta::milliseconds(500), why));
    }
    let id = store::host_images::want(&mut tx, host, &blob.sha256, now).await?;
    let row = store::host_images::get(&mut tx, id).await?;
    if row.as_ref().is_some_and(|row| row.present) {
        return Ok(Outcome::Again);
    }
    tx.commit().await?;
    // With no lock held: the one who uploads holds the item, and wants the row. Lost in a crash, the next look does it.
    let mut conn = ctx.conn().await?;
    let account = work::account(&mut conn, Kind::HostImage, id).await?;
    if account.as_ref().is_none_or(|account| account.due_at.is_none()) {
        work::touch(&mut conn, Kind::HostImage, id, now).await?;
        work::on_behalf(&mut conn, lease, Kind::HostImage, id).await?;
    }
    drop(conn);
    ctx.changes.wake();
    fault::point("base_wanted");
    let mib = |bytes: i64| bytes / (1 << 20);
    let sent = row.map_or(0, |row| row.sent_bytes);
    let mut reason = format!(
        "the image is on its way to the host: {} of {} MiB",
        mib(sent),
        mib(blob.size_bytes)
    );
    if let Some(error) =
        account.filter(|account| account.attempts > 0).and_then(|account| account.last_error)
    {
        reason = format!("{reason}; the last attempt failed: {error}");
    }
    Ok(Outcome::wait(TimeDelta::seconds(2), reason))
}

/// The volume is not on the host, or not whole, whatever we thought; an instance that found out says so by its lease. Gives
/// whether anybody thought so.
pub async fn lost(
    ctx: &Context,
    finder: Option<&Lease>,
    host: HostId,
    sha256: &str,
) -> Result<bool, Trouble> {
    let mut tx = store::begin(&ctx.db).await?;
    let row = store::host_images::find(&mut tx, host, sha256).await?;
    let found = row.as_ref().is_some_and(|row| row.present);
    if let Some(row) = row {
        let (item, now) = (Kind::HostImage, ctx.clock.now());
        work::touch_afresh(&mut tx, item, row.id, now, &Asked::default()).await?;
        if let Some(lease) = finder {
            work::on_behalf(&mut tx, lease, item, row.id).await?;
        }
        store::host_images::set_present(&mut tx, row.id, false).await?;
    }
    tx.commit().await?;
    ctx.changes.wake();
    Ok(found)
}

/// An instance left the host: its base may have lost its last user, and is looked at when it has rested.
pub async fn user_left(
    tx: &mut Tx,
    host: HostId,
    image: ImageId,
    now: Time,
) -> Result<(), Trouble> {
    let blob = store::images::blob_of(tx, image).await?;
    if let Some(blob) = blob
        && let Some(row) = store::host_images::find(tx, host, &blob.sha256).await?
    {
        // The item before the row, as its worker has it.
        work::touch(tx, Kind::HostImage, row.id, now).await?;
        store::host_images::used(tx, row.id, now).await?;
    }
    Ok(())
}

/// The same where nobody knows any more which image it was: every base of the host is looked at.
pub async fn users_left(tx: &mut Tx, host: HostId, now: Time) -> Result<(), Trouble> {
    for row in store::host_images::on_host(tx, host).await? {
        work::touch(tx, Kind::HostImage, row.id, now).await?;
    }
    Ok(())
}

pub async fn reconcile(ctx: &Context, lease: &Lease) -> Result<Outcome, Trouble> {
    let row = store::host_images::get(&mut *ctx.conn().await?, lease.item).await?;
    let Some(row) = row else {
        work::remove(&mut *ctx.conn().await?, Kind::HostImage, lease.item).await?;
        return Ok(Outcome::Gone);
    };
    let wanted = row.users > 0;
    // A freed image leaves its hosts at once; another stays for the next instance.
    let rested = !row.image_lives
        || (ctx.clock.now() - row.used_at)
            .to_std()
            .is_ok_and(|idle| idle >= ctx.config.base_image_keep);
    match (wanted, row.present) {
        (true, true) => Ok(Outcome::rest()),
        (true, false) => upload(ctx, lease, &row).await,
        (false, _) if rested => remove(ctx, lease, &row).await,
        (false, _) => {
            let keep =
                TimeDelta::from_std(ctx.config.base_image_keep).unwrap_or(TimeDelta::hours(1));
            Ok(Outcome::Settled {
                next: Some((row.used_at + keep - ctx.clock.now()).max(TimeDelta::seconds(1))),
                reason: None,
            })
        }
    }
}

async fn upload(ctx: &Context, lease: &Lease, row: &HostImage) -> Result<Outcome, Trouble> {
    let Some(turn) = ctx.hosts.upload_turn(row.host_id) else {
        return Ok(Outcome::wait(
            TimeDelta::seconds(2),
            "other images are on their way to the host",
        ));
    };
    let path = image::path(&ctx.config.image_dir, &row.sha256);
    let sha256 = row.sha256.clone();
    let upload = Upload {
        name: row.volume(),
        format: row.format,
        length: u64::try_from(row.size_bytes).unwrap_or(0),
        virtual_bytes: u64::try_from(row.virtual_bytes).unwrap_or(0),
    };
    fault::point("base_uploading");
    let sent = Arc::new(AtomicI64::new(0));
    let counter = Arc::clone(&sent);
    // Dropped when the lease is lost: the next progress report then stops the upload.
    let alive = Arc::new(());
    let watch = Arc::downgrade(&alive);
    ctx.confirm(lease).await?;
    let call = ctx.long_host_call(row.host_id, "upload the image", UPLOAD_MAX, move |host| {
        // Also while it hangs, and nobody waits for it any more.
        let _turn = turn;
        let file = File::open(&path).map_err(|error| {
            Fault::permanent(format!("the image's bytes cannot be read: {error}"))
        })?;
        let mut bytes = Verified::new(file, upload.length, &sha256);
        host.upload(&upload, &mut bytes, &mut |bytes| {
            counter.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
            watch.strong_count() > 0
        })
    });
    let report = async {
        loop {
            tokio::time::sleep(PROGRESS_EVERY).await;
            let bytes = sent.load(Ordering::Relaxed);
            let written = async {
                store::host_images::progress(&mut *ctx.conn().await?, row.id, bytes).await
            };
            if let Err(error) = written.await {
                tracing::debug!(%error, "progress could not be written");
            }
        }
    };
    tokio::select! {
        done = call => done?,
        () = report => {}
    }
    drop(alive);
    tracing::info!(host = %row.host_id, sha256 = row.sha256, bytes = row.size_bytes, "a base image was uploaded");
    fault::point("base_uploaded");
    let mut tx = ctx.write(lease).await?;
    store::host_images::set_present(&mut tx, row.id, true).await?;
    tx.commit().await?;
    // With no lock held: those who wait hold themselves, and want the row. Lost in a crash, they look again by themselves.
    let mut conn = ctx.conn().await?;
    for instance in store::instances::waiting_for_image(&mut conn, row.host_id, &row.sha256).await?
    {
        work::touch(&mut conn, Kind::Instance, instance, ctx.clock.now()).await?;
    }
    drop(conn);
    ctx.changes.wake();
    Ok(Outcome::Again)
}

/// First nobody may count on it, then the volume goes, then the row; an instance that came meanwhile has it uploaded again.
async fn remove(ctx: &Context, lease: &Lease, row: &HostImage) -> Result<Outcome, Trouble> {
    if hold::why(ctx, row.host_id).await?.is_some() {
        return Ok(hold::wait());
    }
    let mut tx = ctx.write(lease).await?;
    let unused = store::host_images::retire(&mut tx, row.id).await?;
    tx.commit().await?;
    if !unused {
        let row = store::host_images::get(&mut *ctx.conn().await?, row.id).await?;
        return Ok(if row.is_some_and(|row| row.users == 0) {
            // Looked at anew when the fence is done.
            Outcome::wait(
                TimeDelta::seconds(60),
                "what was left behind on the host may stand on it",
            )
        } else {
            Outcome::Again
        });
    }
    let name = row.volume();
    ctx.host(row.host_id, "delete a base image", move |host| host.delete_volume(&name)).await?;
    let mut tx = ctx.write(lease).await?;
    if !store::host_images::remove_unused(&mut tx, row.id).await? {
        return Ok(Outcome::Again);
    }
    work::remove(&mut tx, Kind::HostImage, row.id).await?;
    tx.commit().await?;
    Ok(Outcome::Gone)
}
