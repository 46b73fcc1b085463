//! Tenants in a hurry: creates, stops, starts, reboots, pauses and deletes, each asked again until it is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::client::{Answer, Client};

/// An answer that takes longer is given up: its server may have died in a way that no socket tells.
const PATIENCE: Duration = Duration::from_secs(45);

/// What a tenant has, as the answers said.
pub struct Mine {
    pub id: String,
    pub wanted: &'static str,
}

pub struct Tenant {
    admin: Client,
    random: StdRng,
    number: u64,
    made: u64,
    /// Images and networks to choose from.
    images: Vec<String>,
    networks: Vec<&'static str>,
    most: usize,
    pub instances: Vec<Mine>,
}

/// What all tenants together have done, and when they are to stop.
#[derive(Default)]
pub struct Score {
    pub ended: AtomicBool,
    pub answered: AtomicUsize,
    pub asked_again: AtomicUsize,
}

impl Tenant {
    pub fn new(admin: &Client, seed: u64, number: u64, images: &[String], most: usize) -> Self {
        Self {
            admin: admin.clone(),
            random: StdRng::seed_from_u64(seed.wrapping_add(number)),
            number,
            made: 0,
            images: images.to_vec(),
            networks: vec!["default", "second"],
            most,
            instances: Vec::new(),
        }
    }

    /// Until the score says that it is over.
    pub async fn churn(mut self, score: Arc<Score>) -> Self {
        while !score.ended.load(Ordering::Relaxed) {
            let count = self.instances.len();
            // Full or empty, there is one choice less.
            if count == 0 || (count < self.most && self.random.random_bool(0.4)) {
                self.create(&score).await;
            } else {
                let which = self.random.random_range(0..count);
                self.act(which, &score).await;
            }
            sleep(Duration::from_millis(self.random.random_range(0..1500))).await;
        }
        self
    }

    async fn create(&mut self, score: &Score) {
        self.made += 1;
        let name = format!("tenant-{}-{}", self.number, self.made);
        let image = &self.images[self.random.random_range(0..self.images.len())];
        let network = self.networks[self.random.random_range(0..self.networks.len())];
        let new = json!({
            "name": name, "image": image, "flavor": "nano", "networks": [{ "network": network }],
        });
        let made = ask(&self.admin, Method::POST, "/v1/instances", &new, &name, score).await;
        let id = made.expect(202)["id"].as_str().unwrap().to_owned();
        self.instances.push(Mine { id, wanted: "running" });
    }

    async fn act(&mut self, which: usize, score: &Score) {
        let chance: u32 = self.random.random_range(0..10);
        let hard = json!({ "hard": self.random.random_bool(0.6), "grace_s": 2 });
        let mine = &mut self.instances[which];
        let (action, body, wanted) = match (mine.wanted, chance) {
            (_, 0..=2) => ("delete", json!({}), "deleted"),
            ("running", 3..=5) => ("stop", hard, "stopped"),
            ("running", 6..=7) => ("reboot", hard, "running"),
            ("running", _) => ("pause", json!({}), "paused"),
            ("paused", 3..=6) => ("resume", json!({}), "running"),
            ("paused", _) => ("stop", hard, "stopped"),
            (_, _) => ("start", json!({}), "running"),
        };
        let path = format!("/v1/instances/{}", mine.id);
        if action == "delete" {
            let gone = ask(&self.admin, Method::DELETE, &path, &Value::Null, "", score).await;
            assert!([202, 404].contains(&gone.status), "{gone:?}");
            self.instances.remove(which);
            return;
        }
        mine.wanted = wanted;
        self.made += 1;
        let key = format!("tenant-{}-{}", self.number, self.made);
        let path = format!("{path}/actions/{action}");
        ask(&self.admin, Method::POST, &path, &body, &key, score).await.expect(202);
    }
}

/// Asks until there is an answer that is not the weather's fault; under a key, so that it is done once.
async fn ask(
    admin: &Client,
    method: Method,
    path: &str,
    body: &Value,
    key: &str,
    score: &Score,
) -> Answer {
    loop {
        let mut ask = admin.ask(method.clone(), path);
        if !key.is_empty() {
            ask = ask.header("idempotency-key", key).json(body);
        }
        match timeout(PATIENCE, ask.try_send()).await {
            Ok(Ok(answer)) if answer.status < 500 && answer.status != 429 => {
                score.answered.fetch_add(1, Ordering::Relaxed);
                return answer;
            }
            Ok(Ok(_) | Err(_)) | Err(_) => {}
        }
        score.asked_again.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(100)).await;
    }
}

/// Deletes what is left, and waits until it is gone.
pub async fn farewell(admin: &Client, instances: &[Mine]) {
    for mine in instances {
        let path = format!("/v1/instances/{}", mine.id);
        let answer = admin.delete(&path).await;
        assert!([202, 404].contains(&answer.status), "{answer:?}");
    }
    for mine in instances {
        let answer = admin.get(&format!("/v1/instances/{}?wait=deleted&timeout=90", mine.id)).await;
        assert!(answer.status == 404 || answer.body()["status"] == "deleted", "{answer:?}");
    }
}
