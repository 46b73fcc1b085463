//! Tenants in a hurry: they make and delete instances, networks, ports, images, groups and reservations, stop, start, reboot and
//! pause, each wish asked again until it is answered, at whichever server.

mod ending;
mod nouns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::client::{Answer, Client};
pub use ending::{as_wished, farewell, gone};

/// An answer that takes longer is given up: its server may have died in a way that no socket tells.
const PATIENCE: Duration = Duration::from_secs(45);
/// So many of each kind a tenant has at most.
const MOST: usize = 2;

/// What a tenant has, as the answers said.
#[derive(Debug, Clone)]
pub struct Mine {
    pub id: String,
    /// Of instances.
    pub wanted: &'static str,
    /// When it goes by itself.
    pub end: Option<DateTime<Utc>>,
    /// Ids of the image of the tenant's that it stands on, its group and its reservation.
    image: Option<String>,
    group: Option<String>,
    reservation: Option<String>,
    /// Of a reservation.
    slots: usize,
    /// Of a group: each has to be on another host.
    apart: bool,
}

impl Mine {
    fn new(id: String) -> Self {
        let (image, group, reservation, end) = (None, None, None, None);
        Self { id, wanted: "running", end, image, group, reservation, slots: 0, apart: false }
    }

    /// Whether it is to be there still.
    fn stays(&self) -> bool {
        self.end.is_none()
    }
}

/// What tenants make, by the last word of its path.
pub const KINDS: [&str; 6] = ["instances", "ports", "networks", "groups", "reservations", "images"];

/// What one has of each of `KINDS`.
#[derive(Debug, Clone, Default)]
pub struct Estate([Vec<Mine>; KINDS.len()]);

impl Estate {
    pub fn of(&self, kind: &str) -> &Vec<Mine> {
        &self.0[place(kind)]
    }

    fn of_mut(&mut self, kind: &str) -> &mut Vec<Mine> {
        &mut self.0[place(kind)]
    }

    pub fn add(&mut self, other: Self) {
        for (mine, others) in self.0.iter_mut().zip(other.0) {
            mine.extend(others);
        }
    }
}

fn place(kind: &str) -> usize {
    KINDS.iter().position(|known| *known == kind).expect("one of KINDS")
}

pub struct Tenant {
    /// The same cloud at each of its servers.
    servers: Vec<Client>,
    random: StdRng,
    number: u64,
    made: u64,
    /// Images and networks to choose from beside its own.
    images: Vec<String>,
    networks: Vec<&'static str>,
    most: usize,
    score: Arc<Score>,
    pub estate: Estate,
}

/// What all tenants together have done, and when they are to stop.
#[derive(Default)]
pub struct Score {
    pub ended: AtomicBool,
    pub answered: AtomicUsize,
    pub asked_again: AtomicUsize,
    /// Refusals that may be: something is in use, or has come to its end.
    pub refused: AtomicUsize,
}

impl Tenant {
    pub fn new(
        servers: &[Client],
        seed: u64,
        number: u64,
        images: &[String],
        most: usize,
        score: &Arc<Score>,
    ) -> Self {
        Self {
            servers: servers.to_vec(),
            random: StdRng::seed_from_u64(seed.wrapping_add(number)),
            number,
            made: 0,
            images: images.to_vec(),
            networks: vec!["default", "second"],
            most,
            score: Arc::clone(score),
            estate: Estate::default(),
        }
    }

    /// Until the score says that it is over; gives what it has then.
    pub async fn churn(mut self) -> Estate {
        while !self.score.ended.load(Ordering::Relaxed) {
            if self.random.random_bool(0.4) {
                let kind = KINDS[self.random.random_range(1..KINDS.len())];
                self.make_or_delete(kind).await;
            } else if self.random.random_bool(0.04) {
                self.create_at_once().await;
            } else {
                let count = self.estate.of("instances").len();
                // Full or empty, there is one choice less.
                if count == 0 || (count < self.most && self.random.random_bool(0.4)) {
                    self.create().await;
                } else {
                    let which = self.random.random_range(0..count);
                    self.act(which).await;
                }
            }
            sleep(Duration::from_millis(self.random.random_range(0..1200))).await;
        }
        self.estate
    }

    /// A name that nobody has had.
    fn name(&mut self) -> String {
        self.made += 1;
        format!("tenant-{}-{}", self.number, self.made)
    }

    /// Soon, so that it comes while all else dies.
    fn an_end(&mut self) -> DateTime<Utc> {
        Utc::now() + Duration::from_secs(self.random.random_range(5..40))
    }

    /// One of these, or none.
    fn one_of(&mut self, kind: &str, chance: f64) -> Option<Mine> {
        let all = self.estate.of(kind);
        let which = self.random.random_range(0..all.len().max(1));
        let chosen = all.get(which).cloned();
        chosen.filter(|_| self.random.random_bool(chance))
    }

