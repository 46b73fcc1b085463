//! The variants of tagged enums as plain objects with titles: generators name their types by these, and some read no `allOf`.

use serde_json::{Map, Value, json};

/// Makes the variants of every `oneOf` of the document's schemas plain.
pub fn plain(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object().cloned() else { return };
    let Some(all) = document["components"]["schemas"].as_object_mut() else { return };
    for (name, schema) in all.iter_mut() {
        for variant in schema.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
            merge(&schemas, variant);
            if let Some(tag) = tag(variant) {
                variant["title"] = json!(format!("{name}{}", pascal(&tag)));
            }
        }
    }
    // What only a merged variant referred to is of no more use.
    let merged: Vec<String> = schemas.keys().cloned().collect();
    let text = document.to_string();
    if let Some(all) = document["components"]["schemas"].as_object_mut() {
        for name in merged {
            if !text.contains(&format!("\"#/components/schemas/{name}\"")) {
                all.remove(&name);
            }
        }
    }
}

/// `allOf: [{$ref: A}, {…}]` becomes what A is and the rest, in one object.
fn merge(schemas: &Map<String, Value>, variant: &mut Value) {
    let Some(parts) = variant.get("allOf").and_then(Value::as_array) else { return };
    let mut whole = json!({ "type": "object", "properties": {}, "required": [] });
    for part in parts {
        let part = match part["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
            Some(name) => &schemas[name],
            None => part,
        };
        let (Some(properties), required) = (part["properties"].as_object(), &part["required"])
        else {
            return;
        };
        for (name, property) in properties {
            whole["properties"][name] = property.clone();
        }
        for name in required.as_array().into_iter().flatten() {
            if let Some(all) = whole["required"].as_array_mut() {
                all.push(name.clone());
            }
        }
        if let Some(text) = part.get("description") {
            whole["description"] = text.clone();
        }
    }
    *variant = whole;
}

/// The value that tells the variant from the others.
fn tag(variant: &Value) -> Option<String> {
    let properties = variant.get("properties")?.as_object()?;
    let fixed = properties.values().find_map(|property| {
        match property.get("enum")?.as_array()?.as_slice() {
            [only] => only.as_str(),
            _ => None,
        }
    });
    fixed.map(str::to_owned)
}

fn pascal(snake: &str) -> String {
    let words = snake.split('_').map(|word| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |c| c.to_uppercase().chain(letters).collect())
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_one_object_with_a_title() {
        let mut document = json!({ "components": { "schemas": {
            "Short": { "description": "An amount.", "type": "object", "required": ["need"],
                "properties": { "need": { "type": "integer" } } },
            "Used": { "type": "string" },
            "Refusal": { "oneOf": [{ "allOf": [{ "$ref": "#/components/schemas/Short" },
                { "type": "object", "required": ["constraint"],
                  "properties": { "constraint": { "type": "string", "enum": ["memory_mib"] } } }] },
                { "$ref": "#/components/schemas/Used" }] }
        } }, "paths": { "r": { "$ref": "#/components/schemas/Refusal" } } });
        plain(&mut document);
        let schemas = &document["components"]["schemas"];
        assert_eq!(
            schemas["Refusal"]["oneOf"][0],
            json!({ "title": "RefusalMemoryMib", "description": "An amount.", "type": "object",
                "required": ["need", "constraint"],
                "properties": { "need": { "type": "integer" },
                    "constraint": { "type": "string", "enum": ["memory_mib"] } } })
        );
        assert!(schemas.get("Short").is_none() && schemas.get("Used").is_some());
    }
}
