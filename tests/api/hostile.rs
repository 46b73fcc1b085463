//! Requests that no honest client sends, over bare sockets: each is refused or served as what it says, never with a 5xx, and
//! the next client is served.

use std::time::Duration;

use pileus::config::Flags;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::Api;
use crate::sse::PATIENCE;

pub async fn connect(api: &Api) -> TcpStream {
    let address = api.anonymous.url.trim_start_matches("http://");
    TcpStream::connect(address).await.expect("a connection")
}

/// All that comes back until the server closes.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A reset is an end too.
    let _ =
        read.unwrap_or_else(|_| panic!("the server holds on: {}", String::from_utf8_lossy(&bytes)));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is answered to these bytes. A server may close before it has read all of it.
async fn answers(api: &Api, bytes: &[u8]) -> String {
    let mut stream = connect(api).await;
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// The status of the first answer; 0 where there is none.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// `Authorization` and what every request needs.
fn head(api: &Api) -> String {
    format!("Host: x\r\nAuthorization: Bearer {}\r\n", api.member.token.as_ref().expect("a token"))
}

#[tokio::test]
async fn a_path_leads_only_where_it_says() {
    let api = Api::start().await;
    let head = head(&api);
    let long = format!("/v1/flavors/{}", "a".repeat(20_000));
    let deep = "/v1".repeat(5_000);
    for (path, allowed) in [
        ("/v1/flavors/..%2f..%2fhealthz", [404, 404]),
        ("/v1/flavors/../../healthz", [404, 404]),
        ("/v1/%2e%2e/healthz", [404, 404]),
        ("/v1/./flavors", [404, 404]),
        ("//v1/flavors", [404, 404]),
        ("/v1//flavors", [404, 404]),
        ("/v1/flavors/", [404, 404]),
        ("/v1%2fflavors", [404, 404]),
        ("/V1/FLAVORS", [404, 404]),
        ("/healthz%00", [404, 404]),
        ("/v1/flavors/%00", [404, 404]),
        ("/v1/flavors/%ff%fe", [404, 404]),
        ("/v1/flavors?name=%00", [422, 422]),
        ("/v1/flavors?name=%ff", [200, 422]),
        ("/v1/flavors?name=a&name=b", [422, 422]),
        ("/v1/flavors?%6eame=nano", [200, 200]),
        ("/v1/flavors;name=x", [404, 404]),
        ("/v1/flavors#x", [400, 200]),
        ("http://elsewhere.example/healthz", [200, 200]),
        ("http://elsewhere.example/v1/../healthz", [404, 404]),
        ("*", [404, 400]),
        (&long, [404, 431]),
        (&deep, [404, 431]),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
        let answer = answers(&api, request.as_bytes()).await;
        let short: String = path.chars().take(60).collect();
        assert!(allowed.contains(&status(&answer)), "{short}: {answer}");
    }
    api.member.get("/v1/flavors").await.expect(200);
}

#[tokio::test]
async fn a_malformed_head_is_refused_and_harms_nobody() {
    // What is begun and not ended is given up soon.
    let soon = |f: Flags| f.set("request_timeout_s", "2").set("header_timeout_s", "2");
    let api = Api::start_with(soon).await;
    let auth = head(&api);
    let with = |line: &str, headers: &str| format!("{line}\r\n{headers}Connection: close\r\n\r\n");
    let many: String = (0..2_000).map(|i| format!("X-{i}: y\r\n")).collect();
    let long = format!("Host: x\r\nX-Long: {}\r\n", "y".repeat(200_000));
    let get = "GET /v1/flavors HTTP/1.1";
    let post = "POST /v1/auth/login HTTP/1.1";
    for (request, allowed) in [
        (with(get, ""), vec![400]),
        (with(get, "Host: a\r\nHost: b\r\n"), vec![400]),
        (with(get, &many), vec![431, 400]),
        (with(get, &long), vec![431, 400]),
        (with(get, "Host: x\r\nX-Nul: a\0b\r\n"), vec![400]),
        (with(get, "Host: x\r\nX Y: a\r\n"), vec![400]),
        (with(get, "Host: x\r\n folded: a\r\n"), vec![400]),
        (with(get, "Host: x\r\n: a\r\n"), vec![400]),
        (with("GET /v1/flavors HTTP/9.9", "Host: x\r\n"), vec![400, 505, 0]),
        (with("GET /v1/flavors", "Host: x\r\n"), vec![400, 0]),
        (with("GET  /v1/flavors HTTP/1.1", "Host: x\r\n"), vec![400]),
        (with("G\0T / HTTP/1.1", "Host: x\r\n"), vec![400]),
        // Who stands between may have looked at the other.
        (with(get, &format!("{auth}Authorization: Bearer x\r\n")), vec![422]),
        (with(get, &format!("{auth}Idempotency-Key: a\r\nIdempotency-Key: b\r\n")), vec![422]),
        (with("TRACE /v1/flavors HTTP/1.1", &auth), vec![405]),
        (with("CONNECT x:443 HTTP/1.1", &auth), vec![404, 405]),
        (with("OPTIONS * HTTP/1.1", &auth), vec![404, 405]),
        (with("NONSENSE /v1/flavors HTTP/1.1", &auth), vec![405]),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_owned(), vec![400, 0]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), vec![400, 505, 0]),
        (with(post, "Host: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n") + "hello", vec![400]),
        (with(post, "Host: x\r\nContent-Length: -1\r\n"), vec![400]),
        (with(post, "Host: x\r\nContent-Length: 99999999999999999999\r\n"), vec![400, 413]),
        (
            with(post, "Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n")
                + "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
            // The length is passed over, as RFC 9112 has it.
            vec![400, 415],
        ),
        (
            with(post, "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
            vec![400],
        ),
        (with(post, "Host: x\r\nTransfer-Encoding: gzip\r\n"), vec![400, 501]),
        (
            with(
                post,
                "Host: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
            ) + "ffffffffffffffff1\r\n{}",
            vec![400],
        ),
        (
            with(
                post,
                "Host: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
            ) + "zz\r\n{}\r\n",
            vec![400],
        ),
    ] {
        let answer = answers(&api, request.as_bytes()).await;
        let short: String = request.chars().take(150).collect();
        assert!(allowed.contains(&status(&answer)), "{short:?}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{short:?} was taken for two: {answer}");
    }
    api.member.get("/v1/flavors").await.expect(200);
}

