//! The soak: a churn of wishes, while server, PostgreSQL, libvirtd and guests die by `kill -9` at random moments, and the networks
//! between them are cut, slow, half-open and lose the answers of commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::audit;
use crate::churn::{Mine, Score, Tenant, farewell};
use crate::cloud::{Cloud, Database};
use crate::libvirtd::Libvirtd;
use crate::postgres::Postgres;
use crate::proxy::{Air, Proxy};

/// What has to come back after the last blow may take so long: leases run out, back-offs end, a disk is made anew.
const CALM: Duration = Duration::from_secs(180);
const TENANTS: u64 = 3;
const INSTANCES: usize = 3;

const SETTINGS: &[(&str, &str)] = &[
    ("network-pool", "10.99.0.0/16"),
    // What the dead held is soon free again, and what died soon tried again.
    ("reconcile-lease-s", "5"),
    ("backoff-max-s", "3"),
    ("heartbeat-s", "2"),
    ("sweep-s", "5"),
    ("sweep-grace-s", "10"),
    // What hears nothing more is given up soon.
    ("request-timeout-s", "10"),
    ("database-patience-s", "10"),
    ("host-call-deadline-s", "15"),
    // A host is only out of reach for a moment.
    ("host-gone-after-s", "600"),
    // All of them at once, also on a machine with one CPU: who waits for room is not settled.
    ("overcommit-cpu", "16"),
    ("quota-instances", "100"),
    ("quota-vcpus", "100"),
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Server,
    Postmaster,
    Backend,
    Libvirtd,
    Guest,
    /// The network to PostgreSQL, for a moment.
    WayToPostgres,
    /// The network to libvirtd.
    WayToHost,
    /// The answer to a commit.
    Commit,
}

const BLOWS: [Blow; 8] = [
    Blow::Server,
    Blow::Postmaster,
    Blow::Backend,
    Blow::Libvirtd,
    Blow::Guest,
    Blow::WayToPostgres,
    Blow::WayToHost,
    Blow::Commit,
];

const AIRS: [Air; 3] = [Air::Cut, Air::Dead, Air::Slow(Duration::from_millis(50))];

/// The cloud and who deals the blows.
struct Weather {
    cloud: Cloud,
    postgres: Postgres,
    random: StdRng,
    blows: BTreeMap<Blow, usize>,
    server_back: Option<Instant>,
    postgres_back: Option<Instant>,
    libvirtd_back: Option<Instant>,
    /// To PostgreSQL and to libvirtd, and until when the air is bad.
    ways: [(Proxy, Option<Instant>); 2],
}

impl Weather {
    /// Blows until `end`; whatever died is back at its own time, so that deaths overlap.
    async fn rage(&mut self, end: Instant) {
        let mut next = self.soon(200..2000);
        while Instant::now() < end {
            if Instant::now() >= next {
                let blow = BLOWS[self.random.random_range(0..BLOWS.len())];
                if self.deal(blow).await {
                    *self.blows.entry(blow).or_default() += 1;
                }
                next = self.soon(200..3500);
            }
            self.restore(false).await;
            sleep(Duration::from_millis(50)).await;
        }
        self.restore(true).await;
        self.cloud.ready().await;
    }

    fn soon(&mut self, milliseconds: std::ops::Range<u64>) -> Instant {
        Instant::now() + Duration::from_millis(self.random.random_range(milliseconds))
    }

    /// `false`: it is dead already.
    async fn deal(&mut self, blow: Blow) -> bool {
        match blow {
            Blow::Server if self.server_back.is_none() => {
                if self.cloud.has_ended().is_none() {
                    self.cloud.kill().await;
                }
                self.server_back = Some(self.soon(0..1500));
            }
            Blow::Postmaster if self.postgres_back.is_none() => {
                self.postgres.kill().await;
                self.postgres_back = Some(self.soon(0..2500));
            }
            Blow::Backend if self.postgres_back.is_none() => {
                let backends = self.postgres.backends();
                if backends.is_empty() {
                    return false;
                }
                let victim = backends[self.random.random_range(0..backends.len())];
                // All others end with it: their memory may be spoilt.
                let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
            }
            Blow::Libvirtd if self.libvirtd_back.is_none() => {
                block_in_place(|| self.cloud.host.kill());
                self.libvirtd_back = Some(self.soon(0..4000));
            }
            Blow::Guest => {
                let guests = guests(&self.cloud);
                if guests.is_empty() {
                    return false;
                }
                let victim = &guests[self.random.random_range(0..guests.len())];
                let _ = self.cloud.host.command("kill").args(["-9", victim]).output();
            }
            Blow::WayToPostgres | Blow::WayToHost => {
                let until = self.soon(300..3000);
                let air = AIRS[self.random.random_range(0..AIRS.len())];
                let (proxy, clear) = &mut self.ways[usize::from(blow == Blow::WayToHost)];
                proxy.set(air);
                *clear = Some(until);
            }
            Blow::Commit => self.ways[0].0.lose_answer("", "commit"),
            Blow::Server | Blow::Postmaster | Blow::Backend | Blow::Libvirtd => return false,
        }
        true
    }

