//! How many wishes a server takes in a second with the reconciler's wake-ups on, and without: creates of stopped instances,
//! which only the database has to do with.
//!
//! `cargo bench --bench writes [-- ROUNDS]`: the two alternate in one process; medians.

#[path = "common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Cloud, median};
use serde_json::json;

const WRITERS: usize = 16;
const SLICE: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() {
    println!("{}", common::machine());
    let rounds = common::argument(0, 7);
    let mut on = Cloud::start(&[]).await;
    on.image_and_flavor(128).await;
    let [mut with, mut without] = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        for (wake, rates) in [("true", &mut with), ("false", &mut without)] {
            on.end_server();
            on.set("reconcile-wake", wake);
            on.serve().await;
            rates.push(per_second(&on).await);
        }
    }
    let (a, b) = (median(&with), median(&without));
    println!(
        "creates of stopped instances: {a:.0}/s with wake-ups, {b:.0}/s without: {:.2} (reach 0.95; {WRITERS} writers)",
        a / b
    );
    on.end().await;
}

async fn per_second(cloud: &Cloud) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = || {
        let (stop, count, client) = (Arc::clone(&stop), Arc::clone(&count), cloud.admin.clone());
        async move {
            let new = json!({"name": "w", "image": "image", "flavor": "flavor", "wanted": "stopped", "networks": []});
            while !stop.load(Ordering::Relaxed) {
                client.post("/v1/instances", &new).await.expect(202);
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let begun = Instant::now();
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(writer())).collect();
    tokio::time::sleep(SLICE).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("it wrote");
    }
    count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}
