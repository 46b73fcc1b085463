//! A server of its own for each test, and clients who are somebody in it.
//!
//! ```ignore
//! let api = Api::start().await;
//! let flavor = api.admin.post("/v1/flavors", &json!({...})).await.expect(201);
//! api.reader.delete("/v1/flavors/x").await.problem(403, "forbidden");
//! ```

use std::sync::Arc;

use pileus::api;
use pileus::cli::postgres::throwaway;
use pileus::config::{Config, Flags};
use pileus::domain::clock::Clock;
use pileus::domain::id::HostId;
use pileus::domain::password::Password;
use pileus::hypervisor::hosts::fake_target;
use pileus::hypervisor::{FakeHost, Hosts, Signal};
use pileus::server;
use pileus::service::bootstrap::{self, Bootstrap};
use pileus::service::{App, Parts};
use pileus::store;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

pub use crate::client::{Answer, Client, PASSWORD};

pub const HOST: HostId = HostId(Uuid::from_u128(0x40577));
/// Those that `run_on` registers beside it, each with its name and zone.
pub const MORE: [(HostId, &str, &str); 3] = [
    (HostId(Uuid::from_u128(0x40578)), "fake-2", "east"),
    (HostId(Uuid::from_u128(0x40579)), "fake-3", "west"),
    (HostId(Uuid::from_u128(0x4057a)), "fake-4", "west"),
];

/// A cloud with two tenants: A is `default`, with one user of each role; B has one member.
pub struct Api {
    pub app: App,
    pub tenant_a: Uuid,
    pub tenant_b: Uuid,
    /// Nobody.
    pub anonymous: Client,
    /// The cloud's admin, who is in tenant A.
    pub admin: Client,
    pub owner: Client,
    pub member: Client,
    pub reader: Client,
    /// A member of tenant B.
    pub stranger: Client,
    /// The cloud's only host, registered by `run`.
    pub host: Arc<FakeHost>,
    pub database: PgConnectOptions,
    signals: Option<mpsc::Receiver<(HostId, Signal)>>,
    loops: JoinSet<()>,
    _state: tempfile::TempDir,
}

impl Api {
    pub async fn start() -> Self {
        Self::start_with(|flags| flags).await
    }

    /// With settings of the test's own: `Api::start_with(|flags| flags.set("token_ttl_s", "10"))`.
    pub async fn start_with(settings: impl FnOnce(Flags) -> Flags) -> Self {
        Self::start_at(Clock::System, settings).await
    }

    /// With a clock of the test's own, too.
    pub async fn start_at(clock: Clock, settings: impl FnOnce(Flags) -> Flags) -> Self {
        let state = tempfile::tempdir().expect("a state directory");
        let database = throwaway::migrated(&store::MIGRATIONS).await.expect("a database");
        let (app, host, signals) = app(clock, settings, state.path(), &database).await;
        let wanted =
            Bootstrap { admin_user: "admin".into(), admin_password: Password::new(PASSWORD) };
        let begun = bootstrap::ensure(&app, &wanted).await.expect("a cloud");
        let tenant_a = begun.tenant.0;
        let tenant_b = Uuid::now_v7();
        populate(&app, tenant_a, tenant_b).await;
        let anonymous = Client::new(serve(&app).await);
        Self {
            admin: anonymous.login("admin").await,
            owner: anonymous.login("owner").await,
            member: anonymous.login("member").await,
            reader: anonymous.login("reader").await,
            stranger: anonymous.login("stranger").await,
            anonymous,
            app,
            tenant_a,
            tenant_b,
            host,
            database,
            signals: Some(signals),
            loops: JoinSet::new(),
            _state: state,
        }
    }

    /// Registers the fake host and lets the reconciler run until the test ends.
    pub async fn run(&mut self) {
        self.register().await;
        let signals = self.signals.take().expect("run is called once");
        self.loops = server::loops(&self.app, signals).await.expect("the loops");
    }

    /// The same with so many of `MORE`.
    pub async fn run_on(&mut self, more: usize) {
        for (id, name, zone) in &MORE[..more] {
            self.register_as(*id, name, zone).await;
        }
        self.run().await;
    }

    /// Registers the fake host.
    pub async fn register(&self) {
        self.register_as(HOST, "fake", "default").await;
    }

