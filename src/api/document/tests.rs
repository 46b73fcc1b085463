//! The document's own promises: nothing undescribed, nothing unbounded, every error named, and the committed copies current.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::documents::{Version, pretty};

fn document() -> Value {
    serde_json::from_str(&pretty(Version::V31).unwrap()).unwrap()
}

/// Where and what.
type Faults = Vec<String>;

fn none(faults: &Faults) {
    assert!(faults.is_empty(), "{} faults:\n  {}", faults.len(), faults.join("\n  "));
}

fn operations(document: &Value) -> impl Iterator<Item = (String, &Map<String, Value>)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, op)| (format!("{method} {path}"), op.as_object().unwrap()))
    })
}

fn resolve<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).expect(reference),
        None => schema,
    }
}

fn has_type(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::String(only) => only == name,
        Value::Array(several) => several.iter().any(|t| t == name),
        _ => false,
    }
}

/// Bounds of a schema, wherever it stands.
fn bounds(at: &str, schema: &Value, faults: &mut Faults) {
    let has = |key: &str| schema.get(key).is_some();
    let mut want = |fine: bool, what: &str| {
        if !fine {
            faults.push(format!("{at}: {what}"));
        }
    };
    let fixed = ["uuid", "date-time", "ipv4", "ipv6", "date", "binary"];
    let format = schema["format"].as_str().unwrap_or("");
    if has_type(schema, "string") {
        let bounded = has("maxLength") || has("enum") || has("const") || has("contentMediaType");
        want(bounded || fixed.contains(&format), "a string without max_length");
    }
    if has_type(schema, "integer") || has_type(schema, "number") {
        want(has("minimum") || has("exclusiveMinimum"), "a number without minimum");
        // int64 and int32 say how large it can be; what people give must be bounded by sense.
        want(has("maximum") || !format.is_empty(), "a number without maximum or format");
    }
    if has_type(schema, "array") {
        want(has("maxItems"), "an array without max_items");
    }
    for key in ["items", "additionalProperties"] {
        if schema.get(key).is_some_and(Value::is_object) {
            bounds(&format!("{at}[]"), &schema[key], faults);
        }
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for choice in schema[key].as_array().into_iter().flatten() {
            bounds(at, choice, faults);
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        bounds(&format!("{at}.{name}"), property, faults);
    }
}

fn described(document: &Value, schema: &Value) -> bool {
    let own = |s: &Value| s["description"].as_str().is_some_and(|text| text.len() > 4);
    own(schema)
        || own(resolve(document, schema))
        || schema["oneOf"].as_array().into_iter().flatten().any(|s| described(document, s))
}

/// A value can be shown: by an example of its own, of what it refers to, or of each of its parts.
fn shown(document: &Value, schema: &Value) -> bool {
    let target = resolve(document, schema);
    let own = |s: &Value| {
        ["example", "examples", "default", "const", "enum"].iter().any(|k| s.get(k).is_some())
    };
    if own(schema) || own(target) || has_type(target, "boolean") || has_type(target, "object") {
        return true;
    }
    if has_type(target, "array") {
        return shown(document, &target["items"]);
    }
    ["oneOf", "anyOf", "allOf"]
        .iter()
        .any(|key| target[*key].as_array().into_iter().flatten().any(|s| shown(document, s)))
}

#[test]
fn every_field_is_described_bounded_and_shown() {
    let document = document();
    let mut faults = Faults::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        bounds(name, schema, &mut faults);
        if !described(&document, schema) {
            faults.push(format!("{name}: the schema has no description"));
        }
        let parts = schema["oneOf"].as_array().into_iter().flatten().chain([schema]);
        for (field, property) in
            parts.flat_map(|part| part["properties"].as_object().into_iter().flatten())
        {
            if !described(&document, property) {
                faults.push(format!("{name}.{field}: no description"));
            }
            if !shown(&document, property) {
                faults.push(format!("{name}.{field}: no example"));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_parameter_is_described_bounded_and_shown() {
    let document = document();
    let mut faults = Faults::new();
    for (at, operation) in operations(&document) {
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten()
        {
            let at = format!("{at} {}", parameter["name"]);
            let schema = &parameter["schema"];
            bounds(&at, resolve(&document, schema), &mut faults);
            if !described(&document, parameter) {
                faults.push(format!("{at}: no description"));
            }
            if parameter.get("example").is_none() && !shown(&document, schema) {
                faults.push(format!("{at}: no example"));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_operation_has_a_unique_id_a_summary_a_described_tag_and_its_errors() {
    let document = document();
    let mut faults = Faults::new();
    let mut ids = BTreeMap::new();
    let tags = document["tags"].as_array().unwrap();
    for (at, operation) in operations(&document) {
        let mut want = |fine: bool, what: &str| {
            if !fine {
                faults.push(format!("{at}: {what}"));
            }
        };
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        want(!id.is_empty() && id.chars().all(snake), "operation_id is not snake_case");
        let other = ids.insert(id, at.clone());
        want(other.is_none(), "the operation_id is another's too");
        want(operation.get("summary").is_some_and(|s| s != ""), "no summary");
        let tag = &operation["tags"][0];
        let tag = tags.iter().find(|t| t["name"] == *tag);
        want(tag.is_some_and(|t| t.get("description").is_some()), "no tag with a row in parts.rs");
        let responses = operation["responses"].as_object().unwrap();
        want(responses.keys().any(|s| s.starts_with('2')), "no success");
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        let mut errors = vec!["400", "422", "500", "503"];
        errors.extend(if open { [].as_slice() } else { &["401", "403"] });
        errors.extend(at.contains('{').then_some("404"));
        errors.extend(operation.contains_key("requestBody").then_some("413"));
        for status in errors {
            want(responses.contains_key(status), &format!("{status} is not documented"));
        }
        for (status, response) in responses {
            let response = resolve(&document, response);
            want(
                response["description"].as_str().is_some_and(|d| !d.is_empty()),
                &format!("{status} has no description"),
            );
            if status.starts_with(['4', '5']) {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                want(schema == "#/components/schemas/Problem", &format!("{status} is no Problem"));
            }
        }
        for part in at.split('/').filter(|part| part.starts_with('{')) {
            let name = part.trim_matches(['{', '}']);
            let mut given = operation["parameters"].as_array().into_iter().flatten();
            want(
                given.any(|p| p["in"] == "path" && p["name"] == name),
                &format!("no param {part}"),
            );
        }
    }
    none(&faults);
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = document();
    let text = document.to_string();
    let mut faults = Faults::new();
    for reference in text.split(r##""$ref":"#"##).skip(1) {
        let pointer = reference.split('"').next().unwrap();
        if document.pointer(pointer).is_none() {
            faults.push(format!("#{pointer} leads nowhere"));
        }
    }
    for kind in ["schemas", "headers"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            if !text.contains(&format!("#/components/{kind}/{name}\"")) {
                faults.push(format!("{kind}/{name} is used by nothing"));
            }
        }
    }
    none(&faults);
}

#[test]
fn the_committed_documents_are_what_the_code_says() {
    for (version, name) in [(Version::V31, "openapi.json"), (Version::V30, "openapi-3.0.json")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi").join(name);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == pretty(version).unwrap(),
            "openapi/{name} is not what the code says: run `make openapi` and commit it"
        );
    }
}
