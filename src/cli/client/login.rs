//! `pileus login` and `logout`: a token kept for the commands that follow.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use reqwest::Method;
use serde_json::json;

use super::arguments::read;
use super::connection::Connection;
use super::http::Http;
use crate::cli::print;
use crate::config::Secret;

pub fn login_command() -> Command {
    let command = Command::new("login").about("Log in, and keep the token for the next commands").args([
        Arg::new("user").long("user").env("PILEUS_USER").required(true).help("The user's name"),
        Arg::new("tenant").long("tenant").env("PILEUS_TENANT").help("The tenant to act in"),
        Arg::new("password").long("password-file").value_name("FILE").help(
            "The file that holds the password, -: standard input; without: PILEUS_PASSWORD, or it is asked for",
        ),
        Arg::new("variable").env("PILEUS_PASSWORD").hide_env_values(true).hide(true).long("password"),
        Arg::new("days").long("days").value_name("N").value_parser(value_parser!(i64).range(1..=3650)).help(
            "Keep an API token of so many days instead of a login's, which ends soon",
        ),
    ]);
    Connection::augment_args(command)
}

pub fn logout_command() -> Command {
    let command =
        Command::new("logout").about("Forget the token, and revoke it if it is an API token");
    Connection::augment_args(command)
}

pub async fn login(matches: &ArgMatches) -> Result<()> {
    let connection = Connection::from_arg_matches(matches)?;
    let text = |key: &str| matches.get_one::<String>(key).map(String::as_str);
    let user = text("user").unwrap_or_default();
    let password = Secret::new(match (text("password"), text("variable")) {
        (Some(path), _) => read(path)?,
        (None, Some(password)) => password.into(),
        (None, None) => ask(user)?,
    });
    let url = connection.login_url();
    let mut kept = Http::new(&url, None)?.login(user, &password, text("tenant")).await?;
    if let Some(days) = matches.get_one::<i64>("days") {
        let wish = json!({ "name": "pileus login", "expires_in_s": days * 86400 });
        let http = Http::new(&url, Some(&kept.token))?;
        let made = http.send(Method::POST, "/v1/tokens", Some(&wish)).await?;
        let secret = made["secret"].as_str().context("the answer holds no token")?;
        kept.token = secret.into();
        kept.token_id = made["token"]["id"].as_str().map(str::to_owned);
        kept.expires_at = serde_json::from_value(made["token"]["expires_at"].clone())?;
    }
    let path = connection.keep(&kept)?;
    let tenant = kept.tenant.map_or("no tenant".into(), |name| format!("tenant {name}"));
    let until = kept.expires_at.map_or("revoked".into(), |end| end.to_rfc3339());
    print(&format!(
        "logged in at {url} as {user} in {tenant} until {until}; kept in {}",
        path.display()
    ))
}

pub async fn logout(matches: &ArgMatches) -> Result<()> {
    let connection = Connection::from_arg_matches(matches)?;
    let Some(kept) = connection.kept()? else { return print("nobody is logged in") };
    if let Some(id) = &kept.token_id {
        let revoke = Http::new(&kept.url, Some(&kept.token))?;
        let revoked = revoke.send(Method::DELETE, &format!("/v1/tokens/{id}"), None).await;
        // A token that ended or was revoked is what we want.
        if let Err(error) = revoked {
            eprintln!("pileus: the token was not revoked: {error:#}");
        }
    }
    connection.forget()
}

/// Asks for a password; on a terminal it is not shown.
fn ask(user: &str) -> Result<String> {
    let stdin = std::io::stdin();
    let mut line = String::new();
    if !stdin.is_terminal() {
        stdin.lock().read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\r', '\n']).into());
    }
    eprint!("password of {user}: ");
    std::io::stderr().flush()?;
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSANOW, &hidden)?;
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, SetArg::TCSANOW, &shown)?;
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).into())
}
