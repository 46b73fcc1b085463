//! Another tenant's ids and names, in every place of query and body where one can stand: the answer is that for what is
//! nowhere. (Ids in paths: `authorize`.)
//!
//! The places are found in the OpenAPI document: fields of format `uuid` or of a type `…Id`, and those described as "Id or
//! name". A new one is covered by being in the document.

use pileus::service::authorize::{Need, need};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::authorize::example;
use crate::harness::{Api, Client};

/// Where an id can stand.
#[derive(Debug)]
struct Place {
    operation: String,
    method: reqwest::Method,
    path: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A query parameter's name.
    Query(String),
    /// A JSON pointer into the body, whose schema this is.
    Body(String, Value),
}

fn resolve<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect(reference),
        None => schema,
    }
}

fn is_id(document: &Value, schema: &Value) -> bool {
    let described = schema["description"].as_str().unwrap_or_default();
    ["Id or name", "Ids or names"].iter().any(|words| described.contains(words))
        || resolve(document, schema)["format"] == "uuid"
}

/// The pointers of all fields that hold an id.
fn walk(document: &Value, schema: &Value, at: &str, inherited: bool, found: &mut Vec<String>) {
    let id = inherited || is_id(document, schema);
    let schema = resolve(document, schema);
    let text = schema["type"] == "string" || schema["type"][0] == "string";
    if id && text {
        found.push(at.to_owned());
        return;
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(document, property, &format!("{at}/{name}"), false, found);
    }
    if schema["items"].is_object() {
        walk(document, &schema["items"], &format!("{at}/0"), id, found);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for part in schema[key].as_array().into_iter().flatten() {
            walk(document, part, at, id, found);
        }
    }
}

fn places(document: &Value) -> Vec<Place> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path") {
            let place = |kind| Place {
                operation: operation["operationId"].as_str().expect("an id").to_owned(),
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                kind,
            };
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" && is_id(document, &parameter["schema"]) {
                    let name = parameter["name"].as_str().expect("a name");
                    all.push(place(Kind::Query(name.to_owned())));
                }
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let mut pointers = Vec::new();
            walk(document, schema, "", false, &mut pointers);
            all.extend(pointers.into_iter().map(|at| place(Kind::Body(at, schema.clone()))));
        }
    }
    all
}

/// Sets the field, making what leads there.
fn set(body: &mut Value, pointer: &str, value: &str) {
    let mut at = body;
    for part in pointer.split('/').skip(1) {
        at = if part == "0" {
            if at.as_array().is_none_or(|items| items.len() != 1) {
                *at = json!([null]);
            }
            &mut at[0]
        } else {
            if !at.is_object() {
                *at = json!({});
            }
            &mut at[part]
        };
    }
    *at = json!(value);
}

/// One of each noun in tenant A, private: id and name.
async fn things(api: &Api) -> Vec<(String, String)> {
    let mut things = Vec::new();
    let mut put = |made: &Value, name: &str| {
        things.push((made["id"].as_str().expect("an id").to_owned(), name.to_owned()));
    };
    let network = json!({"name": "hidden-network", "cidr": "10.64.9.0/24"});
    let network = api.member.post("/v1/networks", &network).await.expect(201);
    put(&network, "hidden-network");
    let port = json!({"name": "hidden-port", "network_id": network["id"]});
    put(&api.member.post("/v1/ports", &port).await.expect(201), "hidden-port");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIBcWIJUgQcnhaeLmN0ARKdMM40WVFUIJU3TkPQHwfTN x";
    let key = json!({"name": "hidden-key", "public_key": key});
    put(&api.member.post("/v1/keypairs", &key).await.expect(201), "hidden-key");
    let image = json!({"name": "hidden-image", "format": "raw"});
    put(&api.member.post("/v1/images", &image).await.expect(201), "hidden-image");
    let instance = json!({"name": "hidden-instance", "image": "pileus-guest", "flavor": "nano"});
    put(&api.member.post("/v1/instances", &instance).await.expect(202), "hidden-instance");
    let group = json!({"name": "hidden-group", "rule": "affinity"});
    put(&api.member.post("/v1/groups", &group).await.expect(201), "hidden-group");
    let token = api.member.post("/v1/tokens", &json!({"name": "hidden-token"})).await.expect(201);
    put(&token["token"], "hidden-token");
    let whoami = api.member.get("/v1/auth/whoami").await.expect(200);
    put(&whoami["user"], "member");
    put(&whoami["tenant"], "default");
    things
}

#[tokio::test]
async fn what_belongs_to_another_tenant_is_nowhere_wherever_it_is_named() {
    let api = Api::start().await;
    api.image("pileus-guest").await;
    let document = serde_json::to_value(pileus::api::openapi()).expect("the document");
    let places = places(&document);
    let named: Vec<_> = places.iter().map(|p| format!("{} {:?}", p.operation, p.kind)).collect();
    for (operation, field) in [
        ("create_instance", "/image"),
        ("create_instance", "/group"),
        ("create_instance", "/reservation"),
        ("explain_placement", "/group"),
        ("explain_placement", "/image"),
        ("create_instance", "/keypairs/0"),
        ("create_instance", "/networks/0/network"),
        ("create_instance", "/networks/0/port_id"),
        ("create_port", "/network_id"),
        ("login", "/tenant"),
        ("list_events", "resource_id"),
        ("list_ports", "instance_id"),
    ] {
        let here =
            named.iter().any(|n| n.starts_with(operation) && n.contains(&format!("\"{field}\"")));
        assert!(here, "{operation} {field} is not seen as a place of an id, in {named:#?}");
    }
    let (stranger, things) = (&api.stranger, things(&api).await);
    // What is the admins' alone goes no further than its form: 422 or 403, whatever is named.
    for place in places.iter().filter(|place| need(&place.operation) != Need::Admin) {
        assert!(
            !place.path.contains('{'),
            "{place:?}: let this test make one in the stranger's tenant"
        );
        for (id, name) in &things {
            let nowhere =
                (Uuid::now_v7().to_string(), format!("nowhere-{}", Uuid::now_v7().simple()));
            same(stranger, place, &document, id, &nowhere.0).await;
            // A name as long as one can be tells no more than an id.
            let named = matches!(&place.kind, Kind::Body(at, _) if !at.ends_with("_id"));
            if named && name != "default" && name != "member" {
                same(stranger, place, &document, name, &nowhere.1).await;
            }
        }
    }
}

/// What is hidden gets the answer of what is nowhere, and neither gets anything done.
async fn same(client: &Client, place: &Place, document: &Value, hidden: &str, nowhere: &str) {
    let mut answers = Vec::new();
    for value in [hidden, nowhere] {
        let answer = match &place.kind {
            Kind::Query(name) => client.get(&format!("{}?{name}={value}", place.path)).await,
            Kind::Body(at, schema) => {
                let mut body = example(document, schema);
                if place.operation == "login" {
                    body = json!({"user": "stranger", "password": crate::harness::PASSWORD});
                }
                set(&mut body, at, value);
                client.ask(place.method.clone(), &place.path).json(&body).send().await
            }
        };
        let fine = match place.kind {
            Kind::Query(_) => matches!(answer.status, 200 | 403),
            Kind::Body(..) => matches!(answer.status, 403 | 404 | 422),
        };
        assert!(fine, "{place:?} with {value}: {answer:?}");
        answers.push((answer.status, answer.text.replace(value, "IT")));
    }
    assert_eq!(answers[0], answers[1], "{place:?} tells {hidden} from what is nowhere");
}
