//! `pileus openapi`: the document that SDKs are generated from.

use anyhow::Result;
use clap::Args;

use crate::api::{self, documents};

#[derive(Debug, Args)]
pub struct Options {
    /// As OpenAPI 3.0.3, for generators that do not read 3.1
    #[arg(long = "3.0")]
    old: bool,
}

pub fn run(options: Options) -> Result<()> {
    super::print(&documents::pretty(&api::openapi(), options.old)?)
}
