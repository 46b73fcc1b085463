//! OpenAPI 3.1 made into 3.0.3, for generators that read no newer one. Pure; knows what our document uses, and drops the rest.
//!
//! Source: "Migrating from OpenAPI 3.0 to 3.1.0", read backwards, and OpenAPI 3.0.3's Schema Object.

use serde_json::{Map, Value, json};

/// Keywords of a schema that 3.0 does not have and that say nothing which it could.
const UNKNOWN: &[&str] = &[
    "$schema",
    "$id",
    "$anchor",
    "$comment",
    "$defs",
    "contentEncoding",
    "contentSchema",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// The 3.0.3 document that says what the 3.1 document says, as far as it can.
pub fn convert(mut document: Value) -> Value {
    document["openapi"] = json!("3.0.3");
    if let Some(root) = document.as_object_mut() {
        root.remove("webhooks");
        root.remove("jsonSchemaDialect");
    }
    if let Some(info) = document["info"].as_object_mut() {
        info.remove("summary");
    }
    if let Some(license) = document["info"]["license"].as_object_mut()
        && let Some(identifier) = license.remove("identifier")
        && let Some(identifier) = identifier.as_str()
        && !license.contains_key("url")
    {
        license.insert("url".into(), json!(format!("https://spdx.org/licenses/{identifier}.html")));
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.values_mut().for_each(schema);
    }
    // Schemas of the parts that only look like schemas are reached through the key that holds them.
    for part in ["responses", "parameters", "headers", "requestBodies"] {
        places(&mut document["components"][part]);
    }
    if let Some(components) = document["components"].as_object_mut() {
        components.retain(|_, part| !part.is_null());
        components.remove("pathItems");
    }
    places(&mut document["paths"]);
    document
}

/// Finds every `schema` of parameters, headers and media types.
fn places(value: &mut Value) {
    match value {
        Value::Object(object) => {
            // An example may hold anything, a key `schema` too.
            for (key, inner) in
                object.iter_mut().filter(|(k, _)| *k != "example" && *k != "examples")
            {
                if key == "schema" { schema(inner) } else { places(inner) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(places),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One schema and all within it.
fn schema(value: &mut Value) {
    if value.is_boolean() {
        // `true` takes everything; `false` takes nothing.
        *value = if *value == json!(true) { json!({}) } else { json!({ "not": {} }) };
    }
    let Some(object) = value.as_object_mut() else { return };
    for key in ["items", "not", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key).filter(|inner| inner.is_object()) {
            schema(inner);
        }
    }
    if object.get("items").is_some_and(Value::is_boolean) {
        object.insert("items".into(), json!({}));
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(schema);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        without_null(object, key);
        if let Some(inner) = object.get_mut(key).and_then(Value::as_array_mut) {
            inner.iter_mut().for_each(schema);
        }
    }
    one_type(object);
    bound(object, "exclusiveMinimum", "minimum");
    bound(object, "exclusiveMaximum", "maximum");
    if let Some(only) = object.remove("const") {
        object.insert("enum".into(), json!([only]));
    }
    if let Some(Value::Array(examples)) = object.remove("examples")
        && let Some(first) = examples.into_iter().next()
        && !object.contains_key("example")
    {
        object.insert("example".into(), first);
    }
    if object.remove("contentMediaType").is_some() {
        object.entry("format").or_insert(json!("binary"));
    }
    object.retain(|key, _| !UNKNOWN.contains(&key.as_str()));
    reference(object);
}

/// `oneOf: [{type: null}, …]` is a nullable `…`.
fn without_null(object: &mut Map<String, Value>, key: &str) {
    let Some(choices) = object.get_mut(key).and_then(Value::as_array_mut) else { return };
    let before = choices.len();
    choices.retain(|choice| choice.get("type") != Some(&json!("null")));
    if choices.len() == before {
        return;
    }
    if let [only] = choices.as_slice() {
        // A bare reference has no siblings in 3.0.
        let only = only.clone();
        object.remove(key);
        object.insert("allOf".into(), json!([only]));
    }
    object.insert("nullable".into(), json!(true));
}

/// `type: [x, null]` is a nullable `x`; more than one other type is a choice.
fn one_type(object: &mut Map<String, Value>) {
    match object.get("type") {
        Some(Value::Array(types)) => {
            let mut rest: Vec<Value> =
                types.iter().filter(|t| **t != json!("null")).cloned().collect();
            if rest.len() < types.len() {
                object.insert("nullable".into(), json!(true));
            }
            if rest.len() == 1 {
                object.insert("type".into(), rest.remove(0));
            } else {
                object.remove("type");
                let each: Vec<_> = rest.into_iter().map(|t| json!({ "type": t })).collect();
                if !each.is_empty() {
                    object.insert("anyOf".into(), json!(each));
                }
            }
        }
        Some(Value::String(name)) if name == "null" => {
            object.remove("type");
            object.insert("enum".into(), json!([null]));
            object.insert("nullable".into(), json!(true));
        }
        _ => {}
    }
    // An enum that may be null must list it.
    if object.get("nullable") == Some(&json!(true))
        && let Some(words) = object.get_mut("enum").and_then(Value::as_array_mut)
        && !words.contains(&Value::Null)
    {
        words.push(Value::Null);
    }
}

/// An exclusive bound is a number in 3.1 and a mark on the other bound in 3.0.
fn bound(object: &mut Map<String, Value>, exclusive: &str, plain: &str) {
    if object.get(exclusive).is_some_and(Value::is_number)
        && let Some(number) = object.insert(exclusive.into(), json!(true))
    {
        object.insert(plain.into(), number);
    }
}

/// 3.0 ignores what stands beside a `$ref`, so the reference goes into an `allOf`.
fn reference(object: &mut Map<String, Value>) {
    if object.len() > 1
        && let Some(target) = object.remove("$ref")
    {
        object.insert("allOf".into(), json!([{ "$ref": target }]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::documents::{Version, pretty};

    fn converted(mut value: Value) -> Value {
        schema(&mut value);
        value
    }

    #[test]
    fn what_may_be_null_is_nullable() {
        assert_eq!(
            converted(json!({ "type": ["string", "null"], "maxLength": 3 })),
            json!({ "type": "string", "nullable": true, "maxLength": 3 })
        );
        assert_eq!(
            converted(
                json!({ "oneOf": [{ "type": "null" }, { "$ref": "#/x" }], "description": "d" })
            ),
            json!({ "allOf": [{ "$ref": "#/x" }], "nullable": true, "description": "d" })
        );
        assert_eq!(
            converted(json!({ "type": ["string", "null"], "enum": ["a"] })),
            json!({ "type": "string", "nullable": true, "enum": ["a", null] })
        );
        assert_eq!(
            converted(json!({ "type": ["string", "integer"] })),
            json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] })
        );
    }

    #[test]
    fn words_of_3_1_become_words_of_3_0() {
        assert_eq!(
            converted(json!({ "const": "x", "examples": ["x", "y"] })),
            json!({ "enum": ["x"], "example": "x" })
        );
        assert_eq!(
            converted(json!({ "type": "number", "exclusiveMinimum": 0 })),
            json!({ "type": "number", "minimum": 0, "exclusiveMinimum": true })
        );
        assert_eq!(
            converted(json!({ "$ref": "#/x", "description": "d" })),
            json!({ "allOf": [{ "$ref": "#/x" }], "description": "d" })
        );
        assert_eq!(
            converted(json!({ "type": "string", "contentMediaType": "application/octet-stream" })),
            json!({ "type": "string", "format": "binary" })
        );
        assert_eq!(
            converted(
                json!({ "type": "object", "propertyNames": {}, "additionalProperties": { "type": ["string", "null"] } })
            ),
            json!({ "type": "object", "additionalProperties": { "type": "string", "nullable": true } })
        );
    }

    #[test]
    fn nothing_of_3_1_is_left_in_our_own_document() {
        let text = pretty(Version::V30).expect("document").replace("\": ", "\":");
        assert!(text.contains(r#""openapi":"3.0.3""#));
        for word in [r#""null""#, r#""const":"#, r#""identifier":"#, r#""propertyNames":"#] {
            assert!(!text.contains(word), "{word} is left");
        }
    }
}