    async fn register_as(&self, id: HostId, name: &str, zone: &str) {
        sqlx::query(
            "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio,
                                created_at, health_since, zone)
             values ($1, $3, $2, '/fake', 'qemu', 1, 1, 1, now(), now(), $4)",
        )
        .bind(id)
        .bind(fake_target(id).uri)
        .bind(name)
        .bind(zone)
        .execute(&self.app.db)
        .await
        .expect("a host");
    }

    /// The same cloud, host and state directory on another database, with a server of its own.
    pub async fn on(self, database: PgConnectOptions) -> Self {
        let app = App::new(Parts {
            db: store::connect(database.clone(), 8).await.expect("a pool"),
            config: self.app.config.clone(),
            clock: self.app.clock.clone(),
            cloud: self.app.cloud,
            changes: store::changes::Changes::default(),
            hosts: self.app.hosts.clone(),
            compared: pileus::domain::compared::Compared::default(),
            shutdown: tokio_util::sync::CancellationToken::new(),
        });
        let anonymous = Client::new(serve(&app).await);
        Self {
            admin: anonymous.login("admin").await,
            owner: anonymous.login("owner").await,
            member: anonymous.login("member").await,
            reader: anonymous.login("reader").await,
            stranger: anonymous.login("stranger").await,
            anonymous,
            app,
            database,
            ..self
        }
    }

    /// A public image that is ready, of a MiB.
    pub async fn image(&self, name: &str) -> Value {
        self.image_of(name, vec![7; 1 << 20]).await
    }

    pub async fn image_of(&self, name: &str, bytes: Vec<u8>) -> Value {
        let new = json!({"name": name, "format": "raw", "visibility": "public"});
        let image = self.admin.post("/v1/images", &new).await.expect(201);
        let path = format!("/v1/images/{}/data", image["id"].as_str().expect("an id"));
        let data =
            self.admin.ask(Method::PUT, &path).header("content-type", "application/octet-stream");
        let answer = data.body(bytes).send().await;
        assert!(answer.status < 300, "{answer:?}");
        image
    }

    /// Everything in the feed so far, oldest first.
    pub async fn events(&self) -> Vec<Value> {
        let mut conn = self.app.conn().await.expect("a connection");
        store::events::publish(&mut conn).await.expect("numbered");
        let path = "/v1/events?limit=1000&all_tenants=true";
        let page = self.admin.get(path).await.expect(200);
        page["items"].as_array().expect("items").clone()
    }
}

/// The services over a new database.
async fn app(
    clock: Clock,
    settings: impl FnOnce(Flags) -> Flags,
    dir: &std::path::Path,
    database: &PgConnectOptions,
) -> (App, Arc<FakeHost>, mpsc::Receiver<(HostId, Signal)>) {
    let flags = Flags::default()
        .set("state_dir", dir.to_string_lossy())
        // Limits have tests of their own, and all tests log in from one address.
        .set("login_attempts_per_minute", "10000")
        // Registering needs a URI, and most tests no host at it.
        .set("allow_test_hosts", "true");
    let cloud = Uuid::new_v4();
    let host = Arc::new(FakeHost::new(cloud, clock.clone()));
    let more = MORE.map(|(id, ..)| (id, Arc::new(FakeHost::new(cloud, clock.clone()))));
    let (hosts, signals) = Hosts::fake([(HOST, Arc::clone(&host))].into_iter().chain(more));
    let db = store::connect(database.clone(), 8).await.expect("a pool");
    let mut conn = db.acquire().await.expect("a connection");
    store::cloud::ensure(&mut conn, cloud, clock.now()).await.expect("a cloud");
    drop(conn);
    let app = App::new(Parts {
        db,
        config: Config::load(&settings(flags), []).expect("a configuration"),
        clock,
        cloud,
        changes: store::changes::Changes::default(),
        hosts,
        compared: pileus::domain::compared::Compared::default(),
        shutdown: tokio_util::sync::CancellationToken::new(),
    });
    (app, host, signals)
}

/// The server ends with the test's runtime.
async fn serve(app: &App) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(api::serve(listener, app.clone()));
    format!("http://{address}")
}

/// The users beside the admin. They get the admin's hash, so that a test pays for one.
async fn populate(app: &App, tenant_a: Uuid, tenant_b: Uuid) {
    let mut conn = app.conn().await.expect("a connection");
    sqlx::query(
        "insert into tenants select (jsonb_populate_record(t, jsonb_build_object('id', $2::uuid, 'name', 'other'))).*
         from tenants t where id = $1",
    )
    .bind(tenant_a)
    .bind(tenant_b)
    .execute(&mut *conn)
    .await
    .expect("tenant B");
    for (name, tenant, role) in [
        ("owner", tenant_a, "owner"),
        ("member", tenant_a, "member"),
        ("reader", tenant_a, "reader"),
        ("stranger", tenant_b, "member"),
    ] {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into users (id, name, password_hash, tokens_valid_from, created_at)
             select $1, $2, password_hash, created_at, created_at from users where name = 'admin'",
        )
        .bind(id)
        .bind(name)
        .execute(&mut *conn)
        .await
        .expect("a user");
        sqlx::query(
            "insert into memberships select $1, $2, $3, created_at from users where id = $2",
        )
        .bind(tenant)
        .bind(id)
        .bind(role)
        .execute(&mut *conn)
        .await
        .expect("a membership");
    }
}
