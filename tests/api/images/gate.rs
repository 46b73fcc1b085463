//! What passes the gate and what does not, made by `qemu-img` itself.

use std::path::Path;
use std::process::Command;

use pileus::domain::id::TenantId;
use pileus::service;
use serde_json::json;

use super::{create, gathering, put, reconciler, status, stored};
use crate::harness::Api;

/// Runs `qemu-img` in `dir`.
fn qemu_img(dir: &Path, arguments: &str) {
    let run = Command::new("qemu-img").args(arguments.split(' ')).current_dir(dir).output();
    let run = run.expect("qemu-img is installed");
    assert!(run.status.success(), "{arguments}: {}", String::from_utf8_lossy(&run.stderr));
}

fn made(dir: &Path, arguments: &str) -> Vec<u8> {
    qemu_img(dir, arguments);
    std::fs::read(dir.join("x")).expect("an image")
}

#[tokio::test]
async fn sound_qcow2_files_of_every_make_pass() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("raw"), vec![b'r'; 3 << 20]).unwrap();
    for arguments in [
        "create -q -f qcow2 x 10G",
        "create -q -f qcow2 -o compat=0.10 x 10G",
        "create -q -f qcow2 -o cluster_size=512 x 100M",
        "create -q -f qcow2 -o cluster_size=2M,preallocation=metadata x 1G",
        "create -q -f qcow2 -o extended_l2=on x 1G",
        "convert -f raw -O qcow2 -c raw x",
        "convert -f raw -O qcow2 -c -o compression_type=zstd raw x",
    ] {
        let bytes = made(dir.path(), arguments);
        let id = create(&api.member, "disk", "qcow2").await;
        let image = put(&api.member, &id, bytes).await;
        assert_eq!(image.expect(200)["status"], "ready", "{arguments}");
    }
    let image = api.member.get("/v1/images?limit=1").await.expect(200)["items"][0].clone();
    assert_eq!(image["virtual_bytes"], json!(10_u64 << 30));
}

#[tokio::test]
async fn what_would_reach_beyond_itself_or_is_unsound_is_refused_with_its_remedy() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
    qemu_img(dir.path(), "create -q -f qcow2 base 1G");
    let id = create(&api.member, "disk", "qcow2").await;
    let refused = async |bytes: Vec<u8>, why: &str| {
        let answer = put(&api.member, &id, bytes).await;
        assert_eq!(answer.faults(), [""], "{why}");
        assert!(answer.text.contains(why), "{why}: {answer:?}");
        assert_eq!(status(&api.member, &id).await, "awaiting_data");
        assert_eq!((gathering(&api).len(), stored(&api).len()), (0, 0), "{why}");
    };
    for (arguments, why) in [
        ("create -q -f qcow2 -b base -F qcow2 x", "backing file"),
        ("create -q -f qcow2 -u -b /etc/passwd -F raw x 1G", "backing file"),
        ("create -q -f qcow2 -o compat=0.10 -u -b /etc/shadow -F raw x 1G", "backing file"),
        ("create -q -f qcow2 -o data_file=data,data_file_raw=on x 1G", "external file"),
        ("create -q -f qcow2 x 70T", "virtual size"),
        (
            "create -q -f qcow2 --object secret,id=s,data=key -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 x 1M",
            "encrypted",
        ),
        ("create -q -f vmdk x 1G", "qcow2 magic"),
        ("create -q -f raw x 1M", "qcow2 magic"),
    ] {
        refused(made(dir.path(), arguments), why).await;
    }
    made(dir.path(), "create -q -f qcow2 x 1G");
    refused(made(dir.path(), "snapshot -c one x"), "internal snapshots").await;
    let sound = made(dir.path(), "create -q -f qcow2 -o preallocation=metadata x 64M");
    refused(sound[..64].to_vec(), "cut off").await;
    refused(sound[..100_000].to_vec(), "table").await;
    // The first entry of the L1 table leads nowhere.
    let mut bytes = sound.clone();
    let l1 = usize::try_from(u64::from_be_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    bytes[l1..l1 + 8].copy_from_slice(&0x8000_7fff_ffff_0000_u64.to_be_bytes());
    refused(bytes, "qemu-img").await;
    let event = api.events().await.into_iter().rfind(|e| e["kind"] == "image.upload").unwrap();
    assert_eq!(event["outcome"], "failed");
    // and after all that it is still as good as new
    put(&api.member, &id, sound).await.expect(200);
}

#[tokio::test]
async fn a_qcow2_that_is_declared_as_raw_is_refused() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
    let id = create(&api.member, "disk", "raw").await;
    let answer = put(&api.member, &id, made(dir.path(), "create -q -f qcow2 x 1G")).await;
    assert!(answer.text.contains("format qcow2") && answer.faults() == [""], "{answer:?}");
}

#[tokio::test]
async fn qemu_img_has_room_in_the_least_memory_that_can_be_set() {
    let api = Api::start_with(|flags| flags.set("image_check_memory_mib", "256")).await;
    let dir = tempfile::tempdir().unwrap();
    let id = create(&api.member, "disk", "qcow2").await;
    put(&api.member, &id, made(dir.path(), "create -q -f qcow2 x 10G")).await.expect(200);
}

#[tokio::test]
async fn an_import_is_repeatable_and_supersedes_by_name() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    let tenant = TenantId(api.tenant_a);
    made(dir.path(), "create -q -f qcow2 x 1G");
    let first = service::images::ensure_public(&api.app, tenant, "guest", &file).await.unwrap();
    let again = service::images::ensure_public(&api.app, tenant, "guest", &file).await.unwrap();
    assert_eq!(first, again);
    let seen = api.stranger.get(&format!("/v1/images/{}", first.id)).await.expect(200);
    assert_eq!((&seen["status"], &seen["visibility"]), (&json!("ready"), &json!("public")));
    made(dir.path(), "create -q -f qcow2 x 2G");
    let second = service::images::ensure_public(&api.app, tenant, "guest", &file).await.unwrap();
    assert_ne!(first.id, second.id);
    let listed = api.stranger.get("/v1/images?name=guest").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    reconciler(&api).reconcile(first.id).await.unwrap();
    api.member.get(&format!("/v1/images/{}", first.id)).await.problem(404, "not-found");
    assert_eq!(stored(&api).len(), 1);
    std::fs::write(&file, "no image").unwrap();
    let refused = service::images::ensure_public(&api.app, tenant, "guest", &file).await;
    assert!(refused.is_err_and(|e| e.to_string().contains("qcow2 magic")));
}
