//! Base images on hosts: asked for once, uploaded once, however many instances wait.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{HostId, ImageId};
use crate::domain::image::ImageFormat;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct HostImage {
    pub id: Uuid,
    pub host_id: HostId,
    pub sha256: String,
    pub format: ImageFormat,
    pub size_bytes: i64,
    pub virtual_bytes: i64,
    /// The upload was seen to its end.
    pub present: bool,
    pub sent_bytes: i64,
    /// How many instances on the host stand on it.
    pub users: i64,
    pub used_at: Time,
    /// Whether an image still has these bytes.
    pub image_lives: bool,
}

impl HostImage {
    /// Name of the volume in our pool of the host.
    pub fn volume(&self) -> String {
        volume_name(&self.sha256, self.format)
    }
}

/// Name of a base image's volume: `base-<sha256>.<format>`.
pub fn volume_name(sha256: &str, format: ImageFormat) -> String {
    format!("base-{sha256}.{}", format.as_str())
}

/// Keeps everybody from asking for the image on the host until the transaction ends; `false`: somebody asks at this moment.
pub async fn lock_out(conn: &mut PgConnection, host: HostId, sha256: &str) -> Result<bool> {
    let held = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('base ' || $1::text || $2, 0))",
    )
    .bind(host)
    .bind(sha256)
    .fetch_one(conn)
    .await?;
    Ok(held)
}

/// Keeps a copy that nobody owned from being swept, until the transaction ends; `false`: that is being done at this moment.
/// Nobody waits, since all instances of the image may ask at once, each with a connection. `want` comes after it.
pub async fn lock_in(conn: &mut PgConnection, host: HostId, sha256: &str) -> Result<bool> {
    let held = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock_shared(hashtextextended('base ' || $1::text || $2, 0))",
    )
    .bind(host)
    .bind(sha256)
    .fetch_one(conn)
    .await?;
    Ok(held)
}

/// Asks for the image on the host, or finds that somebody did.
pub async fn want(conn: &mut PgConnection, host: HostId, sha256: &str, now: Time) -> Result<Uuid> {
    let id = sqlx::query_scalar(
        "insert into host_images (id, host_id, sha256, used_at, created_at) values ($1, $2, $3, $4, $4)
         on conflict (host_id, sha256) do update set used_at = excluded.used_at
         returning id",
    )
    .bind(Uuid::now_v7())
    .bind(host)
    .bind(sha256)
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(id)
}

macro_rules! host_images {
    ($filter:literal) => {
        concat!(
            "select p.id, p.host_id, p.sha256, b.format, b.size_bytes, b.virtual_bytes, p.present, p.sent_bytes, p.used_at,
                    (select count(*) from incarnations c join instances i on i.id = c.instance_id
                     join images m on m.id = i.image_id and m.sha256 = p.sha256
                     where c.host_id = p.host_id) as users,
                    exists (select from images m where m.sha256 = p.sha256) as image_lives
             from host_images p join blobs b on b.sha256 = p.sha256 where ",
            $filter
        )
    };
}

pub async fn get(conn: &mut PgConnection, id: Uuid) -> Result<Option<HostImage>> {
    let row = sqlx::query_as(host_images!("p.id = $1")).bind(id).fetch_optional(conn).await?;
    Ok(row)
}

pub async fn find(
    conn: &mut PgConnection,
    host: HostId,
    sha256: &str,
) -> Result<Option<HostImage>> {
    let row = sqlx::query_as(host_images!("p.host_id = $1 and p.sha256 = $2"))
        .bind(host)
        .bind(sha256)
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Whether the image's bytes are on the host.
pub async fn is_present(conn: &mut PgConnection, host: HostId, image: ImageId) -> Result<bool> {
    let present = sqlx::query_scalar(
        "select exists (select from host_images p join images m on m.sha256 = p.sha256
                        where m.id = $1 and p.host_id = $2 and p.present)",
    )
    .bind(image)
    .bind(host)
    .fetch_one(conn)
    .await?;
    Ok(present)
}

pub async fn on_host(conn: &mut PgConnection, host: HostId) -> Result<Vec<HostImage>> {
    let rows = sqlx::query_as(host_images!("p.host_id = $1")).bind(host).fetch_all(conn).await?;
    Ok(rows)
}

pub async fn progress(conn: &mut PgConnection, id: Uuid, sent_bytes: i64) -> Result<()> {
    sqlx::query("update host_images set sent_bytes = $2 where id = $1")
        .bind(id)
        .bind(sent_bytes)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn set_present(conn: &mut PgConnection, id: Uuid, present: bool) -> Result<()> {
    sqlx::query("update host_images set present = $2, sent_bytes = case when $2 then sent_bytes else 0 end where id = $1")
        .bind(id)
        .bind(present)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn used(conn: &mut PgConnection, id: Uuid, now: Time) -> Result<()> {
    sqlx::query("update host_images set used_at = $2 where id = $1")
        .bind(id)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Nobody may count on it any more; `false` where an instance does, and while anything that was left behind on the host, of
/// which nobody knows its image any more, may stand on it.
pub async fn retire(conn: &mut PgConnection, id: Uuid) -> Result<bool> {
    let done = sqlx::query(
        "update host_images p set present = false where p.id = $1 and not exists (
             select from incarnations c left join instances i on i.id = c.instance_id
             left join images m on m.id = i.image_id
             where c.host_id = p.host_id and (m.sha256 = p.sha256 or c.fenced_at is not null))",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The row goes, unless an instance on the host came to need it meanwhile.
pub async fn remove_unused(conn: &mut PgConnection, id: Uuid) -> Result<bool> {
    let done = sqlx::query(
        "delete from host_images p where p.id = $1 and not exists (
             select from incarnations c join instances i on i.id = c.instance_id
             join images m on m.id = i.image_id and m.sha256 = p.sha256
             where c.host_id = p.host_id)",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
