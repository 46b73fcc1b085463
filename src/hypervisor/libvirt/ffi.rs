//! The one file with `unsafe`: what crate virt does not wrap, or wraps with a leak or a lost error.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::IpAddr;
use std::ptr;
use std::sync::OnceLock;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use nix::libc;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::network::Network;
use virt::sys;

use super::fault::during;
use crate::hypervisor::Fault;

/// Sets libvirt up for this process, once, before the first connection: its event loop has a thread of its own, which
/// answers keepalive and runs callbacks.
pub fn init() -> Result<(), Fault> {
    static READY: OnceLock<Result<(), Fault>> = OnceLock::new();
    READY.get_or_init(set_up).clone()
}

/// Tells glibc's malloc to keep little of what is freed, for as long as the process lives. By itself it lets each thread's arena
/// keep up to 64 MiB at its end, which `trim_memory` gives back of the first arena only: more than all that is in use. To be
/// called before there are threads; the variables `MALLOC_…` of the environment are overruled.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    {
        // glibc would raise the first two by itself, and no longer does once one was set.
        const MIB: c_int = 1 << 20;
        let cores = thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 64));
        let arenas = c_int::try_from(cores).unwrap_or(2);
        let bounds = [
            (libc::M_TRIM_THRESHOLD, MIB),
            (libc::M_MMAP_THRESHOLD, MIB),
            (libc::M_ARENA_MAX, arenas),
        ];
        for (parameter, value) in bounds {
            // SAFETY: it takes no pointer, and reads and writes what is malloc's own.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}

/// Gives freed memory back to the system. glibc keeps it between what is in use, for what may come.
pub fn trim_memory() {
    // SAFETY: it takes no pointer, and may be called by any thread at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

fn set_up() -> Result<(), Fault> {
    virt::error::clear_error_callback();
    virt::event::event_register_default_impl().map_err(during("set up libvirt's event loop"))?;
    let turn = || {
        loop {
            if let Err(error) = virt::event::event_run_default_impl() {
                tracing::error!(%error, "libvirt's event loop");
                // Without it a lasting error would take a whole CPU.
                thread::sleep(Duration::from_secs(1));
            }
        }
    };
    thread::Builder::new()
        .name("libvirt-events".into())
        .spawn(turn)
        .map(drop)
        .map_err(|e| Fault::transient(format!("start the thread of libvirt's event loop: {e}")))
}

/// `VIR_DOMAIN_*`, and the reason that goes with it; crate virt's `Domain::state` loses the error and `info` asks for more than is
/// needed.
pub fn state(domain: &Domain) -> Result<(sys::virDomainState, u32), Error> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: the domain's pointer is valid while it is borrowed; both results are written before a return of 0.
    let status =
        unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if status < 0 {
        Err(Error::last_error())
    } else {
        Ok((state.unsigned_abs(), reason.unsigned_abs()))
    }
}

/// For how long libvirt has waited for an answer of the domain's hypervisor; `None`: it waits for none. Is answered at once.
pub fn waits(domain: &Domain) -> Result<Option<Duration>, Error> {
    let mut info = sys::virDomainControlInfo { state: 0, details: 0, stateTime: 0 };
    // SAFETY: the domain's pointer is valid while it is borrowed, and so is the result, written before a return of 0.
    let status = unsafe { sys::virDomainGetControlInfo(domain.as_ptr(), &raw mut info, 0) };
    if status < 0 {
        return Err(Error::last_error());
    }
    let waits = info.state == sys::VIR_DOMAIN_CONTROL_OCCUPIED;
    Ok(waits.then(|| Duration::from_millis(info.stateTime)))
}

/// One DHCP lease as libvirt tells it.
pub struct RawLease {
    pub mac: String,
    pub address: IpAddr,
    /// Seconds since 1970; 0: for ever.
    pub expires: i64,
}

/// Unexpired leases of a network.
pub fn leases(network: &Network) -> Result<Vec<RawLease>, Error> {
    let mut list: *mut sys::virNetworkDHCPLeasePtr = ptr::null_mut();
    // SAFETY: the network's pointer is valid while it is borrowed; a null MAC asks for all leases.
    let count =
        unsafe { sys::virNetworkGetDHCPLeases(network.as_ptr(), ptr::null(), &raw mut list, 0) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    let mut leases = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: libvirt gave `count` valid pointers, each ours to read and then to free once.
        unsafe {
            let lease = *list.add(index);
            let address = text((*lease).ipaddr).parse();
            if let Ok(address) = address {
                let mac = text((*lease).mac).to_ascii_lowercase();
                leases.push(RawLease { mac, address, expires: (*lease).expirytime });
            }
            sys::virNetworkDHCPLeaseFree(lease);
        }
    }
    // SAFETY: the array was allocated by libvirt with malloc, and its elements are freed.
    unsafe { libc::free(list.cast()) };
    Ok(leases)
}

/// # Safety
/// `chars` is null or a C string that lives through the call.
unsafe fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return String::new();
    }
    // SAFETY: not null, and valid by this function's contract.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}

