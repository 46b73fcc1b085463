//! The log as JSON: one id leads from a request to what was done on a host for it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::process::{Process, SOON, Site};

/// The fields of the span of this name that the line stands in.
fn span<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line["spans"].as_array()?.iter().find(|span| span["name"] == name)
}

/// The line of this host call, done for this request.
async fn call(server: &Process, what: &str, request: &str) -> Value {
    server
        .line(what, |line| {
            line["message"] == "done on the host"
                && span(line, "host_call").is_some_and(|call| call["call"] == what)
                && span(line, "reconcile").is_some_and(|look| look["request_id"] == request)
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_leads_from_the_request_to_the_libvirt_call() {
    let site = Site::new().await;
    let server = site.serve(&[]).await;
    let host = site.host("test:///default").await.to_string();
    server.furnish().await;
    let ask = async |method: Method, path: &str, body: Value, id: &str| {
        let ask = server.api.ask(method, path).header("x-request-id", id);
        ask.json(&body).send().await.expect(202)
    };

    let new = json!({"name": "one", "image": "small", "flavor": "f1"});
    let path = "/v1/instances?wait=running&timeout=60";
    let made = ask(Method::POST, path, new, "asked-to-create").await;
    assert_eq!(made["status"], "running", "{made}");
    let id = made["id"].as_str().expect("an id").to_owned();
    let request = |line: &Value| {
        line["message"] == "answered"
            && span(line, "request").is_some_and(|span| span["request_id"] == "asked-to-create")
    };
    let answered = server.line("the request", request).await;
    assert_eq!(answered["route"], "/v1/instances");
    assert_eq!(answered["status"], 202);
    for what in ["create the disk", "write the seed", "start"] {
        let line = call(&server, what, "asked-to-create").await;
        let look = span(&line, "reconcile").expect("a look");
        assert_eq!(look["kind"], "instance", "{line}");
        assert_eq!(look["instance"], id.as_str(), "{line}");
        assert_eq!(look["host"], host.as_str(), "{line}");
        assert_eq!(look["attempt"], 1, "{line}");
    }
    // The image's way to the host is an item of its own, done for the same request.
    let upload = call(&server, "upload the image", "asked-to-create").await;
    assert_eq!(span(&upload, "reconcile").expect("a look")["kind"], "host_image");

    let path = format!("/v1/instances/{id}?wait=deleted&timeout=60");
    ask(Method::DELETE, &path, Value::Null, "asked-to-delete").await;
    call(&server, "delete the disk", "asked-to-delete").await;

    // The audit log says the same: what was done, for which request.
    for (kind, request) in
        [("instance.settled", "asked-to-create"), ("instance.delete", "asked-to-delete")]
    {
        let event = done(&server, &id, kind).await;
        assert_eq!(event["request_id"], request, "{event}");
    }
}

/// The event that this was done, once it is in the feed.
async fn done(server: &Process, id: &str, kind: &str) -> Value {
    let path = format!("/v1/events?limit=1000&resource_id={id}");
    let found = timeout(SOON, async {
        loop {
            let page = server.api.get(&path).await.expect(200);
            let events = page["items"].as_array().expect("items");
            let event = events.iter().find(|e| e["kind"] == kind && e["outcome"] == "done");
            if let Some(event) = event {
                return event.clone();
            }
            sleep(Duration::from_millis(100)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("no {kind}"))
}