    async fn create(&mut self) {
        let name = self.name();
        let own = self.one_of("images", 0.5).map(|own| own.id);
        let other = &self.images[self.random.random_range(0..self.images.len())];
        let image = own.clone().unwrap_or_else(|| other.clone());
        let network = match self.one_of("networks", 0.5) {
            Some(own) => own.id,
            None => self.networks[self.random.random_range(0..self.networks.len())].to_owned(),
        };
        let mut interfaces = vec![json!({ "network": network })];
        let port = self.one_of("ports", 0.5);
        interfaces.extend(port.iter().map(|port| json!({ "port_id": port.id })));
        let group = self.one_of("groups", 0.5);
        let reservation = self.one_of("reservations", 0.6).filter(|reservation| {
            let taken = self.estate.of("instances").iter();
            let taken = taken.filter(|mine| mine.reservation.as_ref() == Some(&reservation.id));
            taken.count() < reservation.slots
        });
        let ends = self.random.random_bool(0.2);
        let end = if ends { Some(self.an_end()) } else { None };
        let apart = group.as_ref().is_some_and(|group| group.apart);
        // Who would wait for a sibling's host waits longer than this test.
        let fail = apart || self.random.random_bool(0.2);
        let new = json!({
            "name": name, "image": image, "flavor": "nano", "networks": interfaces, "expires_at": end,
            "group": group.as_ref().map(|group| &group.id),
            "reservation": reservation.as_ref().map(|reservation| &reservation.id),
            "on_no_capacity": if fail { "fail" } else { "queue" },
        });
        let made = self.ask(Method::POST, "/v1/instances", &new).await;
        // Its port is another's; nowhere is room; its end, or its reservation's, has come before anybody answered.
        let ends = reservation.as_ref().is_some_and(|reservation| reservation.end.is_some());
        let may_be = match made.status {
            202 => true,
            409 => fail || port.is_some() || ends,
            422 => apart || end.is_some() || ends,
            _ => false,
        };
        assert!(may_be, "{made:?} to {new}");
        if made.status != 202 {
            self.score.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let id = made.body()["id"].as_str().unwrap().to_owned();
        let (group, reservation) = (group.map(|mine| mine.id), reservation.map(|mine| mine.id));
        let mine = Mine { end, image: own, group, reservation, ..Mine::new(id) };
        self.estate.of_mut("instances").push(mine);
    }

    /// Several that are alike, at the same time, and without keys: nobody knows what became of those that are not answered, but each
    /// is there whole or not at all.
    async fn create_at_once(&mut self) {
        let image = &self.images[self.random.random_range(0..self.images.len())];
        let names = (0..4).map(|n| format!("maybe-{}-{}-{n}", self.number, self.made));
        let names: Vec<_> = names.collect();
        self.made += 1;
        let server = &self.servers[self.random.random_range(0..self.servers.len())];
        let asks = names.iter().map(|name| {
            let new = json!({
                "name": name, "image": image, "flavor": "nano", "networks": [{"network": "default"}],
                "wanted": "stopped",
            });
            timeout(PATIENCE, server.ask(Method::POST, "/v1/instances").json(&new).try_send())
        });
        for answer in join_all(asks).await.into_iter().flatten().flatten() {
            let quota = answer.text.contains("quota");
            assert!(answer.status == 202 || answer.status >= 500 || quota, "{answer:?}");
        }
    }

    async fn act(&mut self, which: usize) {
        let chance: u32 = self.random.random_range(0..10);
        let hard = json!({ "hard": self.random.random_bool(0.6), "grace_s": 2 });
        let mine = self.estate.of("instances")[which].clone();
        let (action, body, wanted) = match (mine.wanted, chance) {
            (_, 0..=2) => ("delete", Value::Null, "deleted"),
            ("running", 3..=5) => ("stop", hard, "stopped"),
            ("running", 6..=7) => ("reboot", hard, "running"),
            ("running", _) => ("pause", json!({}), "paused"),
            ("paused", 3..=6) => ("resume", json!({}), "running"),
            ("paused", _) => ("stop", hard, "stopped"),
            (_, _) => ("start", json!({}), "running"),
        };
        let path = format!("/v1/instances/{}", mine.id);
        let answer = if action == "delete" {
            self.ask(Method::DELETE, &path, &body).await
        } else {
            self.ask(Method::POST, &format!("{path}/actions/{action}"), &body).await
        };
        // One that has come to its end goes, and is gone.
        let over = mine.end.is_some() && [404, 409].contains(&answer.status);
        assert!(answer.status == 202 || over, "{action} {mine:?}: {answer:?}");
        if over {
            self.score.refused.fetch_add(1, Ordering::Relaxed);
        }
        if over || wanted == "deleted" {
            self.estate.of_mut("instances").remove(which);
        } else {
            self.estate.of_mut("instances")[which].wanted = wanted;
        }
    }

    /// Asks for it once, however often it has to be said.
    async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Answer {
        let key = format!("key-{}", self.name());
        let once = |client: &Client| {
            let ask = client.ask(method.clone(), path).header("idempotency-key", &key);
            if body.is_null() { ask } else { ask.json(body) }
        };
        // Some are gone before they could have heard anything.
        let hasty = self.random.random_bool(0.15);
        let first = Duration::from_millis(self.random.random_range(1..60));
        let mut patience = if hasty { first } else { PATIENCE };
        let mut server = self.random.random_range(0..self.servers.len());
        let answer = loop {
            match timeout(patience, once(&self.servers[server]).try_send()).await {
                Ok(Ok(answer)) if answer.status < 500 && answer.status != 429 => break answer,
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
            self.score.asked_again.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            (patience, server) = (PATIENCE, (server + 1) % self.servers.len());
        };
        self.score.answered.fetch_add(1, Ordering::Relaxed);
        // And some have not understood that they were answered.
        let again = self.random.random_bool(0.1);
        if again && answer.status < 300 {
            let other = &self.servers[(server + 1) % self.servers.len()];
            if let Ok(Ok(kept)) = timeout(PATIENCE, once(other).try_send()).await
                && kept.status < 500
                && kept.status != 429
            {
                assert_eq!((kept.status, &kept.text), (answer.status, &answer.text), "{kept:?}");
            }
        }
        answer
    }
}
