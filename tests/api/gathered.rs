//! Creates that come together: recorded together, and each its own.

use std::ops::Range;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::Answer;
use crate::harness::Api;

async fn cloud() -> Api {
    let mut api = Api::start().await;
    api.image("tiny").await;
    api.run().await;
    api
}

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

#[tokio::test(flavor = "multi_thread")]
async fn creates_that_come_together_are_recorded_together_and_each_is_its_own() {
    let api = cloud().await;
    let stopped = json!({"wanted": "stopped"});
    let made = gathered(&api, 0..11, &stopped, None).await;
    for (n, answer) in made.iter().enumerate() {
        let made = answer.expect(202);
        assert_eq!(made["name"], format!("vm-{n}"));
        let path = format!("/v1/instances/{}", made["id"].as_str().expect("an id"));
        let kept = api.member.get(&path).await.expect(200);
        assert_eq!((&kept["name"], &kept["labels"]["n"]), (&made["name"], &json!(n.to_string())));
    }
    let one = |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&api.app.db);
    let transactions =
        one("select count(distinct created_at) from instances").await.expect("a count");
    assert_eq!(transactions, 2, "the first, and those that came meanwhile");
    let mixed = one(
        "select count(*) from instances i join events e on e.resource_id = i.id and e.kind = 'instance.create'
         where i.user_data = '#cloud-config' || chr(10) || '# ' || (i.labels ->> 'n') || chr(10) and i.request_id = e.request_id
           and i.created_by = e.actor_id and e.resource_name = i.name",
    );
    assert_eq!(mixed.await.expect("a count"), 11, "each has its own");
    let users = one("select count(distinct created_by) from instances").await.expect("a count");
    assert_eq!(users, 2);

    // Who does not fit is refused by itself, and takes nobody along.
    let path = format!("/v1/tenants/{}", api.tenant_a);
    api.admin.patch(&path, &json!({"quota": {"instances": 15}})).await.expect(200);
    let more = gathered(&api, 11..21, &stopped, None).await;
    let count = |status: u16| more.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(202), count(409)), (4, 6), "{more:?}");
    let kept = one("select count(*) from instances").await.expect("a count");
    assert_eq!(kept, 15);
    // Those that do not wait for room are placed together, while there is room for all of them.
    api.admin.patch(&path, &json!({"quota": {"instances": 100, "vcpus": 100}})).await.expect(200);
    sqlx::query("update hosts set limit_vcpus = 13")
        .execute(&api.app.db)
        .await
        .expect("room for 13");
    let fail = json!({"on_no_capacity": "fail"});
    let placed = gathered(&api, 21..31, &fail, None).await;
    assert!(placed.iter().all(|answer| answer.status == 202), "{placed:?}");
    let whose = one("select count(*) from events e join instances i on i.id = e.resource_id
                     where e.kind = 'instance.placed' and e.actor_id = i.created_by and e.request_id = i.request_id");
    assert_eq!(whose.await.expect("a count"), 10);
    let more = gathered(&api, 31..41, &fail, None).await;
    let count = |status: u16| more.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(202), count(409)), (3, 7), "{more:?}");
    let refused = more.iter().find(|answer| answer.status == 409).expect("one");
    assert!(refused.text.contains("no-capacity"), "{refused:?}");
    // Under keys: what comes again is made once, whether or not others come for the first time beside it.
    let first = gathered(&api, 41..51, &stopped, Some("key")).await;
    let ids = |answers: &[Answer]| -> Vec<_> {
        answers.iter().map(|answer| answer.expect(202)["id"].clone()).collect()
    };
    assert_eq!(
        one("select count(*) from idempotency_keys where response is not null")
            .await
            .expect("a count"),
        10
    );
    let again = gathered(&api, 46..56, &stopped, Some("key")).await;
    assert_eq!(ids(&first)[5..], ids(&again)[..5]);
    let kept = one(
        "select count(*) from instances where name in (select 'vm-' || n from generate_series(41, 55) n)",
    );
    assert_eq!(kept.await.expect("a count"), 15);
    let other =
        gathered(&api, 50..52, &json!({"wanted": "stopped", "labels": {}}), Some("key")).await;
    for reused in other {
        reused.problem(409, "idempotency-key-reused");
    }
    // One whose client goes away is made all the same, or not at all, and the others are.
    let gone = tokio::time::timeout(Duration::from_millis(1), async {
        let new = json!({"name": "gone", "image": "tiny", "flavor": "nano", "wanted": "stopped"});
        api.owner.post("/v1/instances", &new).await
    });
    let _ = gone.await;
    let faults = api.admin.get("/v1/fsck").await.expect(200);
    assert_eq!(faults["findings"], json!([]), "{faults:#}");
}
