//! Tenants, their quota and their members.

use pileus::domain::id::TenantId;
use pileus::service::Begin;
use pileus::service::auth::authenticate;
use pileus::service::quota::{self, Adding};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Api;

#[tokio::test]
async fn a_tenants_delete_and_what_is_added_at_the_moment_do_not_wait_for_one_another() {
    let api = Api::start().await;
    let made = api.admin.post("/v1/tenants", &json!({"name": "short"})).await.expect(201);
    let id = made["id"].as_str().expect("an id").to_owned();
    // As a create does it: first its row, which holds the tenant, and at its end the count, which locks it.
    let mut adding = api.app.db.begin().await.expect("a transaction");
    let row = "insert into keypairs (id, tenant_id, name, public_key, fingerprint, created_at)
               select gen_random_uuid(), $1, 'k', 'k', 'k', now()";
    let tenant: Uuid = id.parse().expect("an id");
    sqlx::query(row).bind(tenant).execute(&mut *adding).await.expect("a row");
    let admin = api.admin.clone();
    let delete = tokio::spawn(async move { admin.delete(&format!("/v1/tenants/{id}")).await });
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&api.app.db).await.expect("a look") == 0 {
        assert!(!delete.is_finished(), "it does not wait for who adds to the tenant");
    }
    let lock = "select from tenants where id = $1 for no key update";
    sqlx::query(lock).bind(tenant).execute(&mut *adding).await.expect("no deadlock");
    adding.commit().await.expect("a commit");
    delete.await.expect("an answer").problem(409, "in-use");
}

#[tokio::test]
async fn a_tenant_is_made_with_the_settings_quota_and_what_is_given_over_it() {
    let api = Api::start_with(|flags| flags.set("quota_instances", "7")).await;
    let new = json!({"name": "build", "description": "Ünïcode\nis fine", "quota": {"vcpus": 3}});
    let made = api.admin.post("/v1/tenants", &new).await;
    let tenant = made.expect(201);
    assert_eq!(tenant["quota"]["instances"], 7);
    assert_eq!(tenant["quota"]["vcpus"], 3);
    assert_eq!(tenant["quota"]["networks"], 10);
    let path = made.header("location").expect("a location");
    let got = api.admin.get(path).await.expect(200);
    let nothing = json!({"instances": 0, "vcpus": 0, "memory_mib": 0, "disk_gib": 0, "networks": 0, "images": 0, "image_mib": 0, "keypairs": 0});
    assert_eq!(got["usage"], nothing);
    let patch = json!({"description": "", "quota": {"images": 0}});
    let patched = api.admin.patch(path, &patch).await;
    let now = patched.expect(200);
    assert_eq!((&now["quota"]["images"], &now["quota"]["vcpus"]), (&json!(0), &json!(3)));
    assert_eq!((&now["description"], patched.header("etag")), (&json!(""), Some("\"2\"")));
    api.admin.post("/v1/tenants", &new).await.problem(409, "name-taken");
    api.admin.delete(path).await.expect(204);
    api.admin.get(path).await.problem(404, "not-found");
}

