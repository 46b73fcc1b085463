//! Hands on the host: somebody pauses, ends, defines and imitates our domains with virsh, and guests that do as they like.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use pileus::cli::postgres::throwaway;
use serde_json::{Value, json};

use crate::audit;
use crate::cloud::{Cloud, Database, SOON};

async fn cloud(pool: &'static str) -> Cloud {
    let options = throwaway::empty().await.expect("a database");
    let settings = [("network-pool", pool), ("heartbeat-s", "1"), ("backoff-max-s", "2")];
    Cloud::with(Database::Shared(options), &settings).await
}

async fn running(cloud: &Cloud, name: &str, image: &str) -> Value {
    let new = json!({
        "name": name, "image": image, "flavor": "nano", "networks": [{ "network": "default" }],
    });
    let made = cloud.admin.post("/v1/instances", &new).await.expect(202);
    cloud.until(made["id"].as_str().unwrap(), "settled", "running", SOON).await
}

async fn act(cloud: &Cloud, id: &str, action: &str, body: &Value) -> Value {
    let path = format!("/v1/instances/{id}/actions/{action}");
    cloud.admin.post(&path, body).await.expect(202)
}

/// Defines a domain by its XML.
fn define(cloud: &Cloud, xml: &str) {
    by_xml(cloud, "define", xml);
}

/// A command of virsh that takes an XML file.
fn by_xml(cloud: &Cloud, command: &str, xml: &str) {
    let mut virsh = cloud.host.command("virsh");
    virsh.args(["-q", "-c", "qemu:///system", command, "/dev/stdin"]);
    let mut virsh = virsh.stdin(Stdio::piped()).spawn().unwrap();
    virsh.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
    assert!(virsh.wait().unwrap().success(), "{xml}");
}

