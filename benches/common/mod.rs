//! What the benchmarks share: a PostgreSQL that keeps what it is told, the server's own binary on it, and honest medians.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

#[path = "../../tests/common/client.rs"]
pub mod client;
#[path = "../../tests/common/libvirtd.rs"]
pub mod libvirtd;
pub mod load;
pub mod split;
pub mod twin;
pub mod world;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pileus::cli::postgres::Postgres;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

pub use client::{Client, PASSWORD};
pub use libvirtd::Libvirtd;

const SOON: Duration = Duration::from_secs(120);

/// A cloud of one server, on a PostgreSQL with fsync, as `pileus up` has it.
pub struct Cloud {
    pub admin: Client,
    pub state: TempDir,
    /// Of the database, for psql and pgbench.
    pub database: String,
    postgres: Option<Postgres>,
    server: Option<Child>,
    listen: String,
    settings: Vec<(String, String)>,
}

impl Cloud {
    /// With these settings beside those that a benchmark needs: `("heartbeat-s", "10")`.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let state = TempDir::with_prefix("pileus-bench-").expect("a state directory");
        // PostgreSQL runs as a user of its own.
        std::fs::set_permissions(state.path(), PermissionsExt::from_mode(0o711)).expect("chmod");
        let postgres =
            Postgres::start(&state.path().join("postgres"), None, 150).await.expect("PostgreSQL");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let listen = free.local_addr().expect("an address").to_string();
        drop(free);
        let own = [
            ("admin-password", PASSWORD),
            ("allow-test-hosts", "true"),
            ("token-ttl-s", "86400"),
            ("login-attempts-per-minute", "10000"),
            ("quota-instances", "1000000"),
            ("quota-vcpus", "1000000"),
            ("quota-memory-mib", "1000000000"),
            ("quota-disk-gib", "1000000000"),
            ("network-prefix", "22"),
        ];
        // What comes later counts.
        let mut all: Vec<(String, String)> = Vec::new();
        for (key, value) in own.iter().chain(settings) {
            all.retain(|(known, _)| known != key);
            all.push(((*key).into(), (*value).into()));
        }
        let mut cloud = Self {
            admin: Client::new(format!("http://{listen}")),
            database: postgres.url().to_owned(),
            state,
            postgres: Some(postgres),
            server: None,
            listen,
            settings: all,
        };
        cloud.serve().await;
        cloud.admin = cloud.admin.login("admin").await;
        cloud
    }

    /// Starts the server, and waits until it is ready; gives how long that took.
    pub async fn serve(&mut self) -> Duration {
        let log = File::options().append(true).create(true).open(self.log()).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pileus"));
        command.args(["serve", "--listen", &self.listen, "--database-url", &self.database]);
        command.arg("--state-dir").arg(self.state.path());
        for (key, value) in &self.settings {
            command.args([&format!("--{key}"), value]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let begun = Instant::now();
        self.server = Some(command.spawn().expect("the server"));
        loop {
            let answer = self.admin.ask(Method::GET, "/readyz").try_send().await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return begun.elapsed();
            }
            let ended = self.server.as_mut().and_then(|server| server.try_wait().expect("a child"));
            assert!(ended.is_none(), "the server ended: see {}", self.log().display());
            assert!(begun.elapsed() < SOON, "the server is not ready within {SOON:?}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// SIGTERM to the server; waits for its end.
    pub fn end_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = Pid::from_raw(server.id().cast_signed());
            kill(pid, Signal::SIGTERM).expect("a signal");
            server.wait().expect("its end");
        }
    }

    /// Changes a setting for the next `serve`.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.into(), value.into()));
    }

    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("a server").id()
    }

    pub fn log(&self) -> PathBuf {
        self.state.path().join("server.log")
    }

    /// Ends server and database in their order.
    pub async fn end(mut self) {
        self.end_server();
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await.expect("PostgreSQL's end");
        }
    }

    /// A host that is up.
    pub async fn host(&self, name: &str, uri: &str, pool_path: &str) -> String {
        let new = json!({"name": name, "uri": uri, "pool_path": pool_path, "virt_type": "qemu",
                         "cpu_ratio": 64.0, "memory_ratio": 4.0, "disk_ratio": 64.0});
        let host = self.admin.post("/v1/hosts", &new).await.expect(202);
        let id = host["id"].as_str().expect("an id").to_owned();
        let begun = Instant::now();
        loop {
            let host = self.admin.get(&format!("/v1/hosts/{id}")).await.expect(200);
            if host["health"] == "up" {
                return id;
            }
            assert!(begun.elapsed() < SOON, "the host is not up: {host:#}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// An image of a MiB that boots nothing, and a flavor for it; their names are `image` and `flavor`.
    pub async fn image_and_flavor(&self, memory_mib: i64) {
        let new = json!({"name": "image", "format": "raw", "visibility": "public"});
        let image = self.admin.post("/v1/images", &new).await.expect(201);
        let path = format!("/v1/images/{}/data", image["id"].as_str().expect("an id"));
        let data = self.admin.ask(Method::PUT, &path).body(vec![7; 1 << 20]).send().await;
        assert!(data.status < 300, "{data:?}");
        let flavor = json!({"name": "flavor", "vcpus": 1, "memory_mib": memory_mib, "disk_gib": 1});
        self.admin.post("/v1/flavors", &flavor).await.expect(201);
    }

    /// Asks for an instance and waits for it to run; gives its id.
    pub async fn create(&self, new: &Value) -> String {
        let answer = self.admin.post("/v1/instances?wait=running&timeout=120", new).await;
        let instance = answer.expect(202);
        assert_eq!(instance["status"], "running", "{instance:#}");
        instance["id"].as_str().expect("an id").to_owned()
    }

    /// Deletes the instance and waits until nothing is left.
    pub async fn delete(&self, id: &str) {
        let answer =
            self.admin.delete(&format!("/v1/instances/{id}?wait=deleted&timeout=120")).await;
        assert_eq!(answer.expect(202)["status"], "deleted", "{answer:?}");
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// An instance to be, on the tenant's only network if `network`.
pub fn instance(name: &str, network: bool) -> Value {
    let mut new = json!({"name": name, "image": "image", "flavor": "flavor"});
    if !network {
        new["networks"] = json!([]);
    }
    new
}

/// Transactions per second of a script.
pub fn pgbench(
    database: &str,
    script: &std::path::Path,
    connections: usize,
    time: Duration,
) -> f64 {
    let output = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-j", "2", "-c", &connections.to_string()])
        .args(["-T", &time.as_secs().to_string(), "-f"])
        .arg(script)
        .arg(database)
        .output()
        .expect("pgbench (postgresql-contrib)");
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rest| rest.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

/// One of the arguments after `--`, as a number.
pub fn argument(place: usize, default: usize) -> usize {
    // Cargo itself adds --bench.
    let mut given = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    given.nth(place).map_or(default, |text| text.parse().expect("a number"))
}

/// The machine in a line.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    format!(
        "{cpus} CPUs ({}), load {load} at the start",
        model.trim_start_matches([' ', '\t', ':'])
    )
}
