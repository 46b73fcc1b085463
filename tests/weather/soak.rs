//! The soak: a churn of wishes, while two servers, PostgreSQL, libvirtd and guests die by `kill -9` at random moments, servers and
//! guests stand still for a while, and the networks between them are cut, slow, half-open and lose the answers of commits.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
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
use crate::churn::{Estate, KINDS, Score, Tenant, as_wished, farewell, gone};
use crate::client::Client;
use crate::cloud::{Cloud, Database, free_address, ready};
use crate::libvirtd::Libvirtd;
use crate::postgres::Postgres;
use crate::process::Process;
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
    ("quota-networks", "100"),
];

/// Of what tenants made nothing is left in these; the images are the four that were there before them.
const TABLES: [&str; 6] = [
    "select count(*) from instances",
    "select count(*) from ports",
    "select count(*) from groups",
    "select count(*) from reservations",
    "select count(*) - 2 from networks",
    "select count(*) - 4 from images",
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What can die, or stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// One of the two.
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
    /// One of the two servers stands still past its lease.
    StillServer,
    /// A guest's QEMU stands still.
    StillGuest,
}

const BLOWS: [Blow; 10] = [
    Blow::Server,
    Blow::Postmaster,
    Blow::Backend,
    Blow::Libvirtd,
    Blow::Guest,
    Blow::WayToPostgres,
    Blow::WayToHost,
    Blow::Commit,
    Blow::StillServer,
    Blow::StillGuest,
];

const AIRS: [Air; 3] = [Air::Cut, Air::Dead, Air::Slow(Duration::from_millis(50))];

/// The other server of the cloud.
struct Other {
    listen: String,
    log: PathBuf,
    admin: Client,
    process: Option<Process>,
}

impl Other {
    /// On the same database and images; not started.
    fn of(cloud: &Cloud) -> Self {
        let listen = free_address();
        let log = cloud.state.path().join("other.log");
        let admin = cloud.admin.at(format!("http://{listen}"));
        Self { listen, log, admin, process: None }
    }

    fn spawn(&mut self, cloud: &Cloud) {
        let command = cloud.command("serve", &self.listen, self.log.clone());
        self.process = Some(Process::spawn(command));
    }

    fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.has_ended().is_some())
    }

    async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGKILL);
            assert_eq!(process.ended().await.signal(), Some(9));
        }
    }

    async fn ready(&mut self) {
        let process = self.process.as_mut().expect("it was started");
        ready(&self.admin, || process.has_ended()).await;
    }
}

