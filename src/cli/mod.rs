//! The command line for people: `up`, the server's own commands, and one file a noun for client commands.

mod client;
mod completions;
mod config;
mod limits;
mod logging;
mod migrate;
mod openapi;
mod placement;
pub mod postgres;
mod serve;
mod signals;
mod traces;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::config::Flags;
use crate::hypervisor;

/// A small cloud in one binary.
#[derive(Debug, Parser)]
#[command(name = "pileus", version, about, propagate_version = true, infer_subcommands = true, after_help = client::EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// To add a client command: a file of the noun's name beside this one, a variant here, an arm in `run`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cloud on this machine: database, libvirt, API
    Up(Box<Flags>),
    /// Run the server on a database and hosts that exist: everything from settings
    Serve(Box<Flags>),
    /// Bring the database to this version's schema, and end
    Migrate(Box<Flags>),
    /// Print every setting with its value and source
    Config(Box<config::Options>),
    /// Print the OpenAPI document
    Openapi(openapi::Options),
    /// Explain where an instance would go; replay traces of VMs over imagined hosts
    Placement(placement::Options),
    /// Print a shell's completions
    Completions(completions::Options),
    /// What a cloud is used with
    #[command(flatten)]
    Client(client::Command),
}

/// Runs the command that was asked for. Errors go to standard error, in a line that says what would do.
pub fn main() -> ExitCode {
    hypervisor::keep_little_memory();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pileus: {e:#}");
            e.downcast_ref().map_or(ExitCode::FAILURE, |f: &client::Failure| f.code.into())
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(flags) => block_on(up::run(*flags)),
        Command::Serve(flags) => block_on(serve::run(*flags)),
        Command::Migrate(flags) => block_on(migrate::run(*flags)),
        Command::Config(options) => config::run(*options),
        Command::Openapi(options) => openapi::run(&options),
        Command::Placement(options) => block_on(placement::run(options)),
        Command::Completions(options) => completions::run(&options),
        Command::Client(command) => block_on(client::run(command)),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the threads of the server cannot be started")?;
    let result = runtime.block_on(work);
    // A call to a host may hang in its thread; it must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Writes to standard output; a reader that has had enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write};
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_has_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_setting_is_a_flag_of_the_commands_that_need_it() {
        for command in ["up", "serve", "migrate", "config"] {
            Cli::try_parse_from(["pileus", command, "--listen", "[::1]:80"]).unwrap();
        }
        assert!(Cli::try_parse_from(["pileus", "openapi", "--listen", "[::1]:80"]).is_err());
    }
}
