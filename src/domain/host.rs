//! Hosts: where instances run, what they have and what may be taken of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{Error, Result};
use super::flavor::{Trait, check_traits};
use super::host_uri;
use super::id::{HostId, TenantId};
use super::text::Name;

/// Bounds of the overcommit ratios: promised per real, for vCPUs, memory and disk.
const RATIOS: [(f64, f64); 3] = [(0.1, 64.0), (0.1, 4.0), (0.1, 64.0)];
/// Most that a host may keep for itself.
const RESERVED_MAX: i64 = 1_000_000_000;
const PATH_MAX: usize = 255;

/// How guests are virtualised.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum VirtType {
    /// KVM where the host CPU can, else QEMU. A setting of a host, never of a running domain.
    #[default]
    Auto,
    Kvm,
    /// Software emulation (TCG): slow, runs anywhere.
    Qemu,
}

/// A host as placement is told of it: its state, its limits after reservation and overcommit, and what is claimed.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Candidate {
    pub id: HostId,
    pub name: String,
    pub zone: String,
    pub traits: Vec<String>,
    pub enabled: bool,
    /// It is to leave the cloud.
    pub leaving: bool,
    /// `unknown`, `up` or `down`.
    pub health: String,
    pub limit_vcpus: i64,
    pub limit_memory_mib: i64,
    pub limit_disk_gib: i64,
    pub used_vcpus: i64,
    pub used_memory_mib: i64,
    pub used_disk_gib: i64,
    /// The tenants that alone may use it; none: it is open to all.
    pub dedicated: Vec<TenantId>,
}

/// Whether a host answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Health {
    /// Not contacted yet.
    Unknown,
    Up,
    Down,
}

/// An amount of each thing that instances take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostAmounts {
    #[schema(minimum = 0, example = 8)]
    pub vcpus: i64,
    #[schema(minimum = 0, example = 16384)]
    pub memory_mib: i64,
    #[schema(minimum = 0, example = 200)]
    pub disk_gib: i64,
}

/// A hypervisor host: the wish, what was last seen of it, and what of it is taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Host {
    pub id: HostId,
    /// Unique in the cloud.
    pub name: Name,
    /// Where libvirt is reached.
    #[schema(max_length = 512, example = "qemu+tls://host-1.example/system")]
    pub uri: String,
    /// The directory on the host that our volumes are in.
    #[schema(max_length = 255, example = "/var/lib/pileus/hosts/0192f0c1")]
    pub pool_path: String,
    #[schema(min_length = 1, max_length = 63, example = "default")]
    pub zone: String,
    #[schema(max_items = 32, example = json!(["ssd"]))]
    pub traits: Vec<String>,
    /// Whether it takes new instances.
    pub enabled: bool,
    pub virt_type: VirtType,
    /// vCPUs promised per CPU.
    #[schema(minimum = 0.1, maximum = 64.0, example = 4.0)]
    pub cpu_ratio: f64,
    #[schema(minimum = 0.1, maximum = 4.0, example = 1.0)]
    pub memory_ratio: f64,
    #[schema(minimum = 0.1, maximum = 64.0, example = 1.0)]
    pub disk_ratio: f64,
    /// Kept for the host itself, as `reserved_memory_mib` and `reserved_disk_gib` are.
    #[schema(minimum = 0, example = 0)]
    pub reserved_vcpus: i64,
    #[schema(minimum = 0, example = 1024)]
    pub reserved_memory_mib: i64,
    #[schema(minimum = 0, example = 10)]
    pub reserved_disk_gib: i64,
    /// It was deleted, and what we made on it is being removed.
    pub leaving: bool,
    /// What its removal waits for.
    #[serde(default)]
    #[schema(max_length = 2000, example = json!(null))]
    pub leaving_reason: Option<String>,
    pub health: Health,
    /// Why it is not up.
    #[schema(max_length = 10000, example = "not contacted yet")]
    pub health_reason: String,
    /// Since when it has been so.
    pub health_since: DateTime<Utc>,
    /// When it last told something new, or came up.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// The host's own UUID, by which it is known whatever its address; null until it was seen.
    pub host_uuid: Option<Uuid>,
    /// What the host tells of itself: `vcpus`, `memory_mib`, `disk_gib`, `arch`, `cpu_level` (of the x86-64 psABI), versions; null
    /// until it was seen. It counts as traits too: `arch:x86_64`, `virt:kvm`, `cpu:x86-64-v3`.
    #[schema(value_type = Option<Object>)]
    pub facts: Option<Value>,
    /// What may be taken in all: what it has less what it keeps, times the ratio; 0 until it was seen.
    #[sqlx(json)]
    pub limit: HostAmounts,
    /// What is taken. More than the limit where that was lowered; nothing more is then placed here.
    #[sqlx(json)]
    pub used: HostAmounts,
    /// How many incarnations of instances it carries.
    #[schema(minimum = 0, example = 3)]
    pub incarnations: i64,
    /// How often in a row it was worked on in vain.
    #[serde(default)]
    #[schema(minimum = 0, example = 0)]
    pub attempts: i64,
    /// What went wrong at the last of these attempts; null where none was in vain.
    #[serde(default)]
    #[schema(max_length = 10000)]
    pub last_error: Option<String>,
    /// When it is looked at next; null: at no set time.
    #[serde(default)]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Since when it has failed so often, or for so long, that somebody should look at it.
    #[serde(default)]
    pub stalled_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// Counts changes of the wish; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

