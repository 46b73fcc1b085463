//! How a churn ends: what there is of each kind is what was wished, nothing that was deleted is still listed, nothing is missing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::Value;
use tokio::time::sleep;

use super::{Estate, KINDS, Mine};
use crate::client::Client;

/// All of a kind that tenants made, as a server lists them.
async fn listed(client: &Client, kind: &str) -> Vec<Value> {
    let page = client.get(&format!("/v1/{kind}?limit=1000")).await.expect(200);
    assert!(page["next"].is_null(), "more than a page of {kind}");
    let items = page["items"].as_array().unwrap();
    let tenants = |item: &&Value| {
        let name = item["name"].as_str().unwrap_or_default();
        // A port of an instance has no name.
        name.starts_with("tenant-") || (kind == "ports" && item["instance_id"].is_string())
    };
    items.iter().filter(tenants).cloned().collect()
}

/// Waits until what has an end of its own has come to it, and each server lists what is to stay and nothing else.
pub async fn as_wished(servers: &[Client], estate: &Estate, within: Duration) {
    let ends = KINDS.iter().flat_map(|kind| estate.of(kind)).filter_map(|mine| mine.end);
    if let Some(wait) = ends.max().and_then(|last| (last - Utc::now()).to_std().ok()) {
        sleep(wait).await;
    }
    let end = Instant::now() + within;
    for client in servers {
        for kind in KINDS {
            while let Err(said) = compare(estate, kind, &listed(client, kind).await) {
                assert!(Instant::now() < end, "not as wished within {within:?}: {said}");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn compare(estate: &Estate, kind: &str, items: &[Value]) -> Result<(), String> {
    let id = |item: &Value| item["id"].as_str().unwrap().to_owned();
    let wished = |kind: &str| -> BTreeSet<String> {
        let stay = estate.of(kind).iter().filter(|mine| mine.stays());
        stay.map(|mine| mine.id.clone()).collect()
    };
    let (owned, own): (Vec<_>, Vec<_>) =
        items.iter().partition(|item| item["owned"].as_bool().unwrap_or(false));
    let mut expected = wished(kind);
    if kind == "images" {
        // A deleted one goes with the last instance of it.
        let stay = estate.of("instances").iter().filter(|mine| mine.stays());
        expected.extend(stay.filter_map(|mine| mine.image.clone()));
    }
    let there: BTreeSet<_> = own.iter().copied().map(id).collect();
    if there != expected {
        return Err(format!("{kind}: there are {there:?}, wished {expected:?}"));
    }
    // Each instance has one interface that was made with it, those nobody knows of too.
    if kind == "ports" {
        let holders = owned.iter().map(|port| port["instance_id"].as_str().unwrap().to_owned());
        let holders: Vec<_> = holders.collect();
        let each: BTreeSet<_> = holders.iter().cloned().collect();
        if !each.is_superset(&wished("instances")) || each.len() != holders.len() {
            return Err(format!("ports of instances: {owned:#?}"));
        }
    }
    for item in own {
        let members = |of: fn(&Mine) -> &Option<String>| {
            let stay = estate.of("instances").iter().filter(|mine| mine.stays());
            stay.filter(|mine| of(mine).as_deref() == item["id"].as_str()).count()
        };
        let right = match kind {
            "groups" => item["instances"] == members(|mine| &mine.group),
            "reservations" => {
                let taken = members(|mine| &mine.reservation);
                item["slots"].as_u64() == item["free"].as_u64().map(|free| free + taken as u64)
            }
            "images" => {
                let wished = wished(kind).contains(&id(item));
                item["status"] == if wished { "ready" } else { "deleting" }
            }
            "networks" => item["status"] == "active",
            _ => true,
        };
        if !right {
            return Err(format!("{kind}: {item:#}"));
        }
    }
    Ok(())
}

/// Those that were asked for, and of which nobody knows whether they were made.
async fn doubtful(client: &Client) -> Vec<Mine> {
    let page = client.get("/v1/instances?limit=1000").await.expect(200);
    let items = page["items"].as_array().unwrap().iter();
    let maybe = items.filter(|item| item["name"].as_str().unwrap().starts_with("maybe-"));
    maybe.map(|item| Mine::new(item["id"].as_str().unwrap().to_owned())).collect()
}

/// Deletes what is left, whoever uses something before what is used, and waits until it is gone.
pub async fn farewell(admin: &Client, estate: &Estate) {
    let mut estate = estate.clone();
    estate.of_mut("instances").extend(doubtful(admin).await);
    for kind in KINDS {
        for mine in estate.of(kind).iter().filter(|mine| mine.stays()) {
            let answer = admin.delete(&format!("/v1/{kind}/{}", mine.id)).await;
            assert!([202, 204].contains(&answer.status), "{answer:?}");
        }
        if kind != "instances" {
            continue;
        }
        for mine in estate.of(kind) {
            let path = format!("/v1/instances/{}?wait=deleted&timeout=90", mine.id);
            let answer = admin.get(&path).await;
            assert!(answer.status == 404 || answer.body()["status"] == "deleted", "{answer:?}");
        }
    }
}

/// Waits until nobody lists anything that a tenant made.
pub async fn gone(servers: &[Client], within: Duration) {
    as_wished(servers, &Estate::default(), within).await;
}
