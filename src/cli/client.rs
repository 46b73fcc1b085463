//! The client commands: what people do with a cloud over HTTP. One table of nouns makes their common verbs.

mod act;
mod admin;
mod arguments;
mod connection;
mod events;
mod explain;
mod failure;
mod http;
mod images;
mod instances;
mod login;
mod members;
mod nouns;
mod table;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches, Subcommand};

use connection::Connection;
pub use explain::{Explain, run as explain};
pub use failure::Failure;
use nouns::{NOUNS, Noun};

/// A client command as the command line gave it.
#[derive(Debug)]
pub struct Command(ArgMatches);

/// Said at the end of `--help`.
pub const EXIT_CODES: &str = "\
Exit codes of the client commands: 0 done; 1 the server cannot be reached or failed; 2 wrong usage; 3 refused;
4 there is no such thing; 5 not logged in or not allowed; 6 what was waited for did not come in time; 7 `admin fsck` found
something.";

impl FromArgMatches for Command {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

impl Subcommand for Command {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        let command = NOUNS.iter().fold(command, |c, noun| c.subcommand(noun_command(noun)));
        command
            .subcommand(login::login_command())
            .subcommand(login::logout_command())
            .subcommand(Connection::augment_args(
                clap::Command::new("whoami").about("Show who you are, and in which tenant"),
            ))
            .subcommand(events::command())
            .subcommand(admin::command())
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        ["login", "logout", "whoami", "event", "admin"].contains(&name)
            || NOUNS.iter().any(|noun| noun.name == name)
    }
}

fn noun_command(noun: &'static Noun) -> clap::Command {
    let command = clap::Command::new(noun.name).about(noun.about).subcommand_required(true);
    let command = command.arg_required_else_help(true);
    let verbs = arguments::verbs(noun).into_iter();
    let more = match noun.name {
        "instance" => instances::verbs(),
        "image" => images::verbs(),
        "tenant" => members::verbs(),
        _ => Vec::new(),
    };
    verbs.chain(more).fold(command, |c, verb| c.subcommand(Connection::augment_args(verb)))
}

/// Does what the command says.
pub async fn run(Command(mut matches): Command) -> Result<()> {
    let Some((name, mut matches)) = matches.remove_subcommand() else {
        return Ok(());
    };
    match name.as_str() {
        "login" => return login::login(&matches).await,
        "logout" => return login::logout(&matches).await,
        "whoami" => return act::whoami(&matches).await,
        _ => {}
    }
    let Some((verb, arguments)) = matches.remove_subcommand() else { return Ok(()) };
    match name.as_str() {
        "event" => return events::run(&verb, &arguments).await,
        "admin" => return admin::run(&verb, &arguments).await,
        _ => {}
    }
    let Some(noun) = NOUNS.iter().find(|noun| noun.name == name) else { return Ok(()) };
    match (noun.name, verb.as_str()) {
        ("instance", verb) if instances::has(verb) => instances::run(verb, &arguments).await,
        ("image", "upload") => images::upload(&arguments).await,
        ("tenant", verb) if members::has(verb) => members::run(verb, &arguments).await,
        (_, verb) => act::run(noun, verb, &arguments).await,
    }
}
