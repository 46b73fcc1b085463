//! The upkeep loop: now and then what is old is forgotten, and signing keys are replaced before they retire.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use crate::domain::clock::Watch;
use crate::hypervisor;
use crate::service::{App, expiry, upkeep};
use crate::store;

/// Longest round: it goes by batches, and a batch waits for a connection or a lock for at most 40 s.
const ROUND: Duration = Duration::from_mins(10);

/// Until `app.shutdown`. A failure is logged and tried again at the next round.
pub async fn run(app: App) {
    let pause = app.config.upkeep;
    let beat = app.beats().register("upkeep", pause * 2 + ROUND, app.clock.now());
    loop {
        // Processes that started together do not all come at once.
        let wait = pause.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        let round = async {
            tokio::time::sleep(wait).await;
            upkeep::run_once(&app).await
        };
        match app.shutdown.run_until_cancelled(round).await {
            None => return,
            Some(Ok(done)) if done == upkeep::Forgotten::default() => {}
            Some(Ok(done)) => tracing::info!(?done, "old things were forgotten"),
            Some(Err(error)) => {
                tracing::warn!(%error, "old things could not be forgotten; trying again");
            }
        }
        beat.alive(app.clock.now());
    }
}

/// How often freed memory is given back.
const TRIM: Duration = Duration::from_mins(1);

/// Gives memory that was freed back to the system, until `app.shutdown`.
pub async fn trim(app: App) {
    while app.shutdown.run_until_cancelled(tokio::time::sleep(TRIM)).await.is_some() {
        // Some milliseconds.
        let _ = tokio::task::spawn_blocking(hypervisor::trim_memory).await;
    }
}

/// How often the database's clock is read.
const READ: Duration = Duration::from_secs(10);
/// A reading that took longer is worth nothing.
const VAGUE: Duration = Duration::from_millis(500);
/// Off by more is told.
const JUMP: TimeDelta = TimeDelta::seconds(1);

/// Keeps the watch by the database's clock, until `app.shutdown`. While the database is away it goes on by itself.
pub async fn follow_clock(app: App, watch: Arc<Watch>) {
    let read = async || {
        let reading = async { store::clock::read(&mut *store::acquire(&app.db).await?).await };
        tokio::time::timeout(app.config.database_patience, reading).await.ok()?.ok()
    };
    while app.shutdown.run_until_cancelled(tokio::time::sleep(READ)).await.is_some() {
        if let Some(reading) = read().await.filter(|reading| reading.error <= VAGUE) {
            let off = watch.follow(&reading);
            if off.abs() >= JUMP {
                tracing::warn!(seconds = off.num_seconds(), "the database's clock has jumped");
            }
        }
    }
}

/// Ends what has come to its time, until `app.shutdown`.
pub async fn expire(app: App) {
    let patience = app.config.database_patience;
    let beat = app.beats().register("expiry", patience * 2, app.clock.now());
    let mut pause = Duration::ZERO;
    loop {
        let round = async {
            tokio::time::sleep(pause).await;
            tokio::time::timeout(patience, expiry::run_once(&app)).await
        };
        pause = match app.shutdown.run_until_cancelled(round).await {
            None => return,
            Some(Ok(Ok(next))) => expiry::pause(app.clock.now(), next),
            Some(failed) => {
                tracing::warn!(
                    ?failed,
                    "what has come to its time could not be ended; trying again"
                );
                expiry::pause(app.clock.now(), None)
            }
        };
        beat.alive(app.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use crate::cli::postgres::throwaway;
    use crate::config::{Config, Flags};
    use crate::{server, store};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_forgets_what_is_old_and_makes_the_next_key_in_time() {
        let database = throwaway::migrated(&store::MIGRATIONS).await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let flags = Flags::default()
            .set("upkeep_s", "1")
            .set("listen", "127.0.0.1:0")
            .set("state_dir", state.path().to_string_lossy());
        let config = Config::load(&flags, []).unwrap();
        let db = store::connect(database.clone(), 2).await.unwrap();
        sqlx::raw_sql(
            "insert into idempotency_keys (user_id, key, operation, fingerprint, created_at)
                 values (gen_random_uuid(), 'k', 'o', '', now() - interval '1 year');
             insert into signing_keys (kid, private_key, public_key, created_at, retires_at)
                 values ('now', '', '', now() - interval '29 days', now() + interval '30 minutes'),
                        ('ended', '', '', now() - interval '99 days', now() - interval '69 days')",
        )
        .execute(&db)
        .await
        .unwrap();
        let stop = CancellationToken::new();
        let listener = server::listen(&config).await.unwrap();
        let server = tokio::spawn(server::run(config, listener, database, None, stop.clone()));
        loop {
            let left: (i64, Vec<String>) = sqlx::query_as(
                "select (select count(*) from idempotency_keys),
                        (select array_agg(kid order by retires_at) from signing_keys)",
            )
            .fetch_one(&db)
            .await
            .unwrap();
            if left.0 == 0 && left.1.len() == 2 && left.1[0] == "now" && left.1[1] != "ended" {
                break;
            }
            assert!(!server.is_finished(), "the server ended: {left:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
