//! Descriptions and examples that many fields share, given where the field has none of its own.

use serde_json::{Map, Value, json};

/// Fields that mean the same in every schema and parameter, their descriptions and, where the type gives none, an example.
const FIELDS: &[(&str, &str, &str)] = &[
    ("cursor", "`next` of the page before.", CURSOR),
    ("next", "Pass as `cursor` to get the next page; null on the last one.", CURSOR),
    ("id", "Its id.", ""),
    ("name", "Its name.", ""),
    ("description", "What people should know about it.", ""),
    ("password", "The password: 12 to 256 characters.", ""),
    ("zone", "Where the host is; placement can be told to keep to it.", "default"),
    ("traits", "What a host has beyond numbers.", ""),
    ("cpu_ratio", "vCPUs promised per CPU.", ""),
    ("memory_ratio", "Memory promised per memory.", ""),
    ("disk_ratio", "Disk promised per disk.", ""),
    ("reserved_vcpus", "CPUs kept for the host itself.", ""),
    ("reserved_memory_mib", "Memory kept for the host itself, in MiB.", ""),
    ("reserved_disk_gib", "Disk kept for the host itself, in GiB.", ""),
    ("last_error", "What went wrong last; null: nothing.", "the host cannot be reached"),
    ("last_error_at", "When it went wrong last.", ""),
    ("constraint", "Which constraint it is.", ""),
    ("change", "Which change it is.", ""),
    ("gateway", "The network's own address, where guests send what leaves it.", ""),
    ("address", "The IP address.", ""),
    ("mac", "The MAC address.", ""),
    (
        "status_reason",
        "Why it is in that state; null where there is nothing to say.",
        "waits for 2 ports",
    ),
    ("sha256", "SHA-256 of the bytes, in lower-case hex.", SHA256),
    ("expected_sha256", "SHA-256 that the bytes must have, in lower-case hex.", SHA256),
    ("If-None-Match", "The revision that the client has, in quotes: answered with 304.", "\"3\""),
    ("items", "The things of this page.", ""),
    ("revision", "Counts changes; also the ETag.", ""),
    ("created_at", "When it was made.", ""),
    ("created_by", "The user who made it.", ""),
    ("tenant_id", "The tenant that it belongs to; null: the cloud itself.", ""),
    ("user_id", "The user.", ""),
    ("flavor_id", "The flavor.", ""),
    ("image_id", "The image.", ""),
    ("network_id", "The network.", ""),
    ("port_id", "The port.", ""),
    ("instance_id", "The instance.", ""),
    ("host_id", "The host.", ""),
    ("vcpus", "Virtual CPUs.", ""),
    ("memory_mib", "Memory, in MiB.", ""),
    ("disk_gib", "Disk, in GiB.", ""),
    ("status", "The state that it is in.", ""),
    ("reason", "Why, for people.", ""),
];

/// Fields whose rule no pattern says that every generator can read (names may be of any script): formats of our own, which
/// tools that do not know them pass over.
const FORMATS: &[(&str, &str)] = &[
    ("name", "name"),
    ("description", "text"),
    ("image", "name"),
    ("flavor", "name"),
    ("network", "name"),
    ("group", "name"),
    ("reservation", "name"),
    ("public_key", "ssh-public-key"),
    ("uri", "libvirt-uri"),
    ("pool_path", "absolute-path"),
    ("cidr", "ipv4-cidr"),
    ("mac", "mac"),
    ("gateway", "ipv4"),
    ("range_start", "ipv4"),
    ("range_end", "ipv4"),
    ("address", "ipv4"),
];

fn parameter_format(name: &str, operation_id: &str) -> Option<&'static str> {
    match name {
        "cursor" if operation_id == "list_events" => Some("event-cursor"),
        "cursor" => Some("cursor"),
        "label" => Some("labels"),
        _ => None,
    }
}

/// Only text that has none yet takes a format.
fn set_format(schema: &mut Value, format: &str) {
    let text = |kind: &Value| {
        kind == "string" || kind.as_array().is_some_and(|all| all.contains(&json!("string")))
    };
    if text(&schema["type"])
        && let Some(object) = schema.as_object_mut()
    {
        object.entry("format").or_insert(json!(format));
    }
}

const CURSOR: &str = "AZejpm8xcAKjWJz7wbAxSQ";
const SHA256: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
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
            let operation_id = operation["operationId"].as_str().map(str::to_owned);
            for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap_or_default().to_owned();
                visit(&mut parameter["schema"]);
                let id = operation_id.as_deref().unwrap_or_default();
                if let Some(format) = parameter_format(&name, id) {
                    set_format(&mut parameter["schema"], format);
                }
                if parameter.get("example").is_none() {
                    word(&name, &mut parameter["schema"]);
                }
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
        word(name, property);
        match name.as_str() {
            "labels" => labels(property),
            "traits" | "missing" | "present" | "required_traits" | "forbidden_traits" => {
                texts(property, 64, "ssd");
            }
            "keypairs" => {
                texts(property, 63, "laptop");
                property["items"]["minLength"] = json!(1);
                property["items"]["format"] = json!("name");
            }
            "dns" => property["items"]["format"] = json!("ipv4"),
            _ => {}
        }
        if let Some((_, format)) = FORMATS.iter().find(|(field, _)| field == name) {
            set_format(property, format);
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

/// What the field's name says.
fn word(name: &str, schema: &mut Value) {
    let Some((_, text, example)) = FIELDS.iter().find(|(field, ..)| *field == name) else { return };
    describe(schema, text);
    if !example.is_empty()
        && let Some(object) = schema.as_object_mut()
    {
        object.entry("example").or_insert(json!(example));
    }
}

/// The bounds of an array of texts, whose type carries none.
fn texts(schema: &mut Value, longest: u32, example: &str) {
    let Some(object) = schema.as_object_mut() else { return };
    object.entry("maxItems").or_insert(json!(32));
    object.entry("example").or_insert(json!([example]));
    if let Some(items) = object.get_mut("items").and_then(Value::as_object_mut)
        && items.get("type") == Some(&json!("string"))
    {
        items.entry("maxLength").or_insert(json!(longest));
    }
}

/// The bounds of `domain::text::check_labels`, which a map's type cannot carry.
fn labels(schema: &mut Value) {
    describe(schema, "Labels, for filters: up to 32.");
    let Some(object) = schema.as_object_mut() else { return };
    object.entry("maxProperties").or_insert(json!(32));
    object.entry("example").or_insert(json!({ "team": "ci" }));
    let key = json!({ "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Za-z0-9._/-]+$" });
    object.insert("propertyNames".into(), key);
    let value = json!({ "type": "string", "maxLength": 255, "format": "label-value" });
    object.insert("additionalProperties".into(), value);
}

fn describe(schema: &mut Value, text: &str) {
    if let Some(object) = schema.as_object_mut() {
        object.entry("description").or_insert(json!(text));
    }
}
