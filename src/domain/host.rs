//! Hosts: where instances run, what they have and what may be taken of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::HostId;

/// How guests are virtualised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum VirtType {
    /// KVM where the host CPU can, else QEMU. A setting of a host, never of a running domain.
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
}
