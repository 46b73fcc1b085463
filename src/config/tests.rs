//! What a configuration promises: order of sources, bounds, redaction, and errors that name the remedy.

use std::time::Duration;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn load(flags: Flags, pairs: &[(&str, &str)]) -> Config {
    Config::load(&flags, env(pairs)).unwrap()
}

fn problems(flags: Flags, pairs: &[(&str, &str)]) -> String {
    Config::load(&flags, env(pairs)).unwrap_err().to_string()
}

fn file(text: &str) -> (tempfile::TempDir, Flags) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pileus.toml");
    std::fs::write(&path, text).unwrap();
    let flags = Flags { file: Some(path), ..Flags::default() };
    (dir, flags)
}

#[test]
fn traces_are_sent_where_an_endpoint_is_named() {
    let load = |variables: &[(&str, &str)]| {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        Traces::load(|name| variables.get(name).map(|text| (*text).to_owned()))
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    assert_eq!(load(&[]), Traces::Off);
    assert_eq!(load(&[("OTEL_SERVICE_NAME", "x")]), Traces::Off);
    assert_eq!(load(&[endpoint]), Traces::On { named: false });
    assert_eq!(load(&[endpoint, ("OTEL_SERVICE_NAME", "x")]), Traces::On { named: true });
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "a=b,service.name=x");
    assert_eq!(load(&[endpoint, attributes]), Traces::On { named: true });
    assert_eq!(load(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]), Traces::Off);
    assert_eq!(load(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Traces::Off);
}

#[test]
fn every_default_is_within_its_own_bounds() {
    let config = load(Flags::default(), &[]);
    assert_eq!(config.listen.to_string(), "127.0.0.1:7460");
    assert_eq!(config.wait_max, Duration::from_secs(600));
    assert_eq!(config.backoff_min, Duration::from_millis(200));
    assert_eq!(config.idempotency_ttl, Duration::from_secs(24 * 3600));
    assert_eq!(config.key_rotation, Duration::from_secs(30 * 86400));
    assert!(config.database_url.is_none());
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let (_dir, flags) = file("database_pool = 3\n");
    assert_eq!(load(flags.clone(), &[]).database_pool, 3);
    let pairs = [("PILEUS_DATABASE_POOL", "4")];
    let config = load(flags.clone(), &pairs);
    assert_eq!(config.database_pool, 4);
    assert_eq!(config.source("database_pool"), &Source::Variable("PILEUS_DATABASE_POOL".into()));
    let config = load(flags.set("database_pool", "5"), &pairs);
    assert_eq!(config.database_pool, 5);
    assert_eq!(config.source("database_pool"), &Source::Flag("database-pool".into()));
    assert_eq!(load(Flags::default(), &[]).source("database_pool"), &Source::Default);
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    let (_dir, flags) = file("log_format = \"json\"\noverlap = 1\n");
    let path = flags.file.unwrap();
    let error = problems(Flags::default(), &[("PILEUS_CONFIG", path.to_str().unwrap())]);
    assert!(error.contains("no setting `overlap`"), "{error}");
    std::fs::write(&path, "log_format = \"json\"\novercommit_cpu = 2.5\n").unwrap();
    let config = load(Flags::default(), &[("PILEUS_CONFIG", path.to_str().unwrap())]);
    assert_eq!(config.log_format, LogFormat::Json);
    assert!((config.overcommit_cpu - 2.5).abs() < f64::EPSILON);
    assert_eq!(config.source("log_format"), &Source::File(path));
}

