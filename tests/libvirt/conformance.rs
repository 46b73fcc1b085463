//! One suite for every host: what the trait promises, whoever keeps it. No guest needs to boot.

use std::net::{IpAddr, Ipv4Addr};

use pileus::domain::port;
use pileus::hypervisor::{DhcpHost, DomainSeen, FaultKind, Hypervisor, Power, Stamp, VolumeFormat};
use uuid::Uuid;

use crate::world::{MIB, World, upload};

/// Runs the whole suite; a host may have other things on it, none of this cloud.
pub fn holds(host: &dyn Hypervisor, cloud: Uuid) {
    let base = vec![7u8; 3 * MIB as usize + 5];
    nothing_of_ours(host, cloud);
    facts_make_sense(host);
    what_is_not_there_is_gone(host, &World::new(cloud, 201));
    a_life_leaves_nothing_behind(host, &World::new(cloud, 202), &base);
    a_start_needs_its_volumes_and_leaves_no_domain(host, &World::new(cloud, 203));
    another_wish_is_a_conflict(host, &World::new(cloud, 204), &base);
    an_upload_is_replaced_and_a_broken_one_removed(host, &World::new(cloud, 205));
    dhcp_hosts_become_exactly_the_wanted(host, &World::new(cloud, 206));
    what_stands_in_dhcp_gives_way_to_what_is_needed(host, &World::new(cloud, 207));
    nothing_of_ours(host, cloud);
}

/// A stamped domain, a volume, a network or a console is a leak.
pub fn nothing_of_ours(host: &dyn Hypervisor, cloud: Uuid) {
    let ours = |stamp: Option<Stamp>| stamp.is_some_and(|stamp| stamp.cloud == cloud);
    assert!(!host.domains().unwrap().iter().any(|d| ours(d.stamp)));
    assert_eq!(host.volumes().unwrap(), vec![]);
    assert!(host.networks().unwrap().iter().all(|n| n.ours.is_none()));
    assert_eq!(host.consoles().unwrap(), vec![]);
}

fn facts_make_sense(host: &dyn Hypervisor) {
    let facts = host.facts().unwrap();
    assert!(facts.vcpus > 0 && facts.memory_mib > 0 && facts.disk_gib >= facts.disk_free_gib);
    assert!(!facts.host_uuid.is_nil() && !facts.hostname.is_empty() && !facts.arch.is_empty());
    assert!(facts.libvirt_version.split('.').count() == 3, "{}", facts.libvirt_version);
    assert_eq!(host.facts().unwrap().host_uuid, facts.host_uuid);
}

fn what_is_not_there_is_gone(host: &dyn Hypervisor, world: &World) {
    let id = world.stamp.instance;
    assert_eq!(host.domain(id).unwrap(), None);
    assert_eq!(host.volume("nothing").unwrap(), None);
    assert_eq!(host.leases(world.network).unwrap(), vec![]);
    assert_eq!(host.console(world.stamp.incarnation, 0, 10).unwrap(), b"");
    assert!(!host.agent_ping(id).unwrap());
    assert_eq!(host.agent_file(id, "/etc/hostname", 10).unwrap(), None);
    host.shutdown(id).unwrap();
    assert_eq!(host.pause(id).unwrap_err().kind, FaultKind::Transient);
    world.remove(host);
}

fn a_life_leaves_nothing_behind(host: &dyn Hypervisor, world: &World, base: &[u8]) {
    let (spec, id) = (world.spec(), world.stamp.instance);
    // Every step twice: done and never heard of is done all the same.
    for _ in 0..2 {
        world.prepare(host, base, VolumeFormat::Raw);
        host.start(&spec).unwrap();
    }
    let seen = host.domain(id).unwrap().unwrap();
    assert_eq!((seen.stamp, seen.power), (Some(world.stamp), Power::Running));
    assert!(seen.name.starts_with("pileus-") && seen.name.ends_with(&id.to_string()));
    let glanced = host.glance(seen.id).unwrap().unwrap();
    let brief = |seen: &DomainSeen| (seen.id, seen.name.clone(), seen.power, seen.stamp);
    assert_eq!(brief(&glanced), brief(&seen));
    assert!(host.domains().unwrap().contains(&glanced));
    let names: Vec<_> = host.volumes().unwrap().into_iter().map(|v| v.name).collect();
    for name in [world.base(), world.disk(), world.seed()] {
        assert!(names.contains(&name), "{name} in {names:?}");
        assert_eq!(host.volume(&name).unwrap().unwrap().name, name);
    }
    assert_eq!(host.volume(&world.disk()).unwrap().unwrap().capacity_bytes, 1024 * MIB);
    let networks = host.networks().unwrap();
    let network = networks.iter().find(|n| n.uuid == world.network.0).unwrap();
    assert_eq!(network.ours, Some(world.network));
    assert_eq!((network.active, &network.subnets), (true, &vec![world.network().cidr]));

    for _ in 0..2 {
        host.pause(id).unwrap();
    }
    assert_eq!(host.domain(id).unwrap().unwrap().power, Power::Paused);
    for _ in 0..2 {
        host.resume(id).unwrap();
    }
    assert_eq!(host.domain(id).unwrap().unwrap().power, Power::Running);

    for _ in 0..2 {
        world.remove(host);
    }
    assert_eq!(host.domain(id).unwrap(), None);
    assert_eq!(host.volume(&world.disk()).unwrap(), None);
}

