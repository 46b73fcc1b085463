//! Sudden death of the server, at every step and at random moments: all comes to its wish, nothing doubled, nothing left.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use pileus::reconcile::fault;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::audit::Expected;
use crate::client::Client;
use crate::cloud::{Cloud, SOON};

/// A CIDR pool of its own, so that clouds of one host do not meet; and what a dead server held is soon free again.
const SETTINGS: [(&str, &str); 2] = [("network-pool", "10.97.0.0/16"), ("reconcile-lease-s", "3")];

/// A disk without a system on it: a guest that runs, and does next to nothing. No two are alike.
fn bytes(number: u8) -> Vec<u8> {
    (0..1_u32 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ number).collect()
}

/// A create that is asked again under the same key until it is answered: it makes one instance.
async fn create(admin: &Client, name: &str, image: &str) -> Value {
    let new = json!({"name": name, "image": image, "flavor": "nano"});
    loop {
        let ask = admin.ask(Method::POST, "/v1/instances").header("idempotency-key", name);
        if let Ok(answer) = ask.json(&new).try_send().await {
            return answer.expect(202);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A delete that is asked again until it is answered.
async fn delete(admin: &Client, id: &str) {
    loop {
        let ask = admin.ask(Method::DELETE, &format!("/v1/instances/{id}"));
        match ask.try_send().await {
            Ok(answer) if answer.status == 404 => return,
            Ok(answer) => {
                answer.expect(202);
                return;
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Asks once, of a server that may die of it.
async fn try_create(cloud: &Cloud, name: &str, image: &str) {
    let new = json!({"name": name, "image": image, "flavor": "nano"});
    let ask = cloud.admin.ask(Method::POST, "/v1/instances").header("idempotency-key", name);
    if let Ok(answer) = ask.json(&new).try_send().await {
        answer.expect(202);
    }
}

/// Waits until the server has died, or the only instance is `running`; gives whether it died.
async fn dies_or_runs(cloud: &mut Cloud) -> bool {
    let end = Instant::now() + SOON;
    loop {
        if let Some(status) = cloud.has_ended() {
            assert_eq!(status.signal(), Some(6), "it died of something else: {status:?}");
            return true;
        }
        if let Ok(answer) = cloud.admin.ask(Method::GET, "/v1/instances?status=running").try_send().await
            && answer.expect(200)["items"].as_array().unwrap().len() == 1
            // What follows the start has been met, too.
            && settled(&answer.body()["items"][0])
        {
            return false;
        }
        assert!(Instant::now() < end, "neither dead nor running within {SOON:?}");
        sleep(Duration::from_millis(30)).await;
    }
}

fn settled(instance: &Value) -> bool {
    instance["revision"] == instance["observed_revision"]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_between_any_two_steps() {
    let mut cloud = Cloud::new(&SETTINGS).await;
    cloud.terminate().await;
    for (number, point) in (0..).zip(fault::POINTS) {
        let begun = Instant::now();
        let name = format!("victim-{number}");
        cloud.start_armed(point).await;
        let image = cloud.raw_image(&name, bytes(number)).await;
        try_create(&cloud, &name, &image).await;
        let at_create = dies_or_runs(&mut cloud).await;
        if at_create {
            cloud.start().await;
        }
        // Under its key, so that it is the same also where the first answer never came.
        let id = create(&cloud.admin, &name, &image).await["id"].as_str().unwrap().to_owned();
        cloud.until(&id, "settled", "running", SOON).await;
        cloud.holds(&Expected { running: &[&id], stopped: &[], bases: 1 }).await;

        if at_create {
            cloud.delete(&id).await;
        } else {
            delete(&cloud.admin, &id).await;
            let status = cloud.ended().await;
            assert_eq!(status.signal(), Some(6), "{point} was not reached: {status:?}");
            cloud.start().await;
            let answer =
                cloud.admin.get(&format!("/v1/instances/{id}?wait=deleted&timeout=60")).await;
            assert!(answer.status == 404 || answer.body()["status"] == "deleted", "{answer:?}");
        }
        let answer = cloud.admin.delete(&format!("/v1/images/{image}")).await;
        assert!([202, 204].contains(&answer.status), "{answer:?}");
        cloud.until_no_base().await;
        cloud.holds_nothing(0).await;
        cloud.terminate().await;
        let phase = if at_create { "create" } else { "delete" };
        println!("died at {point} ({phase}), and came to its wish: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_at_random_moments() {
    let seed = std::env::var("PILEUS_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("PILEUS_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cloud =
        Cloud::new(&[("network-pool", "10.98.0.0/16"), ("reconcile-lease-s", "3")]).await;
    let image = cloud.raw_image("churn", bytes(0)).await;

    // Six creates; every second is deleted as soon as it was asked for.
    let admin = cloud.admin.clone();
    let wanted = image.clone();
    let churn = tokio::spawn(async move {
        let mut stay = Vec::new();
        for number in 0..6 {
            let made = create(&admin, &format!("churn-{number}"), &wanted).await;
            let id = made["id"].as_str().unwrap().to_owned();
            if number % 2 == 0 { delete(&admin, &id).await } else { stay.push(id) }
        }
        stay
    });
    for _ in 0..4 {
        let moment = Duration::from_millis(random.random_range(100..2500));
        sleep(moment).await;
        cloud.kill().await;
        cloud.spawn(None);
    }
    cloud.ready().await;
    let stay = churn.await.unwrap();
    for id in &stay {
        cloud.until(id, "settled", "running", SOON).await;
    }
    let end = Instant::now() + SOON;
    while cloud.count("select count(*) from instances").await > 3 {
        assert!(Instant::now() < end, "deleted instances are still there");
        sleep(Duration::from_millis(100)).await;
    }
    let running: Vec<_> = stay.iter().map(String::as_str).collect();
    cloud.holds(&Expected { running: &running, stopped: &[], bases: 1 }).await;
    for id in &running {
        cloud.delete(id).await;
    }
    cloud.holds_nothing(1).await;
}
