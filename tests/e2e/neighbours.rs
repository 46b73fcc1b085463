//! Two clouds on one host, each with its own PostgreSQL: neither touches the other's, and guests outlive their server.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cloud::{Cloud, Database, SOON, names};

/// A guest that runs, whether or not anything is on its disk.
async fn instance(cloud: &Cloud) -> Value {
    let image = cloud.raw_image("empty", vec![7; 1 << 20]).await;
    let new = json!({"name": "same-name", "image": image, "flavor": "nano"});
    let made = cloud.admin.post("/v1/instances", &new).await.expect(202);
    cloud.until(made["id"].as_str().unwrap(), "settled", "running", SOON).await
}

fn domains(cloud: &Cloud) -> Vec<String> {
    names(&cloud.host, &["list", "--all", "--name"], &cloud.mark())
}

/// libvirt's number of a running domain: another life has another one.
fn life(cloud: &Cloud, id: &str) -> String {
    cloud.host.virsh(&["domid", &format!("{}-{id}", cloud.mark())]).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clouds_side_by_side() {
    let (mut one, mut two) =
        tokio::join!(Cloud::with(Database::Own, &[]), Cloud::with(Database::Own, &[]));
    let (a, b) = tokio::join!(instance(&one), instance(&two));
    let (a, b) = (a["id"].as_str().unwrap(), b["id"].as_str().unwrap());
    assert_ne!(one.mark(), two.mark());
    one.admin.get(&format!("/v1/instances/{b}")).await.problem(404, "not-found");

    // Guests go on without their server, and are found again: after a clean end, and after none.
    let lives = (life(&one, a), life(&two, b));
    let took = one.terminate().await;
    println!("SIGTERM: ended after {took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    let data = |cloud: &Cloud| cloud.state.path().join("postgres/data/postmaster.pid");
    assert!(!data(&one).exists(), "PostgreSQL ended with its cloud");
    two.kill().await;
    assert!(data(&two).exists(), "PostgreSQL outlives its cloud's sudden death");
    one.start().await;
    two.start().await;
    for (cloud, id, life_before) in [(&one, a, &lives.0), (&two, b, &lives.1)] {
        let found = cloud.until(id, "running", "running", SOON).await;
        assert_eq!((&found["boot"], &found["attempts"]), (&json!(1), &json!(0)), "{found:#}");
        assert_eq!(life(cloud, id), *life_before, "the same domain, not another one");
    }

    // Each takes away its own, and only that.
    one.delete(a).await;
    assert!(domains(&one).is_empty());
    assert_eq!(domains(&two).len(), 1);
    assert_eq!(life(&two, b), lives.1);
    two.until(b, "running", "running", SOON).await;
    two.delete(b).await;
    assert!(domains(&two).is_empty());
    for cloud in [&one, &two] {
        let left: Vec<_> =
            ["disks", "consoles"].iter().flat_map(|pool| cloud.pool_files(pool)).collect();
        assert!(left.iter().all(|name| name.starts_with("base-")), "{left:?}");
        assert!(names(&cloud.host, &["net-list", "--all", "--name"], &cloud.mark()).is_empty());
    }
    for cloud in [&mut one, &mut two] {
        cloud.terminate().await;
    }
}
