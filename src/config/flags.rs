//! The settings as command line flags, made from the table.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, error::Error};

use super::settings::SETTINGS;

/// What the command line said about settings: flatten it into a command that needs a `Config`.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub(super) texts: BTreeMap<&'static str, String>,
    /// `--config`.
    pub(super) file: Option<PathBuf>,
}

impl Flags {
    /// As if `--key text` had been given; unknown keys are ignored. For tests and for callers that decide a setting.
    pub fn set(mut self, key: &str, text: impl Into<String>) -> Self {
        if let Some(setting) = SETTINGS.iter().find(|s| s.key == key) {
            self.texts.insert(setting.key, text.into());
        }
        self
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help_heading("Settings")
            .help("TOML file of settings [variable: PILEUS_CONFIG]");
        SETTINGS.iter().fold(command.arg(file), |command, setting| {
            let default = match setting.default {
                "" => String::new(),
                text => format!("[default: {text}] "),
            };
            command.arg(
                Arg::new(setting.key)
                    .long(setting.flag())
                    .value_name(if setting.unit.is_empty() { "VALUE" } else { "NUMBER" })
                    .allow_hyphen_values(true)
                    .help_heading(setting.group)
                    .hide(setting.hidden)
                    // `-h` shows what most people set; `--help` shows all.
                    .hide_short_help(!matches!(setting.group, "Server" | "State"))
                    .help(format!("{} {default}[variable: {}]", setting.help, setting.variable())),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in SETTINGS {
            if let Some(text) = matches.get_one::<String>(setting.key) {
                self.texts.insert(setting.key, text.clone());
            }
        }
        if let Some(file) = matches.get_one::<PathBuf>("config") {
            self.file = Some(file.clone());
        }
        Ok(())
    }
}
