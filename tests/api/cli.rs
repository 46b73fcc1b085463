//! The client commands, run as people run them: the built binary against a real server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{Api, Client, PASSWORD};
use crate::sse::PATIENCE;

/// Somebody at a shell, with a home of their own.
struct Shell {
    home: TempDir,
    url: String,
    token: Option<String>,
}

/// What a command left.
#[derive(Debug)]
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    #[track_caller]
    fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.out
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(self.ok()).expect("JSON")
    }

    #[track_caller]
    fn failed(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(part), "{self:?}");
    }
}

impl Shell {
    fn of(client: &Client) -> Self {
        let home = tempfile::tempdir().expect("a home");
        Self { home, url: client.url.clone(), token: client.token.clone() }
    }

    /// Without a token: who logs in.
    fn nobody(client: &Client) -> Self {
        Self { token: None, ..Self::of(client) }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pileus"));
        command.args(line.split_whitespace()).env_clear().kill_on_drop(true).stdin(Stdio::null());
        command.env("HOME", self.home.path()).env("PILEUS_STATE_DIR", self.path("state"));
        if let Some(token) = &self.token {
            command.env("PILEUS_URL", &self.url).env("PILEUS_TOKEN", token);
        }
        command
    }

    async fn run(&self, line: &str) -> Done {
        let done = self.command(line).output().await.expect("the command runs");
        Done {
            code: done.status.code().expect("a code"),
            out: String::from_utf8(done.stdout).expect("UTF-8"),
            err: String::from_utf8(done.stderr).expect("UTF-8"),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file, and gives its path.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, bytes).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the file").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_flavor_is_made_listed_shown_and_deleted_by_its_name() {
    let api = Api::start().await;
    let shell = Shell::of(&api.admin);
    let made = shell
        .run("flavor create tiny --vcpus 1 --memory-mib 64 --disk-gib 1 --trait ssd --trait fast -o json")
        .await;
    assert_eq!(made.json()["traits"], json!(["ssd", "fast"]));
    let listed = shell.run("flavor list --name tiny").await;
    let lines: Vec<_> = listed.ok().lines().collect();
    assert_eq!(lines.len(), 2, "{listed:?}");
    assert!(lines[0].starts_with("NAME") && lines[1].contains("ssd, fast"), "{listed:?}");
    assert_eq!(
        shell.run("flavor list --limit 2 -o json").await.json().as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(shell.run("flavor show tiny -o json").await.json(), made.json());
    shell.run("flavor delete tiny").await.ok();
    shell.run("flavor delete tiny").await.failed(4, "no flavor called tiny");
    shell.run("flavor delete tiny --ignore-missing").await.ok();
}

#[tokio::test]
async fn each_way_to_fail_has_its_exit_code_and_says_what_would_do() {
    let api = Api::start().await;
    let shell = Shell::of(&api.reader);
    let wrong = "flavor create x --vcpus 0 --memory-mib 1 --disk-gib 1";
    Shell::of(&api.admin).run(wrong).await.failed(3, "/vcpus: must be 1 to 512");
    Shell::of(&api.admin).run("flavor list --filter colour=red").await.failed(3, "colour");
    shell
        .run("flavor create x --vcpus 1 --memory-mib 64 --disk-gib 1")
        .await
        .failed(5, "Not allowed");
    shell
        .run("flavor show 00000000-0000-0000-0000-000000000000")
        .await
        .failed(4, "there is no flavor");
    shell.run("flavor make").await.failed(2, "Usage");
    Shell::nobody(&api.reader).run("whoami").await.failed(5, "pileus login");
    let nowhere = Shell { url: "http://127.0.0.1:1".into(), ..Shell::of(&api.reader) };
    nowhere.run("whoami").await.failed(1, "http://127.0.0.1:1 cannot be reached");
}

#[tokio::test]
async fn a_login_is_kept_for_its_owner_alone_until_the_logout() {
    let api = Api::start().await;
    let shell = Shell::nobody(&api.admin);
    let url = &shell.url;
    let wrong = shell.file("wrong", "not this");
    let login = |file: &str| format!("login --url {url} --user member --password-file {file}");
    shell.run(&login(&wrong)).await.failed(5, "Not authenticated");
    let right = shell.file("right", format!("{PASSWORD}\n"));
    assert!(shell.run(&login(&right)).await.ok().contains("tenant default"));
    let kept = shell.path(".config/pileus/login.json");
    assert_eq!(mode(&kept), 0o600);
    assert_eq!(shell.run("whoami -o json").await.json()["user"]["name"], "member");
    shell.run("flavor list").await.ok();
    shell.run("logout").await.ok();
    assert!(!kept.exists());
    shell.run("whoami").await.failed(5, "pileus login");
}

#[tokio::test]
async fn the_admin_of_the_local_cloud_needs_no_login() {
    let api = Api::start().await;
    let shell = Shell::nobody(&api.admin);
    let admin = json!({"url": shell.url, "user": "admin", "password": PASSWORD}).to_string();
    shell.file("state/admin.json", &admin);
    assert_eq!(shell.run("whoami -o json").await.json()["admin"], true);
    let session = shell.path(".config/pileus/admin-session.json");
    assert_eq!(mode(&session), 0o600);
    let first = std::fs::read(&session).expect("the session");
    assert_eq!(shell.run("whoami -o json").await.json()["user"]["name"], "admin");
    assert_eq!(std::fs::read(&session).expect("the session"), first, "it logged in again");
    // A cloud made anew knows nothing of the old token.
    let mut forged: Value = serde_json::from_slice(&first).expect("JSON");
    forged["token"] = json!("forged");
    std::fs::write(&session, forged.to_string()).expect("written");
    shell.run("whoami").await.ok();
    let elsewhere = Shell::nobody(&api.admin);
    let file = elsewhere.file("admin.json", &admin);
    elsewhere.run(&format!("whoami --admin-json {file}")).await.ok();
}

#[tokio::test]
async fn a_login_for_days_is_a_token_that_the_logout_revokes() {
    let api = Api::start().await;
    let shell = Shell::nobody(&api.admin);
    let file = shell.file("password", PASSWORD);
    let login = format!("login --url {} --user member --password-file {file} --days 7", shell.url);
    shell.run(&login).await.ok();
    let kept = std::fs::read(shell.path(".config/pileus/login.json")).expect("kept");
    let kept: Value = serde_json::from_slice(&kept).expect("JSON");
    let token = kept["token"].as_str().expect("a token");
    assert!(token.starts_with("pileus_"), "no API token");
    assert!(shell.run("token list").await.ok().contains("pileus login"));
    let holder = Shell::of(&api.anonymous.with_token(token));
    holder.run("whoami").await.ok();
    shell.run("logout").await.ok();
    holder.run("whoami").await.failed(5, "Not authenticated");
}

#[tokio::test]
async fn tenants_users_and_members_are_kept_by_name() {
    let api = Api::start().await;
    let shell = Shell::of(&api.admin);
    shell.run("tenant create web --set quota.instances=3").await.ok();
    assert_eq!(shell.run("tenant show web -o json").await.json()["quota"]["instances"], 3);
    let file = shell.file("password", PASSWORD);
    shell.run(&format!("user create ann --password-file {file}")).await.ok();
    shell.run("tenant add-member web ann reader").await.ok();
    let changed = shell.run("tenant add-member web ann owner -o json").await.json();
    assert_eq!(changed["role"], "owner");
    let members = shell.run("tenant members web").await;
    assert!(members.ok().contains("ann") && members.ok().contains("owner"), "{members:?}");
    shell.run("tenant remove-member web ann").await.ok();
    assert_eq!(shell.run("tenant members web -o json").await.json(), json!([]));
    shell.run("user update ann --set enabled=false").await.ok();
    assert_eq!(shell.run("user show ann -o json").await.json()["enabled"], false);
}

#[tokio::test]
async fn networks_ports_and_keys_are_made_by_name() {
    let api = Api::start().await;
    let shell = Shell::of(&api.member);
    let network = shell
        .run("network create lan --cidr 10.99.0.0/24 --dns 9.9.9.9 --label team=ci -o json")
        .await;
    assert_eq!(network.json()["labels"], json!({"team": "ci"}));
    let port = shell.run("port create --network lan --address 10.99.0.7 -o json").await.json();
    assert_eq!(port["network_id"], network.json()["id"]);
    assert_eq!(port["address"], "10.99.0.7");
    shell.run("port create --network wan").await.failed(4, "no network called wan");
    let changed = shell.run("network update lan --set labels={\"team\":\"web\"} -o json").await;
    assert_eq!(changed.json()["labels"], json!({"team": "web"}));
    assert!(shell.run("network list --label team=web").await.ok().contains("10.99.0.0/24"));
    assert!(!shell.run("network list --label team=ci").await.ok().contains("10.99.0.0/24"));
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7P0YbJX0kZ0m9Jv0uHq8q0v3v5mQ3l1nY2m9H4kq1v me";
    let file = shell.file("key.pub", format!("{key}\n"));
    let made = shell.run(&format!("keypair create laptop {file} -o json")).await.json();
    assert!(
        made["public_key"].as_str().is_some_and(|k| key.starts_with(k) || k.starts_with(key)),
        "{made}"
    );
    shell.run("keypair rm laptop").await.ok();
}

#[tokio::test]
async fn an_instance_is_made_waited_for_stopped_and_deleted_by_its_name() {
    let mut api = Api::start().await;
    api.image("tiny").await;
    api.run().await;
    let shell = Shell::of(&api.member);
    shell.run("network create ci").await.ok();
    let script = shell.file("script", "#!/bin/sh\necho hi\n");
    let create = format!(
        "instance create runner --image tiny --flavor nano --network ci --user-data {script} --label pipeline=7"
    );
    let plan = shell.run(&format!("{create} --dry-run -o json")).await.json();
    assert!(plan["placement"].is_object(), "{plan}");
    assert_eq!(shell.run("instance list -o json").await.json(), json!([]));
    let made = shell.run(&format!("{create} --wait address --timeout 30 -o json")).await.json();
    assert_eq!((&made["status"], &made["labels"]), (&json!("running"), &json!({"pipeline": "7"})));
    let listed = shell.run("instance list --label pipeline=7 --filter status=running").await;
    let address = made["interfaces"][0]["address"].as_str().expect("an address");
    assert!(listed.ok().contains("runner") && listed.ok().contains(address), "{listed:?}");
    shell
        .run("instance wait runner stopped --timeout 1")
        .await
        .failed(6, "runner is not stopped within 1 s");
    shell.run("instance stop runner --hard --wait stopped --timeout 30").await.ok();
    shell.run("instance start runner --wait").await.ok();
    assert_eq!(shell.run("instance show runner -o json").await.json()["status"], "running");
    shell.run("instance create other --image nothing --flavor nano").await.failed(3, "/image");
    shell.run("instance delete runner --wait deleted").await.ok();
    shell.run("instance show runner").await.failed(4, "no instance called runner");
}

#[tokio::test]
async fn an_upload_makes_an_image_whole_or_not_at_all() {
    let api = Api::start().await;
    let shell = Shell::of(&api.member);
    let disk = shell.file("disk.raw", vec![7u8; 1024 * 1024]);
    let image =
        shell.run(&format!("image upload disk {disk} --label os=none -o json")).await.json();
    assert_eq!((&image["status"], &image["size_bytes"]), (&json!("ready"), &json!(1_048_576)));
    let broken = shell.file("broken.qcow2", b"QFI\xfb and nothing more");
    let refused = shell.run(&format!("image upload broken {broken}")).await;
    assert_eq!(refused.code, 3, "{refused:?}");
    let left = shell.run("image list -o json").await.json();
    let names: Vec<_> = left.as_array().expect("images").iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["disk"]);
    shell.run("image upload none /nonexistent").await.failed(1, "/nonexistent cannot be read");
}

#[tokio::test]
async fn events_are_listed_and_followed() {
    let api = Api::start().await;
    let shell = Shell::of(&api.admin);
    let app = &api.app;
    let publisher = tokio::spawn(pileus::reconcile::events::publish_forever(
        app.db.clone(),
        app.changes.clone(),
        app.clock.clone(),
        app.beats().clone(),
        app.shutdown.clone(),
    ));
    let mut follow = shell
        .command("event follow --all-tenants --after 0 --kind flavor.create -o json")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    shell.run("flavor create tiny --vcpus 1 --memory-mib 64 --disk-gib 1").await.ok();
    let seen = timeout(PATIENCE, async {
        loop {
            let line = lines.next_line().await.expect("a line").expect("no end");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if event["resource_name"] == "tiny" {
                return event;
            }
        }
    });
    let seen = seen.await.expect("the event in time");
    follow.kill().await.expect("ended");
    let listed = shell.run("event list --all-tenants --last 1 -o json").await.json();
    assert_eq!(listed, json!([seen]));
    assert!(shell.run("event ls --all-tenants").await.ok().contains("flavor.create"));
    app.shutdown.cancel();
    publisher.await.expect("the publisher ends");
}
