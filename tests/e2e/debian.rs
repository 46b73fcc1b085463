//! A stock image of the distribution, with the real cloud-init: from its upload by the command line to what it made of its seed.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cloud::Cloud;
use crate::main_job::{address, keypair, ssh};
use crate::process::run;

/// Python and systemd in software, on a machine with other work: three minutes where it has none.
const BOOT: Duration = Duration::from_secs(1500);
const USER_DATA: &str = "#cloud-config
# mArKeD
write_files:
  - path: /etc/written
    content: 'by write_files'
    permissions: '0600'
runcmd:
  - [ sh, -c, 'echo \"by runcmd of $(hostname)\" > /root/ran' ]
";
const DISK_GIB: u64 = 4;

fn image() -> String {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/target/debian/debian.qcow2");
    let message = "no Debian image: run `make debian-image`";
    assert!(std::fs::exists(image).unwrap(), "{message}");
    image.into()
}

/// `pileus …` as the cloud's admin; what it printed.
fn cli(cloud: &Cloud, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pileus"));
    command.args(arguments).env("PILEUS_URL", &cloud.admin.url);
    run(command.env("PILEUS_TOKEN", cloud.admin.token.as_deref().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_debian_and_its_cloud_init_take_all_that_the_seed_says() {
    let cloud = Cloud::new(&[("network-pool", "10.102.0.0/16")]).await;
    let admin = &cloud.admin;
    let (uploaded, said) = cli(&cloud, &["image", "upload", "debian", &image()]);
    assert!(uploaded, "{said}");
    let keys = tempfile::tempdir().unwrap();
    let (key, public) = keypair(keys.path());
    admin.post("/v1/keypairs", &json!({"name": "laptop", "public_key": public})).await.expect(201);
    let flavor = json!({"name": "debian", "vcpus": 2, "memory_mib": 512, "disk_gib": DISK_GIB});
    admin.post("/v1/flavors", &flavor).await.expect(201);

    let begun = Instant::now();
    let new = json!({
        "name": "Web 1", "image": "debian", "flavor": "debian", "keypairs": ["laptop"],
        "networks": [{"network": "default"}], "user_data": USER_DATA,
    });
    let made = admin.post("/v1/instances", &new).await.expect(202);
    let id = made["id"].as_str().unwrap();
    let told = cloud.until(id, "cloud_init", "running", BOOT).await;
    println!("cloud-init is done after {:?}", begun.elapsed());
    assert_eq!(told["cloud_init"], json!({"status": "done", "errors": []}), "{told:#}");
    let (held, said) = cli(&cloud, &["instance", "wait", id, "cloud_init"]);
    assert!(held, "{said}");

    let (address, mac) = (address(&told), told["interfaces"][0]["mac"].as_str().unwrap());
    let login = format!("{}@{address}", distribution());
    let on = async |command: &str| ssh(&cloud, &key, &login, command).await.trim().to_owned();
    assert_eq!(on("hostname").await, "web-1");
    assert_eq!(
        on("sudo stat -c %a:%U /etc/written; sudo cat /etc/written").await,
        "600:root\nby write_files"
    );
    assert_eq!(on("sudo cat /root/ran").await, "by runcmd of web-1");
    // The first interface is eth0, with the address that IPAM chose, and the way out that DHCP told.
    let link: Value = serde_json::from_str(&on("ip -j address show eth0").await).unwrap();
    assert_eq!(link[0]["address"], mac);
    let addresses = link[0]["addr_info"].as_array().unwrap();
    assert!(addresses.iter().any(|a| a["local"] == address.to_string()), "{link:#}");
    let gateway = on("ip -j route show default dev eth0").await;
    assert!(gateway.contains("\"gateway\""), "{gateway}");
    // The image's partition and file system, half a gigabyte, have grown to the flavor's disk.
    let bytes: u64 = on("df -B1 --output=size / | tail -n 1").await.parse().unwrap();
    assert!(bytes > (DISK_GIB << 30) * 9 / 10, "the root file system has {bytes} bytes");
    println!("all of it after {:?}", begun.elapsed());

    cloud.delete(id).await;
    cloud.holds_nothing(1).await;
}

/// The image's first user bears the distribution's name.
fn distribution() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap();
    let id = release.lines().find_map(|line| line.strip_prefix("ID="));
    id.unwrap_or("debian").trim_matches('"').to_owned()
}
