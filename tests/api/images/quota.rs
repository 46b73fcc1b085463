//! How many images, and how many bytes of them, a tenant may have.

use serde_json::json;

use super::{create, put};
use crate::harness::Api;

#[tokio::test]
async fn the_quota_of_bytes_is_kept_before_they_are_sent_and_when_they_are_kept() {
    let api = Api::start_with(|flags| flags.set("quota_image_mib", "3")).await;
    let one = create(&api.member, "one", "raw").await;
    let two = create(&api.member, "two", "raw").await;
    let three = create(&api.member, "three", "raw").await;
    put(&api.member, &one, vec![1; 1 << 20]).await.expect(200);
    let refused =
        put(&api.member, &two, vec![2; (2 << 20) + 1]).await.problem(409, "quota-exceeded");
    let detail = refused["detail"].as_str().expect("a detail");
    assert!(detail.contains("image_mib 1 of 3 used, 3 more asked"), "{detail}");
    // One that says no length is counted when it has come.
    let chunks = [Ok::<_, std::io::Error>(vec![3; 2 << 20]), Ok(vec![3; 1])];
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    put(&api.member, &two, body).await.problem(409, "quota-exceeded");
    put(&api.member, &two, vec![2; 2 << 20]).await.expect(200);
    put(&api.member, &three, vec![4; 1]).await.problem(409, "quota-exceeded");
    let tenant = api.member.get(&format!("/v1/tenants/{}", api.tenant_a)).await.expect(200);
    assert_eq!(tenant["usage"]["image_mib"], 3, "{tenant}");
    api.member.delete(&format!("/v1/images/{one}")).await.expect(204);
    put(&api.member, &three, vec![4; 1]).await.expect(200);
}

#[tokio::test]
async fn the_quota_of_images_is_kept() {
    let api = Api::start_with(|flags| flags.set("quota_images", "1")).await;
    let id = create(&api.member, "one", "raw").await;
    let two = json!({"name": "two", "format": "raw"});
    api.member.post("/v1/images", &two).await.problem(409, "quota-exceeded");
    api.member.delete(&format!("/v1/images/{id}")).await.expect(204);
    api.member.post("/v1/images", &two).await.expect(201);
}
