//! Images and their blobs in the database.

use sqlx::PgConnection;
use sqlx::types::Json;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{ImageId, TenantId, UserId};
use crate::domain::image::{Blob, Image, ImageFilter, ImagePatch, NewImage};
use crate::domain::page::Page;
use crate::domain::text::Name;

/// An image as the tenant `$1` sees it (null: as an admin does): its own, and the public ones that are ready. The rest of the
/// statement follows in `where`.
macro_rules! visible {
    ($rest:literal) => {
        concat!(
            "select * from (
                 select i.id, case when $1::uuid is null or i.tenant_id = $1 then i.tenant_id end as tenant_id,
                        i.name, i.description, i.labels, i.required_traits, i.visibility, i.format, i.expected_sha256, i.sha256,
                        b.size_bytes, b.virtual_bytes,
                        coalesce(w.attempts, 0) as attempts, case when w.attempts > 0 then w.last_error end as last_error,
                        nullif(w.due_at, 'infinity') as next_attempt_at, w.stalled_at as stalled_since, i.created_at, i.revision, i.tenant_id as owner,
                        case when i.hidden_at is not null then 'deleting'
                             when i.sha256 is null then 'awaiting_data' else 'ready' end as status
                 from images i left join blobs b on b.sha256 = i.sha256
                 left join work w on w.kind = 'image' and w.item = i.id) image
             where ($1::uuid is null or owner = $1 or (visibility = 'public' and status = 'ready')) ",
            $rest
        )
    };
}

/// Whose a new image is.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub tenant: TenantId,
    /// None: made by Pileus itself.
    pub user: Option<UserId>,
}

pub async fn insert(
    conn: &mut PgConnection,
    id: ImageId,
    owner: Owner,
    name: &Name,
    new: &NewImage,
    now: Time,
) -> Result<()> {
    sqlx::query(
        "insert into images (id, tenant_id, name, description, labels, visibility, format, expected_sha256, created_by, created_at,
                             required_traits)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(id)
    .bind(owner.tenant)
    .bind(name)
    .bind(&new.description)
    .bind(Json(&new.labels))
    .bind(new.visibility)
    .bind(new.format)
    .bind(&new.sha256)
    .bind(owner.user)
    .bind(now)
    .bind(&new.required_traits)
    .execute(conn)
    .await?;
    Ok(())
}

/// The image, if it is the tenant's own or public.
pub async fn get(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: ImageId,
) -> Result<Option<Image>> {
    let image =
        sqlx::query_as(visible!("and id = $2")).bind(scope).bind(id).fetch_optional(conn).await?;
    Ok(image)
}

/// Holds the image's row against other changes, and against new instances, until the transaction ends. `false`: it is not
/// there, or not the tenant's own.
pub async fn lock(conn: &mut PgConnection, scope: Option<TenantId>, id: ImageId) -> Result<bool> {
    let found = sqlx::query(
        "select from images where id = $2 and ($1::uuid is null or tenant_id = $1) for update",
    )
    .bind(scope)
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

pub async fn list(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    page: &Page,
    filter: &ImageFilter,
) -> Result<Vec<Image>> {
    let images = sqlx::query_as(visible!(
        "and id > $2 and ($3::text is null or name = $3) and labels @> $4
         and ($5::text is null or visibility = $5) and ($6::text is null or status = $6)
         order by id limit $7"
    ))
    .bind(scope)
    .bind(page.after)
    .bind(&filter.name)
    .bind(Json(&filter.labels))
    .bind(filter.visibility)
    .bind(filter.status)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(images)
}

/// Images that a tenant may mean by an id or a name: the one of that id; else its own of that name; else public ones. Several:
/// the name is ambiguous. Deleted images are not among them.
pub async fn find(
    conn: &mut PgConnection,
    tenant: TenantId,
    id_or_name: &str,
) -> Result<Vec<Image>> {
    let images = sqlx::query_as(visible!(
        "and id in (
             with near as (
                 select id, case when id::text = lower($2) then 0 when tenant_id = $1 then 1 else 2 end as nearness
                 from images
                 where (tenant_id = $1 or (visibility = 'public' and sha256 is not null)) and hidden_at is null
                   and (id::text = lower($2) or name = $2)
                 order by nearness, id limit 10)
             select id from near where nearness = (select min(nearness) from near))
         order by id"
    ))
    .bind(tenant)
    .bind(id_or_name)
    .fetch_all(conn)
    .await?;
    Ok(images)
}

/// What is not given stays.
pub async fn update(
    conn: &mut PgConnection,
    id: ImageId,
    name: Option<&Name>,
    patch: &ImagePatch,
) -> Result<()> {
    sqlx::query(
        "update images set name = coalesce($2, name), description = coalesce($3, description), labels = coalesce($4, labels),
                           visibility = coalesce($5, visibility), required_traits = coalesce($6, required_traits),
                           revision = revision + 1
         where id = $1",
    )
    .bind(id)
    .bind(name)
    .bind(&patch.description)
    .bind(patch.labels.as_ref().map(Json))
    .bind(patch.visibility)
    .bind(&patch.required_traits)
    .execute(conn)
    .await?;
    Ok(())
}

