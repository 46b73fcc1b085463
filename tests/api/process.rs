//! Servers as an operator runs them: the built binary, `pileus serve`, on a database of the test's own, with libvirt's mock host.

use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pileus::cli::postgres::{kept, throwaway};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::client::{Client, PASSWORD};

/// How long anything may take, on a machine with other work.
pub const SOON: Duration = Duration::from_secs(90);

/// A database and a directory for images, which any number of servers share.
pub struct Site {
    pub database: PgConnectOptions,
    state: TempDir,
}

impl Site {
    pub async fn new() -> Self {
        let database = throwaway::empty().await.expect("a database");
        Self { database, state: tempfile::tempdir().expect("a directory") }
    }

    pub async fn db(&self) -> PgConnection {
        self.database.connect().await.expect("a connection")
    }

    /// Starts a server with these settings, and waits until it is ready.
    pub async fn serve(&self, settings: &[(&str, &str)]) -> Process {
        let [listen, metrics] = [free(), free()];
        let log = self.state.path().join(format!("{listen}.log"));
        let file = File::create(&log).expect("a log");
        kept::file(&log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pileus"));
        command.args(["serve", "--listen", &listen, "--metrics-listen", &metrics]);
        command.args(["--state-dir", &self.state.path().to_string_lossy()]);
        command.args(["--log-format", "json"]);
        for (key, value) in settings {
            command.args([format!("--{key}"), (*value).to_owned()]);
        }
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("PILEUS_DATABASE_URL", self.database.to_url_lossy().as_str());
        command.env("PILEUS_ADMIN_PASSWORD", PASSWORD);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
        let child = command.spawn().expect("the binary runs");
        let mut process = Process {
            child,
            api: Client::new(format!("http://{listen}")),
            metrics: Client::new(format!("http://{metrics}")),
            log,
        };
        let ready = timeout(SOON, async {
            while process.status("/readyz").await != Some(200) {
                let ended = process.child.try_wait().expect("a child");
                assert!(ended.is_none(), "the server ended: {}", process.text());
                sleep(Duration::from_millis(30)).await;
            }
        });
        ready.await.unwrap_or_else(|_| panic!("not ready: {}", process.text()));
        process.api = process.api.login("admin").await;
        process
    }

    /// Registers a host; what the API refuses (a mock, an address where nobody is) is written into the table.
    pub async fn host(&self, uri: &str) -> Uuid {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio,
                                created_at, health_since)
             values ($1, 'mock', $2, $3, 'qemu', 4, 4, 4, now(), now())",
        )
        .bind(id)
        .bind(uri)
        .bind(format!("/nowhere/{id}"))
        .execute(&mut self.db().await)
        .await
        .expect("a host");
        id
    }
}

/// A running server.
pub struct Process {
    child: Child,
    /// As the admin.
    pub api: Client,
    pub metrics: Client,
    log: PathBuf,
}

impl Process {
    /// The status of an answer; `None`: there is no answer.
    pub async fn status(&self, path: &str) -> Option<u16> {
        // On a connection of its own, as a balancer's check.
        let client = Client::new(self.api.url.clone());
        client.ask(Method::GET, path).try_send().await.ok().map(|answer| answer.status)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = self.child.id().expect("it runs");
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).expect("a signal");
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(SOON, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it has not ended: {}", self.text())).expect("a child")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// The lines of the log so far.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// The first line for which `holds`, once there is one.
    pub async fn line(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = timeout(SOON, async {
            loop {
                if let Some(line) = self.lines().into_iter().find(|line| holds(line)) {
                    return line;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("no line of {what}: {}", self.text()))
    }

    /// A flavor and an image, so that instances can be made.
    pub async fn furnish(&self) {
        let flavor = json!({"name": "f1", "vcpus": 1, "memory_mib": 64, "disk_gib": 1});
        self.api.post("/v1/flavors", &flavor).await.expect(201);
        let image = json!({"name": "small", "format": "raw", "visibility": "public"});
        let image = self.api.post("/v1/images", &image).await.expect(201);
        let path = format!("/v1/images/{}/data", image["id"].as_str().expect("an id"));
        let data =
            self.api.ask(Method::PUT, &path).header("content-type", "application/octet-stream");
        data.body(vec![7; 1 << 20]).send().await.expect(200);
    }
}

fn free() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").to_string()
}
