//! `pileus tenant members`, `add-member`, `remove-member`: which role a user has in a tenant.

use anyhow::Result;
use clap::{Arg, ArgMatches, Command};
use reqwest::Method;
use serde_json::json;

use super::act::{connect, show, which};
use super::arguments;
use super::nouns::noun;
use super::table;
use crate::cli::print;

const COLUMNS: &[(&str, &str)] = &[("USER", "user_name"), ("USER ID", "user_id"), ("ROLE", "role")];

pub fn verbs() -> Vec<Command> {
    let user = || Arg::new("user").value_name("USER").required(true).help("Id or name of the user");
    let role = Arg::new("role").value_name("ROLE").required(true).help("reader, member or owner");
    vec![
        Command::new("members").about("List a tenant's members").arg(arguments::which()),
        Command::new("add-member").about("Give a user a role in a tenant, or change it").args([
            arguments::which(),
            user(),
            role,
        ]),
        Command::new("remove-member")
            .about("Take a user out of a tenant")
            .args([arguments::which(), user()]),
    ]
}

pub fn has(verb: &str) -> bool {
    matches!(verb, "members" | "add-member" | "remove-member")
}

pub async fn run(verb: &str, matches: &ArgMatches) -> Result<()> {
    let (http, as_json) = connect(matches).await?;
    let path = format!("tenants/{}/members", which(&http, noun("tenant"), matches).await?);
    if verb == "members" {
        let members = http.list(&path, &[], u64::MAX).await?;
        let text = table::columns(COLUMNS, &members);
        return print(&if as_json { format!("{:#}", json!(members)) } else { text });
    }
    let user = matches.get_one::<String>("user").map_or("", String::as_str);
    let path = format!("/v1/{path}/{}", http.resolve(noun("user"), user).await?);
    if verb == "remove-member" {
        return http.send(Method::DELETE, &path, None).await.map(drop);
    }
    let role = matches.get_one::<String>("role");
    show(&http.send(Method::PUT, &path, Some(&json!({ "role": role }))).await?, as_json)
}
