//! Every setting, from flag, variable, file or default, in that order; the only reader of the environment.

mod flags;
mod settings;
#[cfg(test)]
mod tests;
mod traces;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

pub use flags::Flags;
pub use settings::{Config, SETTINGS, Setting};
pub use traces::Traces;
pub use value::{LogFormat, Secret, Value};

/// Variables that begin like settings and are none: what the client commands read, through clap.
const CLIENT_VARIABLES: &[&str] = &[
    "PILEUS_CONFIG",
    "PILEUS_URL",
    "PILEUS_TOKEN",
    "PILEUS_USER",
    "PILEUS_PASSWORD",
    "PILEUS_TENANT",
];

/// Settings that have a second variable, one that others know too.
const FOREIGN: &[(&str, &str)] = &[("database_url", "DATABASE_URL")];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Flag(String),
    Variable(String),
    /// A variable `PILEUS_…_FILE` named the file that holds the secret.
    SecretFile(String, PathBuf),
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::SecretFile(name, path) => write!(f, "variable {name} ({})", path.display()),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The text of each setting and its source, and what should be said but stops nobody.
#[derive(Debug, Clone, Default)]
struct Origins {
    texts: BTreeMap<&'static str, (Redacted, Source)>,
    warnings: Vec<String>,
}

/// A text that may be secret: it has no readable `Debug`.
#[derive(Clone, Default)]
struct Redacted(String);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Everything that is wrong with the configuration, a sentence each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .problems.join("\n  "))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

/// One line of `pileus config`.
#[derive(Debug, serde::Serialize)]
pub struct Row {
    pub setting: &'static str,
    pub group: &'static str,
    /// Redacted where it is secret; empty where it is not set.
    pub value: String,
    pub source: String,
    pub flag: String,
    pub variable: String,
    pub default: &'static str,
    pub help: &'static str,
}

impl Config {
    /// From this process's environment. Errors name setting, source, fault and remedy.
    pub fn from_process(flags: &Flags) -> Result<Self, ConfigError> {
        Self::load(flags, std::env::vars_os())
    }

    /// Flag, then variable, then file, then default. An empty variable counts as not set.
    pub fn load(
        flags: &Flags,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let env = own_variables(env, &mut problems);
        let path = flags.file.clone().or_else(|| env.get("PILEUS_CONFIG").map(PathBuf::from));
        let file = match &path {
            Some(path) => read_file(path, &mut problems),
            None => BTreeMap::new(),
        };
        let mut origins = Origins { texts: BTreeMap::new(), warnings: unknown_variables(&env) };
        for setting in SETTINGS {
            let found = flags
                .texts
                .get(setting.key)
                .map(|text| (text.clone(), Source::Flag(setting.flag())))
                .or_else(|| from_variables(setting, &env, &mut problems))
                .or_else(|| {
                    let text = file.get(setting.key)?.clone();
                    Some((text, Source::File(path.clone()?)))
                })
                .unwrap_or_else(|| (setting.default.into(), Source::Default));
            origins.texts.insert(setting.key, (Redacted(found.0), found.1));
        }
        derive(&mut origins, &env);
        let config = Self::parse(origins, &mut problems);
        if let Some(config) = &config {
            config.check_together(&mut problems);
        }
        config.filter(|_| problems.is_empty()).ok_or(ConfigError { problems })
    }

    /// The settings as `pileus config` prints them; hidden ones only where they are set.
    pub fn rows(&self) -> Vec<Row> {
        let shown = SETTINGS.iter().filter(|s| !s.hidden || !self.origins.text(s.key).is_empty());
        shown
            .map(|setting| {
                let text = self.origins.text(setting.key);
                let value =
                    if setting.secret && !text.is_empty() { "***".into() } else { text.to_owned() };
                Row {
                    setting: setting.key,
                    group: setting.group,
                    value,
                    source: self.source(setting.key).to_string(),
                    flag: format!("--{}", setting.flag()),
                    variable: setting.variable(),
                    default: setting.default,
                    help: setting.help,
                }
            })
            .collect()
    }

