//! No room: on the host's disk, in the image store, on any host; and base images that somebody spoils.

use std::sync::Arc;
use std::time::Instant;

use pileus::cli::postgres::throwaway;
use reqwest::Method;
use serde_json::{Value, json};

use crate::audit;
use crate::cloud::{Cloud, Database, SOON};
use crate::libvirtd::Libvirtd;

async fn cloud(host: Arc<Libvirtd>, pool: &'static str) -> Cloud {
    let options = throwaway::empty().await.expect("a database");
    let settings = [
        ("network-pool", pool),
        ("heartbeat-s", "1"),
        ("backoff-max-s", "2"),
        ("base-image-keep-s", "0"),
        ("overcommit-disk", "8"),
    ];
    Cloud::on(host, Database::Shared(options), &settings).await
}

fn new(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image, "flavor": "nano", "networks": [{ "network": "default" }]})
}

pub async fn create(cloud: &Cloud, name: &str, image: &str) -> String {
    let made = cloud.admin.post("/v1/instances", &new(name, image)).await.expect(202);
    made["id"].as_str().unwrap().to_owned()
}

/// Puts the pools of a cloud, which is down, on a file system of their own with so much free space; gives the file that takes the rest.
fn nearly_full_pools(cloud: &Cloud, free_mib: u64) -> String {
    let pools = cloud.state.path().join("pools");
    let (pools, disk) = (pools.display(), cloud.host.path("disk.img"));
    let script = format!(
        "set -e; mkdir -p {pools}; truncate -s 4G {disk}; mkfs.ext4 -q -m 0 {disk}; mount -o loop {disk} {pools}; chmod 711 {pools}
         mkdir {pools}/disks {pools}/consoles
         free=$(df --output=avail -B1 {pools} | tail -n 1); fallocate -l $((free - {free_mib} * 1048576)) {pools}/filler",
        disk = disk.display()
    );
    cloud.host.run("bash", &["-c", &script]);
    format!("{pools}/filler")
}

/// What the host kept for itself was counted of a larger disk: all of this one is for guests.
pub async fn use_all_of_the_disk(cloud: &Cloud) {
    let host = cloud.admin.get("/v1/hosts").await.expect(200)["items"][0]["id"].clone();
    let host = format!("/v1/hosts/{}", host.as_str().unwrap());
    cloud.admin.patch(&host, &json!({ "reserved_disk_gib": 0 })).await.expect(202);
}

