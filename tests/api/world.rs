//! A cloud whose reconciler a test turns by hand, as one process or as several, on the harness's fake host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pileus::domain::compared::Compared;
use pileus::hypervisor::hosts::fake_target;
use pileus::reconcile::placer::Placer;
use pileus::reconcile::{Context, Parts, Turns, hosts, pace, sweep};
use pileus::store;
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{Api, HOST};

/// A process of the cloud: its loops, each called by hand.
#[derive(Clone)]
pub struct Process(pub Context);

impl Process {
    /// One more of them on the harness's database and host.
    pub fn new(api: &Api) -> Self {
        Self::knowing(api, Compared::default())
    }

    fn knowing(api: &Api, compared: Compared) -> Self {
        Self(Context::new(Parts {
            db: api.app.db.clone(),
            config: api.app.config.clone(),
            clock: api.app.clock.clone(),
            cloud: api.app.cloud,
            changes: api.app.changes.clone(),
            hosts: api.app.hosts.clone(),
            placer: Placer::default(),
            settling: Turns::default(),
            making: Turns::default(),
            compared,
            owner: Uuid::now_v7(),
        }))
    }

    /// The same in a cloud that has its host.
    pub async fn first(api: &Api) -> Self {
        api.register().await;
        let process = Self::knowing(api, api.app.compared.clone());
        process.look().await;
        process
    }

    /// A heartbeat.
    pub async fn look(&self) {
        self.0.hosts.set(HOST, fake_target(HOST));
        hosts::look(&self.0, HOST).await.expect("a heartbeat");
    }

    /// What is due, once.
    pub async fn work(&self) -> usize {
        pace::run_due(&self.0, 100).await.expect("a pass")
    }

    /// Looks at what is due until `done`. What waits for a time is looked at now.
    pub async fn work_until<F: AsyncFn() -> bool>(&self, done: F) {
        // Some wait for the clock, however fast the turns are.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            if done().await {
                return;
            }
            self.turn().await;
        }
        panic!("it does not come to that");
    }

    /// What is due, once, and then what waits for a time is due, too.
    pub async fn turn(&self) {
        self.work().await;
        sqlx::query("update work set due_at = now() where due_at < 'infinity'")
            .execute(&self.0.db)
            .await
            .expect("due");
    }

    /// One sweep of the host.
    pub async fn sweep(&self) {
        let mut conn = self.0.conn().await.expect("a connection");
        let host = store::hosts::reached(&mut conn, HOST).await.expect("a look").expect("the host");
        drop(conn);
        sweep::sweep(&self.0, &host).await.expect("a sweep");
    }
}

impl Process {
    /// One sweep of the image store.
    pub async fn sweep_images(&self) {
        sweep::sweep_images(&self.0).await.expect("a sweep");
    }
}

/// The status of an instance now.
pub async fn status(api: &Api, instance: &Value) -> String {
    let path = format!("/v1/instances/{}", instance["id"].as_str().expect("an id"));
    let answer = api.admin.get(&path).await;
    if answer.status == 404 {
        return "gone".into();
    }
    answer.expect(200)["status"].as_str().expect("a status").to_owned()
}

/// Blocks the host's call until the future is done: the world goes on in the middle of it.
pub fn in_between<T: Send + 'static>(
    handle: &tokio::runtime::Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    handle.spawn(async move { sender.send(work.await).ok() });
    receiver.recv().expect("the work ends")
}

/// Calls `act` at the first call of this name on the host, before it takes effect.
pub fn once_at(api: &Api, call: &'static str, act: impl Fn() + Send + Sync + 'static) {
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    api.host.inject(move |name| {
        if name == call && !done.swap(true, std::sync::atomic::Ordering::SeqCst) {
            act();
        }
        pileus::hypervisor::Inject::Pass
    });
}
