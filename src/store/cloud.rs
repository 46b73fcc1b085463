//! The cloud itself: one row, its id.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
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
