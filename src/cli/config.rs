//! `pileus config`: every setting with its value and where the value came from; secrets redacted.

use anyhow::Result;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};

use crate::config::{Config, Flags, Row};

#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

pub fn run(options: Options) -> Result<()> {
    let config = Config::from_process(&options.flags)?;
    for warning in config.warnings() {
        eprintln!("pileus: {warning}");
    }
    let rows = config.rows();
    super::print(&if options.json { serde_json::to_string_pretty(&rows)? } else { table(&rows) })
}

/// A heading a group, a line a setting.
fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let mut group = "";
    for row in rows {
        if row.group != group {
            let space = if group.is_empty() { "" } else { "\n" };
            group = row.group;
            table.add_row([format!("{space}{}", group.to_uppercase())]);
        }
        table.add_row([row.setting, &row.value, &row.source, row.help]);
    }
    table.to_string()
}
