//! The feed's promise: a total order without gaps, in which no reader skips a late commit.

use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;

use super::*;
use crate::cli::postgres::throwaway;
use crate::domain::clock::Clock;
use crate::domain::event::{Actor, Outcome, Subject};
use crate::store::{MIGRATIONS, connect};

const WRITERS: i64 = 8;
const EACH: i64 = 60;

async fn pool() -> PgPool {
    connect(throwaway::migrated(&MIGRATIONS).await.unwrap(), 16).await.unwrap()
}

fn event(kind: &'static str, name: String) -> NewEvent {
    NewEvent {
        kind,
        subject: Subject { kind: "test", id: Uuid::now_v7(), name, tenant: None },
        actor: Actor { user: None, name: "test".into(), request_id: None },
        outcome: Outcome::Seen,
        detail: json!({}),
    }
}

fn page(after: i64, limit: i64) -> SeqPage {
    SeqPage { limit, order: Order::Asc, after, before: i64::MAX }
}

/// Commits its events in transactions of one or two, after delays that make later ones overtake earlier ones.
async fn write(db: PgPool, writer: i64) {
    let mut left = EACH;
    while left > 0 {
        let mut tx = db.begin().await.unwrap();
        for _ in 0..(1 + left % 2).min(left) {
            let new = event("test.write", format!("{writer}/{left}"));
            insert(&mut tx, &new, Clock::System.now()).await.unwrap();
            left -= 1;
        }
        // The load itself, not a synchronisation.
        sqlx::query("select pg_sleep(random() * 0.02)").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_every_event_once_and_in_order_however_late_it_commits() {
    let db = pool().await;
    let writers: Vec<_> = (0..WRITERS).map(|n| tokio::spawn(write(db.clone(), n))).collect();
    // Two processes publish at once.
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                while publish(&mut db.acquire().await.unwrap()).await.unwrap() < WRITERS * EACH {}
            })
        })
        .collect();
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(WRITERS * EACH).unwrap() {
        let after = seen.last().map_or(0, |e: &Event| e.seq);
        let mut rows = list(&mut db.acquire().await.unwrap(), &Filter::default(), &page(after, 7))
            .await
            .unwrap();
        rows.truncate(7);
        seen.extend(rows);
    }
    for task in writers.into_iter().chain(publishers) {
        task.await.unwrap();
    }
    let seqs: Vec<_> = seen.iter().map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=WRITERS * EACH).collect::<Vec<_>>());
    let mut names: Vec<_> = seen.iter().map(|e| e.resource_name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), seen.len(), "an event was seen twice");
}

#[tokio::test]
async fn an_event_that_is_not_committed_is_not_in_the_feed_and_holds_nobody_up() {
    let db = pool().await;
    let now = Clock::System.now();
    let mut late = db.begin().await.unwrap();
    insert(&mut late, &event("test.late", "late".into()), now).await.unwrap();
    let mut conn = db.acquire().await.unwrap();
    insert(&mut conn, &event("test.early", "early".into()), now).await.unwrap();
    assert_eq!(publish(&mut conn).await.unwrap(), 1);
    late.commit().await.unwrap();
    assert_eq!(publish(&mut conn).await.unwrap(), 2);
    let kinds: Vec<_> = list(&mut conn, &Filter::default(), &page(0, 10)).await.unwrap();
    let kinds: Vec<_> = kinds.into_iter().map(|e| (e.seq, e.kind)).collect();
    assert_eq!(kinds, [(1, "test.early".to_owned()), (2, "test.late".to_owned())]);
}

#[tokio::test]
async fn what_retention_removed_is_on_record() {
    let db = pool().await;
    let mut conn = db.acquire().await.unwrap();
    let now = Clock::System.now();
    for age in [3, 2, 1] {
        let at = now - TimeDelta::days(age);
        insert(&mut conn, &event("test.old", age.to_string()), at).await.unwrap();
    }
    publish(&mut conn).await.unwrap();
    assert_eq!(forget(&mut conn, now - TimeDelta::hours(36)).await.unwrap(), 2);
    assert_eq!(reach(&mut conn).await.unwrap(), Reach { last_seq: 3, forgotten_seq: 2 });
    assert_eq!(forget(&mut conn, now - TimeDelta::hours(36)).await.unwrap(), 0);
    assert_eq!(reach(&mut conn).await.unwrap(), Reach { last_seq: 3, forgotten_seq: 2 });
    let left = list(&mut conn, &Filter::default(), &page(0, 10)).await.unwrap();
    assert_eq!(left.iter().map(|e| e.seq).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn the_newest_come_first_where_asked_for() {
    let db = pool().await;
    let mut conn = db.acquire().await.unwrap();
    for n in 0..5 {
        insert(&mut conn, &event("test.write", n.to_string()), Clock::System.now()).await.unwrap();
    }
    publish(&mut conn).await.unwrap();
    let page = SeqPage { limit: 2, order: Order::Desc, after: 1, before: 5 };
    let rows = list(&mut conn, &Filter::default(), &page).await.unwrap();
    let (rows, next) = page.cut(rows, |e| e.seq);
    assert_eq!(rows.iter().map(|e| e.seq).collect::<Vec<_>>(), [4, 3]);
    let page = SeqPage::parse(Some(2), Order::Desc, Some(1), next.as_deref()).unwrap();
    let rows = list(&mut conn, &Filter::default(), &page).await.unwrap();
    assert_eq!(rows.iter().map(|e| e.seq).collect::<Vec<_>>(), [2]);
}