/// What a callback tells. It is said on the event loop's thread, which must not wait: a full channel loses it, and the
/// channel's owner, who sees it full, looks at everything.
pub enum Event {
    Domain(Uuid),
    Closed,
}

/// Callbacks registered with a connection, until it is dropped.
pub struct Registered {
    conn: Connect,
    callbacks: Vec<c_int>,
    close: bool,
}

/// Registers for every domain's lifecycle and agent, and for the loss of the connection.
pub fn register(conn: Connect, events: &SyncSender<Event>) -> Result<Registered, Error> {
    let mut registered = Registered { conn, callbacks: Vec::new(), close: false };
    let lifecycle: sys::virConnectDomainEventCallback = Some(on_lifecycle);
    // SAFETY: libvirt calls back with the signature that belongs to the event's id, whatever type it is registered
    // under: its own VIR_DOMAIN_EVENT_CALLBACK is this cast.
    let lifecycle: sys::virConnectDomainEventGenericCallback =
        unsafe { std::mem::transmute(lifecycle) };
    registered.add(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, events)?;
    let agent: sys::virConnectDomainEventAgentLifecycleCallback = Some(on_agent);
    // SAFETY: as above.
    let agent: sys::virConnectDomainEventGenericCallback = unsafe { std::mem::transmute(agent) };
    // The mock driver has no agents, and its connection cannot be lost.
    let _ = registered.add(sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent, events);
    let opaque = boxed(events);
    // SAFETY: the connection is valid; `opaque` is given up to libvirt, which frees it by `free_sender`.
    let status = unsafe {
        sys::virConnectRegisterCloseCallback(
            registered.conn.as_ptr(),
            Some(on_close),
            opaque,
            Some(free_sender),
        )
    };
    if status == 0 {
        registered.close = true;
    } else {
        // SAFETY: a failed registration leaves `opaque` ours.
        unsafe { free_sender(opaque) };
    }
    Ok(registered)
}

impl Registered {
    fn add(
        &mut self,
        event: sys::virDomainEventID,
        callback: sys::virConnectDomainEventGenericCallback,
        events: &SyncSender<Event>,
    ) -> Result<(), Error> {
        let opaque = boxed(events);
        // SAFETY: the connection is valid; a null domain means all; `opaque` is freed by `free_sender`, by libvirt
        // after the last callback, or here where registering failed.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.conn.as_ptr(),
                ptr::null_mut(),
                event.cast_signed(),
                callback,
                opaque,
                Some(free_sender),
            )
        };
        if id < 0 {
            let error = Error::last_error();
            // SAFETY: a failed registration leaves `opaque` ours.
            unsafe { free_sender(opaque) };
            return Err(error);
        }
        self.callbacks.push(id);
        Ok(())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: the connection is valid, and these callbacks were registered with it and not removed before. On a lost
        // connection libvirt forgets them locally and answers with an error, which tells nothing new.
        unsafe {
            for id in &self.callbacks {
                sys::virConnectDomainEventDeregisterAny(self.conn.as_ptr(), *id);
            }
            if self.close {
                sys::virConnectUnregisterCloseCallback(self.conn.as_ptr(), Some(on_close));
            }
        }
    }
}

/// Each registration owns a sender of its own, so that libvirt may free them in any order, on any thread.
fn boxed(events: &SyncSender<Event>) -> *mut c_void {
    Box::into_raw(Box::new(events.clone())).cast()
}

unsafe extern "C" fn free_sender(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `boxed`, and libvirt frees it once.
    drop(unsafe { Box::from_raw(opaque.cast::<SyncSender<Event>>()) });
}

/// # Safety
/// `opaque` came from `boxed` and is not freed.
unsafe fn tell(opaque: *mut c_void, event: Event) {
    // SAFETY: by this function's contract.
    let _ = unsafe { &*opaque.cast::<SyncSender<Event>>() }.try_send(event);
}

/// # Safety
/// `domain` is valid through the call; `opaque` as for `tell`.
unsafe fn tell_domain(domain: sys::virDomainPtr, opaque: *mut c_void) {
    let mut uuid = [0u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the buffer has the length that libvirt asks for.
    if unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) } == 0 {
        // SAFETY: by this function's contract.
        unsafe { tell(opaque, Event::Domain(Uuid::from_bytes(uuid))) };
    }
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt's callback contract.
    unsafe { tell_domain(domain, opaque) };
    0
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's callback contract.
    unsafe { tell_domain(domain, opaque) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt's callback contract.
    unsafe { tell(opaque, Event::Closed) };
}
