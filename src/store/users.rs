//! Users in the database.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::UserId;
use crate::domain::page::Page;
use crate::domain::text::Name;
use crate::domain::user::User;

pub async fn insert(
    conn: &mut PgConnection,
    id: UserId,
    name: &Name,
    password_hash: &str,
    admin: bool,
    now: Time,
) -> Result<User> {
    let user = sqlx::query_as(
        "insert into users (id, name, password_hash, admin, tokens_valid_from, created_at)
         values ($1, $2, $3, $4, $5, $5)
         returning id, name, admin, enabled, created_at, revision",
    )
    .bind(id)
    .bind(name)
    .bind(password_hash)
    .bind(admin)
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(user)
}

pub async fn get(conn: &mut PgConnection, id: UserId) -> Result<Option<User>> {
    let user = sqlx::query_as(
        "select id, name, admin, enabled, created_at, revision from users where id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(user)
}

pub async fn find_by_name(conn: &mut PgConnection, name: &str) -> Result<Option<User>> {
    let user = sqlx::query_as(
        "select id, name, admin, enabled, created_at, revision from users where name = $1",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?;
    Ok(user)
}

pub async fn list(conn: &mut PgConnection, page: &Page, name: Option<&str>) -> Result<Vec<User>> {
    let users = sqlx::query_as(
        "select id, name, admin, enabled, created_at, revision from users
         where id > $1 and ($2::text is null or name = $2) order by id limit $3",
    )
    .bind(page.after)
    .bind(name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(users)
}

/// The user, locked until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: UserId) -> Result<Option<User>> {
    let user = sqlx::query_as(
        "select id, name, admin, enabled, created_at, revision from users where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(user)
}

/// The enabled admins, locked, so that two of them cannot each remove the other.
pub async fn lock_admins(conn: &mut PgConnection) -> Result<Vec<UserId>> {
    let admins =
        sqlx::query_scalar("select id from users where admin and enabled order by id for update")
            .fetch_all(conn)
            .await?;
    Ok(admins)
}

/// What a user is to be; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub enabled: Option<bool>,
    pub admin: Option<bool>,
    pub password_hash: Option<String>,
    /// Refuses every JWT that was issued so far.
    pub end_logins: bool,
}

pub async fn update(
    conn: &mut PgConnection,
    id: UserId,
    change: &Change,
    now: Time,
) -> Result<User> {
    let user = sqlx::query_as(
        "update users
         set enabled = coalesce($2, enabled), admin = coalesce($3, admin), password_hash = coalesce($4, password_hash),
             -- Any other value than before will do, so a clock that was set back does no harm.
             tokens_valid_from = case when $5 then greatest($6, tokens_valid_from + interval '1 microsecond')
                                      else tokens_valid_from end,
             revision = revision + 1
         where id = $1
         returning id, name, admin, enabled, created_at, revision",
    )
    .bind(id)
    .bind(change.enabled)
    .bind(change.admin)
    .bind(&change.password_hash)
    .bind(change.end_logins)
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(user)
}

/// Memberships and tokens go with the user.
pub async fn delete(conn: &mut PgConnection, id: UserId) -> Result<bool> {
    let done = sqlx::query("delete from users where id = $1").bind(id).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// The hash of the user's password.
pub async fn password_hash(conn: &mut PgConnection, id: UserId) -> Result<Option<String>> {
    let hash = sqlx::query_scalar("select password_hash from users where id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(hash)
}
