//! Hands on the host's networks: somebody destroys them, takes their place, or takes from what they serve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pileus::cli::postgres::throwaway;
use serde_json::{Value, json};

use crate::audit;
use crate::cloud::{Cloud, Database, SOON};
use crate::hands::{by_xml, running, tries_by_xml};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dhcp_entry_that_somebody_took_away_comes_back() {
    let mut on = OnNetwork::new("10.132.0.0/16").await;
    on.cloud.terminate().await;
    on.cloud.set("sweep-s", "3600");
    on.cloud.start().await;
    let seen = on.cloud.admin.get(&format!("/v1/instances/{}", on.id)).await.expect(200);
    let nic = &seen["interfaces"][0];
    let [mac, address] = ["mac", "address"].map(|key| nic[key].as_str().unwrap());
    let entry = format!("<host mac='{mac}' ip='{address}'/>");
    let (host, name) = (Arc::clone(&on.cloud.host), on.name());
    let served = || {
        let xml = host.virsh(&["net-dumpxml", &name]);
        xml.contains(&format!("<host mac='{mac}' ip='{address}'"))
    };
    assert!(served());
    host.virsh(&["net-update", &name, "delete", "ip-dhcp-host", &entry, "--live"]);
    assert!(!served());
    let (code, said) = on.cloud.pileus("admin fsck");
    assert!(code == 7 && said.contains("does not serve") && said.contains(mac), "{said}");
    on.cloud.terminate().await;
    on.cloud.set("sweep-s", "1");
    on.cloud.start().await;
    let end = Instant::now() + SOON;
    while !served() {
        assert!(Instant::now() < end, "it does not come back");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    on.end().await;
}

/// A cloud whose sweep comes each second, with a guest and its network.
struct OnNetwork {
    cloud: Cloud,
    /// The guest's.
    id: String,
    /// The network's id.
    network: String,
}

impl OnNetwork {
    async fn new(pool: &'static str) -> Self {
        let options = throwaway::empty().await.expect("a database");
        let settings = [
            ("network-pool", pool),
            ("heartbeat-s", "1"),
            ("sweep-s", "1"),
            ("backoff-max-s", "2"),
            ("stall-after-failures", "2"),
        ];
        let cloud = Cloud::with(Database::Shared(options), &settings).await;
        let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
        let made = running(&cloud, "cut-off", &image).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self { id: text(&made["id"]), network: text(&made["interfaces"][0]["network_id"]), cloud }
    }

    /// libvirt's name of the network.
    fn name(&self) -> String {
        format!("{}-{}", self.cloud.mark(), self.network)
    }

    /// Destroys the network, and makes it again with `from` in its XML as `to`.
    fn remake(&self, from: &str, to: &str) {
        let host = &self.cloud.host;
        let xml = host.virsh(&["net-dumpxml", &self.name()]);
        assert!(xml.contains(from), "{xml}");
        host.virsh(&["net-destroy", &self.name()]);
        by_xml(&self.cloud, "net-create", &xml.replace(from, to));
    }

    fn bridge(&self) -> String {
        let told = self.cloud.host.virsh(&["net-info", &self.name()]);
        let line = told.lines().find_map(|line| line.strip_prefix("Bridge:")).unwrap();
        line.trim().to_owned()
    }

    /// Whether the network is there and the guest hangs on it.
    fn whole(&self) -> bool {
        let host = &self.cloud.host;
        host.virsh(&["net-list", "--name"]).lines().any(|line| line.trim() == self.name())
            && host.run("ip", &["-o", "link", "show", "master", &self.bridge()]).lines().count()
                == 1
    }

    async fn until_whole(&self) {
        let end = Instant::now() + SOON;
        while !self.whole() {
            assert!(Instant::now() < end, "the guest stays cut off");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn end(self) {
        self.cloud.until(&self.id, "settled", "running", SOON).await;
        self.cloud.delete(&self.id).await;
        audit::tidy(&self.cloud);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_somebody_destroyed_comes_back_with_its_guests_on_it() {
    let mut on = OnNetwork::new("10.121.0.0/16").await;
    assert!(on.whole());
    on.cloud.host.virsh(&["net-destroy", &on.name()]);
    on.until_whole().await;

    // What a crash leaves between the network that was made again and the guests that were to be put on it.
    on.cloud.kill().await;
    let bridge = on.bridge();
    on.remake(&format!("'{bridge}'"), &format!("'{}3'", &bridge[..14]));
    assert!(!on.whole());
    on.cloud.start().await;
    on.until_whole().await;
    assert!(on.bridge().ends_with('3'), "{}", on.bridge());
    on.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_cannot_be_made_again_says_so_until_it_is() {
    let on = OnNetwork::new("10.125.0.0/16").await;
    let admin = &on.cloud.admin;
    // Somebody has its place, under a name and a UUID of their own.
    let (name, uuid) = (on.name(), on.network.clone());
    let xml = on.cloud.host.virsh(&["net-dumpxml", &name]);
    let xml = xml.replace(&name, "squatter").replace(&uuid, "00000000-0000-4000-8000-0000000000aa");
    // The server makes its own again as soon as it sees that it is gone.
    let end = Instant::now() + SOON;
    loop {
        on.cloud.host.virsh(&["net-destroy", &name]);
        if tries_by_xml(&on.cloud, "net-create", &xml) {
            break;
        }
        assert!(Instant::now() < end, "the server is always faster");
        on.until_whole().await;
    }

    let path = format!("/v1/networks/{uuid}");
    let end = Instant::now() + SOON;
    let told = loop {
        let told = admin.get(&path).await.expect(200);
        if !told["stalled_since"].is_null() {
            break told;
        }
        assert!(Instant::now() < end, "nothing is said of it: {told}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(told["status"], "active");
    assert!(told["attempts"].as_i64().unwrap() >= 2, "{told}");
    let why = told["status_reason"].as_str().unwrap();
    assert!(why.contains("make network"), "{why}");
    let stalled = admin.get("/v1/stalled?kind=network").await.expect(200);
    assert_eq!(stalled["items"][0]["id"], uuid.as_str(), "{stalled}");

    on.cloud.host.virsh(&["net-destroy", "squatter"]);
    let retry = format!("/v1/stalled/network/{uuid}/actions/retry");
    admin.post(&retry, &json!({})).await.expect(202);
    on.until_whole().await;
    let end = Instant::now() + SOON;
    while !admin.get(&path).await.expect(200)["status_reason"].is_null() {
        assert!(Instant::now() < end, "it is whole, and told as if it were not");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    on.end().await;
}
