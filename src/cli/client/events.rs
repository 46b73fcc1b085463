//! `pileus event list` and `follow`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Args, Command, value_parser};
use reqwest::Method;
use serde_json::{Value, json};

use super::act::connect;
use super::arguments::switch;
use super::connection::Connection;
use super::failure::Failure;
use super::http::{Http, encode};
use super::table;
use crate::cli::print;

const COLUMNS: &[(&str, &str)] = &[
    ("SEQ", "seq"),
    ("AT", "at"),
    ("KIND", "kind"),
    ("OUTCOME", "outcome"),
    ("NAME", "resource_name"),
    ("ACTOR", "actor"),
    ("DETAIL", "detail"),
];

pub fn command() -> Command {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    let filters = || {
        [
            text("kind", "Only events of exactly this kind, such as instance.create"),
            text("resource", "Only events about the thing of this id").value_name("ID"),
            text("after", "Only events after the one of this number").value_name("SEQ"),
            switch("all-tenants", "Every tenant's events and the cloud's own (for admins)"),
        ]
    };
    let last = Arg::new("last").long("last").value_name("N").value_parser(value_parser!(u64));
    let verbs = [
        Command::new("list")
            .visible_alias("ls")
            .about("List the newest events, oldest first")
            .arg(last.default_value("100").help("How many"))
            .args(filters()),
        Command::new("follow").about("Print events as they come").args(filters()),
    ];
    let command = Command::new("event").about("What was wished and seen").subcommand_required(true);
    let command = command.arg_required_else_help(true);
    verbs.into_iter().fold(command, |c, verb| c.subcommand(Connection::augment_args(verb)))
}

pub async fn run(verb: &str, matches: &ArgMatches) -> Result<()> {
    let (http, as_json) = connect(matches).await?;
    let mut query = Vec::new();
    for (flag, key) in [("kind", "kind"), ("resource", "resource_id"), ("after", "after")] {
        if let Some(value) = matches.get_one::<String>(flag) {
            query.push((key.to_owned(), value.clone()));
        }
    }
    if matches.get_flag("all-tenants") {
        query.push(("all_tenants".into(), "true".into()));
    }
    if verb == "follow" {
        return follow(matches, http, query, as_json).await;
    }
    query.push(("order".into(), "desc".into()));
    let last = matches.get_one::<u64>("last").copied().unwrap_or(100);
    let mut events = http.list("events", &query, last).await?;
    events.reverse();
    if as_json {
        print(&format!("{:#}", json!(events)))
    } else {
        print(&table::columns(COLUMNS, &events))
    }
}

/// Prints events as they come, and connects again, after the last one, whenever the stream ends.
async fn follow(
    matches: &ArgMatches,
    mut http: Http,
    query: Vec<(String, String)>,
    as_json: bool,
) -> Result<()> {
    let mut last: Option<String> = None;
    loop {
        let ended = stream(&http, &query, &mut last, as_json).await;
        if let Err(error) = ended {
            let refused = error.downcast_ref::<Failure>().map_or(0, |failure| failure.code);
            match refused {
                Failure::REFUSED | Failure::NOT_FOUND => return Err(error),
                // The token ended, perhaps: another may be had.
                Failure::NOT_ALLOWED => http = connect(matches).await?.0,
                _ => eprintln!("pileus: {error:#}; connecting again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn stream(
    http: &Http,
    query: &[(String, String)],
    last: &mut Option<String>,
    as_json: bool,
) -> Result<()> {
    let path = format!("/v1/events?{}", encode(query));
    let mut request = http.request(Method::GET, &path).header("accept", "text/event-stream");
    if let Some(last) = last.as_deref() {
        request = request.header("last-event-id", last);
    }
    let mut answer = http.open(request).await?;
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.context("the stream was cut")? {
        text.extend_from_slice(&chunk);
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = text.drain(..end + 2).collect();
            show(&String::from_utf8_lossy(&block), last, as_json)?;
        }
        if text.len() > 16 * 1024 * 1024 {
            bail!("the server sends an event without end: is it Pileus?");
        }
    }
    Ok(())
}

/// One event of the stream; comments are passed over.
fn show(block: &str, last: &mut Option<String>, as_json: bool) -> Result<()> {
    let field = |name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start().to_owned())
    };
    let Some(data) = field("data:") else { return Ok(()) };
    if let Some(id) = field("id:") {
        *last = Some(id);
    }
    let data: Value = serde_json::from_str(&data).context("an event is no JSON")?;
    match field("event:").as_deref() {
        Some("gap") => {
            eprintln!(
                "pileus: events up to {} may be missing: they are no longer kept",
                data["forgotten_seq"]
            );
            Ok(())
        }
        Some("end") => {
            eprintln!("pileus: the stream ended: {}", table::cell(&data, "reason"));
            Ok(())
        }
        _ if as_json => print(&data.to_string()),
        _ => {
            let cells: Vec<_> = COLUMNS.iter().map(|(_, path)| table::cell(&data, path)).collect();
            print(&cells.join("  "))
        }
    }
}
