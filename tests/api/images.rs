//! `/v1/images`: uploads and what they leave, who sees what, what deletion frees.

mod bytes;
mod gate;
mod memory;
mod quota;

use std::path::PathBuf;

use pileus::domain::id::TenantId;
use pileus::reconcile::images::Images;
use pileus::reconcile::placer::Placer;
use pileus::reconcile::{self, Context, Parts};
use pileus::service;
use pileus::store;
use pileus::store::work::Kind;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, Api, Client};

/// An image without data.
pub async fn create(client: &Client, name: &str, format: &str) -> String {
    let image = client.post("/v1/images", &json!({"name": name, "format": format})).await;
    image.expect(201)["id"].as_str().expect("an id").to_owned()
}

pub async fn put(client: &Client, id: &str, bytes: impl Into<reqwest::Body>) -> Answer {
    client.ask(Method::PUT, &format!("/v1/images/{id}/data")).body(bytes).send().await
}

/// A raw image that is ready.
pub async fn ready(client: &Client, name: &str, bytes: &[u8]) -> String {
    let id = create(client, name, "raw").await;
    put(client, &id, bytes.to_vec()).await.expect(200);
    id
}

pub async fn status(client: &Client, id: &str) -> Value {
    client.get(&format!("/v1/images/{id}")).await.expect(200)["status"].clone()
}

/// The names of the files in the image store; the scratch directory is not among them.
pub fn stored(api: &Api) -> Vec<String> {
    files(&api.app.config.image_dir)
}

/// The uploads that are being gathered.
pub fn gathering(api: &Api) -> Vec<String> {
    files(&api.app.config.image_scratch_dir)
}

fn files(dir: &PathBuf) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let files = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_file()));
    files.map(|e| e.file_name().into_string().expect("a name")).collect()
}

pub fn reconciler(api: &Api) -> Images {
    Images {
        db: api.app.db.clone(),
        clock: api.app.clock.clone(),
        image_dir: api.app.config.image_dir.clone(),
        scratch_dir: api.app.config.image_scratch_dir.clone(),
    }
}

/// Works off what is due of images, as the pace loop does; gives how many items were.
async fn work(api: &Api) -> usize {
    let app = &api.app;
    let ctx = Context::new(Parts {
        db: app.db.clone(),
        config: app.config.clone(),
        clock: app.clock.clone(),
        cloud: app.cloud,
        changes: app.changes.clone(),
        hosts: app.hosts.clone(),
        placer: Placer::default(),
        settling: reconcile::Turns::default(),
        making: reconcile::Turns::default(),
        compared: pileus::domain::compared::Compared::default(),
        owner: Uuid::now_v7(),
    });
    reconcile::pace::run_due(&ctx, 100).await.expect("a round of work")
}

/// An instance of the image, as far as images are concerned.
async fn instance_of(api: &Api, image: &str) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into instances (id, tenant_id, name, image_id, flavor_id, flavor_name, vcpus, memory_mib, disk_gib,
                                created_at, wanted, wanted_at)
         values ($1, $2, 'vm', $3, $1, 'nano', 1, 192, 1, now(), 'running', now())",
    )
    .bind(id)
    .bind(api.tenant_a)
    .bind(image.parse::<Uuid>().expect("an id"))
    .execute(&mut *api.app.conn().await.expect("a connection"))
    .await
    .expect("an instance");
    id
}

#[tokio::test]
async fn an_image_goes_from_awaiting_data_to_ready_and_away() {
    let api = Api::start().await;
    let answer = api
        .member
        .post("/v1/images", &json!({"name": "disk", "format": "raw", "description": "a disk", "labels": {"os": "none"}}))
        .await;
    let image = answer.expect(201);
    let path = answer.header("location").expect("a location").to_owned();
    assert_eq!(image["status"], "awaiting_data");
    assert_eq!(image["visibility"], "private");
    assert_eq!(image["sha256"], Value::Null);
    assert_eq!(answer.header("etag"), Some("\"1\""));
    let ready = api.member.ask(Method::PUT, &format!("{path}/data")).body("abc").send().await;
    let ready = ready.expect(200);
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!((&ready["size_bytes"], &ready["virtual_bytes"]), (&json!(3), &json!(512)));
    assert_eq!(ready["revision"], 2);
    assert_eq!(api.reader.get(&path).await.expect(200), ready);
    let unchanged =
        api.reader.ask(Method::GET, &path).header("if-none-match", "\"2\"").send().await;
    assert_eq!(unchanged.status, 304);
    api.member.delete(&path).await.expect(204);
    api.member.get(&path).await.problem(404, "not-found");
    let kinds: Vec<_> = api
        .events()
        .await
        .iter()
        .filter(|e| e["resource_id"] == image["id"])
        .map(|e| e["kind"].clone())
        .collect();
    assert_eq!(kinds, ["image.create", "image.upload", "image.delete"]);
}

