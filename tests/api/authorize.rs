//! Who may do what, tried: every operation of the OpenAPI document, as everybody.
//!
//! A new operation is covered by being in the document. Its body is made of the examples in its schema, and what its path
//! names is made by the `POST` of that noun, with examples too; what cannot be made that way (`MUST_BE_MADE` says what can) is
//! named by a random id.

use std::collections::{BTreeMap, BTreeSet};

use pileus::domain::caller::Role;
use pileus::service::authorize::{MATRIX, Need, need};
use reqwest::Method;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::harness::{Answer, Api, Client, PASSWORD};

/// Nouns whose things this test must be able to make, so that it does not come to try random ids unnoticed.
const MUST_BE_MADE: &[&str] = &[
    "aggregates",
    "flavors",
    "groups",
    "hosts",
    "images",
    "instances",
    "keypairs",
    "networks",
    "ports",
    "tenants",
    "tokens",
    "users",
];

/// One operation of the document.
struct Operation {
    id: String,
    method: Method,
    path: String,
    need: Need,
    /// Media type and schema of the body.
    body: Option<(String, Value)>,
}

fn document() -> Value {
    serde_json::to_value(pileus::api::openapi()).expect("the document")
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path") {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let Some(id) = operation["operationId"].as_str() else { continue };
            let content = operation["requestBody"]["content"].as_object();
            let body = content.and_then(|content| {
                content.iter().next().map(|(kind, media)| (kind.clone(), media["schema"].clone()))
            });
            all.push(Operation { id: id.into(), method, path: path.clone(), need: need(id), body });
        }
    }
    all
}

#[test]
fn every_operation_has_one_row_of_the_matrix_and_every_row_an_operation() {
    let mut rows = BTreeSet::new();
    for (operation, _) in MATRIX {
        assert!(rows.insert((*operation).to_owned()), "{operation} has two rows");
    }
    let operations = operations(&document()).into_iter().map(|operation| operation.id);
    assert_eq!(operations.collect::<BTreeSet<_>>(), rows);
}

