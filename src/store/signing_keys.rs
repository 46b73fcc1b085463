//! The keys that sign tokens, in the database.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::Result;

#[derive(Clone, sqlx::FromRow)]
pub struct SigningKey {
    pub kid: String,
    /// PKCS #8 DER of an Ed25519 key.
    pub private_key: Vec<u8>,
    /// 32 bytes.
    pub public_key: Vec<u8>,
    pub created_at: Time,
    pub retires_at: Time,
}

/// Newest first.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<SigningKey>> {
    let keys = sqlx::query_as("select * from signing_keys order by created_at desc, kid desc")
        .fetch_all(conn)
        .await?;
    Ok(keys)
}

/// Keeps other processes from making a key at the same time; readers are not held up.
pub async fn lock(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("lock table signing_keys in share row exclusive mode").execute(conn).await?;
    Ok(())
}

pub async fn insert(conn: &mut PgConnection, key: &SigningKey) -> Result<()> {
    sqlx::query(
        "insert into signing_keys (kid, private_key, public_key, created_at, retires_at)
         values ($1, $2, $3, $4, $5)",
    )
    .bind(&key.kid)
    .bind(&key.private_key)
    .bind(&key.public_key)
    .bind(key.created_at)
    .bind(key.retires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the keys that retired before `before`; gives how many.
pub async fn forget(conn: &mut PgConnection, before: Time) -> Result<u64> {
    let done = sqlx::query("delete from signing_keys where retires_at < $1")
        .bind(before)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// Every key signs until `at` at most.
pub async fn retire_all(conn: &mut PgConnection, at: Time) -> Result<()> {
    sqlx::query("update signing_keys set retires_at = $1 where retires_at > $1")
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Nothing that any key signed is good any more.
pub async fn remove_all(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("delete from signing_keys").execute(conn).await?;
    Ok(())
}
