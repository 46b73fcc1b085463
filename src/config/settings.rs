//! The table of every setting: name, type, default, bounds, help. A new setting is a new row here, and nothing else.
//!
//! A row reads `field: Type[unit] = "default" in min..=max, "help";`. The unit becomes the end of the key
//! (`reconcile_lease: Duration[s]` is `reconcile_lease_s` in the file, `--reconcile-lease-s`,
//! `PILEUS_RECONCILE_LEASE_S`). An empty default means *not set* (an `Option`) or *derived* (see `config::derive`).
//! `#[secret]` is never printed and may come from a file; `#[hidden]` is not in the help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::value::{LogFormat, Secret};
use crate::domain::host::VirtType;

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the file; flag and variable are made of it.
    pub key: &'static str,
    pub group: &'static str,
    /// The default as text; empty means not set.
    pub default: &'static str,
    /// `s`, `ms`, `h`, `days` or nothing.
    pub unit: &'static str,
    /// Least and greatest, both allowed; nothing where the type has no order.
    pub bounds: Option<(f64, f64)>,
    /// What it may be, where that is a list of words.
    pub words: &'static [&'static str],
    pub secret: bool,
    pub hidden: bool,
    pub help: &'static str,
}

impl Setting {
    /// `--listen`, without the dashes.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// `PILEUS_LISTEN`.
    pub fn variable(&self) -> String {
        format!("PILEUS_{}", self.key.to_uppercase())
    }
}

const fn contains(marks: &[&str], wanted: u8) -> bool {
    let mut i = 0;
    while i < marks.len() {
        if marks[i].as_bytes()[0] == wanted {
            return true;
        }
        i += 1;
    }
    false
}

macro_rules! settings {
    ($($group:literal {
        $($(#[$mark:ident])* $field:ident: $type:ty $([$unit:ident])? = $default:literal
            $(in $min:literal ..= $max:literal)? $(of [$($word:literal),*])?, $help:literal;)*
    })*) => {
        /// Every setting, in the order in which people read them.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            key: concat!(stringify!($field) $(, "_", stringify!($unit))?),
            group: $group,
            default: $default,
            unit: concat!($(stringify!($unit))?),
            bounds: { let none: Option<(f64, f64)> = None; $(let none = { let _ = none; Some(($min as f64, $max as f64)) };)? none },
            words: &[$($($word),*)?],
            secret: contains(&[$(stringify!($mark)),*], b's'),
            hidden: contains(&[$(stringify!($mark)),*], b'h'),
            help: $help,
        },)*)*];

        /// What the process runs with. Durations are `Duration`s, whatever unit their key has.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[doc = $help] pub $field: $type,)*)*
            pub(super) origins: super::Origins,
        }

        impl Config {
            /// Parses every setting; each problem is added to `problems`.
            pub(super) fn parse(origins: super::Origins, problems: &mut Vec<String>) -> Option<Self> {
                $($(let $field = origins.read::<$type>(
                    concat!(stringify!($field) $(, "_", stringify!($unit))?), problems);)*)*
                Some(Self { $($($field: $field?,)*)* origins })
            }
        }
    };
}

