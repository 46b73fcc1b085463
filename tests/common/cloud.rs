//! A cloud of the test's own on a libvirt host: its server is started, killed, started again, ended.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pileus::cli::postgres::{kept, throwaway};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::client::{Answer, Client};
use crate::libvirtd::Libvirtd;
use crate::process::Process;

/// How long anything may take that waits for no guest's boot.
pub const SOON: Duration = Duration::from_secs(90);
/// How long a guest may take to boot, under TCG and on a machine with other work.
pub const BOOT: Duration = Duration::from_secs(240);

/// One host for all tests of the process; it ends with the last that holds it.
pub fn host() -> Arc<Libvirtd> {
    static HOST: Mutex<Weak<Libvirtd>> = Mutex::new(Weak::new());
    let mut shared = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let host = Arc::new(Libvirtd::start());
        *shared = Arc::downgrade(&host);
        host
    })
}

/// Where its database is.
pub enum Database {
    /// The private cluster of `pileus up`.
    Own,
    /// One of the cluster that the tests share.
    Shared(PgConnectOptions),
}

/// A cloud: its state directory outlives its server.
pub struct Cloud {
    pub host: Arc<Libvirtd>,
    pub admin: Client,
    pub state: TempDir,
    database: Database,
    settings: Vec<(&'static str, String)>,
    environment: Vec<(&'static str, String)>,
    /// `up`, or `serve`, which needs neither libvirt nor anything but its database to start.
    command: &'static str,
    server: Option<Process>,
    listen: String,
}

impl Cloud {
    /// A new cloud with a database in the shared cluster, its server running.
    pub async fn new(settings: &[(&'static str, &str)]) -> Self {
        let options = throwaway::empty().await.expect("a database");
        Self::with(Database::Shared(options), settings).await
    }

    /// A new cloud on the shared host, its server running.
    pub async fn with(database: Database, settings: &[(&'static str, &str)]) -> Self {
        Self::on(host(), database, settings).await
    }

    /// A new cloud, its server running.
    pub async fn on(
        host: Arc<Libvirtd>,
        database: Database,
        settings: &[(&'static str, &str)],
    ) -> Self {
        let state = TempDir::with_prefix_in("cloud-", host.path("")).expect("a state directory");
        std::fs::set_permissions(state.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let listen = free_address();
        let settings = settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let admin = Client::new(format!("http://{listen}"));
        let (command, server) = ("up", None);
        let environment = Vec::new();
        let mut cloud =
            Self { host, admin, state, database, settings, environment, command, server, listen };
        cloud.start().await;
        let file = std::fs::read(cloud.state.path().join("admin.json")).expect("admin.json");
        let account: Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(account["url"], cloud.admin.url);
        let [user, password] = ["user", "password"].map(|key| account[key].as_str().unwrap());
        cloud.admin = cloud.admin.login_with(user, password).await;
        cloud
    }

    /// Starts the server, and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn(None);
        self.ready().await;
    }

    /// Starts the server, which will die at this fault point, and waits until it is ready.
    pub async fn start_armed(&mut self, point: &str) {
        self.spawn(Some(point));
        self.ready().await;
    }

    /// From its next start on the server is a `pileus serve`.
    pub fn serve_from_now_on(&mut self) {
        self.command = "serve";
    }

    /// From its next start on the server has this setting.
    pub fn set(&mut self, key: &'static str, value: &str) {
        self.settings.retain(|(set, _)| *set != key);
        self.settings.push((key, value.to_owned()));
    }

    /// From its next start on the server has this variable.
    pub fn set_variable(&mut self, name: &'static str, value: &str) {
        self.environment.push((name, value.to_owned()));
    }

    /// Starts the server.
    pub fn spawn(&mut self, fault: Option<&str>) {
        assert!(self.server.is_none(), "the server runs");
        let mut command = self.command(self.command, &self.listen, self.log());
        command.envs(fault.map(|point| ("PILEUS_FAULT_POINT", point)));
        self.server = Some(Process::spawn(command));
    }

    /// `pileus up` or `pileus serve` of this cloud.
    pub fn command(&self, subcommand: &str, listen: &str, log: PathBuf) -> Command {
        let log = File::options().append(true).create(true).open(log).unwrap();
        let mut command = self.host.command_beside(env!("CARGO_BIN_EXE_pileus"));
        command.args([subcommand, "--listen", listen, "--virt-type", "qemu", "--state-dir"]);
        command.arg(self.state.path());
        // A token of a test lives as long as the test.
        command.args(["--token-ttl-s", "86400", "--log", "info,pileus::reconcile=debug"]);
        if let Database::Shared(options) = &self.database {
            command.args(["--database-url", options.to_url_lossy().as_str()]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for (key, value) in &self.settings {
            command.args([&format!("--{key}"), value]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    fn log(&self) -> PathBuf {
        self.state.path().join("server.log")
    }

    /// Waits until the server is ready.
    pub async fn ready(&mut self) {
        let server = self.server.as_mut().unwrap();
        ready(&self.admin, || server.has_ended()).await;
    }

    /// Waits for the server's end, whatever its cause.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(Instant::now() < end, "the server has not ended within {SOON:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How the server ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.server.as_mut().expect("a server").has_ended()?;
        self.server = None;
        Some(status)
    }

    pub fn signal(&self, signal: Signal) {
        self.server.as_ref().expect("a server").signal(signal);
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.ended().await;
        assert_eq!(status.signal(), Some(9), "{status:?}");
    }

    /// SIGTERM; gives how long the end took.
    pub async fn terminate(&mut self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{status:?}");
        begun.elapsed()
    }

    /// A connection to the shared cluster's database of this cloud.
    pub async fn db(&self) -> PgConnection {
        let Database::Shared(options) = &self.database else { panic!("its database is its own") };
        options.connect().await.expect("a connection")
    }

    /// The same as a URL.
    pub fn database_url(&self) -> String {
        let Database::Shared(options) = &self.database else { panic!("its database is its own") };
        // psql does not know what sqlx adds.
        let url = options.to_url_lossy().to_string();
        url.split('?').next().unwrap_or_default().to_owned()
    }

    /// Its database, to be dumped, or, while no server runs, to be replaced.
    pub fn database(&mut self) -> &mut PgConnectOptions {
        let Database::Shared(options) = &mut self.database else {
            panic!("its database is its own")
        };
        options
    }

    /// A client command of the admin's: its exit code, and what it printed.
    pub fn pileus(&self, line: &str) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pileus"));
        command.args(line.split_whitespace()).env("PILEUS_URL", &self.admin.url);
        command.env("PILEUS_TOKEN", self.admin.token.as_deref().expect("a token"));
        let done = command.stdin(Stdio::null()).output().expect("the command runs");
        let said = [done.stdout, done.stderr].concat();
        (done.status.code().expect("a code"), String::from_utf8_lossy(&said).into_owned())
    }

    /// One number.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.db().await).await.expect(query)
    }

    /// What our things on the host are called by.
    pub fn mark(&self) -> String {
        let id = std::fs::read_to_string(self.state.path().join("cloud-id")).unwrap();
        format!("pileus-{}", &id.replace('-', "")[..8])
    }

    /// The instance, once `goal` holds, which is once its status is `status`.
    pub async fn until(&self, id: &str, goal: &str, status: &str, within: Duration) -> Value {
        let end = Instant::now() + within;
        let path = format!("/v1/instances/{id}?wait={goal}&timeout=10");
        loop {
            let instance = self.admin.get(&path).await.expect(200);
            let holds = match goal {
                "agent" => instance["agent"] == true,
                "cloud_init" => instance["cloud_init"].is_object(),
                "address" => {
                    let interfaces = instance["interfaces"].as_array().unwrap();
                    interfaces.iter().all(|interface| interface["seen"] == true)
                }
                _ => true,
            };
            if holds && instance["status"] == status {
                return instance;
            }
            assert!(Instant::now() < end, "not {goal} within {within:?}: {instance:#}");
        }
    }

    /// The instance, once its status is this.
    pub async fn until_status(&self, id: &str, status: &str) -> Value {
        self.until_shown(id, status, |instance| instance["status"] == status).await
    }

    /// The instance, once its reason has this in it.
    pub async fn until_says(&self, id: &str, words: &str) -> Value {
        let says = |seen: &Value| seen["reason"].as_str().is_some_and(|it| it.contains(words));
        self.until_shown(id, words, says).await
    }

    async fn until_shown(&self, id: &str, what: &str, shows: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let instance = self.admin.get(&format!("/v1/instances/{id}")).await.expect(200);
            if shows(&instance) {
                return instance;
            }
            assert!(Instant::now() < end, "no {what:?} within {SOON:?}: {instance:#}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks for the instance to go, and waits until it is gone.
    pub async fn delete(&self, id: &str) {
        let answer =
            self.admin.delete(&format!("/v1/instances/{id}?wait=deleted&timeout=60")).await;
        assert_eq!(answer.expect(202)["status"], "deleted", "{answer:?}");
        self.admin.get(&format!("/v1/instances/{id}")).await.problem(404, "not-found");
    }

    /// Waits until no base image is on the host, and not so long that the full scan would find it.
    pub async fn until_no_base(&self) {
        let begun = Instant::now();
        while self.count("select count(*) from host_images").await > 0 {
            assert!(begun.elapsed() < Duration::from_secs(40), "a freed base image is still there");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lines of the server's log with this in them.
    pub fn log_lines(&self, words: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    /// An image of these bytes, ready.
    pub async fn raw_image(&self, name: &str, bytes: Vec<u8>) -> String {
        let new = json!({"name": name, "format": "raw", "visibility": "private"});
        let image = self.admin.post("/v1/images", &new).await.expect(201);
        let id = image["id"].as_str().unwrap().to_owned();
        let data = self.admin.ask(Method::PUT, &format!("/v1/images/{id}/data")).body(bytes);
        let answer: Answer = data.send().await;
        assert_eq!(answer.body()["status"], "ready", "{answer:?}");
        id
    }

    /// The console's whole text so far.
    pub async fn console(&self, id: &str) -> String {
        let answer = self.admin.get(&format!("/v1/instances/{id}/console")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text.replace('\r', "")
    }

    /// The console's text, once it has so many lines that are `line`.
    pub async fn console_says(&self, id: &str, line: &str, times: usize) -> String {
        let end = Instant::now() + BOOT;
        loop {
            let text = self.console(id).await;
            if count_lines(&text, line) >= times {
                return text;
            }
            assert!(Instant::now() < end, "no {times}. line {line:?} within {BOOT:?}: {text}");
            sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Waits until a server is ready.
pub async fn ready(admin: &Client, mut ended: impl FnMut() -> Option<ExitStatus>) {
    let end = Instant::now() + SOON;
    loop {
        let answer = admin.ask(Method::GET, "/readyz").try_send().await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return;
        }
        let ended = ended();
        assert!(ended.is_none(), "the server ended while it started: {ended:?}");
        assert!(Instant::now() < end, "the server is not ready within {SOON:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        drop(self.server.take());
        kept::tree(self.state.path());
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            // Looks at what is as it should be tell nothing.
            let lines: Vec<_> = log.lines().filter(|line| !line.contains("step=Rest")).collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the end of the server's log\n{}\n---", tail.join("\n"));
        }
        // Its guests end, that the host has room for those of other tests; the last test's end with the host.
        let mark = self.state.path().join("cloud-id");
        if mark.exists() {
            let mark = self.mark();
            for name in names(&self.host, &["list", "--name"], &mark) {
                let _ = self.host.command("virsh").args(["-q", "destroy", &name]).output();
            }
        }
    }
}

/// The names with this mark that virsh lists.
pub fn names(host: &Libvirtd, list: &[&str], mark: &str) -> Vec<String> {
    let output = host.command("virsh").args(["-q", "-c", "qemu:///system"]).args(list).output();
    let text = String::from_utf8_lossy(&output.expect("virsh").stdout).into_owned();
    text.lines().map(str::trim).filter(|name| name.starts_with(mark)).map(str::to_owned).collect()
}

/// How many lines are exactly this.
pub fn count_lines(text: &str, line: &str) -> usize {
    text.lines().filter(|found| found.trim() == line).count()
}

/// Free now, and a server's from then on: it is started at the same address again.
pub fn free_address() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().to_string()
}