#[tokio::test]
async fn each_operation_lets_in_whom_the_matrix_says_and_nobody_else() {
    let plenty = ["instances", "vcpus", "memory_mib", "disk_gib", "networks", "images", "keypairs"];
    let api = Api::start_with(|flags| {
        plenty.iter().fold(flags, |flags, what| flags.set(&format!("quota_{what}"), "100000"))
    })
    .await;
    // The one that the example of an instance names.
    api.image("pileus-guest").await;
    // The stranger is an owner at home, so that no role is what keeps them out.
    let stranger = api.stranger.get("/v1/auth/whoami").await.expect(200);
    let member = stranger["user"]["id"].as_str().expect("an id");
    let path = format!("/v1/tenants/{}/members/{member}", api.tenant_b);
    api.admin.put(&path, &json!({"role": "owner"})).await.expect(200);
    let world = World { document: document(), api: &api };
    for noun in MUST_BE_MADE {
        assert!(world.make(noun).await.is_some(), "no {noun} can be made with the examples");
    }
    let mut wrong = Vec::new();
    for operation in operations(&world.document) {
        for who in world.everybody() {
            wrong.extend(world.attempt(&operation, &who).await);
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Somebody, and what the matrix should hold them for.
struct Who<'a> {
    name: &'static str,
    client: &'a Client,
    role: Option<Role>,
    admin: bool,
    in_a: bool,
}

/// Who may see a thing that is named in a path.
#[derive(Clone, Copy, PartialEq)]
enum Visible {
    ToAll,
    InTenantA,
    ToMember,
}

struct World<'a> {
    document: Value,
    api: &'a Api,
}

impl World<'_> {
    fn everybody(&self) -> [Who<'_>; 6] {
        let who = |name, client, role, admin, in_a| Who { name, client, role, admin, in_a };
        let api = self.api;
        [
            who("anonymous", &api.anonymous, None, false, false),
            who("stranger", &api.stranger, Some(Role::Owner), false, false),
            who("reader", &api.reader, Some(Role::Reader), false, true),
            who("member", &api.member, Some(Role::Member), false, true),
            who("owner", &api.owner, Some(Role::Owner), false, true),
            who("admin", &api.admin, Some(Role::Owner), true, true),
        ]
    }

    /// What went wrong, if anything did.
    async fn attempt(&self, operation: &Operation, who: &Who<'_>) -> Option<String> {
        let (path, visible) = self.path(operation).await;
        let before = self.state(operation, &path).await;
        let answer = self.send(operation, who.client, &path).await;
        let expected = expected(operation, who, visible);
        let as_expected = match &expected {
            Expected::Exactly(status) => answer.status == *status,
            Expected::Passed => matches!(answer.status, 200..=299 | 409 | 422),
            Expected::NothingThere => matches!(answer.status, 404 | 422),
        };
        if !as_expected {
            return Some(format!(
                "{} by {}: {expected:?} expected, but {answer:?}",
                operation.id, who.name
            ));
        }
        let refused = matches!(answer.status, 401 | 403 | 404);
        if refused && before != self.state(operation, &path).await {
            return Some(format!(
                "{} by {}: {answer:?}, and yet it did something",
                operation.id, who.name
            ));
        }
        None
    }

    /// What an admin sees of the thing that a change is about.
    async fn state(&self, operation: &Operation, path: &str) -> Option<String> {
        let thing = path.split('/').take(4).collect::<Vec<_>>().join("/");
        if operation.method == Method::GET || thing == path && operation.method == Method::POST {
            return None;
        }
        let seen = self.api.admin.get(&thing).await;
        Some(format!("{} {}", seen.status, seen.text))
    }

    /// The operation's path with ids in it, and who may see what they name; `None`: ids at random.
    async fn path(&self, operation: &Operation) -> (String, Option<Visible>) {
        let noun = operation.path.split('/').nth(2).unwrap_or_default();
        let mut path = operation.path.clone();
        let mut visible = Some(Visible::ToAll);
        while let Some(start) = path.find('{') {
            let end = path[start..].find('}').expect("a closing brace") + start;
            let id = match (noun, &path[start + 1..end]) {
                // Not the tenant that everybody is in.
                ("tenants", "id") if operation.method == Method::DELETE => {
                    self.make("tenants").await.map(|id| (id, Visible::InTenantA))
                }
                ("tenants", "id" | "tenant_id") => {
                    Some((self.api.tenant_a.to_string(), Visible::InTenantA))
                }
                ("tenants", "user_id") => Some((self.new_member().await, Visible::InTenantA)),
                ("tokens", "id") => self.make(noun).await.map(|id| (id, Visible::ToMember)),
                ("aggregates" | "flavors" | "users" | "hosts", "id") => {
                    self.make(noun).await.map(|id| (id, Visible::ToAll))
                }
                (_, "id") => self.make(noun).await.map(|id| (id, Visible::InTenantA)),
                _ => None,
            };
            match id {
                Some((id, who)) => {
                    path.replace_range(start..=end, &id);
                    visible = visible.map(|_| who);
                }
                None => {
                    path.replace_range(start..=end, &Uuid::now_v7().to_string());
                    visible = None;
                }
            }
        }
        (path, visible)
    }

    /// Makes one of the noun in tenant A, by its `POST` and the examples; gives its id.
    async fn make(&self, noun: &str) -> Option<String> {
        let post = &self.document["paths"][format!("/v1/{noun}")]["post"];
        let operation = post["operationId"].as_str()?;
        let maker = if need(operation) == Need::Admin { &self.api.admin } else { &self.api.member };
        let schema = &post["requestBody"]["content"]["application/json"]["schema"];
        let body = self.body(operation, schema).await;
        let answer = maker.post(&format!("/v1/{noun}"), &body).await;
        let id = |made: &Value| made["id"].as_str().map(str::to_owned);
        let made = if answer.status < 300 { answer.body() } else { return None };
        id(&made).or_else(|| id(&made["token"]))
    }

    async fn new_member(&self) -> String {
        let user = self.make("users").await.expect("a user");
        let path = format!("/v1/tenants/{}/members/{user}", self.api.tenant_a);
        self.api.admin.put(&path, &json!({"role": "reader"})).await.expect(200);
        user
    }

    async fn send(&self, operation: &Operation, client: &Client, path: &str) -> Answer {
        let ask = client.ask(operation.method.clone(), path);
        match &operation.body {
            Some((kind, schema)) if kind == "application/json" => {
                ask.json(&self.body(&operation.id, schema).await).send().await
            }
            Some((kind, _)) => ask.header("content-type", kind).body("bytes").send().await,
            None => ask.send().await,
        }
    }

    /// A body of the examples, with a name that nothing else has, and with ids of things that are there.
    async fn body(&self, operation: &str, schema: &Value) -> Value {
        if operation == "login" {
            return json!({"user": "owner", "password": PASSWORD});
        }
        let mut body = example(&self.document, schema);
        for (key, value) in body.as_object_mut().into_iter().flatten() {
            if key == "name" {
                *value = json!(format!("n{}", Uuid::now_v7().simple()));
            } else if let Some(noun) = key.strip_suffix("_id")
                && let Some(id) = Box::pin(self.make(&format!("{noun}s"))).await
            {
                *value = json!(id);
            }
        }
        body
    }
}

