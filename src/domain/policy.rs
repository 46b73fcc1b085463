//! By which rule a host is chosen among those that fit; what each comes to is placement's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The rule by which a host is chosen among those that fit. With the residual of a resource
/// `(free - need) / limit`, where a resource of limit 0 does not count:
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    sqlx::Type,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Policy {
    /// The smallest maximum of the three residuals; then the smallest second and third largest.
    #[default]
    BestFit,
    /// The smallest sum of the three residuals. Normalised, since raw leftovers would add MiB to vCPUs.
    BestFitSum,
    /// The largest minimum of the three residuals; then the largest second and third smallest.
    Spread,
    /// As best fit, but first on hosts that are in use for as long as the guest is expected to stay, and last on empty ones.
    LifetimeFit,
    /// The next host in the order of ids after the one chosen last.
    RoundRobin,
}

impl Policy {
    pub const ALL: [Self; 5] =
        [Self::BestFit, Self::BestFitSum, Self::Spread, Self::LifetimeFit, Self::RoundRobin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BestFit => "best_fit",
            Self::BestFitSum => "best_fit_sum",
            Self::Spread => "spread",
            Self::LifetimeFit => "lifetime_fit",
            Self::RoundRobin => "round_robin",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of best_fit, best_fit_sum, spread, lifetime_fit, round_robin")]
pub struct UnknownPolicy;

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or(UnknownPolicy)
    }
}
