//! What the cases of a test share: a database, an app that takes wishes, and what instances are made of.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pileus::cli::postgres::throwaway;
use pileus::config::{Config, Flags};
use pileus::domain::caller::{Caller, Role};
use pileus::domain::clock::Clock;
use pileus::domain::id::{NetworkId, TenantId, UserId};
use pileus::domain::network::NewNetwork;
use pileus::hypervisor::Hosts;
use pileus::service::{self, App, Parts};
use pileus::store::{self, changes::Changes};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool};
use uuid::Uuid;

/// When every case begins, in microseconds since 1970.
const DAWN: i64 = 1_700_000_000_000_000;

pub struct Lane {
    /// Its wishes are requests'.
    pub app: App,
    pub caller: Caller,
    /// The reconcilers' own connections: whatever of a wish is changed through them is noted by a trigger.
    pub db: PgPool,
    pub config: Config,
    pub cloud: Uuid,
    pub networks: Vec<NetworkId>,
    micros: Arc<AtomicI64>,
    options: PgConnectOptions,
    /// What happened in all cases, by the feed.
    happened: RefCell<BTreeMap<String, i64>>,
    _dir: tempfile::TempDir,
}

/// Guards that only a test has.
const GUARDS: &str = "
    create table violations (what text not null);
    create function guard_wish() returns trigger language plpgsql as $$ begin
        if current_setting('pileus.reconciler', true) = 'on'
           and (new.wanted, new.wanted_at, new.boot, new.hard, new.stop_grace_s, new.revision)
               is distinct from (old.wanted, old.wanted_at, old.boot, old.hard, old.stop_grace_s, old.revision)
        then insert into violations values ('the reconciler changed the wish of ' || old.id); end if;
        return new;
    end $$;
    create trigger guard_wish before update on instances for each row execute function guard_wish();
    create function guard_limit() returns trigger language plpgsql as $$ begin
        if new.used_vcpus > new.limit_vcpus or new.used_memory_mib > new.limit_memory_mib
           or new.used_disk_gib > new.limit_disk_gib
        then insert into violations values ('more than there is was claimed on ' || new.name); end if;
        return new;
    end $$;
    create trigger guard_limit before update on hosts for each row execute function guard_limit();
";

/// The tenant and what its instances are made of: two sizes, two images.
const FURNITURE: &str = "
    insert into tenants (id, name, quota_instances, quota_vcpus, quota_memory_mib, quota_disk_gib, quota_networks,
                         quota_images, quota_keypairs, created_at)
    values ('00000000-0000-0000-0000-0000000000aa', 'sim', 1000, 1000, 1000000, 1000000, 10, 10, 10, now());
    insert into flavors (id, name, vcpus, memory_mib, disk_gib, created_at)
    values (gen_random_uuid(), 'small', 1, 64, 1, now()), (gen_random_uuid(), 'big', 3, 64, 1, now());
    insert into blobs (sha256, format, size_bytes, virtual_bytes, created_at)
    values (encode(sha256(decode(repeat('07', 4096), 'hex')), 'hex'), 'qcow2', 4096, 4096, now()), (encode(sha256(decode(repeat('08', 4096), 'hex')), 'hex'), 'raw', 4096, 4096, now());
    insert into images (id, tenant_id, name, visibility, format, sha256, created_at)
    values (gen_random_uuid(), '00000000-0000-0000-0000-0000000000aa', 'image-0', 'private', 'qcow2', encode(sha256(decode(repeat('07', 4096), 'hex')), 'hex'), now()),
           (gen_random_uuid(), '00000000-0000-0000-0000-0000000000aa', 'image-1', 'private', 'raw', encode(sha256(decode(repeat('08', 4096), 'hex')), 'hex'), now());
";

const RESET: &str = "
    set lock_timeout = '10s';
    delete from violations; delete from work; delete from events; delete from orphans; delete from addresses;
    delete from ports; delete from incarnations; delete from instances; delete from host_networks;
    delete from host_images; delete from hosts; update event_feed set last_seq = 0;
    update networks set next_address = range_start;
";