/// The image's bytes have come: the blob is there.
pub async fn set_data(conn: &mut PgConnection, id: ImageId, sha256: &str) -> Result<()> {
    sqlx::query("update images set sha256 = $2, revision = revision + 1 where id = $1")
        .bind(id)
        .bind(sha256)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps the deleted image for the instances that use it.
pub async fn hide(conn: &mut PgConnection, id: ImageId, now: Time) -> Result<()> {
    sqlx::query(
        "update images set hidden_at = $2, revision = revision + 1 where id = $1 and hidden_at is null",
    )
    .bind(id)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the image unless an instance uses it; `false`: one does, or there is no such image.
/// The row must be locked: an instance that is being made then waits, and finds the image gone.
pub async fn remove_unused(conn: &mut PgConnection, id: ImageId) -> Result<bool> {
    let done = sqlx::query(
        "delete from images i where id = $1 and not exists (select from instances v where v.image_id = i.id)",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether the image was deleted and is kept for instances.
pub async fn is_hidden(conn: &mut PgConnection, id: ImageId) -> Result<bool> {
    let hidden =
        sqlx::query_scalar("select hidden_at is not null from images where id = $1 for update")
            .bind(id)
            .fetch_optional(conn)
            .await?;
    Ok(hidden.unwrap_or(false))
}

/// Hidden images that nothing uses any more.
pub async fn forsaken(conn: &mut PgConnection) -> Result<Vec<ImageId>> {
    let ids = sqlx::query_scalar(
        "select id from images i where hidden_at is not null
             and not exists (select from instances v where v.image_id = i.id)
         order by id limit 100",
    )
    .fetch_all(conn)
    .await?;
    Ok(ids)
}

/// The bytes behind an image; `None` until they have come.
pub async fn blob_of(conn: &mut PgConnection, id: ImageId) -> Result<Option<Blob>> {
    let blob = sqlx::query_as(
        "select b.sha256, b.format, b.size_bytes, b.virtual_bytes
         from images i join blobs b on b.sha256 = i.sha256 where i.id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(blob)
}

/// Until the transaction ends, nobody else brings these bytes in or takes them away: neither row nor file. It may idle for 60 s:
/// a large file takes its time to be on the disk, or to go.
pub async fn lock_blob(conn: &mut PgConnection, sha256: &str) -> Result<()> {
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended('blob ' || $1, 0)),
                set_config('idle_in_transaction_session_timeout', '60s', true)",
    )
    .bind(sha256)
    .execute(conn)
    .await?;
    Ok(())
}

/// Records the blob unless it is there. Under `lock_blob`.
pub async fn keep_blob(conn: &mut PgConnection, blob: &Blob, now: Time) -> Result<()> {
    sqlx::query(
        "insert into blobs (sha256, format, size_bytes, virtual_bytes, created_at) values ($1, $2, $3, $4, $5)
         on conflict (sha256) do nothing",
    )
    .bind(&blob.sha256)
    .bind(blob.format)
    .bind(blob.size_bytes)
    .bind(blob.virtual_bytes)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether an image stands on these bytes.
pub async fn blob_is_used(conn: &mut PgConnection, sha256: &str) -> Result<bool> {
    let used = sqlx::query_scalar("select exists (select from images where sha256 = $1)")
        .bind(sha256)
        .fetch_one(conn)
        .await?;
    Ok(used)
}

/// Whether the blob has its row.
pub async fn blob_is_kept(conn: &mut PgConnection, sha256: &str) -> Result<bool> {
    let kept = sqlx::query_scalar("select exists (select from blobs where sha256 = $1)")
        .bind(sha256)
        .fetch_one(conn)
        .await?;
    Ok(kept)
}

/// Removes the blob's row unless an image stands on it or a host holds a copy. Under `lock_blob`.
pub async fn remove_blob(conn: &mut PgConnection, sha256: &str) -> Result<bool> {
    let done = sqlx::query(
        "delete from blobs b where sha256 = $1
             and not exists (select from images i where i.sha256 = b.sha256)
             and not exists (select from host_images h where h.sha256 = b.sha256)",
    )
    .bind(sha256)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Blobs that no image stands on: up to 100, in order, after `after`.
pub async fn unused_blobs(conn: &mut PgConnection, after: &str) -> Result<Vec<String>> {
    let sums = sqlx::query_scalar(
        "select sha256 from blobs b
         where sha256 > $1 and not exists (select from images i where i.sha256 = b.sha256)
         order by sha256 limit 100",
    )
    .bind(after)
    .fetch_all(conn)
    .await?;
    Ok(sums)
}

/// Copies on hosts of bytes that no image stands on any more: the reconciler is to look at them.
pub async fn host_copies(conn: &mut PgConnection, sha256: &str) -> Result<Vec<sqlx::types::Uuid>> {
    let ids = sqlx::query_scalar("select id from host_images where sha256 = $1 order by id")
        .bind(sha256)
        .fetch_all(conn)
        .await?;
    Ok(ids)
}

/// The tenant's public image of this name and these bytes, and the ids of its public ones of this name and other bytes.
pub async fn published(
    conn: &mut PgConnection,
    tenant: TenantId,
    name: &Name,
    sha256: &str,
) -> Result<(Option<ImageId>, Vec<ImageId>)> {
    let rows: Vec<(ImageId, bool)> = sqlx::query_as(
        "select id, sha256 is not distinct from $3 from images
         where tenant_id = $1 and name = $2 and visibility = 'public' and hidden_at is null order by id for update",
    )
    .bind(tenant)
    .bind(name)
    .bind(sha256)
    .fetch_all(conn)
    .await?;
    let same = rows.iter().find(|(_, same)| *same).map(|(id, _)| *id);
    let others = rows.iter().filter(|(_, same)| !same).map(|(id, _)| *id).collect();
    Ok((same, others))
}