#[test]
fn a_value_out_of_bounds_is_refused_with_setting_source_and_remedy() {
    let error = problems(Flags::default(), &[("PILEUS_DATABASE_POOL", "1")]);
    for part in
        ["`database_pool`", "variable PILEUS_DATABASE_POOL", "\"1\"", "whole number from 2 to 200"]
    {
        assert!(error.contains(part), "{part} is missing in {error}");
    }
    for (key, text) in [
        ("listen", "localhost"),
        ("database_pool", "many"),
        ("database_pool", "-1"),
        ("database_pool", "201"),
        ("wait_max_s", "0"),
        ("overcommit_cpu", "NaN"),
        ("log_format", "xml"),
        ("placement_policy", "worst_fit"),
        ("virt_type", "xen"),
        ("network_pool", "10.64.0.1/12"),
        ("network_prefix", "30"),
        ("trusted_proxies", "10.0.0.0/8, localhost"),
        ("log", "pileus=loud"),
    ] {
        let error = problems(Flags::default().set(key, text), &[]);
        assert!(error.contains(&format!("`{key}`")) && error.contains("give "), "{key}: {error}");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let flags = Flags::default().set("listen", "x").set("database_pool", "0");
    let error = problems(flags, &[("PILEUS_LOG_FORMAT", "xml")]);
    assert!(error.contains("`listen`") && error.contains("`database_pool`"), "{error}");
    assert!(error.contains("`log_format`"), "{error}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let flags = Flags::default().set("backoff_min_ms", "5000").set("backoff_max_s", "1");
    assert!(problems(flags, &[]).contains("`backoff_min_ms` is longer"));
    let flags = Flags::default().set("network_pool", "10.0.0.0/24");
    assert!(problems(flags, &[]).contains("leaves no choice"));
}

#[test]
fn an_unknown_file_key_is_refused_and_the_near_one_named() {
    let (_dir, flags) = file("databse_pool = 3\n");
    let error = problems(flags, &[]);
    assert!(error.contains("did you mean database_pool?"), "{error}");
    let (_dir, flags) = file("[database]\nurl = \"x\"\n");
    assert!(problems(flags, &[]).contains("no setting `database`"));
}

#[test]
fn an_unknown_variable_is_warned_of_and_stops_nobody() {
    let pairs = [("PILEUS_PORT", "tcp://10.0.0.1:7460"), ("PILEUS_LISTN", "x"), ("LISTEN", "y")];
    let config = load(Flags::default(), &pairs);
    let warnings = config.warnings().join("\n");
    assert_eq!(config.warnings().len(), 2, "{warnings}");
    assert!(warnings.contains("PILEUS_LISTN") && warnings.contains("did you mean PILEUS_LISTEN?"));
    assert!(load(Flags::default(), &[("PILEUS_TOKEN", "x")]).warnings().is_empty());
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let config = load(Flags::default(), &[("PILEUS_LISTEN", ""), ("DATABASE_URL", "")]);
    assert_eq!(config.source("listen"), &Source::Default);
    assert!(config.database_url.is_none());
}

#[test]
fn the_database_url_is_found_wherever_people_put_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("url");
    std::fs::write(&path, "postgres://from-file\n").unwrap();
    let path = path.to_str().unwrap();
    let url = |pairs: &[(&str, &str)]| {
        load(Flags::default(), pairs).database_url.unwrap().expose().to_owned()
    };
    assert_eq!(url(&[("DATABASE_URL", "postgres://plain")]), "postgres://plain");
    let both = [("DATABASE_URL", "postgres://plain"), ("PILEUS_DATABASE_URL", "postgres://ours")];
    assert_eq!(url(&both), "postgres://ours");
    assert_eq!(url(&[("PILEUS_DATABASE_URL_FILE", path)]), "postgres://from-file");
    let twice = [("PILEUS_DATABASE_URL", "x"), ("PILEUS_DATABASE_URL_FILE", path)];
    assert!(problems(Flags::default(), &twice).contains("give one of them"));
    let missing = [("PILEUS_DATABASE_URL_FILE", "/nonexistent")];
    assert!(problems(Flags::default(), &missing).contains("cannot be read"));
}

#[test]
fn a_secret_is_never_printed() {
    let config = load(Flags::default(), &[("DATABASE_URL", "postgres://u:hunter2@h/d")]);
    let rows = serde_json::to_string(&config.rows()).unwrap();
    assert!(rows.contains("variable DATABASE_URL"));
    assert!(!rows.contains("hunter2") && !format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_hidden_setting_is_shown_only_where_it_is_set() {
    let shown = |config: &Config| config.rows().iter().any(|row| row.setting == "fault_point");
    assert!(!shown(&load(Flags::default(), &[])));
    assert!(shown(&load(Flags::default(), &[("PILEUS_FAULT_POINT", "x")])));
}

#[test]
fn directories_follow_the_state_directory() {
    let config = load(Flags::default().set("state_dir", "/srv/cloud"), &[]);
    assert_eq!(config.image_dir, Path::new("/srv/cloud/images"));
    assert_eq!(config.image_scratch_dir, Path::new("/srv/cloud/images/tmp"));
}

#[test]
fn no_two_settings_share_a_name_and_each_has_a_help() {
    for (i, setting) in SETTINGS.iter().enumerate() {
        assert!(!setting.help.is_empty(), "{}", setting.key);
        assert!(SETTINGS[i + 1..].iter().all(|other| other.key != setting.key), "{}", setting.key);
    }
}

#[test]
fn flags_are_made_from_the_table() {
    let command = <Flags as clap::Args>::augment_args(clap::Command::new("pileus"));
    let matches = command
        .try_get_matches_from(["pileus", "--reconcile-lease-s", "7", "--config", "/x"])
        .unwrap();
    let flags = <Flags as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
    assert_eq!(flags.texts["reconcile_lease_s"], "7");
    assert_eq!(flags.file.as_deref(), Some(Path::new("/x")));
}
