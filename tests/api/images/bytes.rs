//! Uploads that go wrong, and those that are repeated.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{create, gathering, put, ready, status, stored};
use crate::harness::Api;

/// Waits for a state of the world, at most 20 s.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An upload that said it has `length` bytes and has sent `sent` of them.
async fn begun(api: &Api, id: &str, length: usize, sent: usize) -> TcpStream {
    let mut stream =
        TcpStream::connect(api.member.url.trim_start_matches("http://")).await.unwrap();
    let token = api.member.token.as_ref().unwrap();
    let head = format!(
        "PUT /v1/images/{id}/data HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; sent]).await.unwrap();
    stream
}

#[tokio::test]
async fn a_cut_upload_leaves_nothing_and_may_be_sent_again() {
    let api = Api::start().await;
    let id = create(&api.member, "disk", "raw").await;
    // At every tenth of its length, and a byte before its end.
    for sent in (0..1_000_000).step_by(100_000).chain([999_999]) {
        let stream = begun(&api, &id, 1_000_000, sent).await;
        until("the upload has begun", || gathering(&api).len() == 1).await;
        drop(stream);
        until("nothing is left", || gathering(&api).is_empty()).await;
        let after = (status(&api.member, &id).await, stored(&api).len());
        assert_eq!(after, (json!("awaiting_data"), 0), "cut after {sent} bytes");
    }
    put(&api.member, &id, vec![b'x'; 1_000_000]).await.expect(200);
    assert_eq!((gathering(&api).len(), stored(&api).len()), (0, 1));
}

#[tokio::test]
async fn a_stalled_upload_is_ended() {
    let api = Api::start_with(|flags| flags.set("upload_stall_s", "1")).await;
    let id = create(&api.member, "disk", "raw").await;
    let mut stream = begun(&api, &id, 1_000_000, 10).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("/problems/too-slow"),
        "{answer}"
    );
    until("nothing is left", || gathering(&api).is_empty()).await;
    assert_eq!(status(&api.member, &id).await, "awaiting_data");
}

#[tokio::test]
async fn an_upload_that_only_drips_is_ended() {
    let settings = |f: pileus::config::Flags| f.set("upload_stall_s", "2").set("max_uploads", "1");
    let api = Api::start_with(settings).await;
    let id = create(&api.member, "disk", "raw").await;
    let mut stream = begun(&api, &id, 1_000_000, 10).await;
    // Never silent for long, and far below 16 KiB/s.
    let drip = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), drip).await.expect("it drips on for ever");
    until("nothing is left", || gathering(&api).is_empty()).await;
    put(&api.member, &id, vec![b'x'; 1_000_000]).await.expect(200);
}