fn foreign(name: &str, uuid: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory>
         <os><type>hvm</type></os></domain>"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_does_to_our_domain_is_put_right() {
    let cloud = cloud("10.109.0.0/16").await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let made = running(&cloud, "handled", &image).await;
    let id = made["id"].as_str().unwrap();
    let domain = format!("{}-{id}", cloud.mark());
    let virsh = |args: &[&str]| cloud.host.virsh(args);

    // Paused: it goes on.
    virsh(&["suspend", &domain]);
    let end = Instant::now() + SOON;
    while virsh(&["domstate", &domain]).trim() != "running" {
        assert!(Instant::now() < end, "it stays paused");
    }
    cloud.until(id, "running", "running", SOON).await;

    // Defined, as `virsh edit` does, and then off: it neither stays in the way of its next start nor of its stop.
    for wanted in ["running", "stopped"] {
        let xml = virsh(&["dumpxml", &domain]);
        define(&cloud, &xml);
        if wanted == "stopped" {
            act(&cloud, id, "stop", &json!({"hard": true})).await;
            cloud.until(id, "settled", "stopped", SOON).await;
            assert!(!virsh(&["list", "--all", "--name"]).contains(&domain));
            act(&cloud, id, "start", &json!({})).await;
        } else {
            let life = virsh(&["domid", &domain]);
            virsh(&["destroy", &domain]);
            let end = Instant::now() + SOON;
            while !virsh(&["list", "--name"]).contains(&domain)
                || virsh(&["domid", &domain]) == life
            {
                assert!(Instant::now() < end, "a defined domain that is off is not started again");
            }
        }
        cloud.until(id, "settled", "running", SOON).await;
    }
    // And undefined, while it runs.
    define(&cloud, &virsh(&["dumpxml", &domain]));
    virsh(&["undefine", &domain]);
    cloud.until(id, "settled", "running", SOON).await;
    audit::tidy(&cloud);
    define(&cloud, &virsh(&["dumpxml", &domain]));
    cloud.delete(id).await;
    assert!(!virsh(&["list", "--all", "--name"]).contains(&domain));
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_domain_of_our_name_or_uuid_is_named_and_left_alone() {
    let cloud = cloud("10.110.0.0/16").await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let made = running(&cloud, "imitated", &image).await;
    let id = made["id"].as_str().unwrap();
    let domain = format!("{}-{id}", cloud.mark());
    for (name, uuid) in
        [(domain.as_str(), "00000000-0000-4000-8000-00000000f0e1"), ("somebody-elses-uuid", id)]
    {
        act(&cloud, id, "stop", &json!({"hard": true})).await;
        cloud.until(id, "settled", "stopped", SOON).await;
        define(&cloud, &foreign(name, uuid));
        cloud.host.virsh(&["start", name]);
        act(&cloud, id, "start", &json!({})).await;
        let end = Instant::now() + SOON;
        loop {
            let stuck = cloud.admin.get(&format!("/v1/instances/{id}")).await.expect(200);
            let reason = stuck["reason"].as_str().unwrap_or_default();
            if stuck["status"] == "starting"
                && reason.contains("Pileus")
                && stuck["attempts"].as_i64() > Some(1)
            {
                assert!(stuck["next_attempt_at"].is_string(), "{stuck:#}");
                println!("{reason}");
                break;
            }
            assert!(Instant::now() < end, "it does not say who is in the way: {stuck:#}");
        }
        assert_eq!(cloud.host.virsh(&["domstate", name]).trim(), "running");
        cloud.host.virsh(&["destroy", name]);
        cloud.host.virsh(&["undefine", name]);
        cloud.until(id, "settled", "running", SOON).await;
    }
    cloud.delete(id).await;
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_ignores_acpi_and_never_boots_is_waited_for_and_no_longer() {
    let cloud = cloud("10.111.0.0/16").await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let made = running(&cloud, "deaf", &image).await;
    let id = made["id"].as_str().unwrap();
    // It has no address and no agent, ever: the wait says how far it is, and that it runs.
    for goal in ["address", "agent"] {
        let begun = Instant::now();
        let path = format!("/v1/instances/{id}?wait={goal}&timeout=2");
        let seen = cloud.admin.get(&path).await.expect(200);
        assert!(begun.elapsed() >= Duration::from_secs(2));
        assert_eq!((&seen["status"], &seen["agent"]), (&json!("running"), &json!(false)));
        assert_eq!(seen["interfaces"][0]["seen"], false, "{seen:#}");
    }
    // It hears no button: after its grace it is cut off, for a stop and for a reboot.
    for (action, status) in [("reboot", "running"), ("stop", "stopped")] {
        let begun = Instant::now();
        act(&cloud, id, action, &json!({"grace_s": 3})).await;
        cloud.until(id, "settled", status, SOON).await;
        let took = begun.elapsed();
        println!("{action} with a grace of 3 s: {took:?}");
        assert!(took >= Duration::from_secs(3), "{took:?}");
    }
    cloud.delete(id).await;
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_whose_hypervisor_hangs_is_stopped_and_deleted_and_troubles_nobody_else() {
    let mut cloud = cloud("10.127.0.0/16").await;
    cloud.terminate().await;
    for (key, value) in [("host-call-deadline-s", "5"), ("sweep-s", "2")] {
        cloud.set(key, value);
    }
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let (hung, other) =
        (running(&cloud, "hung", &image).await, running(&cloud, "other", &image).await);
    let [hung, other] = [&hung, &other].map(|made| made["id"].as_str().unwrap());
    let domain = format!("{}-{hung}", cloud.mark());
    let qemu = cloud.host.run("pgrep", &["-f", &format!("guest={domain},")]);
    let qemu = qemu.lines().next().expect("a process").trim().to_owned();
    cloud.host.run("kill", &["-STOP", &qemu]);
    // The button is pressed, and libvirt waits for QEMU's answer from then on.
    act(&cloud, hung, "stop", &json!({"grace_s": 3})).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A server that starts now reads everything anew.
    cloud.kill().await;
    cloud.start().await;
    let beside = running(&cloud, "beside", &image).await;
    cloud.until(other, "settled", "running", SOON).await;
    let host = cloud.admin.get("/v1/hosts").await.expect(200);
    assert_eq!(host["items"][0]["health"], "up", "{host:#}");
    cloud.until(hung, "settled", "stopped", 2 * SOON).await;
    let (code, said) = cloud.pileus("admin fsck");
    assert_eq!(code, 0, "{said}");
    for id in [hung, other, beside["id"].as_str().unwrap()] {
        cloud.delete(id).await;
    }
    audit::tidy(&cloud);
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
    on.cloud.host.virsh(&["net-destroy", &name]);
    by_xml(&on.cloud, "net-create", &xml);

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
