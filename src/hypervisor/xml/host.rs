//! Capabilities XML: who a host is, and what its CPU can.

use uuid::Uuid;

use super::{child, child_text, parse};
use crate::hypervisor::Fault;

/// What the capabilities tell.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub uuid: Option<Uuid>,
    pub arch: String,
    pub cpu_model: Option<String>,
    /// The host's CPU as an element by itself, for a question to libvirt.
    pub cpu: String,
    /// Whether the CPU's features, as far as they are spelled out, have vmx or svm.
    pub hardware: bool,
    /// Whether guests of the host's architecture may be of type `kvm`.
    pub kvm: bool,
}

pub fn read(text: &str) -> Result<Seen, Fault> {
    let document = parse(text)?;
    let root = document.root_element();
    let missing =
        |what| Fault::permanent(format!("read libvirt's capabilities: they have no {what}"));
    let host = child(root, "host").ok_or_else(|| missing("host"))?;
    let cpu = child(host, "cpu").ok_or_else(|| missing("CPU"))?;
    let arch = child_text(cpu, "arch").ok_or_else(|| missing("architecture"))?;
    let kvm = root
        .children()
        .filter(|n| n.has_tag_name("guest"))
        .filter_map(|guest| child(guest, "arch"))
        .filter(|node| node.attribute("name") == Some(arch))
        .any(|node| {
            node.children().any(|d| d.has_tag_name("domain") && d.attribute("type") == Some("kvm"))
        });
    Ok(Seen {
        uuid: child_text(host, "uuid").and_then(|u| u.parse().ok()),
        arch: arch.to_owned(),
        cpu_model: child_text(cpu, "model").map(str::to_owned),
        cpu: text[cpu.range()].to_owned(),
        hardware: has_virtualisation(cpu),
        kvm,
    })
}

/// Whether a `<cpu>` that libvirt expanded has vmx or svm: models such as EPYC imply it without naming it.
pub fn can_virtualise(expanded_cpu: &str) -> Result<bool, Fault> {
    Ok(has_virtualisation(parse(expanded_cpu)?.root_element()))
}

fn has_virtualisation(cpu: roxmltree::Node<'_, '_>) -> bool {
    cpu.children().any(|n| {
        n.has_tag_name("feature")
            && matches!(n.attribute("name"), Some("vmx" | "svm"))
            && n.attribute("policy") != Some("disable")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(features: &str, kinds: &str) -> Seen {
        read(&format!(
            "<capabilities><host><uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid>\
             <cpu><arch>x86_64</arch><model>EPYC</model>{features}</cpu></host>\
             <guest><os_type>hvm</os_type><arch name='i686'><domain type='kvm'/></arch></guest>\
             <guest><os_type>hvm</os_type><arch name='x86_64'>{kinds}</arch></guest></capabilities>"
        ))
        .unwrap()
    }

    #[test]
    fn kvm_counts_only_for_the_hosts_own_architecture() {
        let seen = capabilities("", "<domain type='qemu'/>");
        assert!(!seen.kvm && !seen.hardware);
        assert_eq!(seen.cpu, "<cpu><arch>x86_64</arch><model>EPYC</model></cpu>");
    }

    #[test]
    fn vmx_or_svm_is_found_where_it_is_named() {
        let seen = capabilities("<feature name='svm'/>", "<domain type='kvm'/>");
        assert!(seen.kvm && seen.hardware);
        assert!(!can_virtualise("<cpu><feature policy='disable' name='vmx'/></cpu>").unwrap());
        assert!(can_virtualise("<cpu><feature policy='require' name='vmx'/></cpu>").unwrap());
    }
}