    /// Where the value of `key` came from.
    pub fn source(&self, key: &str) -> &Source {
        self.origins.texts.get(key).map_or(&Source::Default, |(_, source)| source)
    }

    /// What the log should say at the start.
    pub fn warnings(&self) -> &[String] {
        &self.origins.warnings
    }

    /// The URL that this server is reached at.
    pub fn url(&self) -> String {
        self.public_url.clone().unwrap_or_else(|| format!("http://{}", self.listen))
    }

    fn check_together(&self, problems: &mut Vec<String>) {
        if self.drain >= self.shutdown_deadline / 2 && !self.drain.is_zero() {
            problems.push(
                "`drain_s` must be less than half of `shutdown_deadline_s`, which it is a part of: give a shorter one or a longer deadline".into(),
            );
        }
        if self.backoff_min > self.backoff_max {
            problems
                .push("`backoff_min_ms` is longer than `backoff_max_s`: give a shorter one".into());
        }
        if self.network_prefix <= self.network_pool.prefix_len() {
            problems.push(format!(
                "`network_prefix` {} leaves no choice in `network_pool` {}: give a longer prefix or a larger pool",
                self.network_prefix, self.network_pool
            ));
        }
        if self.metrics_listen == Some(self.listen) && self.listen.port() != 0 {
            problems.push("`metrics_listen` is the address of `listen`: give another port".into());
        }
        if let Err(e) = tracing_subscriber::EnvFilter::builder().parse(&self.log) {
            problems
                .push(format!("`log` ({}): {e}: give a level such as info", self.source("log")));
        }
    }
}

impl Origins {
    fn text(&self, key: &str) -> &str {
        self.texts.get(key).map_or("", |(text, _)| text.0.as_str())
    }

    fn read<T: Value>(&self, key: &str, problems: &mut Vec<String>) -> Option<T> {
        let setting = SETTINGS.iter().find(|s| s.key == key)?;
        let (Redacted(text), source) = self.texts.get(key)?;
        match T::parse(text, setting) {
            Ok(value) => Some(value),
            Err(remedy) => {
                let shown = if setting.secret { "its value".into() } else { format!("{text:?}") };
                problems.push(format!("`{key}` ({source}): {shown} will not do: {remedy}"));
                None
            }
        }
    }
}

/// The directories of `PATH`, for the programs that we start.
#[expect(clippy::disallowed_methods, reason = "the one file that reads the environment")]
pub fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map_or_else(Vec::new, |path| std::env::split_paths(&path).collect())
}

/// Our variables and the few others that settings depend on, as text.
fn own_variables(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let mut own = BTreeMap::new();
    for (name, value) in env {
        let Ok(name) = name.into_string() else { continue };
        let others = ["DATABASE_URL_FILE", "HOME", "XDG_STATE_HOME"];
        let foreign = |name: &str| FOREIGN.iter().any(|(_, foreign)| *foreign == name);
        if value.is_empty()
            || !(name.starts_with("PILEUS_") || others.contains(&name.as_str()) || foreign(&name))
        {
            continue;
        }
        match value.into_string() {
            Ok(value) => drop(own.insert(name, value)),
            Err(_) => problems.push(format!("variable {name} is not UTF-8: give it as UTF-8")),
        }
    }
    own
}

/// Kubernetes and Compose make variables such as `PILEUS_PORT` of a service's name, so these are no error.
fn unknown_variables(env: &BTreeMap<String, String>) -> Vec<String> {
    let known = |name: &str| {
        CLIENT_VARIABLES.contains(&name)
            || SETTINGS.iter().any(|s| {
                let variable = s.variable();
                name == variable || (s.secret && name.strip_suffix("_FILE") == Some(&variable))
            })
    };
    let unknown = env.keys().filter(|name| name.starts_with("PILEUS_") && !known(name));
    unknown
        .map(|name| {
            let key = name.trim_start_matches("PILEUS_").to_lowercase();
            format!(
                "variable {name} is no setting and is ignored{}",
                nearest(&key, Setting::variable)
            )
        })
        .collect()
}

