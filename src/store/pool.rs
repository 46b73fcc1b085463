//! Connections and transactions that nobody spoils by leaving in the middle of a statement.
//!
//! A request whose client hangs up and a look whose lease is lost are dropped where they wait. sqlx 0.9 gives their connection back
//! to the pool when its reply has come, however long that takes; and where the statement was BEGIN, it forgets that and gives
//! the connection back with its transaction open: what others then write through it keeps its locks, and is never committed.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::histogram;
use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio::time::timeout;

use crate::domain::error::Result;
use crate::domain::metric;

/// How long a connection that was given back may take to have its last statement done; then it is closed.
const RETURN: Duration = Duration::from_secs(10);
/// How long an idle connection under suspicion may take for an answer.
const PING: Duration = Duration::from_secs(2);

/// When a connection last failed to answer: those that are older may lead to the same nowhere.
static SUSPICION: Mutex<Option<Instant>> = Mutex::new(None);

/// A connection of the pool; back in it when dropped, if it still answers by then.
#[derive(Debug)]
pub struct Conn(Option<PoolConnection<Postgres>>);

/// A transaction; rolled back when dropped.
#[derive(Debug)]
pub struct Tx {
    conn: Conn,
    open: bool,
}

/// How long it was waited for is measured.
pub async fn acquire(pool: &PgPool) -> Result<Conn> {
    let begun = Instant::now();
    let conn = pool.acquire().await;
    histogram!(metric::POOL_WAIT).record(begun.elapsed());
    Ok(Conn(Some(conn?)))
}

/// A transaction on a connection of its own.
pub async fn begin(pool: &PgPool) -> Result<Tx> {
    begin_with(pool, "begin").await
}

/// The same by another word: `begin` and what is to hold in it.
pub async fn begin_with(pool: &PgPool, word: &'static str) -> Result<Tx> {
    // Open before the word is out: dropped while it waits, it is rolled back.
    let mut tx = Tx { conn: acquire(pool).await?, open: true };
    sqlx::raw_sql(word).execute(&mut *tx).await?;
    Ok(tx)
}

/// The same for one that holds its locks on purpose while something slow is done outside the database: it may idle for 60 s.
pub async fn begin_patiently(pool: &PgPool) -> Result<Tx> {
    begin_with(pool, "begin; set local idle_in_transaction_session_timeout = '60s'").await
}

impl Tx {
    /// An error leaves it open whether it was committed: its answer may have been lost.
    pub async fn commit(mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("commit").execute(&mut *self).await?;
        self.open = false;
        Ok(())
    }

    /// At once, and not when its connection is back in the pool.
    pub async fn rollback(mut self) -> sqlx::Result<()> {
        sqlx::raw_sql("rollback").execute(&mut *self).await?;
        self.open = false;
        Ok(())
    }
}

impl Deref for Conn {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "taken only when dropped")]
    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("a connection")
    }
}

impl DerefMut for Conn {
    #[expect(clippy::expect_used, reason = "taken only when dropped")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("a connection")
    }
}

impl Deref for Tx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.conn
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            tokio::spawn(give_back(conn, false));
        }
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.0.take_if(|_| self.open) {
            tokio::spawn(give_back(conn, true));
        }
    }
}

async fn give_back(mut conn: PoolConnection<Postgres>, open: bool) {
    let back = async {
        if open {
            sqlx::raw_sql("rollback").execute(&mut *conn).await?;
        }
        // It waits for what is under way, and asks whether the other side still answers.
        conn.return_to_pool().await;
        Ok::<(), sqlx::Error>(())
    };
    match timeout(RETURN, back).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, "a transaction could not be rolled back; its connection is closed");
            conn.close_on_drop();
        }
        Err(_elapsed) => {
            tracing::warn!(patience = ?RETURN, "a connection to the database does not answer; it is closed");
            *SUSPICION.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            // Its place in the pool is free as soon as this is dropped, also where closing hangs.
            conn.close_on_drop();
        }
    }
}

