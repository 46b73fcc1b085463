//! Many at a time: idle connections, wrong passwords, a tenant in a loop, clients that never read.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pileus::domain::clock::Clock;
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::harness::{Api, Client};
use crate::hostile::{connect, rest};
use crate::sse::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_idle_connections_leave_room_for_requests() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
    assert!(hard > 10_500, "both ends are this process's, which may have {hard} files");
    let api = Api::start_with(|f| f.set("header_timeout_s", "3600")).await;
    let mut idle = Vec::new();
    for _ in 0..5_000 {
        idle.push(connect(&api).await);
    }
    for _ in 0..50 {
        api.member.get("/v1/flavors").await.expect(200);
        // A new connection each time, too.
        Client::new(api.anonymous.url.clone()).get("/readyz").await.expect(200);
    }
    // They were there all the time: each can still ask.
    for stream in idle.iter_mut().step_by(1_000) {
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        assert!(rest(stream).await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_so_and_there_is_room_when_others_end() {
    let api = Api::start_with(|flags| flags.set("max_connections", "16")).await;
    let mut idle = Vec::new();
    let refused = loop {
        let mut stream = connect(&api).await;
        let first = timeout(Duration::from_millis(500), stream.readable()).await;
        if first.is_ok() {
            break rest(&mut stream).await;
        }
        idle.push(stream);
        assert!(idle.len() <= 16, "a connection too many is taken");
    };
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("application/problem+json"), "{refused}");
    drop(idle);
    let again = async {
        let fresh = || Client::new(api.anonymous.url.clone());
        while !fresh().ask(Method::GET, "/healthz").try_send().await.is_ok_and(|a| a.status == 200)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("no room, though all have left");
}

#[tokio::test]
async fn a_tenant_over_its_rate_is_held_off_and_no_other_is() {
    let api = Api::start_with(|f| f.set("tenant_rate", "1").set("tenant_burst", "40")).await;
    let mut refused = None;
    for _ in 0..200 {
        let answer = api.member.get("/v1/flavors").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        answer.expect(200);
    }
    let refused = refused.expect("never held off");
    let problem = refused.problem(429, "too-many-requests");
    let seconds: u64 =
        refused.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!(seconds >= 1 && problem["retry_after"] == seconds, "{refused:?}");
    // The tenant is held off, whoever of it asks; others and the cloud's admins are not.
    assert_eq!(api.reader.get("/v1/keypairs").await.status, 429);
    for _ in 0..20 {
        api.stranger.get("/v1/flavors").await.expect(200);
        api.admin.get("/v1/flavors").await.expect(200);
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    api.member.get("/v1/flavors").await.expect(200);
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_is_counted_by_its_own_address() {
    let attempt = async |api: &Api, client: &str, n: usize| {
        let login = json!({"user": format!("nobody-{n}"), "password": "wrong wrong wrong"});
        let ask = api.anonymous.ask(Method::POST, "/v1/auth/login").json(&login);
        ask.header("x-forwarded-for", client).send().await.status
    };
    let few = |flags: pileus::config::Flags| flags.set("login_attempts_per_minute", "8");
    // A clock that stands still: no bucket fills again meanwhile.
    let clock = || Clock::manual(Clock::System.now());
    let trust = |f| few(f).set("trusted_proxies", "127.0.0.0/8, 10.0.0.0/8");
    let api = Api::start_at(clock(), trust).await;
    for n in 0..8 {
        assert_eq!(attempt(&api, "1.1.1.1, 192.0.2.1, 10.1.1.1", n).await, 401);
    }
    // What the client itself has put in front is believed by nobody.
    assert_eq!(attempt(&api, "8.8.8.8, 192.0.2.1", 9).await, 429);
    assert_eq!(attempt(&api, "192.0.2.1, 192.0.2.2", 10).await, 401);
    let events = api.events().await;
    let from = |address: &str| events.iter().any(|event| event["detail"]["address"] == address);
    assert!(from("192.0.2.1") && !from("1.1.1.1") && !from("8.8.8.8"), "{events:#?}");
    // Without a proxy that is trusted, the header says nothing: the five logins of the harness count too.
    let api = Api::start_at(clock(), few).await;
    let mut statuses = Vec::new();
    for n in 0..8 {
        statuses.push(attempt(&api, &format!("192.0.2.{n}"), n).await);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 5, "{statuses:?}");
}

/// Median time of a request, over some.
async fn pace(client: &Client) -> Duration {
    let mut times = Vec::new();
    for _ in 0..40 {
        let began = Instant::now();
        client.get("/v1/flavors").await.expect(200);
        times.push(began.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// How many times as long others take while a thousand logins fail, nearly two hundred a second: this client, the server and its
/// database share the machine, so that a client without any pause would slow others down by its own work.
async fn slowdown(api: &Api) -> f64 {
    // Calm and storm by turns, so that what else the machine does falls on both.
    let (mut calm, mut storm) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..10 {
        calm += pace(&api.member).await;
        let client = api.anonymous.clone();
        let flood = tokio::spawn(async move {
            for n in 0..100 {
                let login = json!({"user": format!("u{}", n % 7), "password": "wrong wrong wrong"});
                let status = client.post("/v1/auth/login", &login).await.status;
                assert!(matches!(status, 401 | 429 | 503), "{status}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        storm += pace(&api.member).await;
        flood.await.expect("the flood");
    }
    storm.as_secs_f64() / calm.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_wrong_passwords_slow_nobody_else_by_more_than_half() {
    let api = Api::start_with(|f| f.set("login_attempts_per_minute", "20")).await;
    // Other tests run beside it: what slows others down does so each time.
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(slowdown(&api).await);
        println!("others take {seen:.2?} times as long while a thousand logins fail");
        if seen.iter().any(|ratio| *ratio <= 1.5) {
            return;
        }
    }
    panic!("others take {seen:.2?} times as long");
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_cut_off() {
    let api = Api::start_with(|f| f.set("stream_keepalive_s", "1")).await;
    let mut stream = connect(&api).await;
    // Pipelined, so that far more is answered than the sockets hold.
    let request = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    stream.write_all(request.as_bytes()).await.expect("sent");
    // Nothing is read; when the server has given it up, writing fails.
    let gone = async {
        while stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the server holds on to a reader that does not read");
}

#[tokio::test]
async fn a_download_that_nobody_reads_gives_its_place_back() {
    let api = Api::start_with(|f| f.set("max_uploads", "1").set("upload_stall_s", "1")).await;
    let new = json!({"name": "big", "format": "raw"});
    let image = api.member.post("/v1/images", &new).await.expect(201);
    let path = format!("/v1/images/{}/data", image["id"].as_str().expect("an id"));
    // More than sockets and buffers hold.
    let put = api.member.ask(Method::PUT, &path).header("content-type", "application/octet-stream");
    put.body(vec![7; 32 << 20]).send().await.expect(200);
    let unread = api.member.ask(Method::GET, &path).open().await;
    assert_eq!(unread.status(), 200);
    let again = async {
        while api.member.ask(Method::GET, &path).open().await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the only place for a download is never given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_its_share_of_waits_and_streams_and_leaves_the_rest_to_others() {
    let api = Api::start_with(|f| f.set("max_waits", "4").set("max_streams", "4")).await;
    api.image("tiny").await;
    let new = json!({"name": "waited-for", "image": "tiny", "flavor": "nano"});
    let made = api.member.post("/v1/instances", &new).await.expect(202);
    let instance = made["id"].as_str().expect("an id");
    let path = format!("/v1/instances/{instance}?wait=deleted&timeout=600");
    let mut waiting = Vec::new();
    for client in [&api.member, &api.owner] {
        let (client, path) = (client.clone(), path.clone());
        waiting.push(tokio::spawn(async move { client.get(&path).await }));
    }
    let held = |what: &str| {
        let all = api.app.limits().in_use();
        all.iter().find(|(kind, ..)| *kind == what).expect("counted").1
    };
    let both = async {
        while held("waits") < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, both).await.expect("both wait");
    // The third of the same tenant: also after many tries, none of which keeps a place.
    for _ in 0..10 {
        let refused = api.reader.get(&path).await;
        let told = refused.problem(429, "too-many-requests");
        assert!(told["detail"].as_str().unwrap().contains("share of 4"), "{told:#}");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    api.reader.get(&format!("/v1/instances/{instance}")).await.expect(200);
    // Another tenant's is answered, and admins have no share.
    let soon = format!("/v1/instances/{instance}?wait=deleted&timeout=1");
    api.stranger.get(&soon).await.problem(404, "not-found");
    assert_ne!(api.admin.get(&soon).await.status, 429);
    for wait in waiting {
        wait.abort();
    }
    let none = async {
        while api.reader.get(&soon).await.status == 429 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, none).await.expect("what ended is given back");

    let open = |client: &Client| {
        client.ask(Method::GET, "/v1/events").header("accept", "text/event-stream").open()
    };
    let streams = [open(&api.member).await, open(&api.owner).await];
    assert!(streams.iter().all(|stream| stream.status() == 200));
    assert_eq!(open(&api.reader).await.status(), 429);
    assert_eq!(open(&api.stranger).await.status(), 200);
}