settings! {
    "Server" {
        listen: SocketAddr = "127.0.0.1:7460", "Address and port of the API";
        metrics_listen: Option<SocketAddr> = "", "Address and port of /metrics; not set: no metrics are served";
        public_url: Option<String> = "", "The URL that clients reach the API at, where it is not http://LISTEN";
        cors_origins: String = "", "Origins of web pages that may use the API, comma-separated, such as https://console.example.org; not set: none";
        trusted_proxies: Vec<IpNet> = "", "Addresses of proxies before the API, as comma-separated CIDRs: they are believed what X-Forwarded-For says; not set: none";
        log: String = "info", "What is logged: error, warn, info, debug, trace, or directives such as info,pileus::reconcile=debug";
        log_format: LogFormat = "text" of ["text", "json"], "How log lines are written";
        shutdown_deadline: Duration[s] = "15" in 1..=300, "After SIGTERM, how long running requests and steps may take to end";
        drain: Duration[s] = "0" in 0..=240, "After SIGTERM, how long connections are still taken while /readyz says no, for a balancer to turn away; it is part of SHUTDOWN_DEADLINE_S";
    }
    "State" {
        state_dir: PathBuf = "", "Where `up` keeps its database, images and admin.json; default /var/lib/pileus as root, else the XDG state directory";
        #[secret] database_url: Option<Secret> = "", "PostgreSQL 15 or later: postgres://user:password@host/database; DATABASE_URL is read too. Not set: `up` runs its own";
        database_pool: u32 = "16" in 2..=200, "Most connections to the database at a time";
        database_patience: Duration[s] = "60" in 1..=600, "A round of a loop that the database has not answered within this time is given up, and tried on another connection";
        postgres_bin: Option<PathBuf> = "", "Directory of initdb and postgres for `up`; default: PATH, then /usr/lib/postgresql/*/bin";
        image_dir: PathBuf = "", "Where the bytes of images are kept; default STATE_DIR/images";
        guest_image: Option<PathBuf> = "", "The qcow2 that `up` offers as the public image pileus-guest; default: what `make guest` built, then /usr/share/pileus/pileus-guest.qcow2";
        image_scratch_dir: PathBuf = "", "Where uploads are gathered and checked; on the same filesystem as IMAGE_DIR; default IMAGE_DIR/tmp";
    }
    "Limits of the API" {
        body_limit_bytes: u64 = "1048576" in 4096..=67108864, "Largest JSON body";
        request_timeout: Duration[s] = "30" in 1..=600, "Longest time for a request that neither waits, uploads nor streams";
        wait_max: Duration[s] = "600" in 1..=3600, "Longest ?timeout= of a waiting request";
        header_timeout: Duration[s] = "60" in 1..=3600, "Longest time for the head of a request, from the connection's start or the end of the request before";
        max_connections: u32 = "10000" in 16..=1000000, "Most connections at a time; more are answered with 503 and closed";
        tenant_rate: u32 = "1000" in 1..=1000000, "Most requests of a tenant in a second, over time; admins of the cloud are not counted";
        tenant_burst: u32 = "2000" in 1..=1000000, "Most requests of a tenant at once, after a pause";
        max_requests: u32 = "512" in 8..=100000, "Most requests worked on at a time, without those that wait, upload or stream";
        max_waits: u32 = "1000" in 1..=100000, "Most waiting requests at a time";
        max_uploads: u32 = "4" in 1..=256, "Most image uploads, and most downloads, at a time";
        max_streams: u32 = "1000" in 1..=100000, "Most event streams (SSE) at a time";
        tenant_share_percent: u32 = "50" in 1..=100, "Largest part of the waiting requests, uploads, downloads and streams that one tenant may have at a time; admins of the cloud are not counted";
        stream_keepalive: Duration[s] = "15" in 1..=300, "How often an idle event stream says that it lives";
        idempotency_ttl: Duration[h] = "24" in 1..=720, "How long an Idempotency-Key is remembered";
        event_retention: Duration[days] = "90" in 1..=3650, "How long events are kept";
        upkeep: Duration[s] = "300" in 1..=3600, "How often what is old is forgotten: events, kept answers, ended tokens, retired signing keys";
    }
    "Images" {
        image_max_gib: u64 = "64" in 1..=16384, "Largest image, both its bytes and its virtual size";
        image_store_spare_mib: u64 = "2048" in 0..=1048576, "Free space that uploads leave on the filesystem of IMAGE_DIR, where the database of `up` lies too; but at most a tenth of that filesystem";
        upload_stall: Duration[s] = "60" in 1..=3600, "An upload that sends nothing for this long is ended, and a download that takes nothing";
        upload_min_kib_s: u64 = "16" in 0..=1048576, "An upload of which less comes than this, over UPLOAD_STALL_S of waiting for it, is ended: it holds one of MAX_UPLOADS";
        image_check_timeout: Duration[s] = "300" in 1..=3600, "Longest run of qemu-img on one image";
        image_check_memory_mib: u64 = "1024" in 256..=16384, "Most memory (address space) that qemu-img may take";
    }
    "Logins" {
        #[secret] admin_password: Option<Secret> = "", "Password of the user `admin` that `serve` makes where there is none; a password that was changed since stays. `up` makes its own";
        login_attempts_per_minute: u32 = "10" in 1..=10000, "Most attempts per user name, and per client address, in a minute";
        token_ttl: Duration[s] = "900" in 10..=86400, "Life of the token that a login gives";
        key_rotation: Duration[days] = "30" in 1..=3650, "Age at which the key that signs tokens is replaced";
        argon2_concurrency: u32 = "2" in 1..=64, "Most password hashes computed at a time (19 MiB each)";
    }
    "Reconciling" {
        reconcile_workers: u32 = "16" in 1..=1024, "Most steps taken at a time";
        reconcile_lease: Duration[s] = "30" in 1..=600, "How long a worker owns an item of work unless it renews";
        reconcile_poll: Duration[ms] = "500" in 10..=60000, "How often due work is looked for when nothing wakes the loop";
        reconcile_scan: Duration[s] = "60" in 1..=3600, "How often everything is looked at again, whatever signals said";
        backoff_min: Duration[ms] = "200" in 10..=60000, "Pause after the first failure of an item";
        backoff_max: Duration[s] = "60" in 1..=3600, "Longest pause between attempts, also of a stalled item";
        stall_after_failures: u32 = "5" in 1..=1000, "An item that failed this often in a row is called stalled";
        stall_after: Duration[s] = "300" in 1..=86400, "An item that has not come to its wish in this time is called stalled";
        stop_grace: Duration[s] = "30" in 0..=3600, "After the ACPI button, how long a guest may take to power off";
    }
    "Background tasks of this process" {
        task_pace: bool = "on" of ["on", "off"], "Works off what is due. off: nothing is made or removed by this process";
        task_placer: bool = "on" of ["on", "off"], "Gives instances a host. off: those without one wait, and say so";
        task_watch: bool = "on" of ["on", "off"], "Asks each host every heartbeat. off: health and what changed behind our back go unnoticed here";
        task_sweeper: bool = "on" of ["on", "off"], "Removes what nobody owns, and mends base images and networks that somebody took away. off: orphans and damage stay";
        task_upkeep: bool = "on" of ["on", "off"], "Replaces signing keys ahead of time and forgets what is old. off: old events, answers and tokens stay";
        task_expiry: bool = "on" of ["on", "off"], "Deletes instances and ends reservations whose time (expires_at) has come. off: they stay, unless another process ends them";
        task_publisher: bool = "on" of ["on", "off"], "Numbers events. off: the feed stands still, unless another process numbers them";
    }
    "Hosts" {
        libvirt_uri: String = "auto", "The local host of `up`: a libvirt URI; auto: qemu:///system as root, else qemu:///session; none: no local host";
        virt_type: VirtType = "auto" of ["auto", "kvm", "qemu"], "How the local host of `up` virtualises; auto: KVM where the CPU can, else QEMU";
        heartbeat: Duration[s] = "10" in 1..=600, "How often a host is asked whether it lives";
        host_call_deadline: Duration[s] = "30" in 1..=600, "Longest call to a host";
        allow_test_hosts: bool = "off" of ["on", "off"], "Whether hosts at test:///default and test:///FILE may be registered: libvirt's mock host, which keeps records of guests and runs none. For trials of the API and for benchmarks";
        host_gone_after: Duration[s] = "120" in 1..=86400, "A delete waits this long for a host that does not answer; then the instance goes, and what it left on the host goes when that is back";
        base_image_keep: Duration[s] = "3600" in 0..=31536000, "How long a base image stays on a host that no instance uses it on";
        sweep: Duration[s] = "60" in 1..=86400, "How often each host is looked over for what nobody owns";
        sweep_grace: Duration[s] = "300" in 0..=86400, "What is younger than this is never swept";
        sweep_share_percent: u32 = "10" in 1..=100, "Most of a host's things of one kind that one sweep may remove (always at least one)";
    }
    "Networks" {
        network_pool: Ipv4Net = "10.64.0.0/12", "Where the CIDR of a network comes from when none is given";
        network_prefix: u8 = "24" in 16..=29, "Prefix length of those CIDRs";
        address_quarantine: Duration[s] = "150" in 0..=86400, "How long a released address is not given out again";
    }
    "Placement" {
        placement_policy: String = "best_fit" of ["best_fit", "best_fit_sum", "lifetime_fit", "round_robin", "spread"], "How a host is chosen among those that fit, where neither the request nor its flavor says";
        queue_hold: Duration[s] = "3600" in 0..=604800, "For so long what comes free on the best host is kept for an instance that waits for room; then for as long smaller ones that came later may take it, and so on in turn; 0: nothing is kept";
        overcommit_cpu: f64 = "4" in 0.1..=64, "vCPUs promised per CPU of a new host";
        overcommit_memory: f64 = "1" in 0.1..=4, "Memory promised per memory of a new host";
        overcommit_disk: f64 = "1" in 0.1..=64, "Disk promised per disk of a new host";
    }
    "Quota of a new tenant" {
        quota_instances: i64 = "20" in 0..=1000000, "Instances";
        quota_vcpus: i64 = "40" in 0..=1000000, "vCPUs of all its instances";
        quota_memory_mib: i64 = "65536" in 0..=1000000000, "Memory of all its instances";
        quota_disk_gib: i64 = "500" in 0..=1000000000, "Root disks of all its instances";
        quota_networks: i64 = "10" in 0..=1000000, "Networks";
        quota_images: i64 = "50" in 0..=1000000, "Images";
        quota_image_mib: i64 = "102400" in 0..=1000000000, "Bytes of all its images";
        quota_keypairs: i64 = "100" in 0..=1000000, "Keypairs";
    }
    "Tests" {
        #[hidden] reconcile_wake: bool = "on" of ["on", "off"], "Whether a wish wakes the loop; otherwise it is found by the next look for due work: for the benchmark of what waking costs";
        #[hidden] fault_point: Option<String> = "", "Name of the point at which the process aborts itself";
    }
}
