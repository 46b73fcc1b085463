//! Planted secrets, and all that a real host and a real server show of an instance.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pileus::cli::postgres::throwaway;
use serde_json::json;

use crate::audit;
use crate::cloud::{Cloud, Database, SOON, free_address};

/// In each of them.
const MARK: &str = "mArKeD-secret";

/// Every file below, with what it holds; what goes meanwhile is left out.
fn files(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        match kind {
            Ok(kind) if kind.is_dir() => files(&path, found),
            Ok(kind) if kind.is_file() => {
                if let Ok(bytes) = std::fs::read(&path) {
                    found.push((path, bytes));
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
}

fn holds(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_data_and_tokens_are_in_the_seed_and_nowhere_else_on_a_host() {
    let options = throwaway::empty().await.expect("a database");
    let metrics = free_address();
    let settings = [("network-pool", "10.122.0.0/16"), ("metrics-listen", &metrics)];
    let mut cloud = Cloud::with(Database::Shared(options), &settings).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    let token = cloud.admin.post("/v1/tokens", &json!({"name": "planted"})).await.expect(201);
    let token = token["secret"].as_str().unwrap().to_owned();
    let with_token = cloud.admin.with_token(&token);
    let new = json!({
        "name": "keeps-a-secret", "image": image, "flavor": "nano", "networks": [{"network": "default"}],
        "user_data": format!("#!/bin/sh\n# {MARK}\n"),
    });
    let made = with_token.post("/v1/instances", &new).await.expect(202);
    let id = made["id"].as_str().unwrap();
    cloud.until(id, "settled", "running", SOON).await;

    let name = format!("{}-{id}", cloud.mark());
    let mut shown = vec![cloud.host.virsh(&["dumpxml", "--security-info", &name])];
    assert!(shown[0].contains(id));
    for network in cloud.host.virsh(&["net-list", "--name"]).split_whitespace() {
        shown.push(cloud.host.virsh(&["net-dumpxml", network]));
    }
    let mut commands = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let [command, environment] = ["cmdline", "environ"].map(|file| {
            String::from_utf8_lossy(&std::fs::read(process.path().join(file)).unwrap_or_default())
                .into_owned()
        });
        if command.contains(id) {
            commands += 1;
            shown.extend([command, environment]);
        }
    }
    assert!(commands > 0, "its QEMU was not found");
    let scraped = cloud.admin.at(format!("http://{metrics}")).get("/metrics").await;
    assert!(scraped.text.contains("pileus_"), "{scraped:?}");
    shown.push(scraped.text);
    for path in [
        "/v1/events?limit=1000",
        "/v1/instances",
        "/v1/stalled?waiting_s=0",
        "/v1/fsck",
        "/v1/drift",
    ] {
        shown.push(cloud.admin.get(path).await.expect(200).to_string());
    }
    cloud.terminate().await;
    for text in &shown {
        assert!(!text.contains(MARK) && !text.contains(&token), "it shows: {text}");
    }

    // Of all files of the host, its libvirtd's among them, and of the cloud, its server's log too.
    let (mut found, mut seeds) = (Vec::new(), 0);
    files(&cloud.host.path(""), &mut found);
    assert!(
        found
            .iter()
            .any(|(path, bytes)| path.starts_with(cloud.state.path()) && holds(bytes, "DEBUG"))
    );
    for (path, bytes) in &found {
        let shows = path.display();
        assert!(!holds(bytes, &token[token.len() - 20..]), "{shows} holds the token");
        if !holds(bytes, MARK) {
            continue;
        }
        let seed = path.file_name().unwrap().to_string_lossy().starts_with("seed-");
        assert!(seed, "{shows} holds user data");
        seeds += 1;
        let metadata = std::fs::metadata(path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{shows} has mode {mode:o}, of user {}", metadata.uid());
    }
    assert_eq!(seeds, 1);
    cloud.start().await;
    cloud.delete(id).await;
    audit::tidy(&cloud);
}
