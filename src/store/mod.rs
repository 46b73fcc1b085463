//! The only room that speaks SQL: a file a noun; functions borrow the transaction that the service opened.

pub mod auth;
pub mod changes;
pub mod cloud;
mod constraint;
pub mod events;
pub mod flavors;
pub mod flush;
pub mod fsck;
pub mod generations;
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
pub mod signing_keys;
pub mod stalled;
pub mod tenants;
pub mod tokens;
pub mod users;
pub mod orphans;
pub mod work;

use std::time::{Duration, Instant};

use ::metrics::histogram;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::domain::error::{Error, Result};
use crate::domain::metric;

pub type Tx = Transaction<'static, Postgres>;

/// The migrations, in the binary itself.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// A pool of at most `size` connections. A statement may take 30 s and a transaction may idle for 60 s: longer ones are ended
/// by the server, so that a stuck client never holds a lock for good.
pub async fn connect(options: PgConnectOptions, size: u32) -> Result<PgPool> {
    let options = options
        .application_name("pileus")
        .options([("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "60s")]);
    let pool = PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(Duration::from_secs(10))
        // A ping before each use costs a round trip; a broken connection shows at its first statement.
        .test_before_acquire(false)
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// A connection of the pool; how long it was waited for is measured.
pub async fn acquire(pool: &PgPool) -> Result<PoolConnection<Postgres>> {
    let begun = Instant::now();
    let conn = pool.acquire().await;
    histogram!(metric::POOL_WAIT).record(begun.elapsed());
    Ok(conn?)
}

/// A transaction on a connection of its own.
pub async fn begin(pool: &PgPool) -> Result<Tx> {
    Ok(Transaction::begin(acquire(pool).await?, None).await?)
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

/// Brings the schema to this binary's version; concurrent callers wait for one another.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    MIGRATIONS.run(pool).await.map_err(Error::internal)
}
