//! Arbitrary text where the document says text: filters, cursors, tokens, conditions, ranges, keys. Nothing of it is our fault
//! (5xx), and nothing opens a door.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;

/// Values of a strategy: the same in each run, unless `PILEUS_FUZZ_SEED` says otherwise; `PILEUS_FUZZ_EXAMPLES` says how many.
#[expect(clippy::disallowed_methods, reason = "`make fuzz` steers by variables")]
fn some<T>(strategy: impl Strategy<Value = T>, usual: usize) -> Vec<T> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number("PILEUS_FUZZ_SEED").unwrap_or(7).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let count = number("PILEUS_FUZZ_EXAMPLES").map_or(usual, |n| usize::try_from(n).unwrap());
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}

/// What filters and cursors look like, nearly do, and do not.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[A-Za-z0-9_-]{0,64}",
        "([a-z]{0,3}[=,%/]{0,2}){0,6}",
        "[A-Za-z0-9_-]{11}",
        "[A-Za-z0-9_-]{22}",
        "-?[0-9]{1,25}",
        Just("\u{0}".to_owned()),
        "\\PC{60,300}",
    ]
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test]
async fn no_query_is_our_fault() {
    let api = Api::start().await;
    let document = serde_json::to_value(pileus::api::openapi()).expect("the document");
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let parameters = item["get"]["parameters"].as_array();
        for parameter in parameters.into_iter().flatten().filter(|p| p["in"] == "query") {
            let path = path.replace("{id}", &Uuid::nil().to_string());
            let path = path.replace("{tenant_id}", &api.tenant_a.to_string());
            let name = parameter["name"].as_str().expect("a name");
            for text in some(texts(), 12) {
                let answer = api.admin.get(&format!("{path}?{name}={}", encoded(&text))).await;
                let fine = matches!(answer.status, 200 | 404 | 422);
                assert!(fine, "{name}={text:?}: {answer:?}");
                asked += 1;
            }
        }
    }
    assert!(asked > 300, "the test does not see the parameters");
}

#[tokio::test]
async fn no_text_is_a_token() {
    let api = Api::start().await;
    let good = api.member.token.clone().expect("a token");
    let parts: Vec<_> = good.split('.').map(str::to_owned).collect();
    let mangled = (0..good.len(), any::<u8>()).prop_map(move |(at, by)| {
        let mut bytes = good.clone().into_bytes();
        let other = b"ABCDEFGHabcdefgh0123-_."[usize::from(by) % 23];
        // The last character's low bits are padding, which a decoder may pass over.
        let at = at.min(bytes.len() - 2);
        bytes[at] = if bytes[at] == other { b'Z' } else { other };
        String::from_utf8(bytes).expect("ASCII")
    });
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let crossed = format!("{}.{}.{}", parts[0], parts[2], parts[1]);
    let strategy = prop_oneof![
        "[ -~]{1,200}",
        "pileus_[A-Za-z0-9]{0,60}",
        "[A-Za-z0-9_-]{1,60}\\.[A-Za-z0-9_-]{1,60}\\.[A-Za-z0-9_-]{0,60}",
        mangled,
        Just(none),
        Just(crossed),
    ];
    for token in some(strategy, 150) {
        let ask = api.anonymous.ask(Method::GET, "/v1/auth/whoami");
        let answer = ask.header("authorization", format!("Bearer {token}")).send().await;
        assert_eq!(answer.status, 401, "{token:?}: {answer:?}");
    }
    for scheme in some("[ -~]{0,40}", 40) {
        let ask = api.anonymous.ask(Method::GET, "/v1/auth/whoami");
        assert_eq!(ask.header("authorization", &scheme).send().await.status, 401, "{scheme:?}");
    }
}

#[tokio::test]
async fn no_header_is_our_fault() {
    let api = Api::start().await;
    let image = api.image("i").await;
    let data = format!("/v1/images/{}/data", image["id"].as_str().expect("an id"));
    let image = data.trim_end_matches("/data").to_owned();
    let ranges = prop_oneof!["bytes=-?[0-9]{0,20}-?[0-9]{0,20}(,[0-9]{1,3}-)?", "[ -~]{0,80}"];
    for range in some(ranges, 40) {
        let ask = api.member.ask(Method::GET, &data).header("range", &range);
        let answer = ask.send().await;
        let fine = match answer.status {
            200 => answer.text.len() == 1 << 20,
            206 => (1..=1 << 20).contains(&answer.text.len()),
            status => status == 416,
        };
        assert!(fine, "{range:?}: {} with {} bytes", answer.status, answer.text.len());
        // None of these is its ETag.
        let ask = api.member.ask(Method::GET, &data).header("range", &range);
        let answer = ask.header("if-range", &range).send().await;
        assert_eq!((answer.status, answer.text.len()), (200, 1 << 20), "{range:?}");
    }
    for value in some("(W/)?\"?[ -~]{0,40}\"?(, \"[0-9]{1,20}\")?", 60) {
        for (method, name) in [(Method::GET, "if-none-match"), (Method::DELETE, "if-match")] {
            let ask = api.stranger.ask(method, &image).header(name, &value);
            let status = ask.send().await.status;
            assert!(
                matches!(status, 200 | 304 | 403 | 404 | 412 | 422),
                "{name}: {value:?}: {status}"
            );
        }
        let ask = api.member.ask(Method::GET, &data).header("if-none-match", &value);
        assert!(matches!(ask.send().await.status, 200 | 304 | 422), "{value:?}");
        let ask = api.member.ask(Method::GET, "/v1/events").header("accept", "text/event-stream");
        let status = ask.header("last-event-id", &value).open().await.status().as_u16();
        assert!(matches!(status, 200 | 422), "{value:?}: {status}");
        let ask = api.member.ask(Method::GET, "/v1/flavors").header("accept", &value);
        let answer =
            ask.header("accept-encoding", &value).header("x-request-id", &value).send().await;
        assert_eq!(answer.status, 200, "{value:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_key_names_one_request_of_one_user_whatever_the_key() {
    let api = Api::start_with(|flags| flags.set("quota_networks", "1000")).await;
    let keys = prop_oneof!["[!-~]{1,40}", "[ -~]{0,300}", "[a-z]{254,257}"];
    for (n, key) in some(keys, 40).into_iter().enumerate() {
        let make = async |who: &crate::harness::Client, name: &str| {
            let ask = who.ask(Method::POST, "/v1/networks").header("idempotency-key", &key);
            ask.json(&json!({"name": name})).send().await
        };
        let first = make(&api.member, &format!("n{n}")).await;
        if !(1..=255).contains(&key.trim().len()) {
            assert_eq!(first.status, 422, "{key:?}: {first:?}");
            continue;
        }
        let id = |answer: &Value| answer["id"].clone();
        let made = id(&first.expect(201));
        assert_eq!(id(&make(&api.member, &format!("n{n}")).await.expect(201)), made, "{key:?}");
        make(&api.member, "other").await.problem(409, "idempotency-key-reused");
        // Another's key is another key.
        assert_ne!(id(&make(&api.stranger, &format!("n{n}")).await.expect(201)), made, "{key:?}");
    }
}