#[tokio::test]
async fn a_body_that_is_no_honest_one_is_refused_by_what_it_is() {
    let api = Api::start_with(|flags| flags.set("request_timeout_s", "2")).await;
    let head = head(&api) + "Content-Type: application/json\r\n";
    let post = |more: &str| format!("POST /v1/keypairs HTTP/1.1\r\n{head}{more}\r\n");
    let length = |n: usize| format!("Content-Length: {n}\r\nConnection: close\r\n");
    // Announced too large: refused with nothing of it read.
    let mut stream = connect(&api).await;
    stream.write_all(post(&length(1 << 30)).as_bytes()).await.expect("sent");
    assert_eq!(status(&rest(&mut stream).await), 413);
    // Without an end.
    let mut stream = connect(&api).await;
    stream.write_all(post("Transfer-Encoding: chunked\r\n").as_bytes()).await.expect("sent");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let endless = async { while stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, endless).await.expect("the server hears for ever");
    // Slow: half the request's time is the body's.
    let mut stream = connect(&api).await;
    stream.write_all((post(&length(100)) + "{").as_bytes()).await.expect("sent");
    assert_eq!(status(&rest(&mut stream).await), 408);
    // Cut off.
    let mut stream = connect(&api).await;
    stream.write_all((post(&length(100)) + "{\"name\":").as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("cut");
    let cut = rest(&mut stream).await;
    assert!(matches!(status(&cut), 0 | 400), "{cut}");
    for (coding, body) in
        [("gzip", "\u{1f}\u{8b}"), ("br", "x"), ("gzip, identity", "x"), ("zstd", "x")]
    {
        let ask = api.member.ask(reqwest::Method::POST, "/v1/keypairs");
        let ask = ask.header("content-type", "application/json").header("content-encoding", coding);
        ask.body(body).send().await.problem(415, "unsupported-media-type");
    }
    let deep = "[".repeat(500_000);
    let keys =
        format!("{{{}}}", (0..20_000).map(|i| format!("\"{i}\":1")).collect::<Vec<_>>().join(","));
    for (body, statuses) in [
        (deep.as_bytes(), [400, 422]),
        (keys.as_bytes(), [422, 422]),
        (b"\xff\xfe{\0}\0", [400, 400]),
        (b"\xef\xbb\xbf{}", [400, 422]),
        (b"{\"name\":\"\xff\"}", [400, 422]),
        (b"{\"name\":\"a\",\"name\":\"b\",\"public_key\":\"c\"}", [422, 422]),
        (b"{\"name\":1e999999}", [400, 422]),
        (b"{\"name\":\"\\ud800\"}", [400, 422]),
        (b"{} {}", [400, 422]),
        (b"", [400, 400]),
    ] {
        let ask = api.member.ask(reqwest::Method::POST, "/v1/keypairs");
        let answer =
            ask.header("content-type", "application/json").body(body.to_vec()).send().await;
        let short = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert!(statuses.contains(&answer.status), "{short}: {answer:?}");
    }
    for (body, pointer) in [
        (json!(["a", "pileus-guest", "nano"]), ""),
        (json!(["a", "pileus-guest", "nano", null, [], null, {}, null]), ""),
        (
            json!({"name": "a", "image": "i", "flavor": "f", "networks": [["default", null, null]]}),
            "/networks/0",
        ),
        (json!({"name": "a", "image": "i", "flavor": "f", "labels": []}), "/labels"),
        (json!({"name": "a", "image": "i", "flavor": "f", "wanted": 7}), "/wanted"),
    ] {
        let problem = api.member.post("/v1/instances", &body).await.problem(422, "invalid-input");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    }
    let nul = json!({"name": "a", "description": "\0"});
    assert_eq!(api.admin.post("/v1/tenants", &nul).await.status, 422);
}

#[tokio::test]
async fn an_endless_body_that_nobody_asked_for_ends_with_the_answer() {
    let api = Api::start().await;
    let mut stream = connect(&api).await;
    let path = "/v1/instances/0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e/actions/pause";
    let request =
        format!("POST {path} HTTP/1.1\r\n{}Transfer-Encoding: chunked\r\n\r\n", head(&api));
    stream.write_all(request.as_bytes()).await.expect("sent");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let endless = async { while stream.write_all(chunk.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, endless).await.expect("the server hears for ever");
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_given_up() {
    let api = Api::start_with(|flags| flags.set("header_timeout_s", "1")).await;
    for begun in ["", "GET /v1/flav", "GET /v1/flavors HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut stream = connect(&api).await;
        stream.write_all(begun.as_bytes()).await.expect("sent");
        let answer = rest(&mut stream).await;
        assert!(matches!(status(&answer), 0 | 408), "{begun:?}: {answer}");
    }
    // A byte now and then is no way around it.
    let mut stream = connect(&api).await;
    let drip = async {
        while stream.write_all(b"X").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, drip).await.expect("the server waits for ever");
}