    /// Starts again what is due; `all`: whatever is dead.
    async fn restore(&mut self, all: bool) {
        let due = |back: &mut Option<Instant>| {
            back.take_if(|back| all || *back <= Instant::now()).is_some()
        };
        for (proxy, clear) in &mut self.ways {
            if due(clear) {
                proxy.set(Air::Clear);
            }
        }
        if due(&mut self.postgres_back) {
            self.postgres.start_again().await;
        }
        if due(&mut self.libvirtd_back) {
            block_in_place(|| self.cloud.host.start_again());
        }
        // It also ends by itself where its database is away at its start, and whoever runs it starts it again.
        let ended = self.server_back.is_none() && self.cloud.has_ended().is_some();
        if ended || due(&mut self.server_back) {
            self.cloud.spawn(None);
        }
    }
}

/// Ids of the QEMU processes of ours, as the host counts them.
fn guests(cloud: &Cloud) -> Vec<String> {
    let mark = format!("guest={}-", cloud.mark());
    let all = cloud.host.run("ps", &["-eo", "pid,args"]);
    let ours = all.lines().filter(|line| line.contains(&mark) && line.contains("qemu"));
    ours.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soak_of_sudden_deaths_ends_as_wished_and_leaves_nothing() {
    let seconds = setting("PILEUS_SOAK_S", 120);
    let seed = setting("PILEUS_SOAK_SEED", rand::random_range(0..1_000_000));
    println!("soak for {seconds} s, PILEUS_SOAK_SEED={seed}");
    let host = Arc::new(Libvirtd::start());
    let postgres = Postgres::start(&host).await;
    let to_postgres = Proxy::before(&postgres.socket()).await;
    let to_host = Proxy::before(&host.path("run/libvirt-sock")).await;
    let uri = format!("qemu+tcp://{}/system", to_host.address);
    let mut settings = SETTINGS.to_vec();
    settings.push(("libvirt-uri", &uri));
    let through = Database::Shared(to_postgres.to_postgres(&postgres.options()));
    let mut cloud = Cloud::on(Arc::clone(&host), through, &settings).await;
    cloud.terminate().await;
    cloud.serve_from_now_on();
    cloud.start().await;
    cloud.admin.post("/v1/networks", &json!({"name": "second"})).await.expect(201);
    let mut images = Vec::new();
    for number in 0..3_u8 {
        // A disk without a system on it: a guest that runs, and does next to nothing.
        images.push(cloud.raw_image(&format!("empty-{number}"), vec![number; 1 << 20]).await);
    }
    // And now and then one that boots.
    images.push("pileus-guest".into());

    let score = Arc::new(Score::default());
    let tenants: Vec<_> = (0..TENANTS)
        .map(|number| Tenant::new(&cloud.admin, seed, number, &images, INSTANCES))
        .map(|tenant| tokio::spawn(tenant.churn(Arc::clone(&score))))
        .collect();
    let mut weather = Weather {
        cloud,
        postgres,
        random: StdRng::seed_from_u64(seed),
        blows: BTreeMap::new(),
        server_back: None,
        postgres_back: None,
        libvirtd_back: None,
        ways: [(to_postgres, None), (to_host, None)],
    };
    weather.rage(Instant::now() + Duration::from_secs(seconds)).await;
    score.ended.store(true, Ordering::Relaxed);
    let mut instances: Vec<Mine> = Vec::new();
    for tenant in tenants {
        instances.extend(tenant.await.unwrap().instances);
    }
    let Weather { cloud, postgres, blows, ways: _ways, .. } = weather;
    let (answered, again) = (&score.answered, &score.asked_again);
    println!("{answered:?} wishes answered, {again:?} asked again; deaths: {blows:?}");

    let begun = Instant::now();
    for mine in &instances {
        cloud.until(&mine.id, "settled", mine.wanted, CALM).await;
    }
    println!(
        "{} instances are as wished {:?} after the last death",
        instances.len(),
        begun.elapsed()
    );
    audit::clean(&cloud, &postgres.url());
    farewell(&cloud.admin, &instances).await;
    audit::clean(&cloud, &postgres.url());
    assert_eq!(cloud.count("select count(*) from instances").await, 0);
    assert!(guests(&cloud).is_empty());
}