#[tokio::test]
async fn members_see_their_tenant_and_no_other() {
    let api = Api::start().await;
    let own = format!("/v1/tenants/{}", api.tenant_a);
    let other = format!("/v1/tenants/{}", api.tenant_b);
    assert_eq!(api.reader.get(&own).await.expect(200)["name"], "default");
    api.reader.get(&other).await.problem(404, "not-found");
    let names = |page: Value| {
        let items = page["items"].as_array().expect("items").clone();
        items
            .iter()
            .map(|tenant| tenant["name"].as_str().expect("name").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(api.reader.get("/v1/tenants").await.expect(200)), ["default"]);
    assert_eq!(names(api.stranger.get("/v1/tenants").await.expect(200)), ["other"]);
    assert_eq!(names(api.admin.get("/v1/tenants").await.expect(200)), ["default", "other"]);
    assert!(names(api.reader.get("/v1/tenants?name=other").await.expect(200)).is_empty());
}

#[tokio::test]
async fn a_membership_that_somebody_gives_changes_no_login() {
    let api = Api::start().await;
    let me = api.member.get("/v1/auth/whoami").await.expect(200);
    let user = me["user"]["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/tenants/{}/members/{user}", api.tenant_b);
    let given = api.admin.put(&path, &json!({"role": "reader"})).await;
    assert!(given.status < 300, "{given:?}");
    let again = api.anonymous.login("member").await;
    let still = again.get("/v1/auth/whoami").await.expect(200);
    assert_eq!(still["tenant"], me["tenant"], "{still}");
}

#[tokio::test]
async fn a_tenant_that_owns_something_stays() {
    let api = Api::start().await;
    let mut conn = api.app.conn().await.expect("a connection");
    sqlx::query(
        "insert into keypairs (id, tenant_id, name, public_key, fingerprint, created_at) values ($1, $2, 'k', 'k', 'k', now())",
    )
    .bind(Uuid::now_v7())
    .bind(api.tenant_b)
    .execute(&mut *conn)
    .await
    .expect("a keypair");
    let path = format!("/v1/tenants/{}", api.tenant_b);
    assert_eq!(api.stranger.get(&path).await.expect(200)["usage"]["keypairs"], 1);
    let refused = api.admin.delete(&path).await.problem(409, "in-use");
    assert!(refused["detail"].as_str().expect("detail").contains("keypairs"), "{refused}");
    api.stranger.get("/v1/auth/whoami").await.expect(200);
    sqlx::query("delete from keypairs").execute(&mut *conn).await.expect("deleted");
    api.admin.delete(&path).await.expect(204);
    // The memberships went with it.
    api.stranger.get("/v1/auth/whoami").await.problem(401, "unauthenticated");
    assert_eq!(
        api.anonymous.login("stranger").await.get("/v1/auth/whoami").await.expect(200)["tenant"],
        Value::Null
    );
}

#[tokio::test]
async fn owners_decide_who_is_a_member_of_their_tenant_alone() {
    let api = Api::start().await;
    let stranger = api.stranger.get("/v1/auth/whoami").await.expect(200)["user"]["id"].clone();
    let stranger = stranger.as_str().expect("an id");
    let (own, other) = (
        format!("/v1/tenants/{}/members", api.tenant_a),
        format!("/v1/tenants/{}/members", api.tenant_b),
    );
    let role = |role: &str| json!({"role": role});
    let put = api.owner.put(&format!("{own}/{stranger}"), &role("reader")).await.expect(200);
    assert_eq!((&put["user_name"], &put["role"]), (&json!("stranger"), &json!("reader")));
    let listed = api.owner.get(&own).await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(5));
    api.owner.get(&other).await.problem(404, "not-found");
    api.owner.put(&format!("{other}/{stranger}"), &role("owner")).await.problem(404, "not-found");
    api.owner.delete(&format!("{other}/{stranger}")).await.problem(404, "not-found");
    api.member.put(&format!("{own}/{stranger}"), &role("owner")).await.problem(403, "forbidden");
    let nobody = Uuid::now_v7();
    api.owner.put(&format!("{own}/{nobody}"), &role("reader")).await.problem(404, "not-found");
    api.owner.delete(&format!("{own}/{nobody}")).await.problem(404, "not-found");
    let king = api.owner.put(&format!("{own}/{stranger}"), &role("king")).await;
    assert_eq!(king.faults(), ["/role"]);
    api.owner.delete(&format!("{own}/{stranger}")).await.expect(204);
    // The login to the own tenant goes on.
    api.stranger.get("/v1/auth/whoami").await.expect(200);
    api.admin.get(&format!("/v1/tenants/{nobody}/members")).await.problem(404, "not-found");
}

#[tokio::test]
async fn bounds_are_named() {
    let api = Api::start().await;
    for (body, faults) in [
        (json!({"name": ""}), vec!["/name"]),
        (json!({"name": "x", "description": "x".repeat(1001)}), vec!["/description"]),
        (json!({"name": "x", "description": "\u{1b}[31m"}), vec!["/description"]),
        (
            json!({"name": "x", "quota": {"vcpus": -1, "images": 1_000_001}}),
            vec!["/quota/vcpus", "/quota/images"],
        ),
        (json!({"name": "x", "quota": {"gpus": 1}}), vec!["/quota/gpus"]),
    ] {
        assert_eq!(api.admin.post("/v1/tenants", &body).await.faults(), faults, "{body}");
    }
}

#[tokio::test]
async fn of_two_who_want_the_last_place_one_gets_it() {
    let api = Api::start_with(|flags| flags.set("quota_keypairs", "1")).await;
    let caller = authenticate(&api.app, api.member.token.as_deref().expect("a token")).await;
    let caller = caller.expect("the member");
    let tenant = TenantId(api.tenant_a);
    let add = async |name: &'static str| {
        let Begin::Fresh(mut write) = api.app.begin::<()>(&caller, "test", &()).await? else {
            panic!("there is no key")
        };
        let one = Adding { keypairs: 1, ..Adding::default() };
        quota::check(&mut write, tenant, one).await?;
        sqlx::query(
            "insert into keypairs (id, tenant_id, name, public_key, fingerprint, created_at) values ($1, $2, $3, 'k', 'k', now())",
        )
        .bind(Uuid::now_v7())
        .bind(tenant)
        .bind(name)
        .execute(write.conn())
        .await?;
        write.commit(&()).await
    };
    let results = tokio::join!(add("a"), add("b"), add("c"));
    let results = [results.0, results.1, results.2];
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    for refused in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(
            refused.to_string(),
            "quota of tenant default: keypairs 1 of 1 used, 1 more asked: delete some or ask an admin to raise the quota"
        );
    }
}
