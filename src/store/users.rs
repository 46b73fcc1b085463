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
