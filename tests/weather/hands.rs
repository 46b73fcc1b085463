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

pub async fn running(cloud: &Cloud, name: &str, image: &str) -> Value {
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

/// Whether a command of virsh succeeds.
fn tries(cloud: &Cloud, args: &[&str]) -> bool {
    let mut virsh = cloud.host.command("virsh");
    let done = virsh.args(["-q", "-c", "qemu:///system"]).args(args).output();
    done.expect("virsh").status.success()
}

/// A command of virsh that takes an XML file.
pub fn by_xml(cloud: &Cloud, command: &str, xml: &str) {
    assert!(tries_by_xml(cloud, command, xml), "{xml}");
}

/// Whether it succeeds.
pub fn tries_by_xml(cloud: &Cloud, command: &str, xml: &str) -> bool {
    let mut virsh = cloud.host.command("virsh");
    virsh.args(["-q", "-c", "qemu:///system", command, "/dev/stdin"]);
    let mut virsh = virsh.stdin(Stdio::piped()).spawn().unwrap();
    virsh.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
    virsh.wait().unwrap().success()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_whose_hypervisor_hangs_says_so_until_it_answers_and_keeps_nobody_from_the_sweep() {
    let mut cloud = cloud("10.130.0.0/16").await;
    cloud.terminate().await;
    for (key, value) in
        [("host-call-deadline-s", "5"), ("sweep-s", "1"), ("stall-after-failures", "2")]
    {
        cloud.set(key, value);
    }
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let made = running(&cloud, "hung", &image).await;
    let id = made["id"].as_str().unwrap();
    let qemu = cloud.host.run("pgrep", &["-f", &format!("guest={}-{id},", cloud.mark())]);
    let qemu = qemu.lines().next().expect("a process").trim().to_owned();
    cloud.host.run("kill", &["-STOP", &qemu]);
    act(&cloud, id, "pause", &json!({})).await;
    let end = Instant::now() + SOON;
    loop {
        let stuck = cloud.admin.get(&format!("/v1/instances/{id}")).await.expect(200);
        let reason = stuck["reason"].as_str().unwrap_or_default();
        if reason.contains("(QEMU) does not answer") && !stuck["stalled_since"].is_null() {
            assert!(stuck["attempts"].as_i64() > Some(1), "{stuck:#}");
            assert_eq!(stuck["status"], "pausing", "{stuck:#}");
            break;
        }
        assert!(Instant::now() < end, "it does not say why: {stuck:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let stalled = cloud.admin.get("/v1/stalled?kind=instance").await.expect(200);
    assert_eq!(stalled["items"][0]["id"], id, "{stalled}");
    let (code, said) = cloud.pileus("admin fsck");
    assert_eq!(code, 0, "{said}");
    let swept = || cloud.log_lines("could not be swept").len();
    let before = swept();
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(swept(), before, "a hung guest keeps its host from being swept");
    let host = cloud.admin.get("/v1/hosts").await.expect(200);
    assert_eq!(host["items"][0]["health"], "up", "{host:#}");
    cloud.host.run("kill", &["-CONT", &qemu]);
    cloud.until(id, "settled", "paused", SOON).await;
    cloud.delete(id).await;
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_whose_mark_was_taken_away_holds_up_what_would_give_its_things_to_others() {
    let cloud = cloud("10.131.0.0/16").await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let made = running(&cloud, "unmarked", &image).await;
    let id = made["id"].as_str().unwrap();
    let domain = format!("{}-{id}", cloud.mark());
    let uri = "https://pileus.dev/xmlns/instance/1";
    assert!(cloud.host.virsh(&["dumpxml", &domain]).contains(uri));
    cloud.host.virsh(&["metadata", &domain, uri, "--remove"]);
    assert!(!cloud.host.virsh(&["dumpxml", &domain]).contains(uri));
    let path = format!("/v1/instances/{id}");
    let mark = "took Pileus' mark";
    // Told with nobody asking, and then by who wishes it to be off and to be gone.
    assert_eq!(cloud.until_says(id, mark).await["status"], "running");
    act(&cloud, id, "stop", &json!({"hard": true})).await;
    cloud.until_status(id, "stopping").await;
    cloud.until_says(id, mark).await;
    cloud.admin.delete(&path).await.expect(202);
    cloud.until_status(id, "deleting").await;
    cloud.until_says(id, mark).await;
    assert_eq!(cloud.host.virsh(&["domstate", &domain]).trim(), "running");
    let other = running(&cloud, "other", &image).await;
    assert_ne!(other["interfaces"][0]["address"], made["interfaces"][0]["address"]);
    cloud.host.virsh(&["destroy", &domain]);
    let end = Instant::now() + SOON;
    while cloud.admin.get(&path).await.status != 404 {
        assert!(Instant::now() < end, "it does not go on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cloud.delete(other["id"].as_str().unwrap()).await;
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_somebody_put_a_snapshot_on_is_told_of_and_the_snapshot_goes_with_the_instance()
{
    let mut cloud = cloud("10.135.0.0/16").await;
    cloud.terminate().await;
    for (key, value) in [("sweep-s", "1"), ("sweep-grace-s", "1")] {
        cloud.set(key, value);
    }
    cloud.start().await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let made = running(&cloud, "snapped", &image).await;
    let id = made["id"].as_str().unwrap();
    let domain = format!("{}-{id}", cloud.mark());
    let snapshot = ["snapshot-create-as", &domain, "before-upgrade", "--disk-only"];
    let disks = ["--no-metadata", "--diskspec", "vdb,snapshot=no"];
    cloud.host.virsh(&[&snapshot[..], &disks].concat());
    let (code, said) = cloud.pileus("admin fsck");
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("snapshot") && said.contains("blockcommit"), "{said}");
    // It is nobody's refuse while the guest writes to it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let disks = cloud.state.path().join("pools/disks").display().to_string();
    let files = || cloud.host.run("find", &[&disks, "-name", "*before-upgrade*"]);
    assert_eq!(files().lines().count(), 1, "{}", files());
    cloud.delete(id).await;
    let end = Instant::now() + SOON;
    while !files().is_empty() {
        assert!(Instant::now() < end, "it is left over");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_somebody_put_elsewhere_is_used_for_nothing_and_made_anew_when_it_is_gone() {
    let cloud = cloud("10.136.0.0/16").await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let first = running(&cloud, "first", &image).await;
    let (pool, elsewhere) = (cloud.mark(), cloud.state.path().join("elsewhere"));
    let elsewhere = elsewhere.to_str().unwrap();
    let virsh = |args: &[&str]| cloud.host.virsh(args);
    let take_away = || ["pool-destroy", "pool-undefine"].map(|word| tries(&cloud, &[word, &pool]));
    // The server makes its own again as soon as it needs it.
    let end = Instant::now() + SOON;
    let define = ["pool-define-as", &pool, "dir", "--target", elsewhere];
    while !(take_away()[1] && tries(&cloud, &define)) {
        assert!(Instant::now() < end, "the server is always faster");
    }
    virsh(&["pool-build", &pool]);
    // An empty one would be taken away.
    let foreign = format!("{elsewhere}/foreign");
    cloud.host.run("touch", &[&foreign]);
    virsh(&["pool-start", &pool]);
    let other = json!({"name": "other", "image": image, "flavor": "nano", "networks": [{"network": "default"}]});
    let other = cloud.admin.post("/v1/instances", &other).await.expect(202);
    let other = other["id"].as_str().unwrap();
    let told = "it is there with the directory";
    cloud.until_says(other, told).await;
    // A deletion finds nothing there, and does not take that for nothing left.
    let first = first["id"].as_str().unwrap();
    cloud.admin.delete(&format!("/v1/instances/{first}")).await.expect(202);
    cloud.until_says(first, told).await;
    assert_eq!(cloud.host.run("find", &[elsewhere, "-type", "f"]).trim(), foreign);
    assert_eq!(take_away(), [true, true]);
    cloud.until(other, "settled", "running", SOON).await;
    let end = Instant::now() + SOON;
    while cloud.admin.get(&format!("/v1/instances/{first}")).await.status != 404 {
        assert!(Instant::now() < end, "it is not deleted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cloud.delete(other).await;
    audit::tidy(&cloud);
}
