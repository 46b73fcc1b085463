//! OpenTelemetry traces: from the client's own trace through the request and the reconciler to the calls to the host.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Duration, sleep};

use crate::cloud::{Cloud, SOON};

/// Whatever was sent, a document each time.
type Sent = Arc<Mutex<Vec<Value>>>;

/// A collector as OTLP over HTTP describes it.
async fn collector() -> (String, Sent) {
    let sent = Sent::default();
    let take = async |State(sent): State<Sent>, Json(body): Json<Value>| {
        sent.lock().unwrap().push(body);
        Json(json!({}))
    };
    let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&sent));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    (url, sent)
}

/// Every span that was sent, of the service `pileus`.
fn spans(sent: &Sent) -> Vec<Value> {
    let mut all = Vec::new();
    for body in sent.lock().unwrap().iter() {
        for resource in body["resourceSpans"].as_array().unwrap() {
            let name = attribute(&resource["resource"], "service.name");
            assert_eq!(name["stringValue"], "pileus", "{resource:#}");
            for scope in resource["scopeSpans"].as_array().unwrap() {
                all.extend(scope["spans"].as_array().unwrap().iter().cloned());
            }
        }
    }
    all
}

fn attribute(of: &Value, key: &str) -> Value {
    let all = of["attributes"].as_array().into_iter().flatten();
    all.clone().find(|pair| pair["key"] == key).map_or(Value::Null, |pair| pair["value"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_reaches_from_the_client_to_the_call_to_the_host() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const CLIENT: &str = "b7ad6b7169203331";
    let (url, sent) = collector().await;
    let mut cloud = Cloud::new(&[("network-pool", "10.95.0.0/16")]).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    assert!(sent.lock().unwrap().is_empty());
    cloud.terminate().await;
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ] {
        cloud.set_variable(name, value);
    }
    cloud.start().await;
    let new = json!({
        "name": "traced", "image": image, "flavor": "nano", "networks": [{"network": "default"}],
        "user_data": "#cloud-config\n# mArKeD-in-user-data\n",
    });
    let ask = cloud.admin.ask(reqwest::Method::POST, "/v1/instances").json(&new);
    let ask = ask.header("traceparent", format!("00-{TRACE}-{CLIENT}-01"));
    let made = ask.send().await.expect(202);
    let id = made["id"].as_str().unwrap();
    cloud.until(id, "settled", "running", SOON).await;

    // Until the request, the start on the host and every look that called the host are there: each is sent at its end.
    let looked = |ours: &[Value]| {
        let named = |name: &'static str| ours.iter().filter(move |span| span["name"] == name);
        let is_looks =
            |call: &Value| named("reconcile").any(|l| l["spanId"] == call["parentSpanId"]);
        let mut calls = named("host_call");
        calls.clone().any(|call| attribute(call, "call")["stringValue"] == "start")
            && calls.all(is_looks)
            && named("POST /v1/instances").next().is_some()
    };
    let end = Instant::now() + SOON;
    let ours = loop {
        let all = spans(&sent);
        let ours: Vec<_> = all.into_iter().filter(|span| span["traceId"] == TRACE).collect();
        if looked(&ours) {
            break ours;
        }
        let documents = sent.lock().unwrap().len();
        assert!(Instant::now() < end, "no whole trace in {documents} documents: {ours:#?}");
        sleep(Duration::from_millis(100)).await;
    };
    let named = |name: &str| ours.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
    let [request] = named("POST /v1/instances")[..] else { panic!("one request: {ours:#?}") };
    assert_eq!((&request["parentSpanId"], &request["kind"]), (&json!(CLIENT), &json!(2)));
    assert_eq!(attribute(request, "http.route")["stringValue"], "/v1/instances");
    let status = attribute(request, "http.response.status_code")["intValue"].clone();
    assert!(status == 202 || status == "202", "{request:#}");
    let looks = named("reconcile");
    assert!(!looks.is_empty(), "{ours:#?}");
    for look in &looks {
        assert_eq!(look["parentSpanId"], request["spanId"], "{look:#}");
    }
    let text = serde_json::to_string(&*sent.lock().unwrap()).unwrap();
    let domain = format!("{}-{id}", cloud.mark());
    let xml = cloud.host.virsh(&["dumpxml", "--security-info", &domain]);
    assert!(xml.contains(id), "{xml}");
    for secret in ["mArKeD-in-user-data", cloud.admin.token.as_deref().unwrap()] {
        assert!(!text.contains(secret), "{secret} is in a trace");
        assert!(!xml.contains(secret), "{secret} is in the domain's XML");
    }
    cloud.delete(id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_holds_nothing_up() {
    let mut cloud = Cloud::new(&[("network-pool", "10.94.0.0/16")]).await;
    let image = cloud.raw_image("empty", vec![1; 1 << 20]).await;
    cloud.terminate().await;
    // One that is not there, and then one that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in [gone, silent.local_addr().unwrap()] {
        cloud.set_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"));
        cloud.set_variable("OTEL_BSP_SCHEDULE_DELAY", "100");
        cloud.start().await;
        let new = json!({"name": "untraced", "image": image, "flavor": "nano", "networks": []});
        let made = cloud.admin.post("/v1/instances", &new).await.expect(202);
        let id = made["id"].as_str().unwrap();
        cloud.until(id, "settled", "running", SOON).await;
        cloud.delete(id).await;
        let ending = Instant::now();
        cloud.terminate().await;
        assert!(ending.elapsed() < Duration::from_secs(30), "{:?}", ending.elapsed());
    }
}
