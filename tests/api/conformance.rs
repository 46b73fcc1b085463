//! The served document held against the server by schemathesis: every operation, every check, as a member and as an admin.
//!
//! In all of schemathesis' phases: the document's examples, the bounds of every field, arbitrary requests, and chains of them by
//! links. `make test` asks for little of the last two, the same in each run; `make fuzz` for more, and for other things each
//! time: it sets the two variables below. What is no failure, and why, stands in scripts/schemathesis.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::harness::{Api, Client};

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_what_a_member_meets() {
    let api = cloud().await;
    hold(&api.member, "member").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_what_an_admin_meets() {
    let api = cloud().await;
    hold(&api.admin, "admin").await;
}

/// A cloud with a host, on which instances run, and in which what the examples of the document name is there.
async fn cloud() -> Api {
    let plenty = ["instances", "vcpus", "memory_mib", "disk_gib", "networks", "images", "keypairs"];
    let mut api = Api::start_with(|flags| {
        let flags =
            plenty.iter().fold(flags, |flags, what| flags.set(&format!("quota_{what}"), "100000"));
        flags.set("token_ttl_s", "86400").set("wait_max_s", "1").set("upload_stall_s", "2")
    })
    .await;
    api.run().await;
    api.image("pileus-guest").await;
    let network = json!({"name": "default", "cidr": "10.64.3.0/24"});
    api.member.post("/v1/networks", &network).await.expect(201);
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN76S2TzfFcWx6ZKKkW2CSOWYbYWrvOTgbO4BXDJG1Dx laptop";
    let keypair = json!({"name": "laptop", "public_key": key});
    api.member.post("/v1/keypairs", &keypair).await.expect(201);
    let instance = json!({"name": "here", "image": "pileus-guest", "flavor": "nano"});
    api.member.post("/v1/instances?wait=running", &instance).await.expect(202);
    api
}

/// Runs schemathesis as this client, and fails with all that it says.
#[expect(clippy::disallowed_methods, reason = "`make fuzz` steers by variables")]
async fn hold(client: &Client, name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = Command::new(root.join("scripts/schemathesis.sh")).output().await.unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let program = String::from_utf8(installed.stdout).unwrap();
    // No change of a password or of the signing keys ends an API token.
    let made = client.post("/v1/tokens", &json!({"name": "run"})).await.expect(201);
    let client = client.with_token(made["secret"].as_str().unwrap());
    let whoami = client.get("/v1/auth/whoami").await.expect(200);
    let own = [&whoami["user"]["id"], &whoami["tenant"]["id"], &made["token"]["id"]];
    // It leaves what it remembers where it runs.
    let dir = tempfile::tempdir().unwrap();
    let set = |name, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let (examples, seed) = (set("PILEUS_FUZZ_EXAMPLES", "20"), set("PILEUS_FUZZ_SEED", "7"));
    let run = Command::new(program.trim())
        .arg("--config-file")
        .arg(root.join("scripts/schemathesis/schemathesis.toml"))
        .args(["--no-color", "run", &format!("{}/openapi.json", client.url)])
        .args(["--header", &format!("Authorization: Bearer {}", client.token.as_ref().unwrap())])
        .args(["--max-examples", &examples, "--seed", &seed])
        .current_dir(&dir)
        .env("SCHEMATHESIS_HOOKS", root.join("scripts/schemathesis/hooks.py"))
        .env("PILEUS_CALLER", own.map(|id| id.as_str().unwrap()).join(" "))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "as {name}:\n{said}\n{}", String::from_utf8_lossy(&run.stderr));
    println!("{said}");
    // A run whose caller was lost on the way would be content with 401.
    client.get("/v1/auth/whoami").await.expect(200);
}