/// What should come back.
#[derive(Debug)]
enum Expected {
    Exactly(u16),
    /// Whatever the state of the world makes of it.
    Passed,
    /// A random id names nothing.
    NothingThere,
}

fn expected(operation: &Operation, who: &Who<'_>, visible: Option<Visible>) -> Expected {
    let may = match operation.need {
        Need::Anyone => true,
        _ if who.name == "anonymous" => return Expected::Exactly(401),
        Need::User => true,
        Need::Admin => who.admin,
        Need::Tenant(least) => who.admin || who.role.is_some_and(|role| role >= least),
    };
    let sees = match visible {
        None => return if may { Expected::NothingThere } else { Expected::Exactly(403) },
        Some(Visible::ToAll) => true,
        Some(Visible::InTenantA) => who.in_a,
        Some(Visible::ToMember) => who.name == "member",
    };
    match (may, sees) {
        (false, _) => Expected::Exactly(403),
        (true, false) => Expected::Exactly(404),
        // Deeper paths may have a state to be in: an image without data has none to give.
        (true, true)
            if operation.method == Method::GET && operation.path.matches('/').count() <= 3 =>
        {
            Expected::Exactly(200)
        }
        (true, true) => Expected::Passed,
    }
}

/// A value that fits the schema, of its examples and its required properties.
pub fn example(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return example(document, &document["components"]["schemas"][name]);
    }
    for key in ["example", "default", "const"] {
        if let Some(value) = schema.get(key).filter(|value| !value.is_null()) {
            return value.clone();
        }
    }
    for key in ["examples", "enum"] {
        if let Some(value) = schema[key].as_array().and_then(|values| values.first()) {
            return value.clone();
        }
    }
    for key in ["oneOf", "anyOf"] {
        let one =
            schema[key].as_array().and_then(|all| all.iter().find(|one| one["type"] != "null"));
        if let Some(one) = one {
            return example(document, one);
        }
    }
    let required: BTreeMap<_, _> = parts(document, schema).into_iter().collect();
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "uuid" => json!(Uuid::now_v7()),
        Some("string") => json!("example"),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(false),
        Some("array") => json!([]),
        _ => Value::Object(required.into_iter().collect::<Map<_, _>>()),
    }
}

/// The required properties of an object, also of one that is put together by `allOf`.
fn parts(document: &Value, schema: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        if let Value::Object(object) = example(document, part) {
            all.extend(object);
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().expect("a name");
        all.push((name.to_owned(), example(document, &schema["properties"][name])));
    }
    all
}
