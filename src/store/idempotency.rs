//! Answers kept for `Idempotency-Key`, in the transaction of the change that they report.

use serde_json::Value;
use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::id::UserId;

/// Takes the key for this transaction. A concurrent request with the same key waits here until the other one ends.
/// `Some`: the key was used before by the same request, and this was the answer. Another request's key: `Conflict`.
pub async fn take(
    conn: &mut PgConnection,
    user: UserId,
    key: &str,
    operation: &str,
    fingerprint: &[u8],
    now: Time,
) -> Result<Option<Value>> {
    let inserted = sqlx::query(
        "insert into idempotency_keys (user_id, key, operation, fingerprint, created_at)
         values ($1, $2, $3, $4, $5)
         on conflict (user_id, key) do nothing",
    )
    .bind(user)
    .bind(key)
    .bind(operation)
    .bind(fingerprint)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(None);
    }
    let (kept, response): (Vec<u8>, Option<Value>) = sqlx::query_as(
        "select fingerprint, response from idempotency_keys where user_id = $1 and key = $2",
    )
    .bind(user)
    .bind(key)
    .fetch_one(conn)
    .await?;
    if kept != fingerprint {
        return Err(Error::conflict(
            "idempotency-key-reused",
            "this Idempotency-Key was used for another request: use a new one for each request that you mean to make once",
        ));
    }
    Ok(response)
}

/// A key, whose it is, and what tells its request from others.
pub struct Key<'a> {
    pub user: UserId,
    pub key: &'a str,
    pub fingerprint: Vec<u8>,
}

/// Takes all of these for this transaction. `false`: one was used before, is named twice, or is another request's, and the
/// transaction is of no use; each is to be taken by itself.
pub async fn take_all(
    conn: &mut PgConnection,
    keys: &[Key<'_>],
    operation: &str,
    now: Time,
) -> Result<bool> {
    if keys.is_empty() {
        return Ok(true);
    }
    // In one order, so that two that share keys wait for one another and not both.
    let taken = sqlx::query(
        "insert into idempotency_keys (user_id, key, operation, fingerprint, created_at)
         select k.user_id, k.key, $4, k.fingerprint, $5
         from unnest($1::uuid[], $2::text[], $3::bytea[]) as k (user_id, key, fingerprint) order by k.user_id, k.key
         on conflict (user_id, key) do nothing",
    )
    .bind(keys.iter().map(|key| key.user.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.key).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.fingerprint.as_slice()).collect::<Vec<_>>())
    .bind(operation)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == keys.len() as u64)
}

/// Keeps the answers, in the order of their keys.
pub async fn keep_all(conn: &mut PgConnection, keys: &[Key<'_>], answers: &[Value]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update idempotency_keys i set response = k.response
         from unnest($1::uuid[], $2::text[], $3::jsonb[]) as k (user_id, key, response)
         where i.user_id = k.user_id and i.key = k.key",
    )
    .bind(keys.iter().map(|key| key.user.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.key).collect::<Vec<_>>())
    .bind(answers)
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps the answer.
pub async fn keep(
    conn: &mut PgConnection,
    user: UserId,
    key: &str,
    response: &Value,
) -> Result<()> {
    sqlx::query("update idempotency_keys set response = $3 where user_id = $1 and key = $2")
        .bind(user)
        .bind(key)
        .bind(response)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets keys of before `before`, up to 1,000 at a time; gives how many.
pub async fn forget(conn: &mut PgConnection, before: Time) -> Result<u64> {
    let done = sqlx::query(
        "delete from idempotency_keys where (user_id, key) in
         (select user_id, key from idempotency_keys where created_at < $1 limit 1000)",
    )
    .bind(before)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
