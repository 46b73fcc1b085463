//! A few connections a host, opened when needed, checked out for one call at a time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use virt::connect::Connect;

use super::fault::during;
use super::ffi;
use crate::hypervisor::{Fault, FaultKind, xml};

/// libvirtd serves five calls a connection and twenty workers in all: four connections keep a host busy.
pub const MAX: usize = 4;
/// How long a call waits for a connection while all are taken; the caller's own deadline is mostly shorter.
const WAIT: Duration = Duration::from_secs(60);
/// A host that answers no ping for 5 s × 3 is gone.
const KEEPALIVE: (i32, u32) = (5, 3);
/// How long opening may take. libvirt itself waits for ever for one that accepts and says nothing.
const OPEN: Duration = Duration::from_secs(20);
/// Openings of one host that were given up and still hang in libvirt, each on a thread of its own: with so many nothing more is
/// tried until one ends. The kernel ends them when the host is back, or after a quarter of an hour without any sign of it.
const HANGING: usize = 64;

pub struct Connections {
    uri: String,
    /// Whose UUID the host must have.
    expect: Option<Uuid>,
    most: usize,
    opened: AtomicU64,
    state: Mutex<State>,
    returned: Condvar,
    opener: Opener,
}

/// Opens connections, and gives up those that hang.
pub struct Opener {
    hanging: Arc<AtomicUsize>,
    patience: Duration,
}

#[derive(Default)]
struct State {
    idle: Vec<Connect>,
    /// Open ones, idle or checked out, and those being opened.
    open: usize,
}

/// Opens a connection that tells of its loss. Blocks as long as the transport does.
fn open(uri: &str) -> Result<Connect, Fault> {
    if uri.contains('\0') {
        return Err(Fault::permanent("connect: the URI has a NUL in it"));
    }
    ffi::init()?;
    let conn = Connect::open(Some(uri)).map_err(|error| Fault {
        // Whatever the reason, nothing was asked.
        kind: FaultKind::Unreachable,
        ..during(format!("connect to {uri}"))(error)
    })?;
    // Local drivers have no transport that could be lost, and refuse.
    let _ = conn.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1);
    Ok(conn)
}

impl Default for Opener {
    fn default() -> Self {
        Self { hanging: Arc::default(), patience: OPEN }
    }
}

impl Opener {
    /// Opens a connection to a host of this UUID, within bounded time.
    pub fn open(&self, uri: &str, expect: Option<Uuid>) -> Result<Connect, Fault> {
        let silent = |what: String| Fault::unreachable(format!("connect to {uri}: {what}"));
        if self.hanging.load(Ordering::Acquire) >= HANGING {
            return Err(silent(format!("{HANGING} attempts got no answer and still wait for one")));
        }
        let (sender, opened) = sync_channel(1);
        let (hanging, address) = (Arc::clone(&self.hanging), uri.to_owned());
        hanging.fetch_add(1, Ordering::AcqRel);
        let opening = thread::Builder::new().name("libvirt-open".into()).spawn(move || {
            let conn =
                open(&address).and_then(|conn| verify(&conn, &address, expect).map(|()| conn));
            // Where nobody waits any more it is closed.
            let _ = sender.send(conn);
            hanging.fetch_sub(1, Ordering::AcqRel);
        });
        if let Err(error) = opening {
            self.hanging.fetch_sub(1, Ordering::AcqRel);
            return Err(Fault::transient(format!("connect to {uri}: start a thread: {error}")));
        }
        let late = |_| Err(silent(format!("no answer within {} s", self.patience.as_secs())));
        opened.recv_timeout(self.patience).unwrap_or_else(late)
    }
}

/// A host is its UUID, not its address: what another one says of our domains is no word of ours.
fn verify(conn: &Connect, uri: &str, expect: Option<Uuid>) -> Result<(), Fault> {
    let Some(expected) = expect else { return Ok(()) };
    let text = conn.capabilities().map_err(during("read the host's capabilities"))?;
    match xml::host::read(&text)?.uuid {
        Some(found) if found != expected => Err(Fault::unreachable(format!(
            "another host answers at {uri}: {found} instead of {expected}; correct the URI; where it is the same machine, give its libvirtd a steady host_uuid in libvirtd.conf"
        ))),
        Some(_) | None => Ok(()),
    }
}

impl Connections {
    /// At most `most` of them at a time.
    pub fn new(uri: String, expect: Option<Uuid>, most: usize) -> Self {
        let (opened, state, returned) = (AtomicU64::new(0), Mutex::default(), Condvar::new());
        Self { uri, expect, most, opened, state, returned, opener: Opener::default() }
    }

    /// How many were opened so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// Runs `call`; once more on a new connection where an old one turns out to be lost: every call is an ensure.
    pub fn with<T>(&self, mut call: impl FnMut(&Connect) -> Result<T, Fault>) -> Result<T, Fault> {
        let (conn, used) = self.take()?;
        let outcome = call(&conn);
        let lost = self.give_back(conn, outcome.as_ref().err());
        match outcome {
            Err(_) if lost && used => {
                let (conn, _) = self.take()?;
                let outcome = judge(&conn, call(&conn));
                self.give_back(conn, outcome.as_ref().err());
                outcome
            }
            Err(fault) if lost => Err(Fault { kind: FaultKind::Unreachable, ..fault }),
            outcome => outcome,
        }
    }

    /// Runs `call` once, for what cannot be repeated.
    pub fn once<T>(&self, call: impl FnOnce(&Connect) -> Result<T, Fault>) -> Result<T, Fault> {
        let (conn, _) = self.take()?;
        let outcome = judge(&conn, call(&conn));
        self.give_back(conn, outcome.as_ref().err());
        outcome
    }

    /// A live connection, and whether it was used before.
    fn take(&self) -> Result<(Connect, bool), Fault> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            while let Some(conn) = state.idle.pop() {
                if matches!(conn.is_alive(), Ok(true)) {
                    return Ok((conn, true));
                }
                state.open -= 1;
            }
            if state.open < self.most {
                state.open += 1;
                break;
            }
            let (next, timeout) =
                self.returned.wait_timeout(state, WAIT).unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return Err(Fault::unreachable(format!(
                    "connect to {}: all {} connections have been busy for {} s",
                    self.uri,
                    self.most,
                    WAIT.as_secs()
                )));
            }
            state = next;
        }
        drop(state);
        self.opened.fetch_add(1, Ordering::AcqRel);
        let opened = self.opener.open(&self.uri, self.expect).map(|conn| (conn, false));
        opened.inspect_err(|_| self.forget())
    }

    /// Keeps the connection unless it is lost; tells whether it is.
    fn give_back(&self, conn: Connect, fault: Option<&Fault>) -> bool {
        let unreachable = fault.is_some_and(|f| f.kind == FaultKind::Unreachable);
        if unreachable || !matches!(conn.is_alive(), Ok(true)) {
            self.forget();
            // Closing talks to the host, which may hang: not under the lock.
            drop(conn);
            return true;
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).idle.push(conn);
        self.returned.notify_one();
        false
    }

    fn forget(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
        self.returned.notify_one();
    }
}

/// A fault on a lost connection tells nothing about the host, whatever its code.
fn judge<T>(conn: &Connect, outcome: Result<T, Fault>) -> Result<T, Fault> {
    outcome.map_err(|fault| match conn.is_alive() {
        Ok(true) => fault,
        Ok(false) | Err(_) => Fault { kind: FaultKind::Unreachable, ..fault },
    })
}
