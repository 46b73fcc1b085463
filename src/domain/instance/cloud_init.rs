//! How cloud-init ended in a guest.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the guest says of its cloud-init, once that has finished in the present power-on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CloudInit {
    pub status: CloudInitStatus,
    /// In cloud-init's words: the guest's own data, to be shown and not believed.
    #[schema(max_items = 10)]
    pub errors: Vec<String>,
}

/// cloud-init's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloudInitStatus {
    /// It finished without an error.
    Done,
    /// It finished, and something of it failed.
    Error,
}

impl CloudInit {
    pub fn of(errors: Vec<String>) -> Self {
        let status = if errors.is_empty() { CloudInitStatus::Done } else { CloudInitStatus::Error };
        Self { status, errors }
    }
}