fn a_start_needs_its_volumes_and_leaves_no_domain(host: &dyn Hypervisor, world: &World) {
    host.ensure_network(&world.network()).unwrap();
    let fault = host.start(&world.spec()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Transient, "{fault}");
    let fault = host.create_overlay(&world.overlay(VolumeFormat::Raw)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Transient, "{fault}");
    assert_eq!(host.domain(world.stamp.instance).unwrap(), None);
    world.remove(host);
}

fn another_wish_is_a_conflict(host: &dyn Hypervisor, world: &World, base: &[u8]) {
    world.prepare(host, base, VolumeFormat::Raw);
    host.start(&world.spec()).unwrap();
    let mut again = world.spec();
    again.stamp.boot += 1;
    let fault = host.start(&again).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Conflict, "{fault}");
    assert!(fault.message.contains(&world.stamp.instance.to_string()), "{fault}");
    let seen = host.domain(world.stamp.instance).unwrap().unwrap();
    assert_eq!((seen.stamp, seen.power), (Some(world.stamp), Power::Running));
    // A later revision of the same boot is the same domain.
    let mut later = world.spec();
    later.stamp.revision += 1;
    host.start(&later).unwrap();
    world.remove(host);
}

fn an_upload_is_replaced_and_a_broken_one_removed(host: &dyn Hypervisor, world: &World) {
    let name = world.base();
    upload(host, &name, &[1; 700_000], VolumeFormat::Raw).unwrap();
    upload(host, &name, &[2; 100_000], VolumeFormat::Raw).unwrap();
    assert_eq!(host.volume(&name).unwrap().unwrap().capacity_bytes, 100_000);
    host.delete_volume(&name).unwrap();
    assert_eq!(host.volume(&name).unwrap(), None);
}

fn dhcp_hosts_become_exactly_the_wanted(host: &dyn Hypervisor, world: &World) {
    let mut spec = world.network();
    // None at first; then two; then an address that changes hands.
    let hosts = std::mem::take(&mut spec.hosts);
    host.ensure_network(&spec).unwrap();
    let mut twin = hosts[0].clone();
    twin.mac = "52:54:00:00:00:01".into();
    twin.address = "10.206.0.9".parse().unwrap();
    spec.hosts = vec![hosts[0].clone(), twin.clone()];
    for _ in 0..2 {
        host.ensure_network(&spec).unwrap();
    }
    twin.address = hosts[0].address;
    spec.hosts = vec![twin];
    host.ensure_network(&spec).unwrap();
    host.delete_network(spec.id).unwrap();
}

fn what_stands_in_dhcp_gives_way_to_what_is_needed(host: &dyn Hypervisor, world: &World) {
    let stands = |last| {
        let address = Ipv4Addr::new(10, 207, 0, last);
        DhcpHost { mac: port::mac(address), address: address.into() }
    };
    let mut spec = world.network();
    let own = std::mem::take(&mut spec.hosts);
    assert_eq!(own[0].address, IpAddr::from([10, 207, 0, 7]));
    // A MAC address of its own comes to an address, and goes; at first while all that is there has to stay.
    for (hosts, standing) in
        [(vec![], vec![7, 8]), (own, vec![8]), (vec![], vec![7, 8]), (vec![stands(7)], vec![8])]
    {
        spec.hosts = hosts;
        spec.standing = standing.into_iter().map(stands).collect();
        for keep_others in [true, false] {
            spec.keep_others = keep_others;
            host.ensure_network(&spec).unwrap();
        }
    }
    host.delete_network(spec.id).unwrap();
}
