//! What tenants have beside instances: networks and ports, images, groups, reservations.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::Utc;
use rand::RngExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{MOST, Mine, PATIENCE, Tenant};
use crate::client::Answer;

/// Images are made of so many different bytes, by all tenants: one deletes what another uploads.
const CONTENTS: u8 = 3;

impl Tenant {
    pub(super) async fn make_or_delete(&mut self, kind: &'static str) {
        let count = self.estate.of(kind).len();
        if count == 0 || (count < MOST && self.random.random_bool(0.6)) {
            match kind {
                "networks" => self.make_network().await,
                "ports" => self.make_port().await,
                "images" => self.make_image().await,
                "groups" => self.make_group().await,
                _ => self.make_reservation().await,
            }
        } else {
            let which = self.random.random_range(0..count);
            self.delete(kind, which).await;
        }
    }

    async fn make(&mut self, kind: &'static str, new: &Value) -> Mine {
        let made = self.ask(Method::POST, &format!("/v1/{kind}"), new).await.expect(201);
        Mine::new(made["id"].as_str().unwrap().to_owned())
    }

    async fn make_network(&mut self) {
        let new = json!({ "name": self.name() });
        let mine = self.make("networks", &new).await;
        self.estate.of_mut("networks").push(mine);
    }

    async fn make_port(&mut self) {
        let Some(network) = self.one_of("networks", 1.0) else { return };
        let new = json!({ "name": self.name(), "network_id": network.id });
        let mine = self.make("ports", &new).await;
        self.estate.of_mut("ports").push(mine);
    }

    async fn make_group(&mut self) {
        let apart = self.random.random_bool(0.5);
        let rule = if apart { "anti_affinity" } else { "affinity" };
        let hard = self.random.random_bool(0.5);
        let new = json!({ "name": self.name(), "rule": rule, "hard": hard });
        let mine = self.make("groups", &new).await;
        self.estate.of_mut("groups").push(Mine { apart: apart && hard, ..mine });
    }

    async fn make_reservation(&mut self) {
        let slots = self.random.random_range(1..3_usize);
        let end = self.an_end();
        let soon = self.random.random_bool(0.5);
        let until = if soon { end } else { end + Duration::from_secs(86_400) };
        let new =
            json!({ "name": self.name(), "flavor": "nano", "slots": slots, "expires_at": until });
        let made = self.ask(Method::POST, "/v1/reservations", &new).await;
        // While the host is not reached it takes none; and its end may have come before anybody answered.
        let may_be = made.status == 409 || (made.status == 422 && until < Utc::now());
        if may_be {
            self.score.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let id = made.expect(201)["id"].as_str().unwrap().to_owned();
        let mine = Mine { slots, end: soon.then_some(end), ..Mine::new(id) };
        self.estate.of_mut("reservations").push(mine);
    }

    async fn make_image(&mut self) {
        let new = json!({ "name": self.name(), "format": "raw", "visibility": "private" });
        let mine = self.make("images", &new).await;
        let content = self.random.random_range(0..CONTENTS);
        let path = format!("/v1/images/{}/data", mine.id);
        self.estate.of_mut("images").push(mine);
        // Some never get theirs.
        if self.random.random_bool(0.1) {
            let last = self.estate.of("images").len() - 1;
            self.delete("images", last).await;
            return;
        }
        let sent = self.upload(&path, vec![100 + content; 1 << 20]).await;
        assert_eq!(sent.expect(200)["status"], "ready", "{sent:?}");
    }

    /// Sends the bytes until they are there.
    async fn upload(&mut self, path: &str, bytes: Vec<u8>) -> Answer {
        let mut server = self.random.random_range(0..self.servers.len());
        loop {
            let ask = self.servers[server].ask(Method::PUT, path).body(bytes.clone());
            match timeout(PATIENCE, ask.try_send()).await {
                Ok(Ok(answer)) if answer.status < 500 && answer.status != 429 => return answer,
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
            self.score.asked_again.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
            server = (server + 1) % self.servers.len();
        }
    }

    pub(super) async fn delete(&mut self, kind: &'static str, which: usize) {
        let mine = self.estate.of(kind)[which].clone();
        let path = format!("/v1/{kind}/{}", mine.id);
        let answer = self.ask(Method::DELETE, &path, &Value::Null).await;
        let gone = match (kind, answer.status) {
            ("networks", 202) | ("images", 202 | 204) => true,
            ("ports" | "groups" | "reservations", 204) => true,
            // It ended by itself.
            ("reservations", 404) => mine.end.is_some_and(|end| end < Utc::now()),
            // Who uses it may be on the way out.
            ("networks" | "ports" | "groups", 409) => {
                self.score.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            (_, _) => false,
        };
        assert!(gone, "{mine:?}: {answer:?}");
        self.estate.of_mut(kind).remove(which);
    }
}