impl Lane {
    pub async fn open() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = Flags::default().set("state_dir", dir.path().to_string_lossy());
        let config = Config::load(&flags, []).expect("a configuration");
        std::fs::create_dir_all(&config.image_dir).expect("a directory");
        for byte in [7, 8] {
            let mut sum = pileus::domain::checksum::Checksum::default();
            sum.update(&[byte; 4096]);
            let path = pileus::domain::image::path(&config.image_dir, &sum.hex());
            std::fs::write(path, [byte; 4096]).expect("an image");
        }
        let options = throwaway::migrated(&store::MIGRATIONS).await.expect("a database");
        // Two that wait for each other are found at once, and counted.
        let options = options.options([("deadlock_timeout", "20ms")]);
        let db = store::connect(options.clone().options([("pileus.reconciler", "on")]), 12);
        let micros = Arc::new(AtomicI64::new(DAWN));
        let tenant = TenantId(Uuid::from_u128(0xaa));
        let cloud = Uuid::new_v4();
        let app = App::new(Parts {
            db: store::connect(options.clone(), 4).await.expect("a pool"),
            config: config.clone(),
            clock: Clock::Manual(Arc::clone(&micros)),
            cloud,
            changes: Changes::default(),
            hosts: Hosts::fake([]).0,
            compared: pileus::domain::compared::Compared::default(),
            shutdown: tokio_util::sync::CancellationToken::new(),
        });
        let caller = Caller {
            user: UserId(Uuid::from_u128(0xbb)),
            user_name: "sim".into(),
            tenant: Some(tenant),
            role: Some(Role::Member),
            admin: false,
            token: None,
            request_id: "sim".into(),
            idempotency_key: None,
        };
        sqlx::raw_sql(GUARDS).execute(&app.db).await.expect("guards");
        sqlx::raw_sql(FURNITURE).execute(&app.db).await.expect("furniture");
        let mut networks = Vec::new();
        for number in 0..2 {
            let body = serde_json::json!({ "name": format!("net-{number}") });
            let new: NewNetwork = serde_json::from_value(body).expect("a network");
            let made = service::networks::create(&app, &caller, &new).await.expect("a network");
            networks.push(made.id);
        }
        let db = db.await.expect("a pool");
        Self {
            app,
            caller,
            db,
            config,
            cloud,
            networks,
            micros,
            options,
            happened: RefCell::default(),
            _dir: dir,
        }
    }

    /// As if nothing had been.
    pub async fn reset(&self) {
        self.micros.store(DAWN, Ordering::SeqCst);
        if let Err(error) = sqlx::raw_sql(RESET).execute(&self.app.db).await {
            let mut conn = self.options.connect().await.expect("a connection");
            let who: Vec<String> = sqlx::query_scalar(
                "select pid || ' ' || coalesce(state, '') || ' since ' || coalesce((now() - state_change)::text, '')
                        || ', waits for ' || pg_blocking_pids(pid)::text || ': ' || query
                 from pg_stat_activity where datname = current_database()",
            )
            .fetch_all(&mut conn)
            .await
            .expect("the sessions");
            panic!("the last case holds locks: {error}\n{}", who.join("\n"));
        }
    }

    /// Counts what the feed tells of this case.
    pub async fn tally(&self) -> sqlx::Result<()> {
        let kinds: Vec<(String, i64)> = sqlx::query_as(
            "select kind, count(*) from events where outcome <> 'accepted' group by kind",
        )
        .fetch_all(&self.app.db)
        .await?;
        let mut happened = self.happened.borrow_mut();
        for (kind, count) in kinds {
            *happened.entry(kind).or_default() += count;
        }
        Ok(())
    }

    pub fn happened(&self) -> BTreeMap<String, i64> {
        self.happened.borrow().clone()
    }

    /// How often two transactions waited for each other: locks are taken in one order, so that none do.
    pub async fn deadlocks(&self) -> i64 {
        // Each session tells of its own when it ends.
        self.db.close().await;
        self.app.db.close().await;
        let mut conn = self.options.connect().await.expect("a connection");
        sqlx::query_scalar(
            "select deadlocks from pg_stat_database where datname = current_database()",
        )
        .fetch_one(&mut conn)
        .await
        .expect("a count")
    }

    pub fn clock(&self) -> Clock {
        Clock::Manual(Arc::clone(&self.micros))
    }
}
