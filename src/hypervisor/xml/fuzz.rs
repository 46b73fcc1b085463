//! The writers and readers under arbitrary text: what goes in comes out, and what a hostile host says panics nobody.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::host::VirtType;
use crate::domain::id::{IncarnationId, InstanceId, NetworkId};
use crate::hypervisor::{DhcpHost, DomainSpec, NetworkSpec, Stamp, VolumeFormat};

fn spec(title: &str, revision: i64) -> DomainSpec {
    let id = Uuid::from_u128(7);
    DomainSpec {
        stamp: Stamp {
            cloud: id,
            instance: InstanceId(id),
            incarnation: IncarnationId(id),
            revision,
            boot: revision,
        },
        title: title.into(),
        vcpus: 1,
        memory_mib: 64,
        virt_type: VirtType::Qemu,
        disk: "disk".into(),
        seed: "seed".into(),
        nics: Vec::new(),
    }
}

fn places(path: &str) -> domain::Places {
    domain::Places {
        mock: false,
        arch: "x86_64".into(),
        disk: path.into(),
        base: Some((path.into(), VolumeFormat::Raw)),
        seed: path.into(),
        console_log: path.into(),
    }
}

/// What all readers say to a text; none may panic.
fn read_all(text: &str) {
    let _ = (domain::read(text).is_ok(), network::read(text).is_ok(), host::read(text).is_ok());
    let _ = (storage::read(text).is_ok(), storage::pool_path(text).is_ok());
    let _ = host::features(text).is_ok();
}

/// One document of each kind.
fn samples() -> Vec<String> {
    let network = NetworkSpec {
        id: NetworkId(Uuid::from_u128(9)),
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        dns: vec!["9.9.9.9".parse().unwrap()],
        hosts: vec![DhcpHost {
            mac: "52:54:00:00:00:01".into(),
            address: "10.0.0.2".parse().unwrap(),
        }],
        standing: Vec::new(),
        keep_others: false,
        known: false,
    };
    vec![
        domain::domain(&spec("t", 1), &places("/p/x")).unwrap(),
        network::network(Uuid::from_u128(1), &network, "pl0".to_owned()).unwrap(),
        storage::pool("p", Uuid::from_u128(1), "/p").unwrap(),
        storage::volume("v", VolumeFormat::Qcow2, 1, Some(("/b", VolumeFormat::Raw))).unwrap(),
    ]
}

proptest! {
    #[test]
    fn any_title_and_path_is_text_and_never_markup(
        title in any::<String>(),
        path in "/\\PC{0,60}[<>&'\"\\]]{0,3}\\PC{0,60}x",
        revision in any::<i64>(),
    ) {
        let spec = spec(&title, revision);
        let text = domain::domain(&spec, &places(&path)).unwrap();
        prop_assert_eq!(domain::read(&text).unwrap().stamp, Some(spec.stamp));
        let document = parse(&text).unwrap();
        let written = child(document.root_element(), "title").unwrap().text().unwrap_or_default();
        prop_assert_eq!(written, one_line(&title));
        let files = document.descendants().filter_map(|node| node.attribute("file"));
        prop_assert_eq!(files.collect::<Vec<_>>(), [path.as_str(); 4]);
        let pool = storage::pool("p", Uuid::from_u128(1), &path).unwrap();
        prop_assert_eq!(storage::pool_path(&pool).unwrap(), Some(path));
    }

    #[test]
    fn any_host_of_a_network_is_read_as_it_was_written(
        mac in "[0-9a-f]{2}(:[0-9a-f]{2}){5}", address in any::<std::net::Ipv4Addr>(),
    ) {
        let given = DhcpHost { mac, address: address.into() };
        let text = network::host(&given).unwrap();
        let text = format!("<network><uuid>{}</uuid><ip><dhcp>{text}</dhcp></ip></network>", Uuid::nil());
        prop_assert_eq!(network::read(&text).unwrap().hosts, [given]);
    }

    #[test]
    fn no_text_of_a_host_panics(text in "(<[a-z]{0,6}[ />]?|&[a-z#0-9]{0,4};?|\\PC|]]>|<!\\[CDATA\\[|<\\?xml ){0,40}") {
        read_all(&text);
    }

    #[test]
    fn no_mangled_document_of_a_host_panics(
        which in 0..4_usize, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = samples().swap_remove(which).into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_all(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn an_entity_is_not_expanded_and_no_file_of_ours_is_read() {
    let bomb: String = (1..30)
        .map(|n| format!("<!ENTITY e{n} \"&e{};&e{};\">", n - 1, n - 1))
        .fold("<!DOCTYPE d [<!ENTITY e0 \"ha\">".to_owned(), |all, one| all + &one);
    let id = Uuid::from_u128(7);
    let file = "<!DOCTYPE d [<!ENTITY x SYSTEM \"file:///etc/passwd\">";
    for (head, entity) in [(bomb.as_str(), "e29"), (file, "x")] {
        let text = format!("{head}]><domain><uuid>{id}</uuid><name>&{entity};</name></domain>");
        assert!(domain::read(&text).is_err());
        read_all(&text);
    }
}

#[test]
fn a_deep_document_is_read_or_refused_and_overflows_no_stack() {
    let depth = 200_000;
    let id = Uuid::from_u128(7);
    let nested = format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    let text = format!("<domain><uuid>{id}</uuid>{nested}</domain>");
    // The stack of a thread that talks to a host.
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || read_all(&text))
        .unwrap()
        .join()
        .unwrap();
}
