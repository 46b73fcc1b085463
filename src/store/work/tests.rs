//! Leases: kept, lost to another, and gone with their item.

use chrono::TimeDelta;
use sqlx::{ConnectOptions, PgConnection};

use super::*;
use crate::cli::postgres::throwaway;

const LENGTH: TimeDelta = TimeDelta::seconds(30);
const LONGEST: TimeDelta = TimeDelta::minutes(10);

async fn db() -> PgConnection {
    let options = throwaway::migrated(&crate::store::MIGRATIONS).await.unwrap();
    options.connect().await.unwrap()
}

async fn claimed(conn: &mut PgConnection, now: Time) -> Lease {
    let leases = claim(conn, Uuid::now_v7(), 10, LENGTH, LONGEST, now).await.unwrap();
    let [Claimed { lease, .. }] = &leases[..] else { panic!("one lease, not {leases:?}") };
    *lease
}

#[tokio::test]
async fn a_lease_is_kept_until_another_takes_the_item() {
    let mut conn = db().await;
    let (item, now) = (Uuid::now_v7(), Time::default());
    touch(&mut conn, Kind::Instance, item, now).await.unwrap();
    let first = claimed(&mut conn, now).await;
    assert_eq!(claim(&mut conn, Uuid::now_v7(), 10, LENGTH, LONGEST, now).await.unwrap(), []);
    assert_eq!(extend(&mut conn, &first, now + LENGTH * 2).await.unwrap(), Hold::Kept);
    let second = claimed(&mut conn, now + LENGTH * 3).await;
    assert_eq!(extend(&mut conn, &first, now + LENGTH * 9).await.unwrap(), Hold::Lost);
    assert!(guard(&mut conn, &first).await.is_err());
    guard(&mut conn, &second).await.unwrap();
}

#[tokio::test]
async fn an_item_that_comes_back_is_not_its_former_holders() {
    let mut conn = db().await;
    let (item, now) = (Uuid::now_v7(), Time::default());
    touch(&mut conn, Kind::Instance, item, now).await.unwrap();
    let former = claimed(&mut conn, now).await;
    remove(&mut conn, Kind::Instance, item).await.unwrap();
    assert_eq!(extend(&mut conn, &former, now + LENGTH).await.unwrap(), Hold::Gone);
    touch(&mut conn, Kind::Instance, item, now).await.unwrap();
    let present = claimed(&mut conn, now).await;
    assert!(guard(&mut conn, &former).await.is_err());
    guard(&mut conn, &present).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_was_set_back_leaves_nothing_waiting_for_it() {
    let mut conn = db().await;
    let (instance, image) = (Uuid::now_v7(), Uuid::now_v7());
    let now = Time::default();
    for (kind, item) in [(Kind::Instance, instance), (Kind::HostImage, image)] {
        touch(&mut conn, kind, item, now + TimeDelta::hours(1)).await.unwrap();
    }
    let soon = Uuid::now_v7();
    touch(&mut conn, Kind::Instance, soon, now + TimeDelta::minutes(5)).await.unwrap();
    assert_eq!(claimed(&mut conn, now).await.item, instance, "an unused base image may rest");
}