impl Host {
    /// Whether it is known to run no guests on KVM, and is not told to all the same.
    pub fn lacks_kvm(&self) -> bool {
        let told = self.facts.as_ref().and_then(|facts| facts.get("virt_type"));
        self.virt_type != VirtType::Kvm && told.is_some_and(|told| told == "qemu")
    }
}

/// A host to be registered. It is then contacted; what it is and has, it tells itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHost {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the cloud.
    #[schema(min_length = 1, max_length = 63, example = "host-1")]
    pub name: String,
    /// A libvirt URI: `qemu`, `qemu+unix`, `qemu+tls`, `qemu+ssh`, `qemu+tcp`, or `test` for libvirt's mock. Without passwords, and
    /// without the parameters `command` and `netcat`, which name programs that this server would run.
    #[schema(min_length = 1, max_length = 512, example = "qemu+tls://host-1.example/system")]
    pub uri: String,
    /// An absolute path of a directory on the host for our volumes; made where it is missing. Null: below `/var/lib/pileus/hosts`,
    /// by the cloud's id.
    #[serde(default)]
    #[schema(
        max_length = 255,
        pattern = "^(/[A-Za-z0-9_+@.-]+)+$",
        example = "/var/lib/pileus/hosts/0192f0c1"
    )]
    pub pool_path: Option<String>,
    /// 1 to 63 of `A-Z a-z 0-9 . _ -`.
    #[serde(default = "default_zone")]
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[A-Za-z0-9._-]+$",
        default = "default",
        example = "default"
    )]
    pub zone: String,
    /// What it offers to flavors that ask for it: up to 32, each 1 to 63 characters of `[a-z0-9_:.-]`.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!(["ssd"]))]
    pub traits: Vec<String>,
    /// How its guests are virtualised; `auto` if not given.
    #[serde(default)]
    pub virt_type: VirtType,
    /// vCPUs promised per CPU; null: the setting `overcommit_cpu`.
    #[serde(default)]
    #[schema(minimum = 0.1, maximum = 64.0, example = 4.0)]
    pub cpu_ratio: Option<f64>,
    /// Memory promised per memory; null: the setting `overcommit_memory`.
    #[serde(default)]
    #[schema(minimum = 0.1, maximum = 4.0, example = 1.0)]
    pub memory_ratio: Option<f64>,
    /// Disk promised per disk; null: the setting `overcommit_disk`.
    #[serde(default)]
    #[schema(minimum = 0.1, maximum = 64.0, example = 1.0)]
    pub disk_ratio: Option<f64>,
    /// CPUs kept for the host itself.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000000000, example = 0)]
    pub reserved_vcpus: i64,
    /// Memory kept for the host itself.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000000000, example = 1024)]
    pub reserved_memory_mib: i64,
    /// Disk kept for the host itself.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000000000, example = 10)]
    pub reserved_disk_gib: i64,
    /// Whether it takes new instances.
    #[serde(default = "yes")]
    #[schema(default = true, example = true)]
    pub enabled: bool,
}