/// The cloud and who deals the blows.
struct Weather {
    cloud: Cloud,
    other: Other,
    postgres: Postgres,
    random: StdRng,
    blows: BTreeMap<Blow, usize>,
    /// Of the cloud's server and of the other one.
    servers_back: [Option<Instant>; 2],
    servers_awake: [Option<Instant>; 2],
    postgres_back: Option<Instant>,
    libvirtd_back: Option<Instant>,
    /// QEMU processes that stand still, and until when.
    guests_awake: Vec<(String, Instant)>,
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
        self.other.ready().await;
    }

    fn soon(&mut self, milliseconds: std::ops::Range<u64>) -> Instant {
        Instant::now() + Duration::from_millis(self.random.random_range(milliseconds))
    }

    /// `false`: it is dead already.
    async fn deal(&mut self, blow: Blow) -> bool {
        match blow {
            Blow::Server => {
                let which = self.random.random_range(0..2);
                if self.servers_back[which].is_some() {
                    return false;
                }
                if which == 1 && !self.other.has_ended() {
                    self.other.kill().await;
                } else if which == 0 && self.cloud.has_ended().is_none() {
                    self.cloud.kill().await;
                }
                self.servers_back[which] = Some(self.soon(0..1500));
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
            Blow::Guest | Blow::StillGuest => {
                let guests = guests(&self.cloud);
                if guests.is_empty() {
                    return false;
                }
                let victim = guests[self.random.random_range(0..guests.len())].clone();
                if blow == Blow::Guest {
                    self.signal_guest("-KILL", &victim);
                } else {
                    self.signal_guest("-STOP", &victim);
                    let awake = self.soon(500..12_000);
                    self.guests_awake.push((victim, awake));
                }
            }
            Blow::StillServer => {
                let which = self.random.random_range(0..2);
                // The other one takes over what was its.
                if self.servers_awake.iter().any(Option::is_some) {
                    return false;
                }
                self.signal_server(which, Signal::SIGSTOP);
                self.servers_awake[which] = Some(self.soon(1000..9000));
            }
            Blow::WayToPostgres | Blow::WayToHost => {
                let until = self.soon(300..3000);
                let air = AIRS[self.random.random_range(0..AIRS.len())];
                let (proxy, clear) = &mut self.ways[usize::from(blow == Blow::WayToHost)];
                proxy.set(air);
                *clear = Some(until);
            }
            Blow::Commit => self.ways[0].0.lose_answer("", "commit"),
            Blow::Postmaster | Blow::Backend | Blow::Libvirtd => return false,
        }
        true
    }

    fn signal_server(&mut self, which: usize, signal: Signal) {
        if self.servers_back[which].is_some() {
            return;
        }
        let ended =
            if which == 0 { self.cloud.has_ended().is_some() } else { self.other.has_ended() };
        if ended {
            self.servers_back[which] = Some(Instant::now());
        } else if which == 0 {
            self.cloud.signal(signal);
        } else if let Some(other) = &self.other.process {
            other.signal(signal);
        }
    }

    /// It may be gone.
    fn signal_guest(&self, signal: &str, guest: &str) {
        let _ = self.cloud.host.command("kill").args([signal, guest]).output();
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
        for which in 0..2 {
            if due(&mut self.servers_awake[which]) {
                self.signal_server(which, Signal::SIGCONT);
            }
        }
        let guests = std::mem::take(&mut self.guests_awake);
        for (guest, awake) in guests {
            if all || awake <= Instant::now() {
                self.signal_guest("-CONT", &guest);
            } else {
                self.guests_awake.push((guest, awake));
            }
        }
        if due(&mut self.postgres_back) {
            self.postgres.start_again().await;
        }
        if due(&mut self.libvirtd_back) {
            block_in_place(|| self.cloud.host.start_again());
        }
        // They also end by themselves where their database is away at their start, and whoever runs them starts them again.
        let [one, other] = &mut self.servers_back;
        let ended = one.is_none() && self.cloud.has_ended().is_some();
        if ended || due(one) {
            self.cloud.spawn(None);
        }
        let ended = other.is_none() && self.other.has_ended();
        if ended || due(other) {
            self.other.spawn(&self.cloud);
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

    let mut other = Other::of(&cloud);
    other.spawn(&cloud);
    other.ready().await;
    let servers = [cloud.admin.clone(), other.admin.clone()];
    let score = Arc::new(Score::default());
    let tenants: Vec<_> = (0..TENANTS)
        .map(|number| Tenant::new(&servers, seed, number, &images, INSTANCES, &score))
        .map(|tenant| tokio::spawn(tenant.churn()))
        .collect();
    let mut weather = Weather {
        cloud,
        other,
        postgres,
        random: StdRng::seed_from_u64(seed),
        blows: BTreeMap::new(),
        servers_back: [None, None],
        servers_awake: [None, None],
        guests_awake: Vec::new(),
        postgres_back: None,
        libvirtd_back: None,
        ways: [(to_postgres, None), (to_host, None)],
    };
    weather.rage(Instant::now() + Duration::from_secs(seconds)).await;
    score.ended.store(true, Ordering::Relaxed);
    let mut estate = Estate::default();
    for tenant in tenants {
        estate.add(tenant.await.unwrap());
    }
    // Held to the end, that both servers and the ways to them are there.
    let Weather { cloud, other: _other, postgres, blows, ways: _ways, .. } = weather;
    let (answered, again, refused) = (&score.answered, &score.asked_again, &score.refused);
    println!(
        "{answered:?} wishes answered, {refused:?} of them refused; {again:?} asked again; deaths: {blows:?}"
    );
    let left: Vec<_> = KINDS.iter().map(|kind| (kind, estate.of(kind).len())).collect();
    println!("wished at the end: {left:?}");

    let begun = Instant::now();
    as_wished(&servers, &estate, CALM).await;
    for mine in estate.of("instances").iter().filter(|mine| mine.end.is_none()) {
        cloud.until(&mine.id, "settled", mine.wanted, CALM).await;
    }
    println!("all is as wished {:?} after the last death", begun.elapsed());
    audit::clean(&cloud, &postgres.url());
    farewell(&cloud.admin, &estate).await;
    gone(&servers, CALM).await;
    audit::clean(&cloud, &postgres.url());
    for table in TABLES {
        assert_eq!(cloud.count(table).await, 0, "{table}");
    }
    assert!(guests(&cloud).is_empty());
}