#[tokio::test]
async fn more_uploads_than_allowed_are_told_to_wait() {
    let api = Api::start_with(|flags| flags.set("max_uploads", "1")).await;
    let id = create(&api.member, "disk", "raw").await;
    let stream = begun(&api, &id, 1_000_000, 10).await;
    until("the upload has begun", || gathering(&api).len() == 1).await;
    let refused = put(&api.member, &id, "abc").await;
    refused.problem(503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    drop(stream);
    until("its place is free", || gathering(&api).is_empty()).await;
    // The place is given back a moment after the file is gone.
    let deadline = Instant::now() + Duration::from_secs(20);
    while put(&api.member, &id, "abc").await.status != 200 {
        assert!(Instant::now() < deadline, "its place is free");
    }
}

#[tokio::test]
async fn bytes_of_another_sum_are_refused_with_both_sums() {
    let api = Api::start().await;
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let body = json!({"name": "disk", "format": "raw", "sha256": expected});
    let id =
        api.member.post("/v1/images", &body).await.expect(201)["id"].as_str().unwrap().to_owned();
    let answer = put(&api.member, &id, "abd").await;
    assert_eq!(answer.faults(), [""]);
    let actual = "a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9";
    assert!(answer.text.contains(expected) && answer.text.contains(actual), "{answer:?}");
    assert_eq!((status(&api.member, &id).await, stored(&api).len()), (json!("awaiting_data"), 0));
    let refused = api.events().await.into_iter().find(|e| e["kind"] == "image.upload").unwrap();
    assert_eq!(refused["outcome"], "failed");
    assert!(refused["detail"]["error"].as_str().unwrap().contains(actual));
    put(&api.member, &id, "abc").await.expect(200);
}

#[tokio::test]
async fn the_same_bytes_again_change_nothing_and_others_are_refused() {
    let api = Api::start().await;
    let id = ready(&api.member, "disk", b"abc").await;
    let before = api.member.get(&format!("/v1/images/{id}")).await.expect(200);
    assert_eq!(put(&api.member, &id, "abc").await.expect(200), before);
    put(&api.member, &id, "abd").await.problem(409, "image-has-data");
    put(&api.member, &id, "abcd").await.problem(409, "image-has-data");
    assert_eq!(api.member.get(&format!("/v1/images/{id}")).await.expect(200), before);
    assert_eq!((gathering(&api).len(), stored(&api).len()), (0, 1));
}

#[tokio::test]
async fn concurrent_uploads_of_the_same_bytes_are_one_file() {
    let api = Api::start_with(|flags| flags.set("max_uploads", "16")).await;
    let mut ids = Vec::new();
    for client in [&api.member, &api.member, &api.stranger, &api.stranger] {
        ids.push((client, create(client, "disk", "raw").await));
    }
    // Two for the same image, too.
    ids.push(ids[0].clone());
    let puts = ids.iter().map(|(client, id)| put(client, id, vec![7; 3_000_000]));
    for answer in futures_util::future::join_all(puts).await {
        assert_eq!(answer.expect(200)["status"], "ready");
    }
    assert_eq!((gathering(&api).len(), stored(&api).len()), (0, 1));
}

#[tokio::test]
async fn an_empty_body_and_a_form_are_refused() {
    let api = Api::start().await;
    let id = create(&api.member, "disk", "raw").await;
    assert_eq!(put(&api.member, &id, "").await.faults(), [""]);
    let path = format!("/v1/images/{id}/data");
    let form = api
        .member
        .ask(Method::PUT, &path)
        .header("content-type", "multipart/form-data; boundary=x");
    form.body("--x").send().await.problem(415, "unsupported-media-type");
    let packed = api.member.ask(Method::PUT, &path).header("content-encoding", "gzip").body("x");
    packed.send().await.problem(415, "unsupported-media-type");
    api.member.get(&path).await.problem(409, "image-awaits-data");
    put(&api.member, "00000000-0000-0000-0000-000000000000", "x").await.problem(404, "not-found");
}

#[tokio::test]
async fn an_upload_may_be_larger_than_a_json_body_and_not_than_the_limit_of_images() {
    let api =
        Api::start_with(|flags| flags.set("image_max_gib", "1").set("body_limit_bytes", "4096"))
            .await;
    let id = create(&api.member, "disk", "raw").await;
    let mut stream = begun(&api, &id, (1 << 30) + 1, 0).await;
    let mut answer = vec![0; 1024];
    let read = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.contains("/problems/too-large"),
        "{answer}"
    );
    put(&api.member, &id, vec![1; 100_000]).await.expect(200);
}

#[tokio::test]
async fn a_download_is_the_upload_and_is_known_by_its_sum() {
    let api = Api::start().await;
    let bytes: String = "0123456789abcdef".repeat(100_000);
    let id = ready(&api.member, "disk", bytes.as_bytes()).await;
    let path = format!("/v1/images/{id}/data");
    let answer = api.reader.ask(Method::GET, &path).header("accept-encoding", "gzip").send().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1600000")));
    assert!(answer.text == bytes);
    let tag = answer.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", stored(&api)[0]));
    let again = api.reader.ask(Method::GET, &path).header("if-none-match", tag).send().await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_ended() {
    let api = Api::start().await;
    let bytes: String = "0123456789abcdef".repeat(100_000);
    let id = ready(&api.member, "disk", bytes.as_bytes()).await;
    let path = format!("/v1/images/{id}/data");
    let ask = |range: &str| api.reader.ask(Method::GET, &path).header("range", range);
    for (range, part, whole) in [
        ("bytes=1599990-", 1_599_990..1_600_000, "bytes 1599990-1599999/1600000"),
        ("bytes=3-600001", 3..600_002, "bytes 3-600001/1600000"),
        ("bytes=-7", 1_599_993..1_600_000, "bytes 1599993-1599999/1600000"),
    ] {
        let answer = ask(range).header("accept-encoding", "gzip").send().await;
        assert_eq!((answer.status, answer.header("content-range")), (206, Some(whole)), "{range}");
        assert!(answer.text == bytes[part], "{range}");
    }
    let beyond = ask("bytes=1600000-").send().await;
    beyond.problem(416, "range-not-satisfiable");
    assert_eq!(beyond.header("content-range"), Some("bytes */1600000"));
    let all = ask("bytes=5-").header("if-range", "\"of other bytes\"").send().await;
    assert_eq!((all.status, all.header("accept-ranges")), (200, Some("bytes")));
    assert!(all.text == bytes);
    let head = api.reader.ask(Method::HEAD, &path).header("range", "bytes=5-").send().await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1600000")));
}
