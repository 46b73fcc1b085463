//! A database with fsync and hosts that are all fake, in this process.

use std::sync::Arc;

use pileus::cli::postgres::Postgres;
use pileus::config::{Config, Flags};
use pileus::domain::clock::Clock;
use pileus::domain::id::HostId;
use pileus::hypervisor::hosts::fake_target;
use pileus::hypervisor::{FakeHost, Hosts};
use pileus::store;
use sqlx::PgPool;
use tempfile::TempDir;
use uuid::Uuid;

pub struct World {
    pub db: PgPool,
    pub url: String,
    pub state: TempDir,
    postgres: Postgres,
    pub fakes: Vec<(HostId, Arc<FakeHost>)>,
    pub cloud: Uuid,
    /// Of each host.
    vcpus: i32,
}

impl World {
    /// A migrated database with fsync, and so many fake hosts of so many vCPUs, with 4 GiB of memory and 16 of disk for each, that
    /// are not registered yet.
    pub async fn new(hosts: u128, vcpus: i32) -> Self {
        let state = TempDir::with_prefix("pileus-bench-").expect("a state directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(state.path(), open).expect("chmod");
        let postgres = Postgres::start(&state.path().join("postgres"), None, 150).await;
        let postgres = postgres.expect("PostgreSQL");
        let url = postgres.url().to_owned();
        let db = store::connect(url.parse().expect("a URL"), 40).await.expect("a pool");
        store::migrate(&db).await.expect("migrated");
        let cloud = Uuid::new_v4();
        let mut conn = db.acquire().await.expect("a connection");
        store::cloud::ensure(&mut conn, cloud, Clock::System.now()).await.expect("a cloud");
        drop(conn);
        let fakes = (1..=hosts)
            .map(|n| {
                let fake = FakeHost::new(cloud, Clock::System).resized(|facts| {
                    facts.vcpus = vcpus;
                    facts.memory_mib = i64::from(vcpus) << 12;
                    facts.disk_gib = i64::from(vcpus) << 4;
                });
                (HostId(Uuid::from_u128(n)), Arc::new(fake))
            })
            .collect();
        Self { db, url, state, postgres, fakes, cloud, vcpus }
    }

    pub async fn register(&self, health: &str) {
        let ids: Vec<_> = self.fakes.iter().map(|(id, _)| id.0).collect();
        let uris: Vec<_> = self.fakes.iter().map(|(id, _)| fake_target(*id).uri).collect();
        sqlx::query(
            "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio, created_at, health_since,
                                health, limit_vcpus, limit_memory_mib, limit_disk_gib)
             select id, 'h' || id, uri, '/fake', 'qemu', 1, 1, 1, now(), now(), $3, $4, $4::bigint << 12, $4::bigint << 4
             from unnest($1::uuid[], $2::text[]) as h(id, uri)",
        )
        .bind(ids)
        .bind(uris)
        .bind(health)
        .bind(self.vcpus)
        .execute(&self.db)
        .await
        .expect("hosts");
    }

    pub fn config(&self) -> Config {
        let most = [
            ("quota_instances", "1000000"),
            ("quota_vcpus", "1000000"),
            ("quota_memory_mib", "1000000000"),
            ("quota_disk_gib", "1000000000"),
        ];
        let flags =
            most.iter().fold(Flags::default(), |flags, (name, most)| flags.set(name, *most));
        let flags = flags
            .set("state_dir", self.state.path().to_string_lossy())
            .set("task_pace", "off")
            // Nobody makes the guests here, and nobody is to wonder where they are.
            .set("heartbeat_s", "300")
            .set("tenant_rate", "1000000")
            .set("tenant_burst", "1000000");
        Config::load(&flags, []).expect("a configuration")
    }

    pub fn hosts(
        &self,
    ) -> (Hosts, tokio::sync::mpsc::Receiver<(HostId, pileus::hypervisor::Signal)>) {
        Hosts::fake(self.fakes.iter().map(|(id, fake)| (*id, Arc::clone(fake))))
    }

    pub async fn end(self) {
        self.db.close().await;
        self.postgres.stop().await.expect("PostgreSQL's end");
    }
}
