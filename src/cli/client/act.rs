//! The common verbs: list, show, create, update, delete.

use anyhow::Result;
use clap::{ArgMatches, FromArgMatches};
use reqwest::Method;
use serde_json::{Value, json};

use super::arguments::{body, merge, texts};
use super::connection::Connection;
use super::failure::Failure;
use super::http::Http;
use super::nouns::Noun;
use super::{instances, table};
use crate::cli::print;

/// A connection as the arguments say, and whether JSON is wanted.
pub async fn connect(matches: &ArgMatches) -> Result<(Http, bool)> {
    let connection = Connection::from_arg_matches(matches)?;
    let json = connection.json();
    Ok((connection.open().await?, json))
}

pub async fn whoami(matches: &ArgMatches) -> Result<()> {
    let (http, json) = connect(matches).await?;
    show(&http.get("/v1/auth/whoami").await?, json)
}

pub async fn run(noun: &'static Noun, verb: &str, matches: &ArgMatches) -> Result<()> {
    let (http, json) = connect(matches).await?;
    let path = |id: &str| format!("/v1/{}/{id}", noun.path);
    match verb {
        "list" => list(&http, noun, matches, json).await,
        "show" => show(&http.get(&path(&which(&http, noun, matches).await?)).await?, json),
        "create" => {
            let new = body(&http, noun.fields, matches).await?;
            show(&http.send(Method::POST, &format!("/v1/{}", noun.path), Some(&new)).await?, json)
        }
        "update" => {
            let mut change = json!({});
            merge(&mut change, matches)?;
            let path = path(&which(&http, noun, matches).await?);
            show(&http.send(Method::PATCH, &path, Some(&change)).await?, json)
        }
        "delete" => delete(&http, noun, matches).await,
        other => anyhow::bail!("{} has no {other}", noun.name),
    }
}

/// The id of what the first argument names.
pub async fn which(http: &Http, noun: &'static Noun, matches: &ArgMatches) -> Result<String> {
    let text = matches.get_one::<String>("which").map_or("", String::as_str);
    http.resolve(noun, text).await
}

async fn list(http: &Http, noun: &'static Noun, matches: &ArgMatches, json: bool) -> Result<()> {
    let mut query = Vec::new();
    for pair in texts(matches, "filter").into_iter().flatten() {
        let Some((key, value)) = pair.split_once('=') else {
            anyhow::bail!("--filter {pair}: give KEY=VALUE")
        };
        query.push((key.to_owned(), value.to_owned()));
    }
    if let Ok(Some(name)) = matches.try_get_one::<String>("name") {
        query.push(("name".into(), name.clone()));
    }
    if let Some(labels) = texts(matches, "label") {
        query.push(("label".into(), labels.join(",")));
    }
    if matches!(matches.try_get_one::<bool>("all-tenants"), Ok(Some(true))) {
        query.push(("all_tenants".into(), "true".into()));
    }
    let most = matches.get_one::<u64>("limit").copied().unwrap_or(u64::MAX);
    let values = http.list(noun.path, &query, most).await?;
    if json { print(&format!("{:#}", json!(values))) } else { print(&table::rows(noun, &values)) }
}

async fn delete(http: &Http, noun: &'static Noun, matches: &ArgMatches) -> Result<()> {
    let ignore = matches.get_flag("ignore-missing");
    let query = if noun.name == "instance" { instances::wait_query(matches) } else { None };
    for text in matches.get_many::<String>("which").into_iter().flatten() {
        let done = delete_one(http, noun, text, query.as_ref()).await;
        let missing = done.as_ref().err().and_then(|e| e.downcast_ref::<Failure>());
        if !(ignore && missing.is_some_and(|f| f.code == Failure::NOT_FOUND)) {
            done?;
        }
    }
    Ok(())
}

async fn delete_one(
    http: &Http,
    noun: &'static Noun,
    text: &str,
    wait: Option<&instances::Wait>,
) -> Result<()> {
    let id = http.resolve(noun, text).await?;
    let path = format!("/v1/{}/{id}", noun.path);
    let Some(wait) = wait else { return http.send(Method::DELETE, &path, None).await.map(drop) };
    let instance = http.send(Method::DELETE, &format!("{path}?{}", wait.query()), None).await?;
    wait.check(&instance)
}

/// Prints one thing.
pub fn show(value: &Value, json: bool) -> Result<()> {
    if json { print(&format!("{value:#}")) } else { print(&table::fields(value)) }
}
