//! Where the time of a create goes, by the server's log of it.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::median;

/// What the log is asked to tell, as the setting `log`.
pub const LOG: &str = "info,pileus::reconcile=debug,pileus::service::write=debug";

/// A create: when it was sent, its instance, and when it was answered.
pub struct Sent {
    pub at: DateTime<Utc>,
    pub id: String,
    pub answered: DateTime<Utc>,
}

/// Prints the parts, which follow one another: medians in milliseconds.
pub fn print(log: &Path, sent: &[Sent]) {
    let log = std::fs::read_to_string(log).expect("a log");
    let lines: Vec<_> = log.lines().collect();
    let parts: Vec<_> = sent.iter().map(|create| parts(&lines, create)).collect();
    let names = [
        "API, until the wish is committed",
        "queue, until somebody looks at it",
        "place, until its host is committed",
        "libvirt, until the domain runs",
        "noted and answered",
    ];
    for (place, name) in names.iter().enumerate() {
        let each: Vec<_> = parts.iter().map(|of| of[place]).collect();
        println!("    {name}: {:.1} ms", median(&each));
    }
}

fn parts(lines: &[&str], create: &Sent) -> [f64; 5] {
    let item = format!("item={} ", create.id);
    let own: Vec<_> = lines.iter().filter(|line| line.contains(&item)).collect();
    let first = |words: &str| {
        let line = own.iter().find(|line| line.contains(words));
        line.unwrap_or_else(|| panic!("the log says nothing of {words:?} of {}", create.id))
    };
    let looked = first("step=Place");
    let request = looked.split_once("request_id=").expect("a request").1;
    let request = request.trim_start_matches('"').get(..36).expect("its id");
    let committed = lines.iter().find(|line| line.contains(request) && line.ends_with("committed"));
    let times = [
        create.at,
        time(committed.expect("a commit")),
        time(looked),
        time(first("situation=Seen")),
        time(first("call=\"start\"")),
        create.answered,
    ];
    std::array::from_fn(|n| {
        let micros = (times[n + 1] - times[n]).num_microseconds().expect("not for ever");
        micros as f64 / 1e3
    })
}

fn time(line: &str) -> DateTime<Utc> {
    let text = line.split_whitespace().next().expect("a time");
    text.parse().unwrap_or_else(|_| panic!("no time: {line}"))
}
