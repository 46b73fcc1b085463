//! Every metric that is served: its name, what it counts, and where its buckets lie.
//!
//! A label is a word of ours, a matched route or a host: never an id of a tenant's thing, a name or a raw path.

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Of seconds, with these upper bounds.
    Histogram(&'static [f64]),
}

const REQUEST: Kind = Kind::Histogram(&[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
]);
const LOOK: Kind = Kind::Histogram(&[
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0,
]);
/// A series for each host and call: few bounds.
const CALL: Kind = Kind::Histogram(&[0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0]);
const SHORT: Kind = Kind::Histogram(&[0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0]);
use Kind::{Counter, Gauge};

macro_rules! metrics {
    ($($constant:ident: $kind:ident = $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// The whole table.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: $kind, help: $help }),*];
    };
}

metrics! {
    BUILD: Gauge = "pileus_build_info", "1, with the version of this binary and of the schema that it brings";
    STARTED: Gauge = "pileus_start_time_seconds", "When this process began to serve, in seconds since 1970";

    REQUESTS: Counter = "pileus_http_requests_total", "Requests answered, by matched route, method and status";
    REQUEST_SECONDS: REQUEST = "pileus_http_request_duration_seconds", "Until the head of the answer, by matched route, method and class: prompt, waiting (?wait=), own (uploads, streams), health";
    IN_USE: Gauge = "pileus_limit_in_use", "What is worked on now, by what: requests, waits, uploads, downloads, consoles, streams";
    LIMIT: Gauge = "pileus_limit", "The most of it that is worked on at a time";

    RECONCILES: Counter = "pileus_reconciles_total", "Looks at items of work until they settled, by kind and outcome";
    RECONCILE_SECONDS: LOOK = "pileus_reconcile_duration_seconds", "From lease to settled, by kind";
    CLAIMS_LOST: Counter = "pileus_claims_lost_total", "Claims that found their room taken by another placer, and were decided on again";
    WORKERS_BUSY: Gauge = "pileus_reconcile_workers_busy", "Items that this process works on; those that wait for a host keep no worker from others, and may be many more than there are workers";
    WORKERS: Gauge = "pileus_reconcile_workers", "Workers of this process";
    STALLS: Counter = "pileus_stalls_total", "Items that came to be called stalled, by kind";
    WORK_DUE: Gauge = "pileus_work_due", "Items that are due and that nobody holds, by kind";
    WORK_OLDEST: Gauge = "pileus_work_oldest_due_seconds", "For how long the longest of them has been due, by kind";
    WORK_LEASED: Gauge = "pileus_work_leased", "Items that a worker of some process holds, by kind";
    WORK_SCHEDULED: Gauge = "pileus_work_scheduled", "Items that are due later, by kind";
    WORK_FAILING: Gauge = "pileus_work_failing", "Items whose last attempt failed, by kind";
    WORK_STALLED: Gauge = "pileus_work_stalled", "Items that are stalled, by kind: GET /v1/stalled says why";

    CALLS: Counter = "pileus_host_calls_total", "Calls to hosts, by host, call and outcome";
    CALL_SECONDS: CALL = "pileus_host_call_duration_seconds", "Of a call to a host with its wait for a thread, by host and call";
    CALLS_RUNNING: Gauge = "pileus_host_calls_running", "Calls of this process that run on a host now, by host";
    CALLS_WAITING: Gauge = "pileus_host_calls_waiting", "Calls of this process that wait for a thread, by host";
    HOST_UP: Gauge = "pileus_host_up", "1 where the host answers, by host and name";
    HOST_ENABLED: Gauge = "pileus_host_enabled", "1 where new instances may be placed on the host";
    HOST_VCPUS: Gauge = "pileus_host_vcpus", "vCPUs that may be promised on the host";
    HOST_VCPUS_USED: Gauge = "pileus_host_vcpus_used", "vCPUs that are promised";
    HOST_MEMORY: Gauge = "pileus_host_memory_bytes", "Memory that may be promised on the host";
    HOST_MEMORY_USED: Gauge = "pileus_host_memory_used_bytes", "Memory that is promised";
    HOST_DISK: Gauge = "pileus_host_disk_bytes", "Disk that may be promised on the host";
    HOST_DISK_USED: Gauge = "pileus_host_disk_used_bytes", "Disk that is promised";
    HOST_FILES: Gauge = "pileus_host_filesystem_bytes", "Size of the filesystem that the host's disks lie on";
    HOST_FILES_FREE: Gauge = "pileus_host_filesystem_free_bytes", "Free there, to within a fiftieth: guests are promised more than they have written, and base images are promised to nobody";
    IMAGE_STORE: Gauge = "pileus_image_store_filesystem_bytes", "Size of the filesystem that the image store lies on";
    IMAGE_STORE_FREE: Gauge = "pileus_image_store_filesystem_free_bytes", "Free there";
    DATABASE_FULL: Gauge = "pileus_database_full", "Whether the database lately refused a write since its disk is full";
    HOST_CLAIMS: Gauge = "pileus_host_claims", "Incarnations that hold a claim on the host";
    HOST_FENCES: Gauge = "pileus_host_fences", "Those of them whose instance is gone and whose end could not be seen yet";
    INSTANCES: Gauge = "pileus_instances", "Instances, by wish and by what was seen last";

    QUEUED: Gauge = "pileus_instances_waiting_for_capacity", "Instances that wait for room on a host";
    QUEUED_OLDEST: Gauge = "pileus_instances_waiting_for_capacity_oldest_seconds", "For how long the first of them has waited";
    HELD: Gauge = "pileus_cloud_held", "1 where nothing is removed from hosts until an admin resumes: GET /v1/cloud says why";

    SWEEPS: Counter = "pileus_sweeps_total", "Sweeps of hosts, by outcome";
    SWEPT: Counter = "pileus_swept_total", "Orphans that were removed, by kind and outcome";
    ORPHANS: Gauge = "pileus_orphans", "Things on hosts without an owner, by kind, and whether they bear our stamp";

    EVENTS: Counter = "pileus_events_published_total", "Events that were numbered, by any process";
    EVENTS_WAITING: Gauge = "pileus_events_unpublished", "Events that wait for their number, up to 10000";

    DATABASE_UP: Gauge = "pileus_database_up", "1 where the database answered this scrape; 0: what is read from it is missing here";
    POOL: Gauge = "pileus_db_pool_connections", "Connections to the database, by state: idle, used";
    POOL_LIMIT: Gauge = "pileus_db_pool_limit", "The most of them";
    POOL_WAIT: SHORT = "pileus_db_pool_wait_seconds", "How long a connection was waited for";

    TASK_ENABLED: Gauge = "pileus_task_enabled", "1 where a background task runs in this process, 0 where it is switched off, by task";
    TASK_AGE: Gauge = "pileus_task_age_seconds", "Since a background task has last been round, by task";
    TASK_LONGEST: Gauge = "pileus_task_longest_age_seconds", "The age at which it is taken for dead, and this process for not ready";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_name_is_one_that_prometheus_expects() {
        let names: HashSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name is there twice");
        for Metric { name, kind, .. } in ALL {
            assert!(name.starts_with("pileus_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Counter, "{name}");
            if let Kind::Histogram(bounds) = kind {
                assert!(name.ends_with("_seconds"), "{name}");
                assert!(bounds.is_sorted(), "{name}");
            }
        }
    }
}
