//! `pileus completions SHELL`: what a shell needs to complete our commands.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct Options {
    /// The shell; bash: `pileus completions bash > /etc/bash_completion.d/pileus`
    shell: Shell,
}

pub fn run(options: &Options) -> Result<()> {
    // To memory first: clap_complete panics where the reader of a pipe has gone.
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut super::Cli::command(), "pileus", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}
