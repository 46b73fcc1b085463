//! The only room that speaks SQL: a file a noun; functions borrow the transaction that the service opened.

pub mod aggregates;
pub mod auth;
pub mod changes;
pub mod clock;
pub mod cloud;
mod constraint;
pub mod events;
pub mod flavors;
pub mod fleet;
pub mod flush;
pub mod fsck;
pub mod full;
pub mod generations;
pub mod groups;
pub mod host_images;
pub mod host_networks;
pub mod hosts;
pub mod idempotency;
pub mod incarnations;
pub mod instances;
pub mod images;
pub mod keypairs;
pub mod metrics;
pub mod networks;
pub mod ports;
pub mod memberships;
pub mod queue;
pub mod reservations;
pub mod signing_keys;
pub mod stalled;
pub mod tenants;
pub mod tokens;
pub mod users;
pub mod orphans;
mod pool;
pub mod work;

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool};

use crate::domain::error::{Error, Result};

pub use pool::{Conn, Tx, acquire, begin, begin_patiently};

/// The migrations, in the binary itself.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// A pool of at most `size` connections. A statement may take 30 s and a transaction may idle for 15 s: longer ones are ended
/// by the server, so that a client that is stuck, or cut off, holds a lock for less time than others wait for it. Those who hold
/// one on purpose say so: `begin_patiently`. Transactions are of the isolation that the statements are written for, whatever
/// the role's or the database's default is.
pub async fn connect(options: PgConnectOptions, size: u32) -> Result<PgPool> {
    let options = options.application_name("pileus").options([
        ("statement_timeout", "30s"),
        ("idle_in_transaction_session_timeout", "15s"),
        ("default_transaction_isolation", "read committed"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(Duration::from_secs(10))
        // A ping before each use costs a round trip; a broken connection shows at its first statement.
        .test_before_acquire(false)
        .before_acquire(|conn, meta| Box::pin(pool::is_fit(conn, meta)))
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// Whether every migration of this binary was applied. A newer binary's may have been too: during an upgrade both serve.
pub async fn schema_is_current(conn: &mut PgConnection) -> Result<bool> {
    let ours: Vec<i64> = MIGRATIONS.iter().map(|m| m.version).collect();
    let current = sqlx::query_scalar(
        "select count(*) = cardinality($1) from _sqlx_migrations where success and version = any($1)",
    )
    .bind(ours)
    .fetch_one(conn)
    .await?;
    Ok(current)
}

/// Whether the schema has all that this binary's migrations bring. A database without a schema has not.
pub async fn is_migrated(pool: &PgPool) -> Result<bool> {
    let mut conn = acquire(pool).await?;
    let there = "select to_regclass('_sqlx_migrations') is not null";
    if !sqlx::query_scalar(there).fetch_one(&mut *conn).await? {
        return Ok(false);
    }
    let sql = "select version, checksum from _sqlx_migrations where success";
    let done: Vec<(i64, Vec<u8>)> = sqlx::query_as(sql).fetch_all(&mut *conn).await?;
    let is_done = |version, sum: &[u8]| done.iter().any(|(v, s)| *v == version && s == sum);
    Ok(MIGRATIONS.iter().all(|migration| is_done(migration.version, &migration.checksum)))
}

/// Brings the schema to this binary's version; concurrent callers wait for one another.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    // A newer binary's may have been applied: the older one goes on, and starts again, while they are being exchanged.
    let mut ours = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    ours.set_ignore_missing(true);
    ours.run(pool).await.map_err(Error::internal)
}
