//! `pileus instance create`, its actions, `wait` and `console`.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use reqwest::Method;
use serde_json::{Value, json};

use super::act::{connect, show, which};
use super::arguments::{self, merge, pairs, read, switch, texts};
use super::failure::Failure;
use super::http::Http;
use super::nouns::noun;

const GOALS: [&str; 8] =
    ["running", "address", "agent", "cloud_init", "paused", "stopped", "deleted", "settled"];
const ACTIONS: [(&str, &str); 6] = [
    ("start", "Start, or start again what stopped by itself"),
    ("stop", "Stop: by the power button, and then off after a grace"),
    ("reboot", "Stop and start"),
    ("pause", "Halt its CPUs, keep its memory"),
    ("resume", "Let its CPUs run again"),
    ("retry", "Try again now what failed"),
];
/// Longest that the server waits for one request.
const WAIT_STEP: u64 = 600;

pub fn has(verb: &str) -> bool {
    matches!(verb, "create" | "wait" | "console") || ACTIONS.iter().any(|(name, _)| *name == verb)
}

pub fn verbs() -> Vec<Command> {
    let mut verbs = vec![create()];
    for (name, about) in ACTIONS {
        let command = Command::new(name).about(about).arg(arguments::which()).args(waiting());
        verbs.push(match name {
            "stop" | "reboot" => command.args([
                switch("hard", "At once, as by pulling the plug"),
                Arg::new("grace")
                    .long("grace")
                    .value_name("SECONDS")
                    .value_parser(value_parser!(i64))
                    .help("How long the guest may take before it is off"),
            ]),
            _ => command,
        });
    }
    verbs.push(Command::new("wait").about("Wait until something holds").args([
        arguments::which(),
        Arg::new("wait").value_name("GOAL").required(true).value_parser(GOALS),
        timeout(),
    ]));
    verbs.push(
        Command::new("console")
            .about("Print the console's log, from power-on")
            .args([arguments::which(), switch("follow", "Go on with what comes").short('f')]),
    );
    verbs
}

fn create() -> Command {
    let many = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
    };
    Command::new("create")
        .about("Make an instance")
        .args([
            Arg::new("name").value_name("NAME").required(true).help("Its name, and hostname"),
            Arg::new("image").long("image").required(true).help("Id or name of an image"),
            Arg::new("flavor").long("flavor").required(true).help("Id or name of a flavor"),
            many(
                "network",
                "NETWORK[,address=IP]",
                "Id or name of a network, or port=ID; may be given several times; \
                without: the tenant's only network",
            ),
            switch("no-network", "No interface at all").conflicts_with("network"),
            many("keypair", "KEYPAIR", "Id or name of a keypair; may be given several times"),
            Arg::new("user-data")
                .long("user-data")
                .value_name("FILE")
                .help("Script or cloud-config for the guest"),
            many("label", "KEY=VALUE", "A label; may be given several times"),
            switch("stopped", "Do not start it"),
            Arg::new("zone").long("zone").help("Only hosts of this zone"),
            many("trait", "TRAIT", "What its host must offer; may be given several times"),
            many(
                "without-trait",
                "TRAIT",
                "What its host must not offer; may be given several times",
            ),
            Arg::new("policy").long("policy").help(super::nouns::POLICIES),
            Arg::new("group")
                .long("group")
                .value_name("ID|NAME")
                .help("A group whose rule it follows"),
            Arg::new("reservation")
                .long("reservation")
                .value_name("ID|NAME")
                .help("A reservation that it takes a slot of"),
            Arg::new("expires-at")
                .long("expires-at")
                .value_name("TIME")
                .help("When it is deleted by itself, such as 2030-01-31T12:00:00Z"),
            switch("fail", "Make nothing where no host has room now, instead of waiting for some"),
            switch("dry-run", "Say where it would go, and make nothing"),
            many("set", "KEY=VALUE", "Any other field of the body"),
        ])
        .args(waiting())
}

/// `--wait` and `--timeout`.
pub fn waiting() -> [Arg; 2] {
    let wait = Arg::new("wait").long("wait").value_name("GOAL").num_args(0..=1).value_parser(GOALS);
    [
        wait.default_missing_value("settled")
            .help("Wait until this holds; without GOAL: the wish is fulfilled"),
        timeout(),
    ]
}

fn timeout() -> Arg {
    Arg::new("timeout")
        .long("timeout")
        .value_name("SECONDS")
        .value_parser(value_parser!(u64))
        .default_value("300")
        .help("How long to wait at most")
}

/// What to wait for, and how long.
#[derive(Debug, Clone)]
pub struct Wait {
    goal: String,
    seconds: u64,
}