fn from_variables(
    setting: &Setting,
    env: &BTreeMap<String, String>,
    problems: &mut Vec<String>,
) -> Option<(String, Source)> {
    let mut names = vec![setting.variable()];
    // What every host of applications sets; ours wins, so that it can be told apart.
    names.extend(FOREIGN.iter().filter(|(key, _)| *key == setting.key).map(|(_, n)| (*n).into()));
    for name in names {
        let file_name = format!("{name}_FILE");
        let file = env.get(&file_name).filter(|_| setting.secret);
        match (env.get(&name), file) {
            (Some(_), Some(_)) => {
                problems.push(format!("both {name} and {file_name} are set: give one of them"));
                return None;
            }
            (Some(text), None) => return Some((text.clone(), Source::Variable(name))),
            (None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) => {
                    let source = Source::SecretFile(file_name, path.into());
                    return Some((text.trim_end_matches(['\r', '\n']).into(), source));
                }
                Err(e) => {
                    problems.push(format!("variable {file_name}: {path} cannot be read: {e}"));
                    return None;
                }
            },
            (None, None) => {}
        }
    }
    None
}

/// The keys of a TOML file as text; unknown keys and tables are problems.
fn read_file(path: &Path, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let shown = path.display();
    let table = match std::fs::read_to_string(path).map(|text| text.parse::<toml::Table>()) {
        Ok(Ok(table)) => table,
        Ok(Err(e)) => {
            problems.push(format!("file {shown} is not TOML: {e}"));
            return BTreeMap::new();
        }
        Err(e) => {
            problems.push(format!("file {shown} cannot be read: {e}"));
            return BTreeMap::new();
        }
    };
    let mut texts = BTreeMap::new();
    for (key, value) in table {
        if !SETTINGS.iter().any(|s| s.key == key) {
            let hint = nearest(&key, |s| s.key.into());
            problems.push(format!("file {shown}: there is no setting `{key}`{hint}"));
            continue;
        }
        match value {
            toml::Value::String(text) => drop(texts.insert(key, text)),
            toml::Value::Integer(number) => drop(texts.insert(key, number.to_string())),
            toml::Value::Float(number) => drop(texts.insert(key, number.to_string())),
            toml::Value::Boolean(flag) => drop(texts.insert(key, flag.to_string())),
            toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                problems.push(format!("file {shown}: `{key}` must be a string or a number"));
            }
        }
    }
    texts
}

/// Defaults that depend on other settings, on the user or on the home directory.
fn derive(origins: &mut Origins, env: &BTreeMap<String, String>) {
    let home = || env.get("HOME").map(|home| Path::new(home).join(".local/state"));
    let state = || match env.get("XDG_STATE_HOME").map(PathBuf::from).or_else(home) {
        Some(state) if !nix::unistd::Uid::effective().is_root() => state.join("pileus"),
        _ => PathBuf::from("/var/lib/pileus"),
    };
    let mut fill = |key: &'static str, value: &dyn Fn(&Origins) -> PathBuf| {
        if origins.text(key).is_empty() {
            let text = value(origins).to_string_lossy().into_owned();
            origins.texts.insert(key, (Redacted(text), Source::Default));
        }
    };
    fill("state_dir", &|_| state());
    fill("image_dir", &|o| Path::new(o.text("state_dir")).join("images"));
    fill("image_scratch_dir", &|o| Path::new(o.text("image_dir")).join("tmp"));
}

/// ": did you mean …?" where one setting is close.
fn nearest(key: &str, name: impl Fn(&Setting) -> String) -> String {
    let distance = |s: &&Setting| edits(key, s.key);
    match SETTINGS.iter().filter(|s| !s.hidden).min_by_key(distance) {
        Some(setting) if distance(&setting) <= 3 => format!(": did you mean {}?", name(setting)),
        _ => ": `pileus config` lists what there is".into(),
    }
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
