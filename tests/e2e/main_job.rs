//! The main job: from one POST to a guest that one can log in to, through everything that an owner does with it, to nothing.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cloud::{BOOT, Cloud, SOON, count_lines};
use crate::libvirtd::Libvirtd;
use crate::process::run;

const USER_DATA: &str = "#!/bin/sh\n# mArKeD\necho \"user data says hello from $(hostname)\"\n";
const HELLO: &str = "user data says hello from web-1";

/// A domain of somebody else on the same host, running.
struct Foreign {
    name: String,
    id: String,
}

impl Foreign {
    fn define(host: &Libvirtd, name: &str) -> Self {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
        );
        let mut define = host.command("virsh");
        define.args(["-q", "-c", "qemu:///system", "define", "/dev/stdin"]);
        let mut define = define.stdin(Stdio::piped()).spawn().unwrap();
        define.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
        assert!(define.wait().unwrap().success());
        host.virsh(&["start", name]);
        let id = host.virsh(&["domid", name]).trim().to_owned();
        Self { name: name.into(), id }
    }

    fn is_untouched(&self, host: &Libvirtd) {
        assert_eq!(host.virsh(&["domstate", &self.name]).trim(), "running");
        assert_eq!(host.virsh(&["domid", &self.name]).trim(), self.id);
    }
}

