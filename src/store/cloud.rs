//! The cloud itself: one row, its id.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::cloud::Cloud;
use crate::domain::error::Result;

/// The cloud's id: `proposed` where it had none; whoever came first decided.
pub async fn ensure(conn: &mut PgConnection, proposed: Uuid, now: Time) -> Result<Uuid> {
    sqlx::query("insert into cloud (id, created_at) values ($1, $2) on conflict do nothing")
        .bind(proposed)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    Ok(sqlx::query_scalar("select id from cloud").fetch_one(conn).await?)
}

/// The cloud's id, locked: others who want the same wait until the transaction ends.
pub async fn lock(conn: &mut PgConnection) -> Result<Uuid> {
    Ok(sqlx::query_scalar("select id from cloud for update").fetch_one(conn).await?)
}

/// The cloud as its admins see it.
pub async fn get(conn: &mut PgConnection) -> Result<Option<Cloud>> {
    let cloud = sqlx::query_as(
        "select id, held_since, held_reason,
                (select count(*) from hosts where health <> 'up') as hosts_down,
                (select count(*) from work where stalled_at is not null) as stalled,
                (select count(*) from orphans where ours) as orphans
         from cloud",
    )
    .fetch_optional(conn)
    .await?;
    Ok(cloud)
}

/// Why nothing is removed from the world, and since when.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Held {
    pub since: Time,
    pub reason: String,
}

pub async fn held(conn: &mut PgConnection) -> Result<Option<Held>> {
    let held = sqlx::query_as(
        "select held_since as since, held_reason as reason from cloud where held_since is not null",
    )
    .fetch_optional(conn)
    .await?;
    Ok(held)
}

/// Begins the hold; `false`: it has begun before.
pub async fn hold(conn: &mut PgConnection, reason: &str, now: Time) -> Result<bool> {
    let done =
        sqlx::query("update cloud set held_since = $2, held_reason = $1 where held_since is null")
            .bind(reason)
            .bind(now)
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn resume(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("update cloud set held_since = null, held_reason = null").execute(conn).await?;
    Ok(())
}

/// Another database than the one that was served last.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    pub from: String,
    pub to: String,
}

/// Notes which database this is: its cluster's own identifier, where we may read it, and its number there. A dump that was
/// restored is another one, as is a copy, and a cluster after pg_upgrade.
pub async fn note_database(conn: &mut PgConnection) -> Result<Option<Moved>> {
    let may: bool = sqlx::query_scalar(
        "select has_function_privilege('pg_catalog.pg_control_system()', 'execute')",
    )
    .fetch_one(&mut *conn)
    .await?;
    let cluster: String = if may {
        sqlx::query_scalar("select system_identifier::text from pg_control_system()")
            .fetch_one(&mut *conn)
            .await?
    } else {
        String::new()
    };
    let number: String =
        sqlx::query_scalar("select oid::text from pg_database where datname = current_database()")
            .fetch_one(&mut *conn)
            .await?;
    let to = format!("{cluster}/{number}");
    let from: Option<Option<String>> = sqlx::query_scalar("select database from cloud for update")
        .fetch_optional(&mut *conn)
        .await?;
    if from.as_ref().is_none_or(|from| from.as_ref() == Some(&to)) {
        return Ok(None);
    }
    sqlx::query("update cloud set database = $1").bind(&to).execute(conn).await?;
    Ok(from.flatten().map(|from| Moved { from, to }))
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, types::chrono::DateTime};

    use super::*;

    #[tokio::test]
    async fn the_first_id_stays() {
        let options = crate::cli::postgres::throwaway::migrated(&crate::store::MIGRATIONS).await;
        let mut conn = options.unwrap().connect().await.unwrap();
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(ensure(&mut conn, first, now).await.unwrap(), first);
        assert_eq!(ensure(&mut conn, second, now).await.unwrap(), first);
    }
}
