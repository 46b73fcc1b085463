//! `pileus image upload`: a file becomes an image, whole or not at all.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command};
use futures_util::TryStreamExt;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::act::{connect, show};
use super::arguments::{pairs, texts};
use super::http::Http;
use super::nouns::IMAGE_TRAITS;
use crate::domain::checksum::Checksum;

pub fn verbs() -> Vec<Command> {
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).help(help);
    vec![Command::new("upload").about("Make an image of a file").args([
        Arg::new("name").value_name("NAME").required(true).help("Its name"),
        Arg::new("file").value_name("FILE").required(true).help("A disk image"),
        text("format", "raw or qcow2; without: what the file begins with"),
        text("visibility", "private (the default) or public"),
        text("description", "What people should know"),
        text("label", "KEY=VALUE; may be given several times").action(clap::ArgAction::Append),
        text("trait", IMAGE_TRAITS).action(clap::ArgAction::Append),
    ])]
}

pub async fn upload(matches: &ArgMatches) -> Result<()> {
    let (http, as_json) = connect(matches).await?;
    let text = |key: &str| matches.get_one::<String>(key).map(String::as_str);
    let path = text("file").unwrap_or_default();
    let read = measure(path).await.with_context(|| format!("{path} cannot be read"))?;
    let mut new = json!({
        "name": text("name"),
        "format": text("format").unwrap_or(if read.is_qcow2 { "qcow2" } else { "raw" }),
        // What arrives must be what was read here.
        "sha256": read.sha256,
    });
    for key in ["visibility", "description"] {
        if let Some(text) = text(key) {
            new[key] = json!(text);
        }
    }
    if let Some(labels) = texts(matches, "label") {
        new["labels"] = pairs(labels)?;
    }
    if let Some(traits) = texts(matches, "trait") {
        new["required_traits"] = json!(traits);
    }
    let made = http.send(Method::POST, "/v1/images", Some(&new)).await?;
    let image = format!("/v1/images/{}", made["id"].as_str().unwrap_or_default());
    match send(&http, &image, path, read.bytes).await {
        Ok(image) => show(&image, as_json),
        Err(error) => {
            // An image without its bytes is of no use to anybody.
            let removed = http.send(Method::DELETE, &image, None).await;
            removed.with_context(|| format!("{image} is left over; and before that: {error:#}"))?;
            Err(error)
        }
    }
}

struct Measured {
    bytes: u64,
    sha256: String,
    is_qcow2: bool,
}

async fn measure(path: &str) -> std::io::Result<Measured> {
    let mut file = File::open(path).await?;
    let mut sum = Checksum::default();
    let mut chunk = vec![0; 256 * 1024];
    let (mut bytes, mut is_qcow2) = (0, false);
    loop {
        let n = file.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        is_qcow2 |= bytes == 0 && chunk.starts_with(b"QFI\xfb");
        sum.update(&chunk[..n]);
        bytes += n as u64;
    }
    Ok(Measured { bytes, sha256: sum.hex(), is_qcow2 })
}

async fn send(http: &Http, image: &str, path: &str, bytes: u64) -> Result<Value> {
    let mut progress = Progress::new(bytes);
    let file = ReaderStream::with_capacity(File::open(path).await?, 256 * 1024);
    let body = Body::wrap_stream(file.inspect_ok(move |chunk| progress.add(chunk.len() as u64)));
    let request = http
        .request(Method::PUT, &format!("{image}/data"))
        .header("content-type", "application/octet-stream")
        .header("content-length", bytes)
        .body(body);
    let answer = http.open(request).await?;
    answer.json().await.context("the answer is no JSON: is the server Pileus?")
}

/// A line on a terminal, a few times a second.
struct Progress {
    sent: u64,
    whole: u64,
    shown: Instant,
    on: bool,
}

impl Progress {
    fn new(whole: u64) -> Self {
        Self { sent: 0, whole, shown: Instant::now(), on: std::io::stderr().is_terminal() }
    }

    fn add(&mut self, bytes: u64) {
        self.sent += bytes;
        let end = self.sent >= self.whole;
        if self.on && (end || self.shown.elapsed() > Duration::from_millis(200)) {
            self.shown = Instant::now();
            let percent = self.sent.saturating_mul(100) / self.whole.max(1);
            let mib = |bytes: u64| bytes / (1024 * 1024);
            eprint!("\r{percent:3} %  {} of {} MiB", mib(self.sent), mib(self.whole));
            if end {
                eprintln!("; the server checks it");
            }
        }
    }
}
