//! From the start of the server's process to ready, on a PostgreSQL that is up and migrated.
//!
//! `cargo bench --bench start [-- ROUNDS]`: the median.

#[path = "common/mod.rs"]
mod common;

use common::{Cloud, median, ms};

#[tokio::main]
async fn main() {
    println!("{}", common::machine());
    let rounds = common::argument(0, 20);
    let mut cloud = Cloud::start(&[]).await;
    let mut times = vec![];
    for _ in 0..rounds {
        cloud.end_server();
        times.push(ms(cloud.serve().await));
    }
    println!("start to ready: {:.0} ms (reach 300; median of {rounds})", median(&times));
    cloud.end().await;
}
