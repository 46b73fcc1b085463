//! libvirt's XML: written from serde structs, read with roxmltree (serde fails on devices it does not know).

pub mod domain;
#[cfg(test)]
mod fuzz;
pub mod host;
pub mod network;
pub mod storage;

use serde::Serialize;

use super::Fault;

/// `value` as an XML element `root`.
fn write<T: Serialize>(root: &str, value: &T) -> Result<String, Fault> {
    quick_xml::se::to_string_with_root(root, value)
        .map_err(|e| Fault::permanent(format!("write <{root}>: {e}")))
}

/// Text that XML 1.0 and libvirt's one-line fields can hold: control characters become spaces.
fn one_line(text: &str) -> String {
    let bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars().map(|c| if bad(c) { ' ' } else { c }).collect()
}

/// The document that libvirt gave; an unreadable one is libvirt's fault and may pass with its upgrade only.
fn parse(text: &str) -> Result<roxmltree::Document<'_>, Fault> {
    roxmltree::Document::parse(text)
        .map_err(|e| Fault::permanent(format!("read libvirt's XML: {e}")))
}

/// Text of the first child element `name`.
fn child_text<'a>(node: roxmltree::Node<'a, 'a>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim)
}

fn child<'a>(node: roxmltree::Node<'a, 'a>, name: &str) -> Option<roxmltree::Node<'a, 'a>> {
    node.children().find(|n| n.has_tag_name(name))
}

#[derive(Serialize)]
pub struct Size {
    #[serde(rename = "@unit")]
    unit: &'static str,
    #[serde(rename = "$text")]
    value: u64,
}
