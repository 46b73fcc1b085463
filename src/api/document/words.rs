//! Descriptions and examples that many fields share, given where the field has none of its own.

use serde_json::{Map, Value, json};

/// Descriptions of fields that mean the same in every schema.
const FIELDS: &[(&str, &str)] = &[
    ("id", "Its id."),
    ("name", "Its name."),
    ("description", "What people should know about it."),
    ("labels", "Labels, for filters."),
    ("items", "The things of this page."),
    ("next", "Pass as `cursor` to get the next page; null on the last one."),
    ("revision", "Counts changes; also the ETag."),
    ("created_at", "When it was made."),
    ("created_by", "The user who made it."),
    ("tenant_id", "The tenant that it belongs to; null: the cloud itself."),
    ("user_id", "The user."),
    ("flavor_id", "The flavor."),
    ("image_id", "The image."),
    ("network_id", "The network."),
    ("port_id", "The port."),
    ("instance_id", "The instance."),
    ("host_id", "The host."),
    ("vcpus", "Virtual CPUs."),
    ("memory_mib", "Memory, in MiB."),
    ("disk_gib", "Disk, in GiB."),
    ("status", "The state that it is in."),
    ("reason", "Why, for people."),
];

const ID: &str = "0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e";
const TIME: &str = "2026-11-23T14:15:16.789012Z";

/// Fills in what the document's schemas and parameters leave out.
pub fn fill(document: &mut Value) {
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        for (name, schema) in schemas {
            if let Some(noun) = name.strip_suffix("Id") {
                let noun = noun.to_lowercase();
                let article = if noun.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
                describe(schema, &format!("The id of {article} {noun}."));
            }
            visit(schema);
        }
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        for operation in
            paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut)
        {
            for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
                visit(&mut parameter["schema"]);
            }
            // Reading a key that is not there would have made it null.
            if let Some(operation) = operation.as_object_mut() {
                operation.retain(|_, part| !part.is_null());
            }
        }
    }
}

fn visit(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let example = match object.get("format").and_then(Value::as_str) {
        Some("uuid") => Some(ID),
        Some("date-time") => Some(TIME),
        _ => None,
    };
    if let Some(example) = example
        && !object.contains_key("examples")
    {
        object.entry("example").or_insert(json!(example));
    }
    for (name, property) in
        object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        if let Some((_, text)) = FIELDS.iter().find(|(field, _)| field == name) {
            describe(property, text);
        }
        visit(property);
    }
    for key in ["items", "additionalProperties"] {
        object.get_mut(key).into_iter().for_each(visit);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().for_each(visit);
    }
}

fn describe(schema: &mut Value, text: &str) {
    if let Some(object) = schema.as_object_mut() {
        object.entry("description").or_insert(json!(text));
    }
}
