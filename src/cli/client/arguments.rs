//! The arguments of the common verbs, made from the table of nouns, and the bodies made from them.

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

use super::http::Http;
use super::nouns::{Field, Kind, Noun, noun};

/// list, show, create, update, delete.
pub fn verbs(noun: &'static Noun) -> Vec<Command> {
    let mut verbs = vec![list(noun), show(), delete(noun)];
    if !noun.fields.is_empty() {
        verbs.push(create(noun));
    }
    if noun.changes {
        verbs.push(update());
    }
    verbs
}

fn list(noun: &Noun) -> Command {
    let mut command =
        Command::new("list").visible_alias("ls").about("List them, oldest first").args([
            Arg::new("limit")
                .long("limit")
                .value_name("N")
                .value_parser(value_parser!(u64))
                .help("At most so many"),
            Arg::new("filter")
                .long("filter")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("Any filter of the API, such as status=running; may be given several times"),
        ]);
    if noun.by_name {
        command =
            command.arg(Arg::new("name").long("name").help("Only those of exactly this name"));
    }
    if noun.labels {
        command = command.arg(
            Arg::new("label")
                .long("label")
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .help("Only those with this label; may be given several times"),
        );
    }
    if noun.tenants {
        command = command.arg(switch("all-tenants", "Those of all tenants (for admins)"));
    }
    command
}

fn show() -> Command {
    Command::new("show").about("Show one").arg(which())
}

fn delete(noun: &Noun) -> Command {
    let command = Command::new("delete")
        .visible_alias("rm")
        .about("Delete")
        .args([which().num_args(1..), switch("ignore-missing", "What is not there is no error")]);
    if noun.name == "instance" { command.args(super::instances::waiting()) } else { command }
}

fn create(noun: &'static Noun) -> Command {
    let command = Command::new("create").visible_alias("add").about("Make one").arg(set(false));
    noun.fields.iter().fold(command, |command, field| command.arg(argument(field)))
}

fn update() -> Command {
    Command::new("update").about("Change one").args([which(), set(true)])
}

/// An id or a name.
pub fn which() -> Arg {
    Arg::new("which").value_name("ID|NAME").required(true)
}

pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

pub fn set(required: bool) -> Arg {
    Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append).required(required).help(
        "Any field of the body: the value as JSON, or else as text; quota.vcpus=8 for what is nested",
    )
}

pub fn argument(field: &'static Field) -> Arg {
    let arg = Arg::new(field.key).help(field.help).required(field.required);
    let arg = if field.flag.chars().all(|c| c.is_ascii_uppercase()) {
        arg.value_name(field.flag)
    } else {
        arg.long(field.flag)
    };
    match field.kind {
        Kind::Text => arg,
        Kind::Number => arg.value_parser(value_parser!(i64)),
        Kind::Switch | Kind::Off => arg.action(ArgAction::SetTrue),
        Kind::Texts => arg.action(ArgAction::Append),
        Kind::Pairs => arg.action(ArgAction::Append).value_name("KEY=VALUE"),
        Kind::File => arg.value_name("FILE"),
        Kind::Id(_) => arg.value_name("ID|NAME"),
        Kind::Ids(_) => arg.value_name("ID|NAME").action(ArgAction::Append),
    }
}

/// The body of `create`.
pub async fn body(http: &Http, fields: &[Field], matches: &ArgMatches) -> Result<Value> {
    let mut body = Map::new();
    for field in fields {
        let text = || matches.get_one::<String>(field.key);
        let value = match field.kind {
            Kind::Text => text().map(|text| json!(text)),
            Kind::Number => matches.get_one::<i64>(field.key).map(|number| json!(number)),
            Kind::Switch => matches.get_flag(field.key).then_some(Value::Bool(true)),
            Kind::Off => matches.get_flag(field.key).then_some(Value::Bool(false)),
            Kind::Texts => texts(matches, field.key).map(|texts| json!(texts)),
            Kind::Pairs => texts(matches, field.key).map(pairs).transpose()?,
            Kind::File => text().map(|path| read(path)).transpose()?.map(|text| json!(text)),
            Kind::Id(other) => match text() {
                Some(text) => Some(json!(http.resolve(noun(other), text).await?)),
                None => None,
            },
            Kind::Ids(other) => match texts(matches, field.key) {
                Some(all) => {
                    let mut ids = Vec::new();
                    for text in all {
                        ids.push(http.resolve(noun(other), text).await?);
                    }
                    Some(json!(ids))
                }
                None => None,
            },
        };
        if let Some(value) = value {
            body.insert(field.key.into(), value);
        }
    }
    let mut body = Value::Object(body);
    merge(&mut body, matches)?;
    Ok(body)
}

/// Puts what `--set` says into the body.
pub fn merge(body: &mut Value, matches: &ArgMatches) -> Result<()> {
    for pair in texts(matches, "set").into_iter().flatten() {
        let (key, text) =
            pair.split_once('=').with_context(|| format!("--set {pair}: give KEY=VALUE"))?;
        let value = serde_json::from_str(text).unwrap_or_else(|_no_json| json!(text));
        let mut place = &mut *body;
        for part in key.split('.') {
            if !place.is_object() {
                bail!("--set {pair}: {part} stands in what is no object");
            }
            place = &mut place[part];
            if place.is_null() {
                *place = json!({});
            }
        }
        *place = value;
    }
    Ok(())
}

/// What was given for an argument that may be given several times; `None` if it was not.
pub fn texts<'m>(matches: &'m ArgMatches, key: &str) -> Option<Vec<&'m str>> {
    let given = matches.try_get_many::<String>(key).ok().flatten()?;
    Some(given.map(String::as_str).collect())
}

/// `KEY=VALUE`s as an object.
pub fn pairs(pairs: Vec<&str>) -> Result<Value> {
    let mut object = Map::new();
    for pair in pairs {
        let (key, value) =
            pair.split_once('=').with_context(|| format!("{pair:?} is no KEY=VALUE"))?;
        object.insert(key.into(), json!(value));
    }
    Ok(Value::Object(object))
}

/// A file's text without its last new line; `-`: standard input.
pub fn read(path: &str) -> Result<String> {
    let text = if path == "-" {
        std::io::read_to_string(std::io::stdin()).context("standard input cannot be read")?
    } else {
        std::fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?
    };
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}
