//! Flavors: the sizes that instances come in.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, FieldError, Result};
use super::id::FlavorId;
use super::instance::Size;
use super::policy::Policy;
use super::text::Name;
use chrono::{DateTime, Utc};

pub const VCPUS_MAX: i32 = 512;
pub const MEMORY_MIB_MAX: i64 = 16 * 1024 * 1024;
pub const DISK_GIB_MAX: i64 = 64 * 1024;

/// What a host has or an instance needs, beyond numbers: 1 to 63 characters of `[a-z0-9_:.-]`.
#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 63, pattern = "^[a-z0-9_:.-]+$", example = "ssd")]
#[expect(dead_code, reason = "only its schema is used: `check_traits` checks them")]
pub struct Trait(String);

/// A size: vCPUs, memory, root disk, and what its host must offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Flavor {
    pub id: FlavorId,
    /// Unique in the cloud.
    pub name: Name,
    #[schema(minimum = 1, maximum = 512, example = 1)]
    pub vcpus: i32,
    #[schema(minimum = 64, maximum = 16777216, example = 192)]
    pub memory_mib: i64,
    /// Size of the root disk; an image must not be larger.
    #[schema(minimum = 1, maximum = 65536, example = 1)]
    pub disk_gib: i64,
    /// Traits that a host must have to take such an instance.
    #[schema(value_type = Vec<Trait>, max_items = 32, example = json!(["ssd"]))]
    pub traits: Vec<String>,
    /// How hosts are chosen for its instances; null: as the setting `placement_policy` has it.
    #[serde(default)]
    pub policy: Option<Policy>,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

impl Flavor {
    pub fn size(&self) -> Size {
        Size { vcpus: self.vcpus, memory_mib: self.memory_mib, disk_gib: self.disk_gib }
    }
}

/// What a new flavor is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFlavor {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces; unique in the cloud.
    #[schema(min_length = 1, max_length = 63, example = "nano")]
    pub name: String,
    #[schema(minimum = 1, maximum = 512, example = 1)]
    pub vcpus: i32,
    #[schema(minimum = 64, maximum = 16777216, example = 192)]
    pub memory_mib: i64,
    #[schema(minimum = 1, maximum = 65536, example = 1)]
    pub disk_gib: i64,
    /// Traits that a host must have: up to 32, each 1 to 63 characters of `[a-z0-9_:.-]`.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!(["ssd"]))]
    pub traits: Vec<String>,
    /// How hosts are chosen for its instances, where their requests do not say; null: as the setting `placement_policy` has it.
    #[serde(default)]
    pub policy: Option<Policy>,
}

impl NewFlavor {
    /// Every bound, every field at fault at once.
    pub fn check(&self) -> Result<Name> {
        let mut faults = Vec::new();
        let mut bound = |pointer: &str, value: i64, min: i64, max: i64, unit: &str| {
            if !(min..=max).contains(&value) {
                let detail = format!("must be {min} to {max} {unit}, is {value}");
                faults.push(FieldError { pointer: pointer.into(), detail });
            }
        };
        bound("/vcpus", self.vcpus.into(), 1, VCPUS_MAX.into(), "vCPUs");
        bound("/memory_mib", self.memory_mib, 64, MEMORY_MIB_MAX, "MiB");
        bound("/disk_gib", self.disk_gib, 1, DISK_GIB_MAX, "GiB");
        if let Err(Error::Invalid(more)) = check_traits("/traits", &self.traits) {
            faults.extend(more);
        }
        match Name::parse("/name", &self.name) {
            Ok(name) if faults.is_empty() => Ok(name),
            Ok(_) => Err(Error::Invalid(faults)),
            Err(Error::Invalid(more)) => Err(Error::Invalid([more, faults].concat())),
            Err(other) => Err(other),
        }
    }
}

/// Traits of flavors and hosts: up to 32, each 1 to 63 characters of `[a-z0-9_:.-]`.
pub fn check_traits(pointer: &str, traits: &[String]) -> Result<()> {
    if traits.len() > 32 {
        return Err(Error::field(
            pointer,
            format!("may hold up to 32 traits, holds {}", traits.len()),
        ));
    }
    for (i, name) in traits.iter().enumerate() {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:.-".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
            let detail = "a trait must have 1 to 63 characters of a-z 0-9 _ : . -";
            return Err(Error::field(format!("{pointer}/{i}"), detail));
        }
        if traits[..i].contains(name) {
            return Err(Error::field(format!("{pointer}/{i}"), format!("names {name} again")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_at_fault_is_named_at_once() {
        let bad = NewFlavor {
            name: String::new(),
            vcpus: 0,
            memory_mib: -1,
            disk_gib: i64::MAX,
            traits: vec!["X".into()],
            policy: None,
        };
        let Err(Error::Invalid(faults)) = bad.check() else { panic!("accepted") };
        let pointers: Vec<_> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(pointers, ["/name", "/vcpus", "/memory_mib", "/disk_gib", "/traits/0"]);
    }
}