/// Bytes that no two images share, without holes.
pub fn bytes(number: u8, mib: usize) -> Vec<u8> {
    (0..mib << 20).map(|at| (at as u8).wrapping_mul(31) ^ (number << 1) | 1).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_and_everything_goes_on_when_there_is_room() {
    // Its own host: others must not find their pools gone.
    let host = Arc::new(Libvirtd::start());
    let mut cloud = cloud(host, "10.112.0.0/16").await;
    cloud.terminate().await;
    // The host's disk is a small file system that is nearly full; the image store another.
    nearly_full_pools(&cloud, 24);
    let images = cloud.state.path().join("images").display().to_string();
    let small = ["-t", "tmpfs", "-o", "size=40m,mode=700", "tmpfs", &images];
    cloud.host.run("mount", &small);
    cloud.start().await;
    use_all_of_the_disk(&cloud).await;

    let mut ids = Vec::new();
    for number in 0..2_u8 {
        let image = cloud.raw_image(&format!("big-{number}"), bytes(number, 16)).await;
        ids.push((create(&cloud, &format!("big-{number}"), &image).await, image));
        if number == 0 {
            cloud.until(&ids[0].0, "settled", "running", SOON).await;
        }
    }
    let full = cloud.until_says(&ids[1].0, "No space left on device").await;
    assert_eq!(full["status"], "building", "{full:#}");
    // Nothing else is held up by it.
    cloud.until(&ids[0].0, "running", "running", SOON).await;
    // The image store has no room for a third, says so, and keeps nothing of it.
    let image = json!({"name": "big-2", "format": "raw", "visibility": "private"});
    let third = cloud.admin.post("/v1/images", &image).await.expect(201)["id"].clone();
    let put = format!("/v1/images/{}/data", third.as_str().unwrap());
    let answer = cloud.admin.ask(Method::PUT, &put).body(bytes(2, 16)).send().await;
    println!("a full image store: {answer:?}");
    assert!([503, 507].contains(&answer.status), "{answer:?}");
    assert_eq!(cloud.admin.get("/readyz").await.status, 200);
    let scratch = cloud.host.run("find", &[&format!("{images}/tmp"), "-type", "f"]);
    assert_eq!(scratch, "", "left of an upload that did not fit");

    // The first goes, and its base with it: there is room, and the second comes up by itself.
    cloud.delete(&ids[0].0).await;
    let gone = cloud.admin.delete(&format!("/v1/images/{}", ids[0].1)).await;
    assert!([202, 204].contains(&gone.status), "{gone:?}");
    cloud.until(&ids[1].0, "settled", "running", SOON).await;
    // As is room in the store, once the first image's bytes are swept.
    cloud.admin.ask(Method::PUT, &put).body(bytes(3, 8)).send().await.expect(200);
    cloud.delete(&ids[1].0).await;
    cloud.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fills_the_host_is_told_of_and_goes_on_when_there_is_room() {
    let host = Arc::new(Libvirtd::start());
    let mut cloud = cloud(host, "10.120.0.0/16").await;
    cloud.terminate().await;
    // Room for the guest's image, and some of what it writes.
    let filler = nearly_full_pools(&cloud, 120);
    cloud.start().await;
    use_all_of_the_disk(&cloud).await;

    // Past its file system, which is as large as its image.
    let writes = "#!/bin/sh\n# mArKeD\ndd if=/dev/urandom of=/dev/vda bs=1M seek=600 count=300 2>/dev/null; sync; echo all is written\n";
    let mut writer = new("writer", "pileus-guest");
    writer["user_data"] = json!(writes);
    let id = cloud.admin.post("/v1/instances", &writer).await.expect(202)["id"].clone();
    let id = id.as_str().unwrap();
    let full = cloud.until_says(id, "no room").await;
    assert_eq!(
        (&full["status"], &full["power"]),
        (&json!("resuming"), &json!("paused")),
        "{full:#}"
    );
    // It is tried again, at a pace: what an attempt stirs up does not bring on the next.
    let events = async || {
        let events = cloud.admin.get(&format!("/v1/events?resource_id={id}&limit=1000")).await;
        events.expect(200)["items"].as_array().unwrap().len()
    };
    let attempts = async || {
        let seen = cloud.admin.get(&format!("/v1/instances/{id}")).await.expect(200);
        seen["attempts"].as_i64().unwrap()
    };
    let (begun, told, first) = (Instant::now(), events().await, attempts().await);
    while attempts().await < first + 6 {
        assert!(begun.elapsed() < SOON, "it is not tried again");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // The pauses are 0.1 to 0.2 s at first, and twice as long each time, up to 1 to 2 s.
    assert!(begun.elapsed().as_secs_f64() > 2.0, "six attempts in {:?}", begun.elapsed());
    let (more, tried) = (events().await - told, attempts().await - first);
    assert!(more <= usize::try_from(tried).unwrap() * 3, "{more} events of {tried} attempts");
    cloud.host.run("rm", &[&filler]);
    cloud.console_says(id, "all is written", 1).await;
    cloud.until(id, "settled", "running", SOON).await;
    cloud.delete(id).await;
    cloud.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_no_host_says_why_and_comes_up_when_it_fits() {
    let cloud = cloud(crate::cloud::host(), "10.113.0.0/16").await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let host = cloud.admin.get("/v1/hosts").await.expect(200)["items"][0]["id"].clone();
    let host = format!("/v1/hosts/{}", host.as_str().unwrap());
    let reserve = |memory: i64| json!({ "reserved_memory_mib": memory });
    let changed = cloud.admin.patch(&host, &reserve(1_000_000_000)).await;
    assert!([200, 202].contains(&changed.status), "{changed:?}");
    let id = create(&cloud, "waits", &image).await;
    let waits = cloud.until_says(&id, "memory").await;
    assert_eq!(waits["status"], "waiting_for_capacity", "{waits:#}");
    cloud.admin.patch(&host, &reserve(0)).await.expect(202);
    cloud.until(&id, "settled", "running", SOON).await;
    cloud.delete(&id).await;
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_image_that_somebody_removed_is_uploaded_again() {
    let mut cloud = cloud(crate::cloud::host(), "10.114.0.0/16").await;
    let image = cloud.raw_image("empty", bytes(7, 1)).await;
    let first = create(&cloud, "first", &image).await;
    cloud.until(&first, "settled", "running", SOON).await;
    let disks = cloud.state.path().join("pools/disks");
    let files = std::fs::read_dir(&disks).unwrap().map(|file| file.unwrap().path());
    let is_base = |path: &std::path::PathBuf| {
        path.file_name().unwrap().to_string_lossy().starts_with("base-")
    };
    let base = files.filter(is_base).min().expect("a base image");

    // Damaged: nobody reads it but the guests; the audit does.
    let whole = std::fs::read(&base).unwrap();
    std::fs::write(&base, &whole[..whole.len() / 2]).unwrap();
    let said = audit::findings(&cloud, &cloud.database_url(), std::time::Duration::ZERO);
    let said = said.expect_err("a damaged base image is found");
    assert!(said.contains("damaged: base-"), "{said}");

    // The next sweep sees it, and has it uploaded anew: not before the audit has seen it, too.
    cloud.terminate().await;
    cloud.set("sweep-s", "2");
    cloud.start().await;
    let end = Instant::now() + SOON;
    while std::fs::read(&base).ok().as_ref() != Some(&whole) {
        assert!(Instant::now() < end, "the damaged base image stays");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // Removed: for a new instance, and for one that is started again.
    for again in [false, true] {
        std::fs::remove_file(&base).unwrap();
        if again {
            let path = format!("/v1/instances/{first}/actions/reboot");
            cloud.admin.post(&path, &json!({"hard": true})).await.expect(202);
        } else {
            let second = create(&cloud, "second", &image).await;
            cloud.until(&second, "settled", "running", SOON).await;
            cloud.delete(&second).await;
        }
        cloud.until(&first, "settled", "running", SOON).await;
        assert_eq!(std::fs::read(&base).unwrap(), whole, "the base image is whole again");
    }
    cloud.delete(&first).await;
    audit::tidy(&cloud);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_were_changed_without_changing_their_number_are_found_and_not_spread() {
    let cloud = cloud(crate::cloud::host(), "10.126.0.0/16").await;
    let (image, whole) = (cloud.raw_image("first", bytes(3, 2)).await, bytes(3, 2));
    let instance = create(&cloud, "reader", &image).await;
    cloud.until(&instance, "settled", "running", SOON).await;
    let sha256 =
        cloud.admin.get(&format!("/v1/images/{image}")).await.expect(200)["sha256"].clone();
    let sha256 = sha256.as_str().unwrap();
    let base = cloud.state.path().join(format!("pools/disks/base-{sha256}.raw"));
    let stored = cloud.state.path().join("images").join(sha256);
    let mut other = whole.clone();
    other[1 << 20] ^= 1;

    // On the host: the quick look does not see it, the deep one does, and says what mends it.
    std::fs::write(&base, &other).unwrap();
    let (code, said) = cloud.pileus("admin fsck");
    assert_eq!(code, 0, "{said}");
    let (code, said) = cloud.pileus("admin fsck --deep");
    assert_eq!(code, 7, "{said}");
    let remedy = said.split('`').nth(1).unwrap_or_else(|| panic!("no remedy: {said}"));
    let (code, said) = cloud.pileus(remedy.strip_prefix("pileus ").unwrap());
    assert_eq!(code, 0, "{said}");
    let end = Instant::now() + SOON;
    while std::fs::read(&base).ok().as_ref() != Some(&whole) {
        assert!(Instant::now() < end, "the base image stays damaged");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }

    // In the image store: it is not sent to hosts, and whoever waits for it is told why.
    std::fs::write(&stored, &other).unwrap();
    std::fs::remove_file(&base).unwrap();
    let (code, said) = cloud.pileus("admin fsck --deep");
    assert!(code == 7 && said.contains("send the image's bytes once more"), "{said}");
    let second = create(&cloud, "second", &image).await;
    let end = Instant::now() + SOON;
    loop {
        let told = cloud.admin.get("/v1/stalled?kind=host_image&waiting_s=0").await.expect(200);
        if told.to_string().contains("in the image store are damaged: they have the SHA-256") {
            break;
        }
        assert!(Instant::now() < end, "nobody says so: {told}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // The same bytes once more mend it.
    cloud.raw_image("again", whole.clone()).await;
    let retry = cloud.admin.get("/v1/stalled?kind=host_image&waiting_s=0").await.expect(200);
    let id = retry["items"][0]["id"].as_str().unwrap();
    let (code, said) = cloud.pileus(&format!("admin retry host_image {id}"));
    assert_eq!(code, 0, "{said}");
    cloud.until(&second, "settled", "running", SOON).await;
    assert_eq!(
        (std::fs::read(&base).unwrap(), std::fs::read(&stored).unwrap()),
        (whole.clone(), whole)
    );
    let (code, said) = cloud.pileus("admin fsck --deep");
    assert_eq!(code, 0, "{said}");
    for id in [&instance, &second] {
        cloud.delete(id).await;
    }
    audit::tidy(&cloud);
}
