//! The sweeper and who comes to need a thing while it is being swept.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pileus::domain::id::{IncarnationId, InstanceId, NetworkId};
use pileus::hypervisor::{DomainSpec, Hypervisor, Inject, NetworkSpec, Power, Stamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Api, HOST};
use crate::world::{Process, in_between, once_at, status};

fn uuid(thing: &Value) -> Uuid {
    thing["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
}

/// A cloud with a stopped instance of an image on a network, and a host on which base image, network and domain of it are
/// there already, without an owner, and were seen so once.
struct Scene {
    api: Arc<Api>,
    process: Process,
    instance: Value,
    network: NetworkId,
    base: String,
}

async fn scene() -> Scene {
    let api = Api::start_with(|flags| flags.set("sweep_grace_s", "0")).await;
    let image = api.image("tiny").await;
    let process = Process::first(&api).await;
    let network = api.member.post("/v1/networks", &json!({"name": "n"})).await.expect(201);
    let new = json!({"name": "vm", "image": "tiny", "flavor": "nano", "wanted": "stopped",
                     "networks": [{"network": "n"}]});
    let instance = api.member.post("/v1/instances", &new).await.expect(202);
    process.work().await;
    let image = api.admin.get(&format!("/v1/images/{}", uuid(&image))).await.expect(200);
    let base = format!("base-{}.raw", image["sha256"].as_str().expect("a checksum"));
    api.host.add_foreign_volume(&base, 1 << 20);
    let text = |key: &str| network[key].as_str().expect("a text").to_owned();
    api.host
        .ensure_network(&NetworkSpec {
            id: NetworkId(uuid(&network)),
            cidr: text("cidr").parse().expect("a CIDR"),
            gateway: text("gateway").parse().expect("an address"),
            dns: vec![],
            standing: Vec::new(),
            keep_others: false,
            known: false,
            hosts: vec![],
        })
        .expect("a network");
    let network = NetworkId(uuid(&network));
    let scene = Scene { api: Arc::new(api), process, instance, network, base };
    scene.leave_a_domain();
    scene.api.host.print(IncarnationId(Uuid::now_v7()), "a console that nobody needs");
    scene.process.sweep().await;
    scene.is_whole();
    scene
}

impl Drop for Scene {
    /// What was injected holds the cloud, whose host holds it: without this neither would ever go, and nor would their files.
    fn drop(&mut self) {
        self.api.host.inject(|_| Inject::Pass);
    }
}

impl Scene {
    /// A domain of the instance's UUID, of an incarnation that nobody knows.
    fn leave_a_domain(&self) {
        let nothing = IncarnationId(Uuid::now_v7());
        let names = [format!("disk-{nothing}.qcow2"), format!("seed-{nothing}.iso")];
        for name in &names {
            self.api.host.add_foreign_volume(name, 1);
        }
        let [disk, seed] = names;
        let stamp = Stamp {
            cloud: self.api.app.cloud,
            instance: self.id(),
            incarnation: nothing,
            revision: 1,
            boot: 1,
        };
        let virt_type = pileus::domain::host::VirtType::Qemu;
        let spec = DomainSpec {
            stamp,
            title: "left".into(),
            vcpus: 1,
            memory_mib: 64,
            virt_type,
            disk,
            seed,
            nics: vec![],
        };
        self.api.host.start(&spec).expect("started");
    }

    fn id(&self) -> InstanceId {
        InstanceId(uuid(&self.instance))
    }

    async fn start(&self) {
        let path = format!("/v1/instances/{}/actions/start", self.id());
        self.api.member.post(&path, &json!({})).await.expect(202);
    }

    /// Base image, network and a domain are on the host.
    fn is_whole(&self) {
        let content = self.api.host.content();
        assert!(content.volumes.contains_key(&self.base), "the base image is gone: {content:#?}");
        assert!(content.networks.contains_key(&self.network.0), "the network is gone");
        let domain = content.domains.get(&self.id()).expect("the domain is gone");
        assert_eq!(domain.seen.power, Power::Running);
    }

    /// Another process brings the instance up. Gives its end, and waits until it runs, or is held up or turned away.
    async fn other(api: Arc<Api>, instance: Value) -> tokio::task::JoinHandle<()> {
        let (passes, up) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, done) = (Arc::clone(&passes), Arc::clone(&up));
        let process = Process::new(&api);
        let db = api.app.db.clone();
        let work = tokio::spawn(async move {
            process.look().await;
            while status(&api, &instance).await != "running" {
                let passes = counter.fetch_add(1, Ordering::SeqCst);
                assert!(passes < 200, "it does not run");
                process.turn().await;
            }
            done.store(true, Ordering::SeqCst);
        });
        while !up.load(Ordering::SeqCst) && passes.load(Ordering::SeqCst) < 40 {
            let blocked: i64 = sqlx::query_scalar(
                "select count(*) from pg_locks where locktype = 'advisory' and not granted
                     and database = (select oid from pg_database where datname = current_database())",
            )
            .fetch_one(&db)
            .await
            .expect("a look");
            if blocked > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        work
    }
}

/// In the middle of a sweep, right before its first call of this name, the instance is brought up.
async fn an_instance_comes_at(call: &'static str) {
    let scene = scene().await;
    scene.start().await;
    let (api, instance) = (Arc::clone(&scene.api), scene.instance.clone());
    let (handle, other) = (tokio::runtime::Handle::current(), Arc::new(Mutex::new(None)));
    let slot = Arc::clone(&other);
    once_at(&scene.api, call, move || {
        let work = in_between(&handle, Scene::other(Arc::clone(&api), instance.clone()));
        *slot.lock().expect("a slot") = Some(work);
    });
    scene.process.sweep().await;
    let work = other.lock().expect("a slot").take();
    work.unwrap_or_else(|| panic!("{call} was not called")).await.expect("it runs");
    scene.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_an_owner_after_the_look_is_not_swept() {
    // The console, which nobody needs, is removed first.
    an_instance_comes_at("delete_console").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_not_swept_while_its_instance_is_placed() {
    an_instance_comes_at("power_off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_not_swept_while_an_instance_comes_to_it() {
    an_instance_comes_at("delete_network").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_is_not_swept_while_an_instance_comes_to_it() {
    an_instance_comes_at("delete_volume").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_leaves_takes_nothing_of_ours_with_it() {
    let scene = scene().await;
    let (api, process) = (&scene.api, &scene.process);
    api.member.delete(&format!("/v1/instances/{}", scene.id())).await.expect(202);
    process.work().await;
    let path = format!("/v1/hosts/{HOST}");
    api.admin.delete(&path).await.expect(202);
    process.work().await;
    // What a crash left has no owner: the host says what it waits for, and stays until the sweeper has been.
    let stalled = api.admin.get("/v1/stalled?kind=host&waiting_s=0").await.expect(200);
    let reason = stalled["items"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("things of this cloud on it have no owner"), "{stalled}");
    assert!(reason.contains(&format!("/v1/drift?host_id={HOST}")), "{stalled}");
    assert_eq!(api.admin.get(&path).await.expect(200)["leaving_reason"], reason);
    for _ in 0..8 {
        process.sweep().await;
    }
    let content = api.host.content();
    assert!(content.domains.is_empty() && content.networks.is_empty(), "{content:#?}");
    assert!(content.volumes.is_empty() && content.consoles.is_empty(), "{content:#?}");
    let gone = async || api.admin.get(&path).await.status == 404;
    process.work_until(gone).await;
}
