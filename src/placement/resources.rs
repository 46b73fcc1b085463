//! Amounts of the three resources that placement counts, in whole units.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::error::{Error, FieldError, Result};

/// vCPUs, memory in MiB and disk in GiB. Also used for a host's limit and for what is taken of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    #[schema(example = 2)]
    pub vcpus: u32,
    #[schema(example = 2048)]
    pub memory_mib: u32,
    #[schema(example = 10)]
    pub disk_gib: u32,
}

/// The names of the three, in the order of [`Resources::parts`], with the unit that people read.
pub(super) const UNITS: [&str; 3] = ["vCPU", "MiB memory", "GiB disk"];

impl Resources {
    pub const ZERO: Self = Self::new(0, 0, 0);

    pub const fn new(vcpus: u32, memory_mib: u32, disk_gib: u32) -> Self {
        Self { vcpus, memory_mib, disk_gib }
    }

    /// From signed numbers as a database keeps them.
    ///
    /// # Errors
    /// [`Error::Invalid`] names each amount that is negative or above 4,294,967,295.
    pub fn from_signed(vcpus: i64, memory_mib: i64, disk_gib: i64) -> Result<Self> {
        let amounts = [("/vcpus", vcpus), ("/memory_mib", memory_mib), ("/disk_gib", disk_gib)];
        let (mut parts, mut wrong) = ([0; 3], Vec::new());
        for (part, (pointer, value)) in parts.iter_mut().zip(amounts) {
            if let Ok(amount) = u32::try_from(value) {
                *part = amount;
            } else {
                let detail = format!("is {value}: must be between 0 and {}", u32::MAX);
                wrong.push(FieldError { pointer: pointer.into(), detail });
            }
        }
        if wrong.is_empty() { Ok(Self::from_parts(parts)) } else { Err(Error::Invalid(wrong)) }
    }

    pub const fn parts(self) -> [u32; 3] {
        [self.vcpus, self.memory_mib, self.disk_gib]
    }

    pub const fn from_parts([vcpus, memory_mib, disk_gib]: [u32; 3]) -> Self {
        Self::new(vcpus, memory_mib, disk_gib)
    }

    /// Whether each amount is at most the other's.
    pub const fn fits_in(self, room: Self) -> bool {
        self.vcpus <= room.vcpus
            && self.memory_mib <= room.memory_mib
            && self.disk_gib <= room.disk_gib
    }

    /// The sum, or none when an amount would overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            vcpus: self.vcpus.checked_add(other.vcpus)?,
            memory_mib: self.memory_mib.checked_add(other.memory_mib)?,
            disk_gib: self.disk_gib.checked_add(other.disk_gib)?,
        })
    }

    /// The difference, or none when an amount would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            vcpus: self.vcpus.checked_sub(other.vcpus)?,
            memory_mib: self.memory_mib.checked_sub(other.memory_mib)?,
            disk_gib: self.disk_gib.checked_sub(other.disk_gib)?,
        })
    }

    /// The difference, with 0 where it would be negative.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            disk_gib: self.disk_gib.saturating_sub(other.disk_gib),
        }
    }

    /// The larger amount of each.
    pub fn max(self, other: Self) -> Self {
        let (a, b) = (self.parts(), other.parts());
        Self::from_parts(std::array::from_fn(|r| a[r].max(b[r])))
    }

    /// The smaller amount of each.
    pub fn min(self, other: Self) -> Self {
        let (a, b) = (self.parts(), other.parts());
        Self::from_parts(std::array::from_fn(|r| a[r].min(b[r])))
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vCPU, {} MiB, {} GiB", self.vcpus, self.memory_mib, self.disk_gib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_or_huge_amount_is_refused_by_name() {
        assert_eq!(Resources::from_signed(1, 2, 3).unwrap(), Resources::new(1, 2, 3));
        for (v, m, d, name) in
            [(-1, 0, 0, "/vcpus"), (0, i64::MIN, 0, "/memory_mib"), (0, 0, 1 << 32, "/disk_gib")]
        {
            let Err(Error::Invalid(fields)) = Resources::from_signed(v, m, d) else {
                panic!("accepted {v} {m} {d}")
            };
            assert_eq!(fields[0].pointer, name);
        }
    }

    #[test]
    fn sums_and_differences_do_not_wrap() {
        let full = Resources::new(u32::MAX, u32::MAX, u32::MAX);
        assert_eq!(full.checked_add(Resources::new(0, 1, 0)), None);
        assert_eq!(Resources::ZERO.checked_sub(Resources::new(0, 0, 1)), None);
        assert_eq!(Resources::ZERO.saturating_sub(full), Resources::ZERO);
    }
}
