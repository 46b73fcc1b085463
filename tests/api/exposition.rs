//! Prometheus' text format, read as strictly as its page describes it.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// What a scrape said.
#[derive(Debug, Default)]
pub struct Exposition {
    /// By family: counter, gauge or histogram.
    pub types: HashMap<String, String>,
    pub samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    /// Panics where the text is not what Prometheus reads.
    pub fn parse(text: &str) -> Self {
        let (mut read, mut seen) = (Self::default(), HashSet::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name) = (words.next().unwrap(), words.next().unwrap());
                let rest = words.next().unwrap_or_default();
                match what {
                    "HELP" => assert!(!rest.is_empty(), "{line}"),
                    "TYPE" => {
                        assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                        let before = read.types.insert(name.to_owned(), rest.to_owned());
                        assert!(before.is_none(), "{name} is there twice");
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let sample = sample(line);
            let family = read.family(&sample.0);
            assert!(read.types.contains_key(&family), "before its type: {line}");
            assert!(seen.insert((sample.0.clone(), sample.1.clone())), "twice: {line}");
            read.samples.push(sample);
        }
        read.histograms_add_up();
        read
    }

    /// `x` of `x_bucket`, `x_sum` and `x_count`, where that is a histogram.
    fn family(&self, name: &str) -> String {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let stem = stem.filter(|stem| self.types.get(*stem).is_some_and(|t| t == "histogram"));
        stem.unwrap_or(name).to_owned()
    }

    fn histograms_add_up(&self) {
        let mut last: HashMap<(String, Labels), (f64, f64)> = HashMap::new();
        for (name, labels, value) in &self.samples {
            let Some(stem) = name.strip_suffix("_bucket") else { continue };
            let mut labels = labels.clone();
            let bound = labels.remove("le").expect("a bucket has a bound");
            let bound: f64 = bound.parse().unwrap();
            let before = last.insert((stem.to_owned(), labels), (bound, *value));
            let (under, count) = before.unwrap_or((f64::NEG_INFINITY, 0.0));
            assert!(under < bound && count <= *value, "buckets of {name} fall");
        }
        for ((stem, labels), (bound, count)) in last {
            assert!(bound.is_infinite(), "{stem} has no last bucket");
            let total = self.get(&format!("{stem}_count"), &labels);
            assert_eq!(Some(count), total, "{stem} {labels:?}");
        }
    }

    fn get(&self, name: &str, labels: &Labels) -> Option<f64> {
        let found = self.samples.iter().find(|(n, l, _)| n == name && l == labels);
        found.map(|(_, _, value)| *value)
    }

    /// The sum over the series of this name that have at least these labels; `None` where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |found: &Labels| {
            labels.iter().all(|(key, value)| found.get(*key).is_some_and(|f| f == value))
        };
        let found = self.samples.iter().filter(|(n, l, _)| n == name && has(l));
        found.map(|(_, _, value)| *value).reduce(|a, b| a + b)
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let name = &line[..end];
    let fits = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    assert!(fits(name), "{line}");
    let (labels, value) = match line[end..].strip_prefix('{') {
        Some(rest) => labels(rest, line),
        None => (Labels::new(), &line[end..]),
    };
    assert!(labels.keys().all(|key| fits(key)), "{line}");
    let value = value.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|e| panic!("{e}: {line}")))
}

/// `a="b",c="d"}`, and what comes after it.
fn labels<'a>(mut rest: &'a str, line: &str) -> (Labels, &'a str) {
    let mut labels = Labels::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return (labels, after);
        }
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        let (mut value, mut escaped, mut close) = (String::new(), false, None);
        for (at, c) in after.char_indices() {
            match (escaped, c) {
                (false, '\\') => escaped = true,
                (false, '"') => {
                    close = Some(at);
                    break;
                }
                (true, 'n') => (value.push('\n'), escaped = false).1,
                (true, '\\' | '"') | (false, _) => (value.push(c), escaped = false).1,
                (true, _) => panic!("an escape that there is not: {line}"),
            }
        }
        let close = close.unwrap_or_else(|| panic!("a label without end: {line}"));
        labels.insert(key.to_owned(), value);
        rest = &after[close + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

#[test]
fn the_reader_refuses_what_is_no_exposition() {
    let good = "# TYPE a gauge\na{x=\"1\\\"\\n\",y=\"\"} 1e3\na NaN\n";
    let read = Exposition::parse(good);
    assert_eq!(read.sum("a", &[("x", "1\"\n")]), Some(1000.0));
    for bad in [
        "a 1\n",
        "# TYPE a gauge\na 1\na 1\n",
        "# TYPE a gauge\na{x=\"1} 1\n",
        "# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
    ] {
        let refused = std::panic::catch_unwind(|| Exposition::parse(bad));
        assert!(refused.is_err(), "{bad}");
    }
}