/// Whether an idle connection may be used. Asked at each use, and costs nothing but after a connection failed to answer.
pub(super) async fn is_fit(
    conn: &mut PgConnection,
    meta: PoolConnectionMetadata,
) -> sqlx::Result<bool> {
    let since = *SUSPICION.lock().unwrap_or_else(PoisonError::into_inner);
    if since.is_none_or(|since| meta.age < since.elapsed()) {
        return Ok(true);
    }
    Ok(timeout(PING, conn.ping()).await.is_ok_and(|answered| answered.is_ok()))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use sqlx::ConnectOptions;

    use super::*;
    use crate::cli::postgres::throwaway;
    use crate::store;

    /// Begins, and drops that after one poll, after two, and so on until it is done; gives how many transactions were left open.
    async fn left_open<T, E>(begin: impl AsyncFn(&PgPool) -> Result<T, E>) -> i64 {
        let options = throwaway::empty().await.unwrap();
        let mut beside = options.connect().await.unwrap();
        let (mut left, mut polls, mut swift) = (0, 1, 0);
        loop {
            // Its only connection is used on when it is back.
            let pool = store::connect(options.clone(), 1).await.unwrap();
            if done_within(begin(&pool), polls).await {
                if polls > 1 {
                    break;
                }
                // The answer was there before it was waited for.
                swift += 1;
                assert!(swift < 100, "it was never dropped while it waited");
                continue;
            }
            polls += 1;
            let mut conn = acquire(&pool).await.unwrap();
            sqlx::query("select 1").execute(&mut *conn).await.unwrap();
            let open = "select count(*) from pg_stat_activity
                        where datname = current_database() and state like 'idle in transaction%'";
            left += sqlx::query_scalar::<_, i64>(open).fetch_one(&mut beside).await.unwrap();
            drop(conn);
            pool.close().await;
        }
        left
    }

    async fn done_within<T>(work: impl Future<Output = T>, polls: usize) -> bool {
        let mut work = pin!(work);
        for _ in 0..polls {
            if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return true;
            }
            // As long as its answer may take.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    #[tokio::test]
    async fn a_begin_that_nobody_waits_for_leaves_no_transaction_open() {
        assert_eq!(left_open(async |pool| begin(pool).await).await, 0);
    }

    /// When this fails, sqlx has mended it, and less of this file is needed.
    #[tokio::test]
    async fn a_begin_of_sqlx_that_nobody_waits_for_leaves_its_transaction_open() {
        assert!(left_open(async |pool| pool.begin().await).await > 0);
    }

    #[tokio::test]
    async fn what_is_begun_patiently_may_idle_for_longer_and_its_connection_no_more() {
        let options = throwaway::empty().await.unwrap();
        let pool = store::connect(options, 1).await.unwrap();
        let idle = "show idle_in_transaction_session_timeout";
        let mut tx = begin_patiently(&pool).await.unwrap();
        let patient: String = sqlx::query_scalar(idle).fetch_one(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let usual: String = sqlx::query_scalar(idle).fetch_one(&pool).await.unwrap();
        assert_eq!((patient.as_str(), usual.as_str()), ("1min", "15s"));
    }

    #[tokio::test]
    async fn its_sessions_are_read_committed_whatever_the_database_would_have() {
        let options = throwaway::empty().await.unwrap();
        let mut plain = options.connect().await.unwrap();
        let strict = "do $$ begin execute format('alter database %I set default_transaction_isolation = ''serializable''',
                                                 current_database()); end $$";
        sqlx::raw_sql(strict).execute(&mut plain).await.unwrap();
        let level = "show transaction_isolation";
        let mut plain = options.connect().await.unwrap();
        let strict: String = sqlx::query_scalar(level).fetch_one(&mut plain).await.unwrap();
        let pool = store::connect(options, 1).await.unwrap();
        let ours: String = sqlx::query_scalar(level).fetch_one(&pool).await.unwrap();
        assert_eq!((strict.as_str(), ours.as_str()), ("serializable", "read committed"));
    }

    #[tokio::test]
    async fn what_is_dropped_is_rolled_back_and_what_is_committed_stays() {
        let options = throwaway::empty().await.unwrap();
        let pool = store::connect(options, 1).await.unwrap();
        sqlx::raw_sql("create table t (x int)")
            .execute(&mut *acquire(&pool).await.unwrap())
            .await
            .unwrap();
        for commit in [false, true] {
            let mut tx = begin(&pool).await.unwrap();
            sqlx::query("insert into t values (1)").execute(&mut *tx).await.unwrap();
            if commit {
                tx.commit().await.unwrap();
            }
        }
        let count: i64 = sqlx::query_scalar("select count(*) from t")
            .fetch_one(&mut *acquire(&pool).await.unwrap())
            .await
            .unwrap();
        assert_eq!(count, 1);
    }
}