#[tokio::test]
async fn each_bad_field_is_named_and_nothing_is_made() {
    let api = Api::start().await;
    let bad = json!({"name": "a\u{0}", "format": "raw", "sha256": "ABC", "description": "\u{7}", "labels": {"🦀": "x"}});
    let faults = api.member.post("/v1/images", &bad).await.faults();
    assert_eq!(faults, ["/name", "/sha256", "/description", "/labels/🦀"]);
    for (body, pointer) in [
        (json!({"name": "x", "format": "vmdk"}), "/format"),
        (json!({"name": "x", "format": "raw", "backing": "/etc/passwd"}), "/backing"),
        (json!({"name": "x", "format": "raw", "visibility": "shared"}), "/visibility"),
    ] {
        assert_eq!(api.member.post("/v1/images", &body).await.faults(), [pointer]);
    }
    assert_eq!(api.member.get("/v1/images").await.expect(200)["items"], json!([]));
    for query in ["label=x", "label=a%20b=c", "limit=0", "status=gone", "nonsense=1"] {
        api.member.get(&format!("/v1/images?{query}")).await.problem(422, "invalid-input");
    }
}

#[tokio::test]
async fn a_change_is_made_at_the_revision_that_it_is_meant_for() {
    let api = Api::start().await;
    let path = format!("/v1/images/{}", create(&api.member, "one", "raw").await);
    let change = |tag: &'static str, body: Value| {
        api.member.ask(Method::PATCH, &path).header("if-match", tag).json(&body)
    };
    let changed = change("\"1\"", json!({"name": "two", "labels": {"os": "debian"}})).send().await;
    let changed = changed.expect(200);
    assert_eq!((&changed["name"], &changed["revision"]), (&json!("two"), &json!(2)));
    assert_eq!(changed["labels"], json!({"os": "debian"}));
    let late = change("\"1\"", json!({"name": "three"})).send().await;
    late.problem(412, "precondition-failed");
    assert_eq!(api.member.get(&path).await.expect(200), changed);
    let empty = api.member.patch(&path, &json!({"format": "qcow2"})).await;
    assert_eq!(empty.faults(), ["/format"]);
    let late = api.member.ask(Method::DELETE, &path).header("if-match", "\"1\"").send().await;
    late.problem(412, "precondition-failed");
}

#[tokio::test]
async fn another_tenants_private_image_is_not_there_for_anything() {
    let api = Api::start().await;
    let id = ready(&api.member, "secret", b"secret").await;
    let path = format!("/v1/images/{id}");
    let stranger = &api.stranger;
    stranger.get(&path).await.problem(404, "not-found");
    stranger.get(&format!("{path}/data")).await.problem(404, "not-found");
    stranger.patch(&path, &json!({"name": "mine"})).await.problem(404, "not-found");
    stranger.delete(&path).await.problem(404, "not-found");
    put(stranger, &id, "abc").await.problem(404, "not-found");
    assert_eq!(stranger.get("/v1/images").await.expect(200)["items"], json!([]));
    stranger.get("/v1/images?all_tenants=true").await.problem(403, "forbidden");
    let mut conn = api.app.conn().await.expect("a connection");
    for named in [id.as_str(), "secret"] {
        let tenant = TenantId(api.tenant_b);
        let chosen = service::images::choose(&mut conn, tenant, "/image", named).await;
        assert!(chosen.is_err_and(|e| e.to_string().starts_with("/image: there is no image")));
    }
}

