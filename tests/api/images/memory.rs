//! A large upload takes no more memory than a small one.

use std::process::Command;

use futures_util::stream;
use reqwest::{Body, Method};
use tokio_util::bytes::Bytes;

use super::create;
use crate::harness::Api;

const MIB: usize = 1 << 20;

/// A line of `/proc/self/status`, in MiB.
fn mib(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap() / 1024
}

#[tokio::test]
#[ignore = "the other half of the next test: measured in a process of its own"]
async fn uploads_one_gib() {
    let api = Api::start().await;
    let id = create(&api.member, "large", "raw").await;
    // Every fourth MiB is written, the rest are holes.
    let (data, zeros) = (Bytes::from(vec![0xa5; MIB]), Bytes::from(vec![0; MIB]));
    let chunks = (0..1024).map(move |i| {
        Ok::<_, std::io::Error>(if i % 4 == 0 { data.clone() } else { zeros.clone() })
    });
    let body = Body::wrap_stream(stream::iter(chunks));
    let before = mib("VmRSS:");
    // Forgets the peak so far.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let put = api.member.ask(Method::PUT, &format!("/v1/images/{id}/data")).body(body).send().await;
    assert_eq!(put.expect(200)["size_bytes"], 1024 * MIB);
    println!("\ngrown by {} MiB", mib("VmHWM:").saturating_sub(before));
}

#[test]
fn an_upload_of_one_gib_takes_constant_memory() {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "images::memory::uploads_one_gib", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&run.stdout);
    let grown = output.lines().find_map(|line| line.strip_prefix("grown by "));
    let grown = grown.unwrap_or_else(|| panic!("{output}{}", String::from_utf8_lossy(&run.stderr)));
    let grown: usize = grown.trim_end_matches(" MiB").parse().unwrap();
    assert!(grown < 64, "{grown} MiB for 1024");
}