fn default_zone() -> String {
    "default".into()
}

fn yes() -> bool {
    true
}

/// What changes of a host; what is not given stays. Its identity, `host_uuid`, is its own and never changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostPatch {
    #[schema(min_length = 1, max_length = 63, example = "host-1")]
    pub name: Option<String>,
    /// The same host at another address: another host that answers there is refused.
    #[schema(min_length = 1, max_length = 512, example = "qemu+tls://host-1.example/system")]
    pub uri: Option<String>,
    /// Only while nothing of ours is on the host.
    #[schema(
        max_length = 255,
        pattern = "^(/[A-Za-z0-9_+@.-]+)+$",
        example = "/var/lib/pileus/hosts/0192f0c1"
    )]
    pub pool_path: Option<String>,
    /// 1 to 63 of `A-Z a-z 0-9 . _ -`.
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$", example = "default")]
    pub zone: Option<String>,
    /// Replaces all traits.
    #[schema(value_type = Option<std::collections::HashSet<Trait>>, max_items = 32, example = json!(["ssd"]))]
    pub traits: Option<Vec<String>>,
    /// For guests that start from now on.
    pub virt_type: Option<VirtType>,
    #[schema(minimum = 0.1, maximum = 64.0, example = 4.0)]
    pub cpu_ratio: Option<f64>,
    #[schema(minimum = 0.1, maximum = 4.0, example = 1.0)]
    pub memory_ratio: Option<f64>,
    #[schema(minimum = 0.1, maximum = 64.0, example = 1.0)]
    pub disk_ratio: Option<f64>,
    #[schema(minimum = 0, maximum = 1000000000, example = 0)]
    pub reserved_vcpus: Option<i64>,
    #[schema(minimum = 0, maximum = 1000000000, example = 1024)]
    pub reserved_memory_mib: Option<i64>,
    #[schema(minimum = 0, maximum = 1000000000, example = 10)]
    pub reserved_disk_gib: Option<i64>,
    /// `false` keeps new instances away; those that are there stay.
    #[schema(example = false)]
    pub enabled: Option<bool>,
}

impl NewHost {
    /// Every bound, every field at fault at once; gives the name. `mocks`: whether libvirt's mock host will do.
    pub fn check(&self, mocks: bool) -> Result<Name> {
        let given = HostPatch {
            name: Some(self.name.clone()),
            uri: Some(self.uri.clone()),
            pool_path: self.pool_path.clone(),
            zone: Some(self.zone.clone()),
            traits: Some(self.traits.clone()),
            virt_type: Some(self.virt_type),
            cpu_ratio: self.cpu_ratio,
            memory_ratio: self.memory_ratio,
            disk_ratio: self.disk_ratio,
            reserved_vcpus: Some(self.reserved_vcpus),
            reserved_memory_mib: Some(self.reserved_memory_mib),
            reserved_disk_gib: Some(self.reserved_disk_gib),
            enabled: Some(self.enabled),
        };
        given.check(mocks)?;
        Name::parse("/name", &self.name)
    }
}