/// What `--wait` says; `None` without it.
pub fn wait_query(matches: &ArgMatches) -> Option<Wait> {
    let goal = matches.get_one::<String>("wait")?.clone();
    Some(Wait { goal, seconds: matches.get_one("timeout").copied().unwrap_or(300) })
}

impl Wait {
    pub fn query(&self) -> String {
        format!("wait={}&timeout={}", self.goal, self.seconds.min(WAIT_STEP))
    }

    fn holds(&self, instance: &Value) -> bool {
        let status = instance["status"].as_str().unwrap_or_default();
        let seen = |interface: &Value| interface["seen"] == true;
        match self.goal.as_str() {
            "address" => instance["interfaces"].as_array().is_some_and(|all| all.iter().all(seen)),
            "agent" => instance["agent"] == true,
            "cloud_init" => instance["cloud_init"].is_object(),
            "settled" => {
                status == "deleted" || instance["observed_revision"] == instance["revision"]
            }
            goal => status == goal,
        }
    }

    /// An error if the goal was not reached in time, or if cloud-init was waited for and failed.
    pub fn check(&self, instance: &Value) -> Result<()> {
        let text = |key: &str| instance[key].as_str().unwrap_or("none given").to_owned();
        if self.holds(instance) {
            let ended = &instance["cloud_init"];
            if self.goal == "cloud_init" && ended["status"] == "error" {
                // As JSON, whose strings have no control characters: they are the guest's words.
                let errors = &ended["errors"];
                bail!("cloud-init of {} finished with errors: {errors}", text("name"));
            }
            return Ok(());
        }
        let message = format!(
            "{} is not {} within {} s: it is {}, reason: {}",
            text("name"),
            self.goal,
            self.seconds,
            text("status"),
            text("reason")
        );
        Err(Failure::new(Failure::NOT_IN_TIME, message).into())
    }

