//! `pileus placement explain`: which host an instance would get now, or what stands in the way and what would do.

use std::fmt::Write;

use anyhow::Result;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use reqwest::Method;
use serde_json::{Value, json};

use super::act::connect;
use super::arguments::{argument, body};
use super::connection::Connection;
use super::nouns::{Field, Kind};
use super::table;
use crate::cli::print;

const fn may(flag: &'static str, key: &'static str, kind: Kind, help: &'static str) -> Field {
    Field { flag, key, kind, required: false, help }
}

const FIELDS: &[Field] = &[
    may("flavor", "flavor", Kind::Text, "Id or name of a flavor"),
    may("vcpus", "vcpus", Kind::Number, "Virtual CPUs, instead of a flavor"),
    may("memory-mib", "memory_mib", Kind::Number, "Memory in MiB, instead of a flavor"),
    may("disk-gib", "disk_gib", Kind::Number, "Root disk in GiB, instead of a flavor"),
    may("policy", "policy", Kind::Text, super::nouns::POLICIES),
    may("zone", "zone", Kind::Text, "Only hosts of this zone"),
    may(
        "trait",
        "required_traits",
        Kind::Texts,
        "What the host must offer; may be given several times",
    ),
    may(
        "without-trait",
        "forbidden_traits",
        Kind::Texts,
        "What it must not offer; may be given several times",
    ),
    may("image", "image", Kind::Text, "Id or name of an image"),
    may("group", "group", Kind::Text, "Id or name of a group"),
    may("reservation", "reservation", Kind::Text, "Id or name of a reservation, to take a slot of"),
    may("expires-at", "expires_at", Kind::Text, "When it would end, such as 2030-01-31T12:00:00Z"),
];

/// The question as the command line gave it.
#[derive(Debug)]
pub struct Explain(ArgMatches);

impl FromArgMatches for Explain {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

impl Args for Explain {
    fn augment_args(command: Command) -> Command {
        let command = FIELDS.iter().fold(command, |command, field| command.arg(argument(field)));
        Connection::augment_args(command.arg(super::arguments::set(false)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

pub async fn run(Explain(matches): Explain) -> Result<()> {
    let (http, as_json) = connect(&matches).await?;
    let query = body(&http, FIELDS, &matches).await?;
    let answer = http.send(Method::POST, "/v1/placement/explain", Some(&query)).await?;
    if as_json { print(&format!("{answer:#}")) } else { print(&text(&answer)) }
}

fn text(answer: &Value) -> String {
    let placement = &answer["placement"];
    let mut text = format!("{}\n", placement["summary"].as_str().unwrap_or_default());
    if answer["waiting"].as_i64().is_some_and(|waiting| waiting > 0) {
        let _ = writeln!(text, "{} instances wait for room", answer["waiting"]);
    }
    let all = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let classes: Vec<_> = all(&placement["classes"])
        .into_iter()
        .map(|class| {
            let size = |of: &Value| {
                format!("{} vCPU, {} MiB, {} GiB", of["vcpus"], of["memory_mib"], of["disk_gib"])
            };
            let names = all(&class["sample"]).iter().filter_map(|host| host["name"].as_str().map(str::to_owned)).collect::<Vec<_>>();
            let refused = all(&class["refused_by"]).iter().map(short).collect::<Vec<_>>();
            json!({
                "hosts": class["hosts"], "names": names.join(", "), "state": class["state"], "zone": class["zone"],
                "free": size(&class["free"]), "limit": size(&class["limit"]), "refused_by": refused.join("; "),
            })
        })
        .collect();
    if !classes.is_empty() {
        text.push('\n');
        text.push_str(&table::columns(
            &[
                ("HOSTS", "hosts"),
                ("SUCH AS", "names"),
                ("STATE", "state"),
                ("ZONE", "zone"),
                ("FREE", "free"),
                ("OF", "limit"),
                ("REFUSED BY", "refused_by"),
            ],
            &classes,
        ));
    }
    let changes = all(&placement["would_fit_if"]);
    if !changes.is_empty() {
        text.push_str("\nIt would fit with one of these changes:\n");
        for change in &changes {
            let _ = writeln!(text, "  {}", short(change));
        }
    }
    text
}

/// `vcpus lacks=40 need=64` of `{"constraint": "vcpus", "need": 64, "lacks": 40}`.
fn short(tagged: &Value) -> String {
    let Some(object) = tagged.as_object() else { return tagged.to_string() };
    let tag = object.get("constraint").or_else(|| object.get("change")).and_then(Value::as_str);
    let mut text = tag.unwrap_or_default().to_owned();
    for (key, value) in object {
        let says = !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
        if key != "constraint" && key != "change" && says {
            let _ = write!(text, " {key}={}", value.to_string().replace(['"', '{', '}'], ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_told_in_lines() {
        let answer = json!({ "fits": false, "waiting": 2, "placement": {
            "summary": "no host has room", "classes": [{
                "hosts": 3, "sample": [{"id": "x", "name": "node-1"}], "state": "ready", "zone": "east",
                "free": {"vcpus": 1, "memory_mib": 2, "disk_gib": 3}, "limit": {"vcpus": 4, "memory_mib": 5, "disk_gib": 6},
                "refused_by": [{"constraint": "vcpus", "need": 8, "have": 1, "lacks": 7}] }],
            "would_fit_if": [{"change": "other_flavor", "name": "nano"}, {"change": "host_added", "zone": null, "traits": []}] } });
        let text = text(&answer);
        for part in [
            "no host has room",
            "2 instances wait",
            "node-1",
            "1 vCPU, 2 MiB, 3 GiB",
            "vcpus have=1 lacks=7 need=8",
            "other_flavor name=nano",
            "host_added\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
