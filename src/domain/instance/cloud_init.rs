//! How cloud-init ended in a guest.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error of cloud-init, cut to 500 characters.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 500, example = "Failed to start the module")]
#[expect(dead_code, reason = "only its schema is used: `guest::cloud_init` cuts them")]
pub struct CloudInitError(String);

/// What the guest says of its cloud-init, once that has finished in the present power-on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CloudInit {
    pub status: CloudInitStatus,
    /// In cloud-init's words: the guest's own data, to be shown and not believed.
    #[schema(value_type = Vec<CloudInitError>, max_items = 10, example = json!(["Failed to start the module"]))]
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
