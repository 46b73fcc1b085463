//! A network between two programs that the test controls: cut, slow, half-open, and one that loses a request or an answer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Air {
    Clear,
    /// Connections are closed, and so is every new one.
    Cut,
    /// Each piece takes so long.
    Slow(Duration),
    /// Connections are accepted, and nothing is ever heard again of what is sent: also later on, where one was open meanwhile.
    Dead,
}

/// Listens on TCP, and passes on to a socket.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: PathBuf,
    air: watch::Sender<Air>,
    loss: Mutex<Option<Loss>>,
    lost: AtomicUsize,
    /// What a request has in it with which its connection goes dead.
    death: Mutex<Option<Vec<u8>>>,
}

/// An answer that is to be lost: the request goes through.
struct Loss {
    /// What the connection must have carried before.
    before: Vec<u8>,
    /// What the request has in it.
    request: Vec<u8>,
}

impl Proxy {
    pub async fn before(upstream: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            air: watch::Sender::new(Air::Clear),
            loss: Mutex::default(),
            lost: AtomicUsize::new(0),
            death: Mutex::default(),
        });
        let each = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(Arc::clone(&each), client));
            }
        });
        Self { address, shared, task }
    }

    /// How a database is reached through it.
    pub fn to_postgres(&self, direct: &PgConnectOptions) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.address.port())
            .username(direct.get_username())
            .database(direct.get_database().expect("a database"))
            .ssl_mode(PgSslMode::Disable)
    }

    pub fn set(&self, air: Air) {
        self.shared.air.send_replace(air);
    }

    /// Loses the answer to the next request with `request` in it on a connection that carried `before` before: it is passed on,
    /// and the connection is closed where the answer would come.
    pub fn lose_answer(&self, before: &str, request: &str) {
        let loss = Loss { before: before.into(), request: request.into() };
        *self.shared.loss.lock().unwrap_or_else(PoisonError::into_inner) = Some(loss);
    }

    /// Nothing is ever heard of the next request with `request` in it, nor of its connection.
    pub fn die_at(&self, request: &str) {
        let mut death = self.shared.death.lock().unwrap_or_else(PoisonError::into_inner);
        *death = Some(request.into());
    }

    /// Whether that has come.
    pub fn has_died(&self) -> bool {
        self.shared.death.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// How many answers were lost.
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        // Those that are dead wait for this.
        self.shared.air.send_replace(Air::Cut);
    }
}

async fn connection(shared: Arc<Shared>, client: TcpStream) {
    if *shared.air.borrow() == Air::Cut {
        return;
    }
    let Ok(server) = UnixStream::connect(&shared.upstream).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let losing = Arc::new(AtomicBool::new(false));
    let mut seen =
        Seen { shared: Arc::clone(&shared), carried: Vec::new(), losing: Arc::clone(&losing) };
    let dead = AtomicBool::new(false);
    let mut up = pin!(pump(&shared, from_client, to_server, |bytes| {
        seen.note(bytes);
        let mut death = shared.death.lock().unwrap_or_else(PoisonError::into_inner);
        if death.take_if(|request| contains(bytes, request)).is_some() {
            dead.store(true, Ordering::Release);
        }
        !dead.load(Ordering::Acquire)
    }));
    let mut down = pin!(pump(&shared, from_server, to_client, |_| {
        // It has an answer: the request was carried out.
        if losing.load(Ordering::Acquire) {
            shared.lost.fetch_add(1, Ordering::AcqRel);
            return false;
        }
        true
    }));
    tokio::select! {
        () = &mut up => {}
        () = &mut down => {}
    }
    // Both ends stay open: nobody is told.
    if dead.load(Ordering::Acquire) {
        let _ = shared.air.subscribe().wait_for(|air| *air == Air::Cut).await;
    }
}

/// What a connection carried towards the server.
struct Seen {
    shared: Arc<Shared>,
    carried: Vec<u8>,
    losing: Arc<AtomicBool>,
}

impl Seen {
    fn note(&mut self, bytes: &[u8]) {
        let mut loss = self.shared.loss.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = loss.as_ref().is_some_and(|loss| {
            contains(bytes, &loss.request)
                && (contains(&self.carried, &loss.before) || contains(bytes, &loss.before))
        });
        if hit {
            *loss = None;
            self.losing.store(true, Ordering::Release);
        }
        self.carried.extend_from_slice(bytes);
        // A request is never longer.
        let excess = self.carried.len().saturating_sub(1 << 16);
        self.carried.drain(..excess);
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

/// Until one side closes, the air is cut, or `pass` says no.
async fn pump(
    shared: &Shared,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut pass: impl FnMut(&[u8]) -> bool,
) {
    let mut air = shared.air.subscribe();
    let mut dead = false;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let now = *air.borrow_and_update();
        match now {
            Air::Cut => return,
            Air::Dead => dead = true,
            Air::Clear | Air::Slow(_) => {}
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = air.changed() => continue,
        };
        let Ok(count @ 1..) = read else {
            // The end of a dead one is not told either.
            if dead {
                while *air.borrow_and_update() != Air::Cut && air.changed().await.is_ok() {}
            }
            return;
        };
        if dead {
            continue;
        }
        if let Air::Slow(pause) = now {
            tokio::time::sleep(pause).await;
        }
        if !pass(&buffer[..count]) || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