/// Logs in as `user@address`, and gives what the command printed. The guest's host key must stay what it was at the first login.
pub async fn ssh(cloud: &Cloud, key: &Path, login: &str, command: &str) -> String {
    let known = key.with_extension("known");
    let begun = Instant::now();
    loop {
        let mut ssh = cloud.host.command("ssh");
        ssh.args(["-q", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
        ssh.args(["-o", "ConnectTimeout=20", "-o", "StrictHostKeyChecking=accept-new"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        ssh.arg("-i").arg(key).args([login, command]);
        let (succeeded, said) = run(&mut ssh);
        if succeeded {
            return said;
        }
        assert!(begun.elapsed() < BOOT, "ssh to {login}: {said}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A new key: its path, and its public half.
pub fn keypair(dir: &Path) -> (std::path::PathBuf, String) {
    let path = dir.join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f"]).arg(&path);
    let (succeeded, said) = run(&mut keygen);
    assert!(succeeded, "{said}");
    let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    (path, public.trim().to_owned())
}

pub fn address(instance: &Value) -> IpAddr {
    instance["interfaces"][0]["address"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job() {
    let cloud = Cloud::new(&[("network-pool", "10.96.0.0/16")]).await;
    let (host, admin) = (&cloud.host, &cloud.admin);
    let foreign = Foreign::define(host, "somebody-elses");
    let keys = tempfile::tempdir().unwrap();
    let (key, public) = keypair(keys.path());
    admin.post("/v1/keypairs", &json!({"name": "laptop", "public_key": public})).await.expect(201);

    // From one POST to a guest that runs, has its address, and answers.
    let begun = Instant::now();
    let new = json!({
        "name": "web 1", "image": "pileus-guest", "flavor": "nano", "keypairs": ["laptop"],
        "networks": [{"network": "default"}], "user_data": USER_DATA,
    });
    let made = admin.post("/v1/instances?wait=running&timeout=120", &new).await.expect(202);
    let id = made["id"].as_str().unwrap();
    let at = |action: &str| format!("/v1/instances/{id}/actions/{action}?wait=settled&timeout=1");
    assert_eq!(made["status"], "running", "{made:#}");
    println!("running after {:?}", begun.elapsed());
    let instance = cloud.until(id, "address", "running", BOOT).await;
    println!("has its address after {:?}", begun.elapsed());
    cloud.until(id, "agent", "running", BOOT).await;
    let (address, mac) = (address(&instance), instance["interfaces"][0]["mac"].as_str().unwrap());
    let console = cloud.console_says(id, "ready", 1).await;
    println!("ready after {:?}", begun.elapsed());
    let told = cloud.until(id, "cloud_init", "running", BOOT).await;
    assert_eq!(told["cloud_init"], json!({"status": "done", "errors": []}), "{told:#}");
    for line in [HELLO, "hostname: web-1", &format!("address: eth0 {address}"), "user-data: exit 0"]
    {
        assert_eq!(count_lines(&console, line), 1, "{line:?} in {console}");
    }
    assert!(cloud.dhcp_knows(mac));
    let root = format!("root@{address}");
    let said = ssh(&cloud, &key, &root, "hostname; cat /proc/sys/kernel/random/boot_id").await;
    let (name, first_boot) = said.trim().split_once('\n').unwrap();
    assert_eq!(name, "web-1");

    // What its owner does with it.
    let change = json!({"name": "web 2", "labels": {"tier": "front"}});
    let changed = admin.patch(&format!("/v1/instances/{id}"), &change).await.expect(200);
    assert_eq!(
        (&changed["name"], &changed["labels"]),
        (&json!("web 2"), &json!({"tier": "front"}))
    );

    admin
        .ask(reqwest::Method::POST, &at("stop"))
        .json(&json!({"grace_s": 120}))
        .send()
        .await
        .expect(202);
    cloud.until(id, "stopped", "stopped", BOOT).await;
    let console = cloud.console(id).await;
    assert_eq!(count_lines(&console, "stopping"), 1, "it went down by itself: {console}");
    cloud.holds(&crate::audit::Expected { running: &[], stopped: &[id], bases: 1 }).await;

    admin.post(&at("start"), &json!({})).await.expect(202);
    let started = cloud.until(id, "address", "running", BOOT).await;
    let console = cloud.console_says(id, "ready", 2).await;
    assert_eq!(started["interfaces"][0]["address"], address.to_string());
    assert_eq!(count_lines(&console, HELLO), 1, "user data runs once: {console}");
    assert_eq!(count_lines(&console, &format!("user-data: already ran for {id}")), 1, "{console}");
    // The same host key, too: another one would be refused.
    let boot = ssh(&cloud, &key, &root, "cat /proc/sys/kernel/random/boot_id").await;
    assert_ne!(boot.trim(), first_boot);

    let before = started["boot"].as_i64().unwrap();
    let reboot = admin.post(&at("reboot"), &json!({"grace_s": 120})).await.expect(202);
    assert_eq!(reboot["boot"], before + 1);
    cloud.until(id, "running", "running", BOOT).await;
    let console = cloud.console_says(id, "ready", 3).await;
    assert_eq!(count_lines(&console, "stopping"), 2, "it went down by itself: {console}");

    admin.post(&at("pause"), &json!({})).await.expect(202);
    cloud.until(id, "paused", "paused", SOON).await;
    let domain = format!("{}-{id}", cloud.mark());
    assert_eq!(host.virsh(&["domstate", &domain]).trim(), "paused");
    admin.post(&at("resume"), &json!({})).await.expect(202);
    let resumed = cloud.until(id, "running", "running", SOON).await;
    assert_eq!(host.virsh(&["domstate", &domain]).trim(), "running");

    // Somebody pulls its plug behind our back: it runs again.
    host.virsh(&["destroy", &domain]);
    let begun = Instant::now();
    let back = loop {
        let instance = admin.get(&format!("/v1/instances/{id}")).await.expect(200);
        if instance["status"] == "running" && instance["started_at"] != resumed["started_at"] {
            break begun.elapsed();
        }
        assert!(begun.elapsed() < SOON, "{instance:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("runs again {back:?} after it was destroyed behind our back");
    assert!(back < Duration::from_secs(10), "{back:?}");
    assert_eq!(host.virsh(&["domstate", &domain]).trim(), "running");
    cloud.holds(&crate::audit::Expected { running: &[id], stopped: &[], bases: 1 }).await;

    // And nothing of it.
    cloud.delete(id).await;
    cloud.holds_nothing(1).await;
    assert_eq!(cloud.count("select count(*) from ports").await, 0);
    assert_eq!(cloud.count("select count(*) from host_images where present").await, 1);
    assert!(!cloud.dhcp_knows(mac));
    foreign.is_untouched(host);
    let events = admin.get(&format!("/v1/events?resource_id={id}&limit=1000")).await.expect(200);
    let events = events["items"].as_array().unwrap();
    let accepted = |event: &&Value| event["outcome"] == "accepted";
    let kinds: Vec<_> = events.iter().filter(accepted).map(|event| &event["kind"]).collect();
    println!("{kinds:?}");
    assert_eq!(events.last().unwrap()["kind"], "instance.delete");
    assert_eq!(events.last().unwrap()["outcome"], "done");
}
