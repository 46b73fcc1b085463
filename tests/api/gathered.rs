//! Creates that come together: recorded together, and each its own.

use std::ops::Range;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::Answer;
use crate::harness::Api;
use crate::instances::cloud;

/// Creates `names` at once, all but the first while the first is under way, with what `common` has; gives their answers.
async fn gathered(
    api: &Api,
    names: Range<usize>,
    common: &Value,
    key: Option<&'static str>,
) -> Vec<Answer> {
    let mut held = api.app.db.begin().await.expect("a transaction");
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('tenant' || $1::text, 0))")
        .bind(api.tenant_a)
        .execute(&mut *held)
        .await
        .expect("the tenant's turn");
    let mut asked = Vec::new();
    for n in names {
        let client = if n % 2 == 0 { api.member.clone() } else { api.owner.clone() };
        let mut new = json!({"name": format!("vm-{n}"), "image": "tiny", "flavor": "nano", "labels": {"n": n.to_string()},
                             "user_data": format!("#cloud-config\n# {n}\n")});
        new.as_object_mut().expect("an object").extend(common.as_object().expect("one").clone());
        asked.push(tokio::spawn(async move {
            let ask = client.ask(Method::POST, "/v1/instances").json(&new);
            match key {
                Some(key) => ask.header("idempotency-key", format!("{key}-{n}")).send().await,
                None => ask.send().await,
            }
        }));
        // What was answered before is answered at once.
        let under_way = || api.app.limits().in_use()[0].1 as usize;
        let answered = || asked.iter().filter(|task| task.is_finished()).count();
        while under_way() + answered() < asked.len() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    held.rollback().await.expect("let go");
    let answers = futures_util::future::join_all(asked).await;
    answers.into_iter().map(|answer| answer.expect("an answer")).collect()
}

fn stopped() -> Value {
    json!({"wanted": "stopped"})
}

async fn count(api: &Api, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&api.app.db).await.expect(sql)
}

/// How many transactions recorded the instances.
async fn transactions(api: &Api) -> i64 {
    count(api, "select count(distinct created_at) from instances").await
}

/// How many were taken, and how many refused.
fn outcome(answers: &[Answer]) -> (usize, usize) {
    let with = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    (with(202), with(409))
}

async fn sound(api: &Api) {
    let report = api.admin.get("/v1/fsck").await.expect(200);
    assert_eq!(report["findings"], json!([]), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_that_come_together_are_recorded_together_and_each_is_its_own() {
    let api = cloud().await;
    let made = gathered(&api, 0..11, &stopped(), None).await;
    for (n, answer) in made.iter().enumerate() {
        let made = answer.expect(202);
        assert_eq!(made["name"], format!("vm-{n}"));
        let path = format!("/v1/instances/{}", made["id"].as_str().expect("an id"));
        let kept = api.member.get(&path).await.expect(200);
        assert_eq!((&kept["name"], &kept["labels"]["n"]), (&made["name"], &json!(n.to_string())));
    }
    assert_eq!(transactions(&api).await, 2, "the first, and those that came meanwhile");
    let own = "select count(*) from instances i join events e on e.resource_id = i.id and e.kind = 'instance.create'
               where i.user_data = '#cloud-config' || chr(10) || '# ' || (i.labels ->> 'n') || chr(10) and i.request_id = e.request_id
                 and i.created_by = e.actor_id and e.resource_name = i.name";
    assert_eq!(count(&api, own).await, 11, "each has its own");
    assert_eq!(count(&api, "select count(distinct created_by) from instances").await, 2);

    // Who does not fit is refused by itself, and takes nobody along.
    let path = format!("/v1/tenants/{}", api.tenant_a);
    api.admin.patch(&path, &json!({"quota": {"instances": 15}})).await.expect(200);
    let more = gathered(&api, 11..21, &stopped(), None).await;
    assert_eq!(outcome(&more), (4, 6), "{more:?}");
    assert_eq!(count(&api, "select count(*) from instances").await, 15);
    sound(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_that_do_not_wait_for_room_are_placed_together_while_there_is_room_for_all() {
    let api = cloud().await;
    let path = format!("/v1/tenants/{}", api.tenant_a);
    api.admin.patch(&path, &json!({"quota": {"instances": 100, "vcpus": 100}})).await.expect(200);
    // A host is looked at once before it has room; what it is then given stays.
    crate::queue::until(&api.admin, "/v1/hosts", |page| page["items"][0]["health"] == "up").await;
    sqlx::query("update hosts set limit_vcpus = 13").execute(&api.app.db).await.expect("room");
    let fail = json!({"on_no_capacity": "fail"});
    let placed = gathered(&api, 0..10, &fail, None).await;
    assert_eq!(outcome(&placed), (10, 0), "{placed:?}");
    assert_eq!(transactions(&api).await, 2);
    let whose = "select count(*) from events e join instances i on i.id = e.resource_id
                 where e.kind = 'instance.placed' and e.actor_id = i.created_by and e.request_id = i.request_id";
    assert_eq!(count(&api, whose).await, 10);
    let more = gathered(&api, 10..20, &fail, None).await;
    assert_eq!(outcome(&more), (3, 7), "{more:?}");
    let refused = more.iter().find(|answer| answer.status == 409).expect("one");
    refused.problem(409, "no-capacity");
    sound(&api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_under_keys_are_recorded_together_and_what_comes_again_is_made_once() {
    let api = cloud().await;
    let path = format!("/v1/tenants/{}", api.tenant_a);
    api.admin.patch(&path, &json!({"quota": {"instances": 100, "vcpus": 100}})).await.expect(200);
    let first = gathered(&api, 0..10, &stopped(), Some("key")).await;
    assert_eq!(transactions(&api).await, 2);
    let kept = "select count(*) from idempotency_keys where response is not null";
    assert_eq!(count(&api, kept).await, 10);
    // Whether or not others come for the first time beside it.
    let again = gathered(&api, 5..15, &stopped(), Some("key")).await;
    let ids = |answers: &[Answer]| -> Vec<_> {
        answers.iter().map(|answer| answer.expect(202)["id"].clone()).collect()
    };
    assert_eq!(ids(&first)[5..], ids(&again)[..5]);
    assert_eq!(count(&api, "select count(*) from instances").await, 15);
    let other = json!({"wanted": "stopped", "labels": {}});
    for reused in gathered(&api, 9..11, &other, Some("key")).await {
        reused.problem(409, "idempotency-key-reused");
    }
    sound(&api).await;
}
