//! Text that people choose: names, labels and descriptions, parsed once at the door.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, Result};

/// Longest name, in characters: a DNS label, since an instance's name becomes its hostname.
pub const NAME_MAX: usize = 63;

/// A name: 1 to 63 characters of letters, digits, `.`, `_`, `-` and space, in any script; no space at either end.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = String, min_length = 1, max_length = 63, example = "ci-runner-1")]
pub struct Name(String);

impl Name {
    /// Refuses what would be unreadable in a list, a log or a terminal, and says which rule was broken.
    pub fn parse(pointer: &str, text: &str) -> Result<Self> {
        let length = text.chars().count();
        if length == 0 || length > NAME_MAX {
            return Err(Error::field(
                pointer,
                format!("must have 1 to {NAME_MAX} characters, has {length}"),
            ));
        }
        let odd =
            text.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ')));
        if let Some(odd) = odd {
            let detail = "may hold letters, digits, '.', '_', '-' and spaces, not";
            return Err(Error::field(
                pointer,
                format!("{detail} {:?} (U+{:04X})", odd, u32::from(odd)),
            ));
        }
        if text.starts_with(' ') || text.ends_with(' ') {
            return Err(Error::field(pointer, "must not begin or end with a space"));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a DNS label (RFC 1123): lower case, everything else a hyphen; `fallback` where nothing is left.
    pub fn hostname(&self, fallback: &str) -> String {
        let label: String = self
            .0
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let label = label.trim_matches('-');
        if label.is_empty() { fallback.to_owned() } else { label.to_owned() }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Labels: at most 32 pairs; keys of 1 to 63 characters of `[A-Za-z0-9._/-]`, values of up to 255 without control characters.
pub type Labels = BTreeMap<String, String>;

pub fn check_labels(pointer: &str, labels: &Labels) -> Result<()> {
    if labels.len() > 32 {
        return Err(Error::field(
            pointer,
            format!("may hold up to 32 labels, holds {}", labels.len()),
        ));
    }
    for (key, value) in labels {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-');
        let at = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
        if key.is_empty() || key.len() > 63 || !key.chars().all(fits) {
            return Err(Error::field(
                at,
                "a label's key must have 1 to 63 characters of A-Z a-z 0-9 . _ / -",
            ));
        }
        if value.chars().count() > 255 || value.chars().any(char::is_control) {
            return Err(Error::field(
                at,
                "a label's value may have up to 255 characters and no control characters",
            ));
        }
    }
    Ok(())
}

/// Labels as a query parameter gives them: `key=value`, separated by commas; empty: none.
pub fn parse_labels(pointer: &str, text: &str) -> Result<Labels> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let split = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Error::field(pointer, "must be key=value, and key=value,key=value for several")
        })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    let labels = pairs.map(split).collect::<Result<Labels>>()?;
    check_labels(pointer, &labels)?;
    Ok(labels)
}

/// Free text of up to `max` characters; new lines and tabs are its only control characters.
pub fn check_text(pointer: &str, text: &str, max: usize) -> Result<()> {
    if text.chars().count() > max {
        return Err(Error::field(pointer, format!("may have up to {max} characters")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Error::field(pointer, "must not hold control characters"));
    }
    Ok(())
}

/// What a host or its libvirt said, without where things lie and what others are: paths, addresses and UUIDs. For those who may
/// know what failed and not where.
pub fn without_places(said: &str) -> String {
    let edge = |c: char| c.is_whitespace() || "'\"`(),;=[]{}<>|".contains(c);
    let mut told = String::with_capacity(said.len());
    for piece in said.split_inclusive(edge) {
        let word = piece.trim_end_matches(|c: char| edge(c) || ":.".contains(c));
        let after = &piece[word.len()..];
        match word {
            _ if word.len() > 1 && word.starts_with('/') => told.push_str("<path>"),
            _ if word.contains("://") => told.push_str("<address>"),
            _ if word.contains(":/") => {
                told.push_str(&word[..=word.find(':').unwrap_or_default()]);
                told.push_str("<path>");
            }
            _ => told.push_str(&without_ids(word)),
        }
        told.push_str(after);
    }
    told
}

fn without_ids(word: &str) -> String {
    const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;
    let is_id = |at: usize| {
        let id = word.get(at..at + LENGTH);
        id.is_some_and(|id| id.as_bytes()[8] == b'-' && id.parse::<uuid::Uuid>().is_ok())
    };
    match (0..word.len().saturating_sub(LENGTH - 1)).find(|at| is_id(*at)) {
        Some(at) => format!("{}<id>{}", &word[..at], without_ids(&word[at + LENGTH..])),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_said_is_told_without_paths_addresses_and_ids() {
        let id = "0197a3f0-4c5e-8d3a-9d2f-000000000017";
        let cases = [
            (
                format!(
                    "Cannot access storage file '/srv/pools/disk-{id}.qcow2' (as uid:64055): No such file"
                ),
                "Cannot access storage file '<path>' (as uid:64055): No such file",
            ),
            ("mkdir /var/lib: 1/2 done".into(), "mkdir <path>: 1/2 done"),
            (
                format!("at qemu+tls://node7/system: the domain x-{id}-{id} ({id}; boot 3), é{id}"),
                "at <address>: the domain x-<id>-<id> (<id>; boot 3), é<id>",
            ),
            ("no room: 5 of 7 GiB".into(), "no room: 5 of 7 GiB"),
            (
                r#"-blockdev {"driver":"file","filename":"/srv/pools/x.iso","node":"n"}: file:/srv/x is [/srv/y]"#
                    .into(),
                r#"-blockdev {"driver":"file","filename":"<path>","node":"n"}: file:<path> is [<path>]"#,
            ),
        ];
        for (said, told) in cases {
            assert_eq!(without_places(&said), told);
        }
    }

    #[test]
    fn a_name_of_any_script_is_taken_and_control_characters_and_emoji_are_not() {
        assert!(Name::parse("/name", "Änne 7.b_c-d").is_ok());
        for bad in ["", " a", "a ", "a\nb", "a\0", "🦀", "a<b", "a'; drop table", &"x".repeat(64)]
        {
            let error = Name::parse("/name", bad).expect_err(bad);
            assert!(error.to_string().contains("/name"), "{error}");
        }
    }

    #[test]
    fn labels_of_a_query_are_pairs() {
        let labels = parse_labels("?label", "os=debian,x=a=b").expect("labels");
        assert_eq!(labels, [("os".into(), "debian".into()), ("x".into(), "a=b".into())].into());
        assert!(parse_labels("?label", "").expect("none").is_empty());
        for bad in ["os", "=x", "a b=c", "a=\u{7}"] {
            let error = parse_labels("?label", bad).expect_err(bad);
            assert!(error.to_string().contains("?label"), "{error}");
        }
    }

    #[test]
    fn a_hostname_is_a_dns_label_whatever_the_name() {
        assert_eq!(Name::parse("", "My Runner.1").expect("name").hostname("vm"), "my-runner-1");
        assert_eq!(Name::parse("", "日本").expect("name").hostname("vm-1"), "vm-1");
    }
}