    /// Asks until the goal is reached or the time is up; gives the instance as it was last.
    async fn follow(&self, http: &Http, id: &str, mut instance: Value) -> Result<Value> {
        let start = tokio::time::Instant::now();
        loop {
            let left = self.seconds.saturating_sub(start.elapsed().as_secs());
            if self.holds(&instance) || left == 0 {
                return Ok(instance);
            }
            let step = Self { goal: self.goal.clone(), seconds: left.min(WAIT_STEP) };
            match http.get(&format!("/v1/instances/{id}?{}", step.query())).await {
                Ok(now) => instance = now,
                Err(error) if self.goal == "deleted" && is_missing(&error) => {
                    instance["status"] = json!("deleted");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.code == Failure::NOT_FOUND)
}

pub async fn run(verb: &str, matches: &ArgMatches) -> Result<()> {
    let (http, as_json) = connect(matches).await?;
    if verb == "create" {
        return make(&http, matches, as_json).await;
    }
    let id = which(&http, noun("instance"), matches).await?;
    match verb {
        "console" => console(&http, &id, matches.get_flag("follow")).await,
        "wait" => {
            let instance = http.get(&format!("/v1/instances/{id}")).await?;
            finish(&http, instance, wait_query(matches), as_json).await
        }
        action => {
            let path = format!("/v1/instances/{id}/actions/{action}");
            let mut how = json!({});
            if matches!(action, "stop" | "reboot") {
                how["hard"] = json!(matches.get_flag("hard"));
                if let Some(grace) = matches.get_one::<i64>("grace") {
                    how["grace_s"] = json!(grace);
                }
            }
            let how = Some(&how).filter(|_| matches!(action, "stop" | "reboot"));
            let instance = http.send(Method::POST, &path, how).await?;
            finish(&http, instance, wait_query(matches), as_json).await
        }
    }
}

async fn make(http: &Http, matches: &ArgMatches, as_json: bool) -> Result<()> {
    let text = |key: &str| matches.get_one::<String>(key).map(String::as_str);
    let mut new = json!({
        "name": text("name"),
        "image": text("image"),
        "flavor": text("flavor"),
    });
    if let Some(networks) = texts(matches, "network") {
        let each: Result<Vec<_>> = networks.into_iter().map(interface).collect();
        new["networks"] = json!(each?);
    }
    if matches.get_flag("no-network") {
        new["networks"] = json!([]);
    }
    if let Some(keypairs) = texts(matches, "keypair") {
        new["keypairs"] = json!(keypairs);
    }
    if let Some(path) = text("user-data") {
        // A script may end with a new line, and may need it.
        new["user_data"] = json!(read(path)? + "\n");
    }
    if let Some(labels) = texts(matches, "label") {
        new["labels"] = pairs(labels)?;
    }
    if matches.get_flag("stopped") {
        new["wanted"] = json!("stopped");
    }
    for key in ["zone", "policy", "group", "reservation"] {
        if let Some(text) = text(key) {
            new[key] = json!(text);
        }
    }
    if let Some(end) = text("expires-at") {
        new["expires_at"] = json!(end);
    }
    for (key, field) in [("trait", "required_traits"), ("without-trait", "forbidden_traits")] {
        if let Some(traits) = texts(matches, key) {
            new[field] = json!(traits);
        }
    }
    if matches.get_flag("fail") {
        new["on_no_capacity"] = json!("fail");
    }
    merge(&mut new, matches)?;
    if matches.get_flag("dry-run") {
        let plan = http.send(Method::POST, "/v1/instances?dry_run=true", Some(&new)).await?;
        return show(&plan, as_json);
    }
    let instance = http.send(Method::POST, "/v1/instances", Some(&new)).await?;
    finish(http, instance, wait_query(matches), as_json).await
}

/// `NETWORK`, `NETWORK,address=IP` or `port=ID`.
fn interface(text: &str) -> Result<Value> {
    let (first, rest) = text.split_once(',').unwrap_or((text, ""));
    let mut interface = match first.split_once('=') {
        Some(("port", id)) => json!({ "port_id": id }),
        Some(_) => bail!("--network {text}: give NETWORK, NETWORK,address=IP or port=ID"),
        None => json!({ "network": first }),
    };
    match rest.split_once('=') {
        None if rest.is_empty() => {}
        Some(("address", address)) => interface["address"] = json!(address),
        _ => bail!("--network {text}: only address=IP can follow"),
    }
    Ok(interface)
}

/// Waits if it is asked for, prints the instance, and says if the goal was not reached.
async fn finish(http: &Http, instance: Value, wait: Option<Wait>, as_json: bool) -> Result<()> {
    let Some(wait) = wait else { return show(&instance, as_json) };
    let id = instance["id"].as_str().context("the answer holds no id")?.to_owned();
    let instance = wait.follow(http, &id, instance).await?;
    show(&instance, as_json)?;
    wait.check(&instance)
}

/// Copies the console as it is to standard output; with `follow` until the instance is gone.
async fn console(http: &Http, id: &str, follow: bool) -> Result<()> {
    let mut offset = 0u64;
    loop {
        let path = format!("/v1/instances/{id}/console?offset={offset}");
        let answer = match http.open(http.request(Method::GET, &path)).await {
            Err(error) if offset > 0 && is_missing(&error) => return Ok(()),
            answer => answer?,
        };
        let next =
            answer.headers().get("x-next-offset").and_then(|v| v.to_str().ok()?.parse().ok());
        let bytes = answer.bytes().await.context("the console was cut")?;
        let mut out = std::io::stdout();
        out.write_all(&bytes).and_then(|()| out.flush()).context("standard output is closed")?;
        offset = next.unwrap_or(offset + bytes.len() as u64);
        if bytes.is_empty() {
            if !follow {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_may_have_an_address_or_be_a_port() {
        let json = |text| interface(text).expect("an interface");
        assert_eq!(json("default"), json!({ "network": "default" }));
        assert_eq!(
            json("lan,address=10.0.0.9"),
            json!({ "network": "lan", "address": "10.0.0.9" })
        );
        assert_eq!(json("port=x"), json!({ "port_id": "x" }));
        assert!(interface("lan,mac=1").is_err());
        assert!(interface("x=y").is_err());
    }

    #[test]
    fn a_goal_is_reached_only_when_it_is_seen() {
        let wait = |goal: &str| Wait { goal: goal.into(), seconds: 1 };
        let instance = json!({"name": "a", "status": "running", "agent": false, "revision": 2,
            "observed_revision": 1, "interfaces": [{"seen": true}, {"seen": false}]});
        assert!(wait("running").check(&instance).is_ok());
        for goal in ["stopped", "address", "agent", "settled", "deleted", "cloud_init"] {
            let error = wait(goal).check(&instance).expect_err(goal);
            assert_eq!(error.downcast_ref::<Failure>().map(|f| f.code), Some(6));
        }
        let ended = |status: &str, errors: &[&str]| json!({"name": "a", "status": "running", "cloud_init": {"status": status, "errors": errors}});
        assert!(wait("cloud_init").check(&ended("done", &[])).is_ok());
        let failed = ended("error", &["runcmd \u{1b}[2J"]);
        let error = wait("cloud_init").check(&failed).expect_err("an error").to_string();
        assert!(error.contains("runcmd \\u001b[2J"), "{error}");
        assert!(wait("running").check(&failed).is_ok());
    }
}
