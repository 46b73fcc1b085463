//! How values are shown to people: tables, and one thing's fields.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::nouns::Noun;

/// A row a value.
pub fn rows(noun: &Noun, values: &[Value]) -> String {
    columns(noun.columns, values)
}

pub fn columns(columns: &[(&str, &str)], values: &[Value]) -> String {
    let mut table = plain();
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for value in values {
        table.add_row(columns.iter().map(|(_, path)| cell(value, path)));
    }
    trimmed(&table)
}

/// A line a field; what is nested has its path for a name.
pub fn fields(value: &Value) -> String {
    let mut table = plain();
    let mut lines = Vec::new();
    flatten("", value, &mut lines);
    for (name, text) in lines {
        table.add_row([name, text]);
    }
    trimmed(&table)
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

/// What stands at `path` in `value`, as text.
pub fn cell(value: &Value, path: &str) -> String {
    let Some((first, rest)) = path.split_once('.').or(Some((path, ""))) else {
        return String::new();
    };
    if first == "*" {
        let items = value.as_array().map_or(&[][..], Vec::as_slice);
        let texts =
            items.iter().map(|item| if rest.is_empty() { text(item) } else { cell(item, rest) });
        return texts.collect::<Vec<_>>().join(", ");
    }
    if rest.is_empty() { text(&value[first]) } else { cell(&value[first], rest) }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        // A guest or another user may have chosen it: it must not steer the terminal.
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(_) | Value::Object(_) | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, inner) in object {
                flatten(&below(key), inner, lines);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (i, inner) in items.iter().enumerate() {
                flatten(&below(&i.to_string()), inner, lines);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            lines.push((name.into(), items.iter().map(text).collect::<Vec<_>>().join(", ")));
        }
        _ => lines.push((name.into(), text(value))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_finds_what_is_nested_and_what_is_in_arrays() {
        let value = json!({"name": "a\u{1b}[2J", "flavor": {"name": "nano"}, "traits": [],
            "interfaces": [{"address": "10.0.0.2"}, {"address": "10.0.0.3"}], "reason": null});
        assert_eq!(cell(&value, "flavor.name"), "nano");
        assert_eq!(cell(&value, "interfaces.*.address"), "10.0.0.2, 10.0.0.3");
        assert_eq!(cell(&value, "reason"), "-");
        assert_eq!(cell(&value, "nothing.at.all"), "-");
        assert_eq!(cell(&value, "name"), "a [2J", "no escape reaches the terminal");
        let shown = fields(&value);
        assert!(shown.contains("interfaces.1.address"), "{shown}");
    }
}
