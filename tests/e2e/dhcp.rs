//! Addresses: what IPAM chose, what was asked for, and what the guests were given are the same.

use serde_json::{Value, json};

use crate::cloud::{BOOT, Cloud, SOON, count_lines};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dhcp_answers_exactly_what_ipam_chose() {
    let cloud = Cloud::new(&[]).await;
    let (admin, host) = (&cloud.admin, &cloud.host);
    // Guests may send under their own addresses only.
    let new = json!({"name": "guarded", "cidr": "10.111.7.0/24", "port_security": true});
    let network = admin.post("/v1/networks", &new).await.expect(201);
    let network = network["id"].as_str().unwrap();
    let chosen = json!({
        "network_id": network, "name": "vip", "mac": "52:54:00:ab:cd:01", "address": "10.111.7.77"});
    let port = admin.post("/v1/ports", &chosen).await.expect(201);
    let port = port["id"].as_str().unwrap();

    let create = async |name: &str, interface: Value| {
        let new = json!({
            "name": name, "image": "pileus-guest", "flavor": "nano", "networks": [interface]});
        let made = admin.post("/v1/instances", &new).await.expect(202);
        made["id"].as_str().unwrap().to_owned()
    };
    let (a, b) = tokio::join!(
        create("by-port", json!({"port_id": port})),
        create("by-address", json!({"network": "guarded", "address": "10.111.7.9"})),
    );
    let taken = json!({
        "name": "c", "image": "pileus-guest", "flavor": "nano",
        "networks": [{"network": "guarded", "address": "10.111.7.9"}]});
    let refused = admin.post("/v1/instances", &taken).await;
    assert!([409, 422].contains(&refused.status), "{refused:?}");

    let mut macs = Vec::new();
    for (id, address) in [(&a, "10.111.7.77"), (&b, "10.111.7.9")] {
        let instance = cloud.until(id, "address", "running", BOOT).await;
        let interface = &instance["interfaces"][0];
        assert_eq!(interface["address"], address);
        // What the guest itself says that it was given.
        let console = cloud.console_says(id, "ready", 1).await;
        let said = console.lines().filter(|line| line.starts_with("address: ")).count();
        let line = format!("address: eth0 {address}");
        assert_eq!((count_lines(&console, &line), said), (1, 1), "{console}");
        let mac = interface["mac"].as_str().unwrap().to_owned();
        let domain = format!("{}-{id}", cloud.mark());
        assert!(host.virsh(&["domiflist", &domain]).contains(&mac));
        assert_eq!(cloud.filters_of(id), 1, "a packet filter");
        macs.push(mac);
    }
    assert_eq!(macs[0], "52:54:00:ab:cd:01");
    let xml = host.virsh(&["net-dumpxml", &format!("{}-{network}", cloud.mark())]);
    // Every address of the range once: the one that was asked for under its own MAC, the others under theirs.
    assert_eq!(xml.matches("<host mac=").count(), 253, "{xml}");
    assert_eq!(xml.matches("<host mac='52:54:0a:6f:07:").count(), 252, "{xml}");
    assert_eq!(macs[1], "52:54:0a:6f:07:09");

    // A port that was made on its own stays, and holds its address.
    for id in [&a, &b] {
        admin.delete(&format!("/v1/instances/{id}")).await.expect(202);
    }
    for id in [&a, &b] {
        let answer = admin.get(&format!("/v1/instances/{id}?wait=deleted&timeout=60")).await;
        assert!(answer.status == 404 || answer.body()["status"] == "deleted", "{answer:?}");
        assert_eq!(cloud.filters_of(id), 0);
    }
    cloud.holds_nothing(1).await;
    assert!(macs.iter().all(|mac| !cloud.dhcp_knows(mac)));
    let kept = admin.get(&format!("/v1/ports/{port}")).await.expect(200);
    assert_eq!((&kept["instance_id"], &kept["address"]), (&Value::Null, &chosen["address"]));
    admin.delete(&format!("/v1/ports/{port}")).await.expect(204);
    let _ = admin.delete(&format!("/v1/networks/{network}")).await;
    let end = std::time::Instant::now() + SOON;
    while admin.get(&format!("/v1/networks/{network}")).await.status != 404 {
        assert!(std::time::Instant::now() < end, "the network is still there");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
