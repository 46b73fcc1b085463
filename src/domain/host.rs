//! Hosts: where instances run, what they have and what may be taken of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
