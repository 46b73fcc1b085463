//! What a caller may do: authorize, count the quota, open the transaction, record the wish.

pub mod auth;
pub mod authorize;
pub mod flavors;
mod write;

use std::ops::Deref;
use std::sync::Arc;

use sqlx::PgPool;
use sqlx::pool::PoolConnection;
use uuid::Uuid;

pub use write::{Begin, Write};

use crate::config::Config;
use crate::domain::clock::Clock;
use crate::domain::error::Result;
use crate::store::changes::Changes;

/// What every service function is given; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub db: PgPool,
    pub config: Config,
    pub clock: Clock,
    /// Our id in every stamp.
    pub cloud: Uuid,
    pub changes: Changes,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// A connection for reading.
    pub async fn conn(&self) -> Result<PoolConnection<sqlx::Postgres>> {
        Ok(self.db.acquire().await?)
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