impl HostPatch {
    /// Every bound of what is given, every field at fault at once. `mocks` as for a new host.
    pub fn check(&self, mocks: bool) -> Result<()> {
        let mut faults = Vec::new();
        let mut keep = |checked: Result<()>| {
            // Checks know no other error.
            if let Err(Error::Invalid(more)) = checked {
                faults.extend(more);
            }
        };
        if let Some(name) = &self.name {
            keep(Name::parse("/name", name).map(drop));
        }
        if let Some(uri) = &self.uri {
            keep(host_uri::check("/uri", uri, mocks));
        }
        if let Some(path) = &self.pool_path {
            keep(check_path("/pool_path", path));
        }
        if let Some(zone) = &self.zone {
            keep(check_zone("/zone", zone));
        }
        if let Some(traits) = &self.traits {
            keep(check_traits("/traits", traits));
        }
        let ratios = [
            ("/cpu_ratio", self.cpu_ratio),
            ("/memory_ratio", self.memory_ratio),
            ("/disk_ratio", self.disk_ratio),
        ];
        for ((pointer, ratio), (min, max)) in ratios.into_iter().zip(RATIOS) {
            if let Some(ratio) = ratio.filter(|ratio| !(min..=max).contains(ratio)) {
                keep(Err(Error::field(pointer, format!("must be {min} to {max}, is {ratio}"))));
            }
        }
        for (pointer, amount) in [
            ("/reserved_vcpus", self.reserved_vcpus),
            ("/reserved_memory_mib", self.reserved_memory_mib),
            ("/reserved_disk_gib", self.reserved_disk_gib),
        ] {
            if let Some(amount) = amount.filter(|amount| !(0..=RESERVED_MAX).contains(amount)) {
                let detail = format!("must be 0 to {RESERVED_MAX}, is {amount}");
                keep(Err(Error::field(pointer, detail)));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Invalid(faults)) }
    }
}

/// A directory that is ours alone: not the root, and nowhere that `..` leads.
fn check_path(pointer: &str, path: &str) -> Result<()> {
    let fits = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+@.-".contains(c))
    };
    let sound = path.len() <= PATH_MAX
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(fits));
    if sound {
        return Ok(());
    }
    let detail = "must be an absolute path of up to 255 characters, of parts of A-Z a-z 0-9 _ + @ . - without '.' and '..', such as /var/lib/pileus/hosts/a";
    Err(Error::field(pointer, detail))
}

/// A zone's name: 1 to 63 letters, digits, '.', '_' or '-'.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$", example = "east")]
#[expect(dead_code, reason = "only its schema is used: `check_zone` checks them")]
pub struct Zone(String);

/// Zones: 1 to 63 of `A-Z a-z 0-9 . _ -`.
pub fn check_zone(pointer: &str, zone: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=63).contains(&zone.len()) && zone.chars().all(fits) {
        return Ok(());
    }
    Err(Error::field(pointer, "must have 1 to 63 characters of A-Z a-z 0-9 . _ -"))
}

/// Which hosts a list shows.
#[derive(Debug, Clone, Default)]
pub struct HostFilter {
    pub name: Option<String>,
    pub zone: Option<String>,
    pub health: Option<Health>,
    pub enabled: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_at_fault_is_named_at_once() {
        let bad: NewHost = serde_json::from_value(serde_json::json!({
            "name": "", "uri": "vbox:///x", "pool_path": "/a/../b", "zone": "", "traits": ["A"],
            "cpu_ratio": 0, "memory_ratio": 5, "disk_ratio": -1,
            "reserved_vcpus": -1, "reserved_memory_mib": i64::MIN, "reserved_disk_gib": i64::MAX,
        }))
        .unwrap();
        let Err(Error::Invalid(faults)) = bad.check(true) else { panic!("accepted") };
        let pointers: Vec<_> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/name",
                "/uri",
                "/pool_path",
                "/zone",
                "/traits/0",
                "/cpu_ratio",
                "/memory_ratio",
                "/disk_ratio",
                "/reserved_vcpus",
                "/reserved_memory_mib",
                "/reserved_disk_gib"
            ]
        );
    }

    #[test]
    fn a_pool_is_a_directory_of_its_own() {
        assert!(check_path("", "/var/lib/pileus/hosts/a_b+c@1.x").is_ok());
        for bad in
            ["", "/", "a", "/a/", "//a", "/a/./b", "/..", "/a b", "/a\n", "/a;b", &"/a".repeat(128)]
        {
            assert!(check_path("", bad).is_err(), "{bad:?}");
        }
    }
}
