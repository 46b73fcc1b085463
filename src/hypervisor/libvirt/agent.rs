//! The guest agent of a domain, through libvirt: whether it answers, and a file of the guest.
//!
//! Whatever an agent answers is the guest's word: bounded, parsed, and never a fault of the host.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber as Code};

use super::domains::lookup;
use super::fault::{fault, is};
use crate::domain::id::InstanceId;
use crate::hypervisor::{Fault, FaultKind};

/// Seconds that an agent has for an answer.
const ANSWER_SECONDS: i32 = 2;

/// One file at a time is asked for: guests whose agents never answer then hold one thread and one connection of the host at
/// most, however many they are.
#[derive(Default)]
pub struct Turn(AtomicBool);

impl Turn {
    fn take(&self) -> Option<Taken<'_>> {
        (!self.0.swap(true, Ordering::AcqRel)).then_some(Taken(&self.0))
    }
}

struct Taken<'a>(&'a AtomicBool);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Whether the guest agent answers. libvirt says so many things where it does not that only a lost host is a fault.
pub fn ping(conn: &Connect, id: InstanceId) -> Result<bool, Fault> {
    let Some(domain) = lookup(conn, id)? else { return Ok(false) };
    match domain.qemu_agent_command(r#"{"execute":"guest-ping"}"#, ANSWER_SECONDS, 0) {
        Ok(_) => Ok(true),
        Err(error) => match fault("ping the guest agent", &error) {
            Fault { kind: FaultKind::Unreachable, message } => Err(Fault::unreachable(message)),
            _ => Ok(false),
        },
    }
}

/// Up to `max` bytes of a file of the guest.
pub fn file(
    conn: &Connect,
    turn: &Turn,
    id: InstanceId,
    path: &str,
    max: usize,
) -> Result<Option<Vec<u8>>, Fault> {
    let Some(_taken) = turn.take() else { return Ok(None) };
    let Some(domain) = lookup(conn, id)? else { return Ok(None) };
    let agent = Agent { conn, domain };
    let open = json!({ "path": path, "mode": "r" });
    let Some(handle) = agent.ask::<i64>("guest-file-open", &open)? else { return Ok(None) };
    let read = agent.ask::<Part>("guest-file-read", &json!({ "handle": handle, "count": max }));
    // Also where the read failed: the guest would run out of handles.
    let closed = agent.ask::<Value>("guest-file-close", &json!({ "handle": handle }));
    let read = read?;
    closed?;
    let bytes = read.and_then(|part| STANDARD.decode(part.bytes).ok());
    Ok(bytes.filter(|bytes| bytes.len() <= max))
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "buf-b64")]
    bytes: String,
}

#[derive(Deserialize)]
struct Answer<T> {
    r#return: T,
}

struct Agent<'a> {
    conn: &'a Connect,
    domain: Domain,
}

impl Agent<'_> {
    /// `None` where the agent refuses, or answers what it should not.
    fn ask<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: &Value,
    ) -> Result<Option<T>, Fault> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        match self.domain.qemu_agent_command(&text, ANSWER_SECONDS, 0) {
            Ok(answer) => {
                Ok(serde_json::from_str::<Answer<T>>(&answer).ok().map(|answer| answer.r#return))
            }
            Err(error) => self.judge(command, &error),
        }
    }

    fn judge<T>(&self, command: &str, error: &Error) -> Result<Option<T>, Fault> {
        let silent = [Code::AgentUnresponsive, Code::AgentCommandTimeout, Code::AgentUnsynced];
        if silent.into_iter().any(|code| is(error, code)) {
            return Err(Fault::transient(format!("{command}: the guest agent does not answer")));
        }
        // An answer of megabytes makes libvirt complain of its own protocol; only a lost connection is the host's doing.
        if matches!(self.conn.is_alive(), Ok(true)) {
            return Ok(None);
        }
        Err(fault(command, error))
    }
}