#[tokio::test]
async fn a_reader_sees_and_changes_nothing_and_nobody_sees_nothing() {
    let api = Api::start().await;
    let id = ready(&api.member, "disk", b"x").await;
    let path = format!("/v1/images/{id}");
    api.reader.get(&path).await.expect(200);
    api.reader
        .post("/v1/images", &json!({"name": "x", "format": "raw"}))
        .await
        .problem(403, "forbidden");
    api.reader.patch(&path, &json!({"name": "x"})).await.problem(403, "forbidden");
    api.reader.delete(&path).await.problem(403, "forbidden");
    put(&api.reader, &id, "x").await.problem(403, "forbidden");
    put(&api.anonymous, &id, "x").await.problem(401, "unauthenticated");
    api.anonymous.get(&path).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn admins_publish_and_other_tenants_use_without_owning() {
    let api = Api::start().await;
    let public = json!({"name": "debian", "format": "raw", "visibility": "public"});
    api.owner.post("/v1/images", &public).await.problem(403, "forbidden");
    let id = ready(&api.member, "debian", b"debian").await;
    let path = format!("/v1/images/{id}");
    api.owner.patch(&path, &json!({"visibility": "public"})).await.problem(403, "forbidden");
    api.admin.patch(&path, &json!({"visibility": "public"})).await.expect(200);
    let seen = api.stranger.get(&path).await.expect(200);
    assert_eq!((&seen["name"], &seen["tenant_id"]), (&json!("debian"), &Value::Null));
    assert_eq!(api.member.get(&path).await.expect(200)["tenant_id"], json!(api.tenant_a));
    assert_eq!(
        api.stranger.get("/v1/images?visibility=public").await.expect(200)["items"],
        json!([seen])
    );
    assert_eq!(api.stranger.get(&format!("{path}/data")).await.text, "debian");
    api.stranger.patch(&path, &json!({"name": "mine"})).await.problem(403, "forbidden");
    api.stranger.delete(&path).await.problem(403, "forbidden");
    put(&api.stranger, &id, "debian").await.problem(403, "forbidden");
    // Its tenant may take it back, and change it while it is public.
    api.member.patch(&path, &json!({"description": "ours"})).await.expect(200);
    api.member.patch(&path, &json!({"visibility": "private"})).await.expect(200);
    api.stranger.get(&path).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_name_is_ones_own_image_first_and_must_not_be_ambiguous() {
    let api = Api::start().await;
    let public = ready(&api.admin, "debian", b"public").await;
    let publish = json!({"visibility": "public"});
    api.admin.patch(&format!("/v1/images/{public}"), &publish).await.expect(200);
    let mut conn = api.app.conn().await.expect("a connection");
    let mut choose = async |name: &str| {
        let tenant = TenantId(api.tenant_b);
        let chosen = service::images::choose(&mut conn, tenant, "/image", name).await;
        chosen.map(|image| image.id.to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(choose("debian").await, Ok(public.clone()));
    let awaiting = create(&api.stranger, "debian", "raw").await;
    let error = choose("debian").await.expect_err("it has no data");
    assert!(error.contains("no data yet") && error.contains(&awaiting), "{error}");
    let own = ready(&api.stranger, "debian", b"own").await;
    assert_eq!(choose("debian").await, Ok(own.clone()));
    assert_eq!(choose(&public).await, Ok(public.clone()));
    ready(&api.stranger, "debian", b"another").await;
    let error = choose("debian").await.expect_err("there are two");
    assert!(error.contains("several images are named debian") && error.contains(&own), "{error}");
    assert_eq!(choose(&own).await, Ok(own.clone()));
    assert!(choose("' or true --").await.is_err());
}

#[tokio::test]
async fn a_list_is_filtered_by_name_label_and_status_and_comes_in_pages() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for (name, os) in [("a", "debian"), ("b", "debian"), ("c", "alpine")] {
        let body = json!({"name": name, "format": "raw", "labels": {"os": os, "ci": "yes"}});
        ids.push(api.member.post("/v1/images", &body).await.expect(201)["id"].clone());
    }
    put(&api.member, ids[2].as_str().expect("an id"), "x").await.expect(200);
    let listed = async |query: &str| {
        let page = api.member.get(&format!("/v1/images?{query}")).await.expect(200);
        let items = page["items"].as_array().expect("items").clone();
        (items.iter().map(|i| i["id"].clone()).collect::<Vec<_>>(), page["next"].clone())
    };
    assert_eq!(listed("name=b").await.0, ids[1..2]);
    assert_eq!(listed("label=ci=yes,os=debian").await.0, ids[..2]);
    assert_eq!(listed("status=ready").await.0, ids[2..]);
    let (first, next) = listed("limit=2").await;
    assert_eq!(first, ids[..2]);
    let cursor = next.as_str().expect("a cursor").to_owned();
    assert_eq!(listed(&format!("limit=2&cursor={cursor}")).await, (ids[2..].to_vec(), Value::Null));
}

#[tokio::test]
async fn the_same_bytes_of_two_tenants_are_stored_once_until_the_last_is_deleted() {
    let api = Api::start().await;
    let mine = ready(&api.member, "disk", b"the same bytes").await;
    let theirs = ready(&api.stranger, "disk", b"the same bytes").await;
    let files = stored(&api);
    assert_eq!(files.len(), 1);
    assert_eq!(
        api.stranger.get(&format!("/v1/images/{theirs}")).await.expect(200)["sha256"],
        json!(files[0])
    );
    api.member.delete(&format!("/v1/images/{mine}")).await.expect(204);
    assert_eq!(work(&api).await, 1);
    assert_eq!(stored(&api), files);
    assert_eq!(api.stranger.get(&format!("/v1/images/{theirs}/data")).await.text, "the same bytes");
    api.stranger.delete(&format!("/v1/images/{theirs}")).await.expect(204);
    assert_eq!(work(&api).await, 1);
    assert_eq!(stored(&api), [""; 0]);
    // and again, from nothing
    ready(&api.member, "disk", b"the same bytes").await;
    assert_eq!(stored(&api), files);
}

#[tokio::test]
async fn an_image_in_use_is_hidden_and_goes_with_its_last_instance() {
    let api = Api::start().await;
    let id = ready(&api.member, "disk", b"in use").await;
    let path = format!("/v1/images/{id}");
    let (one, two) = (instance_of(&api, &id).await, instance_of(&api, &id).await);
    let left = api.member.delete(&path).await.expect(202);
    assert_eq!(left["status"], "deleting");
    api.member.delete(&path).await.expect(202);
    api.member.patch(&path, &json!({"name": "x"})).await.problem(409, "image-deleting");
    put(&api.member, &id, "in use").await.problem(409, "image-deleting");
    let mut conn = api.app.conn().await.expect("a connection");
    let chosen = service::images::choose(&mut conn, TenantId(api.tenant_a), "/image", &id).await;
    assert!(chosen.is_err(), "no new instance is made of it");
    for instance in [one, two] {
        assert_eq!(work(&api).await, 1);
        assert_eq!((status(&api.member, &id).await, stored(&api).len()), (json!("deleting"), 1));
        // What the reconciler does when it forgets an instance.
        let gone = sqlx::query("delete from instances where id = $1").bind(instance);
        gone.execute(&mut *conn).await.expect("gone");
        let image = id.parse().expect("an id");
        let now = api.app.clock.now();
        store::work::touch(&mut conn, Kind::Image, image, now).await.expect("touched");
    }
    assert_eq!((work(&api).await, work(&api).await), (1, 0));
    api.member.get(&path).await.problem(404, "not-found");
    assert_eq!(stored(&api), [""; 0]);
    let outcomes: Vec<_> = api
        .events()
        .await
        .iter()
        .filter(|e| e["kind"] == "image.delete")
        .map(|e| (e["actor"].clone(), e["outcome"].clone()))
        .collect();
    assert_eq!(outcomes.last(), Some(&(json!("reconciler"), json!("done"))));
}

#[tokio::test]
async fn a_sweep_frees_what_crashes_left_and_nothing_that_is_used() {
    let api = Api::start().await;
    let kept = ready(&api.member, "disk", b"kept").await;
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
    let leave = |path: PathBuf| {
        let file = std::fs::File::create(path).expect("a file");
        file.set_modified(old).expect("its time");
        file
    };
    let (images, scratch) = (&api.app.config.image_dir, &api.app.config.image_scratch_dir);
    for name in stored(&api) {
        std::fs::File::open(images.join(name)).unwrap().set_modified(old).unwrap();
    }
    leave(images.join("0".repeat(64)));
    leave(images.join("README"));
    leave(scratch.join("upload-crashed"));
    let running = leave(scratch.join("upload-running"));
    running.lock().expect("a lock");
    std::fs::File::create(scratch.join("upload-young")).expect("a file");
    let swept = reconciler(&api).sweep().await.expect("a sweep");
    assert_eq!((swept.images, swept.blobs, swept.files), (0, 0, 2));
    let mut left = gathering(&api);
    left.sort();
    assert_eq!(left, ["upload-running", "upload-young"]);
    assert_eq!(stored(&api).len(), 2, "the image and what is not ours");
    assert_eq!(api.member.get(&format!("/v1/images/{kept}/data")).await.text, "kept");
}
