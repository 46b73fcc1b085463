//! Durability apart from the commit: what was committed softly is on the database's disk once `wait` has returned.
//!
//! A commit that waits for the disk holds its locks meanwhile, and others in the queue behind them. A soft commit gives them up
//! at once; then one wait serves all who wait at the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::PgPool;
use tokio::sync::Mutex;

use super::pool::{Tx, begin_with};
use crate::domain::error::Result;

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Flush(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The ticket under which the last flush that was done had begun.
    last: Mutex<u64>,
    /// Orders who asks and what begins.
    tickets: AtomicU64,
}

impl Default for Flush {
    fn default() -> Self {
        Self(Arc::new(Inner { last: Mutex::default(), tickets: AtomicU64::new(1) }))
    }
}

impl Flush {
    /// Returns when everything that was committed before the call is on the disk.
    pub async fn wait(&self, db: &PgPool) -> Result<()> {
        let asked = self.ticket();
        let mut last = self.0.last.lock().await;
        if *last > asked {
            return Ok(());
        }
        let begun = self.ticket();
        // The log is flushed up to the end of a transaction that wrote to it; this one writes next to nothing, and nothing at
        // all where all is on the disk already.
        sqlx::query(
            "select pg_logical_emit_message(true, 'pileus', '')
             where pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()",
        )
        .execute(db)
        .await?;
        *last = begun;
        Ok(())
    }

    fn ticket(&self) -> u64 {
        self.0.tickets.fetch_add(1, Ordering::AcqRel)
    }
}

/// A transaction whose commit does not wait for the disk.
pub async fn begin_softly(db: &PgPool) -> Result<Tx> {
    begin_with(db, "begin; set local synchronous_commit = off").await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::postgres::throwaway;
    use crate::store;

    #[tokio::test]
    async fn a_soft_transaction_is_a_transaction_and_a_wait_ends_with_all_on_disk() {
        let options = throwaway::migrated(&store::MIGRATIONS).await.unwrap();
        let db = store::connect(options, 4).await.unwrap();
        sqlx::raw_sql("create table t (n int)").execute(&db).await.unwrap();
        let mut tx = begin_softly(&db).await.unwrap();
        let setting: String =
            sqlx::query_scalar("show synchronous_commit").fetch_one(&mut *tx).await.unwrap();
        assert_eq!(setting, "off");
        sqlx::query("insert into t values (1)").execute(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        let mut tx = begin_softly(&db).await.unwrap();
        sqlx::query("insert into t values (2)").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let kept: Vec<i32> = sqlx::query_scalar("select n from t").fetch_all(&db).await.unwrap();
        assert_eq!(kept, [2]);
        // Here the cluster itself waits for nothing; that the wait asks it to is what the benchmarks' durable one shows.
        let flush = Flush::default();
        let waits = (0..8).map(|_| flush.wait(&db));
        for waited in futures_util::future::join_all(waits).await {
            waited.unwrap();
        }
    }
}
