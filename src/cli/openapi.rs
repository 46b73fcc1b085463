//! `pileus openapi`: the document that SDKs are generated from.

use anyhow::Result;
use clap::Args;

use crate::api::documents::{self, Version};

#[derive(Debug, Args)]
pub struct Options {
    /// As OpenAPI 3.0.3, for generators that do not read 3.1
    #[arg(long = "3.0")]
    old: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let version = if options.old { Version::V30 } else { Version::V31 };
    super::print(&documents::pretty(version)?)
}
