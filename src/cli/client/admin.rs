//! `pileus admin`: how the cloud stands, what has stalled and what drifts; for admins.

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, value_parser};
use reqwest::Method;
use serde_json::{Value, json};

use super::act::{connect, show};
use super::arguments::switch;
use super::connection::Connection;
use super::failure::Failure;
use super::http::Http;
use super::nouns::noun;
use super::table;
use crate::cli::print;
use crate::domain::stalled::StalledKind;

type Columns = &'static [(&'static str, &'static str)];

const STALLED: Columns = &[
    ("KIND", "kind"),
    ("ID", "id"),
    ("NAME", "name"),
    ("STATE", "state"),
    ("SINCE", "since"),
    ("ATTEMPTS", "attempts"),
    ("NEXT", "next_attempt_at"),
    ("REASON", "reason"),
];

const DRIFT: Columns = &[
    ("HOST", "host_name"),
    ("KIND", "kind"),
    ("NAME", "name"),
    ("FATE", "fate"),
    ("SINCE", "first_seen_at"),
    ("SIGHTINGS", "sightings"),
    ("LAST ERROR", "last_error"),
];

const FINDINGS: Columns =
    &[("CHECK", "check"), ("HOST", "host_id"), ("THING", "thing"), ("WHAT", "detail")];

pub fn command() -> Command {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    let limit = || {
        Arg::new("limit")
            .long("limit")
            .value_name("N")
            .value_parser(value_parser!(u64))
            .help("At most so many")
    };
    let verbs = [
        Command::new("status").about("Show the cloud itself, and whether anything is removed"),
        Command::new("stalled").about("List what is not where it was wished to be").args([
            text("kind", "Only instance, host, host_image, network, image or fence"),
            text("state", "Only stalled, failing, waiting or down"),
            text("waiting-s", "What only waits, once it has waited for so long (60)"),
            limit(),
        ]),
        Command::new("retry").about("Try an item now, its failures forgotten").args([
            Arg::new("kind")
                .value_name("KIND")
                .required(true)
                .value_parser(StalledKind::ALL.map(StalledKind::as_str))
                .help("Its kind, as stalled shows it"),
            Arg::new("id").value_name("ID").required(true).action(ArgAction::Append).num_args(1..),
        ]),
        Command::new("drift")
            .about("List what is on the hosts and has no owner")
            .args([text("host", "Only what is on this host").value_name("ID|NAME"), limit()]),
        Command::new("fsck")
            .about("Compare database, hosts and image store; exit code 7 if they differ")
            .arg(switch(
                "deep",
                "Also read all bytes of all images, which takes as long as that takes",
            )),
        Command::new("resume").about(
            "Take this database for the cloud's record again, and sweep what it does not know",
        ),
        Command::new("rotate-keys").about("Replace the key that signs tokens").arg(switch(
            "revoke",
            "Also refuse every token of the old keys: everybody logs in again",
        )),
    ];
    let command = Command::new("admin").about("Look after the cloud (for admins)");
    let command = command.subcommand_required(true).arg_required_else_help(true);
    verbs.into_iter().fold(command, |c, verb| c.subcommand(Connection::augment_args(verb)))
}

pub async fn run(verb: &str, matches: &ArgMatches) -> Result<()> {
    let (http, as_json) = connect(matches).await?;
    match verb {
        "stalled" => {
            let query =
                query(matches, &[("kind", "kind"), ("state", "state"), ("waiting-s", "waiting_s")]);
            list(&http, "stalled", &query, matches, STALLED, as_json).await
        }
        "retry" => retry(&http, matches, as_json).await,
        "drift" => {
            let mut query = Vec::new();
            if let Some(host) = matches.get_one::<String>("host") {
                query.push(("host_id".to_owned(), http.resolve(noun("host"), host).await?));
            }
            list(&http, "drift", &query, matches, DRIFT, as_json).await
        }
        "fsck" => fsck(&http, matches.get_flag("deep"), as_json).await,
        "resume" => {
            show(&http.send(Method::POST, "/v1/cloud/actions/resume", None).await?, as_json)
        }
        "rotate-keys" => {
            let how = json!({ "revoke": matches.get_flag("revoke") });
            let cloud =
                http.send(Method::POST, "/v1/cloud/actions/rotate-keys", Some(&how)).await?;
            show(&cloud, as_json)
        }
        _ => show(&http.get("/v1/cloud").await?, as_json),
    }
}

fn query(matches: &ArgMatches, keys: &[(&str, &str)]) -> Vec<(String, String)> {
    let given = |flag: &str| matches.get_one::<String>(flag).cloned();
    keys.iter().filter_map(|(flag, key)| Some(((*key).to_owned(), given(flag)?))).collect()
}

async fn list(
    http: &Http,
    path: &str,
    query: &[(String, String)],
    matches: &ArgMatches,
    columns: Columns,
    as_json: bool,
) -> Result<()> {
    let most = matches.get_one::<u64>("limit").copied().unwrap_or(u64::MAX);
    let items = http.list(path, query, most).await?;
    if as_json {
        print(&format!("{:#}", json!(items)))
    } else {
        print(&table::columns(columns, &items))
    }
}

async fn retry(http: &Http, matches: &ArgMatches, as_json: bool) -> Result<()> {
    let kind = matches.get_one::<String>("kind").map_or("", String::as_str);
    let mut items = Vec::new();
    for id in matches.get_many::<String>("id").into_iter().flatten() {
        // A host has a name that people know.
        let id = if kind == "host" { http.resolve(noun("host"), id).await? } else { id.clone() };
        let path = format!("/v1/stalled/{kind}/{id}/actions/retry");
        items.push(http.send(Method::POST, &path, None).await?);
    }
    if as_json {
        print(&format!("{:#}", json!(items)))
    } else {
        print(&table::columns(STALLED, &items))
    }
}

async fn fsck(http: &Http, deep: bool, as_json: bool) -> Result<()> {
    let report = http.get(if deep { "/v1/fsck?deep=true" } else { "/v1/fsck" }).await?;
    if as_json {
        print(&format!("{report:#}"))?;
    } else {
        let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
        let rows: Vec<Value> = list("findings").into_iter().chain(list("silent")).collect();
        if !rows.is_empty() {
            print(&table::columns(FINDINGS, &rows))?;
        }
        print(&format!(
            "{} incarnations on {} hosts were compared; {} are being worked on and were left out; {} findings{}",
            report["incarnations"],
            report["hosts"],
            report["in_transit"],
            list("findings").len(),
            if report["cut"] == json!(true) { ", and more" } else { "" },
        ))?;
    }
    if report["clean"] == json!(true) {
        return Ok(());
    }
    Err(Failure::new(Failure::DIFFERS, "database, hosts and image store do not agree").into())
}
