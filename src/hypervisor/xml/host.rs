//! Capabilities XML: who a host is, and what its CPU can.

use std::collections::HashSet;

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

/// The features of a `<cpu>` that libvirt expanded.
pub fn features(expanded_cpu: &str) -> Result<HashSet<String>, Fault> {
    Ok(enabled(parse(expanded_cpu)?.root_element()).map(str::to_owned).collect())
}

fn enabled<'a>(cpu: roxmltree::Node<'a, '_>) -> impl Iterator<Item = &'a str> {
    cpu.children()
        .filter(|n| n.has_tag_name("feature") && n.attribute("policy") != Some("disable"))
        .filter_map(|n| n.attribute("name"))
}

fn has_virtualisation(cpu: roxmltree::Node<'_, '_>) -> bool {
    enabled(cpu).any(|name| matches!(name, "vmx" | "svm"))
}

/// What each level of the x86-64 psABI, from the second on, adds to the one before, by libvirt's names. Source:
/// <https://gitlab.com/x86-psABIs/x86-64-ABI>, table 3.1; LZCNT is `abm` here, and OSXSAVE comes with `xsave`.
const LEVELS: [&[&str]; 3] = [
    &["cx16", "lahf_lm", "popcnt", "sse4.1", "sse4.2", "ssse3"],
    &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"],
    &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
];

/// The level of an x86-64 CPU with these features: 1 to 4.
pub fn level(features: &HashSet<String>) -> u8 {
    let has = |level: &&&[&str]| level.iter().all(|name| features.contains(*name));
    LEVELS.iter().take_while(has).fold(1, |level, _| level + 1)
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
        let vmx = |policy: &str| {
            let cpu = format!("<cpu><feature policy='{policy}' name='vmx'/></cpu>");
            features(&cpu).unwrap().contains("vmx")
        };
        assert!(vmx("require") && !vmx("disable"));
    }

    #[test]
    fn a_level_has_all_of_those_below_it() {
        let of = |names: &[&str]| level(&names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(of(&[]), 1);
        assert_eq!(of(LEVELS[0]), 2);
        assert_eq!(of(LEVELS[1]), 1, "without the one below");
        assert_eq!(of(&LEVELS[..2].concat()), 3);
        assert_eq!(of(&[&LEVELS[..2].concat()[..], &["avx512f"]].concat()), 3);
        assert_eq!(of(&LEVELS.concat()), 4);
    }
}
