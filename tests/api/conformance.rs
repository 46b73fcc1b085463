//! The served document held against the server by schemathesis: every operation, every check, as a member and as an admin.
//!
//! What is asked is the same in every run. `make fuzz` asks more, and other things each time: it sets the two variables below.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::harness::{Api, Client};

/// How many cases of each operation the fuzzing phase makes, where the variable does not say.
const EXAMPLES: &str = "4";

fn variable(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_not_set| otherwise.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_what_a_member_meets() {
    let api = cloud().await;
    hold(&api, &api.member, "member").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_what_an_admin_meets() {
    let api = cloud().await;
    hold(&api, &api.admin, "admin").await;
}

/// A cloud with a host, on which instances run, and in which everything that an example of the document names is there.
async fn cloud() -> Api {
    let plenty = ["instances", "vcpus", "memory_mib", "disk_gib", "networks", "images", "keypairs"];
    let mut api = Api::start_with(|flags| {
        let flags = plenty.iter().fold(flags, |flags, what| {
            flags.set(&format!("quota_{what}"), "100000")
        });
        flags.set("token_ttl_s", "86400").set("wait_max_s", "1").set("upload_stall_s", "2")
    })
    .await;
    api.run().await;
    api.image("pileus-guest").await;
    api
}

/// Runs schemathesis as this client and fails with all that it says.
async fn hold(api: &Api, client: &Client, name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = Command::new(root.join("scripts/schemathesis.sh")).output().await.unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let program = String::from_utf8(installed.stdout).unwrap();
    // It leaves what it remembers where it runs.
    let dir = tempfile::tempdir().unwrap();
    let run = Command::new(program.trim())
        .arg("--config-file")
        .arg(root.join("scripts/schemathesis/schemathesis.toml"))
        .args(["--no-color", "run", &format!("{}/openapi.json", client.url)])
        .args(["--header", &format!("Authorization: Bearer {}", client.token.as_ref().unwrap())])
        .args(["--max-examples", &variable("PILEUS_FUZZ_EXAMPLES", EXAMPLES)])
        .args(["--seed", &variable("PILEUS_FUZZ_SEED", "1")])
        .current_dir(&dir)
        .env("HOME", dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "as {name}:\n{said}\n{}", String::from_utf8_lossy(&run.stderr));
    // A run that found nothing to ask would be content too.
    let asked = client.get("/v1/auth/whoami").await;
    assert_eq!(asked.status, 200, "as {name}, the caller was lost on the way: {asked:?}\n{said}");
    drop(api.events().await);
}
