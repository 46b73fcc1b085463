//! A program inside a libvirt host's namespaces, as seen from here: signalled, waited for, ended with this value.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

/// How long a process may take to end.
const SOON: Duration = Duration::from_secs(90);

/// nsenter and its only child.
pub struct Process {
    /// It enters the host's namespaces, and ends as its child ends.
    nsenter: Child,
    pid: Pid,
}

impl Process {
    /// Runs a command of `Libvirtd::command` or `Libvirtd::command_beside`.
    pub fn spawn(mut command: Command) -> Self {
        let nsenter = command.spawn().expect("start nsenter (util-linux)");
        let pid = child_of(nsenter.id());
        Self { nsenter, pid }
    }

    /// Its id outside of the namespaces.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        // Not yet waited for, so the id is still its own.
        kill(self.pid, signal).expect("a process");
        if matches!(signal, Signal::SIGCONT | Signal::SIGKILL) {
            self.thaw();
        }
    }

    /// nsenter stands still with its child, and neither goes on with it by itself nor sees its end.
    fn thaw(&self) {
        let nsenter = i32::try_from(self.nsenter.id()).expect("a pid");
        let _ = kill(Pid::from_raw(nsenter), Signal::SIGCONT);
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.nsenter.try_wait().unwrap()
    }

    /// Waits for its end, whatever the cause.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(Instant::now() < end, "the process has not ended within {SOON:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended().is_none() {
            let _ = kill(self.pid, Signal::SIGKILL);
            self.thaw();
            let _ = self.nsenter.wait();
        }
    }
}

/// The only child of a process, once it has one.
fn child_of(parent: u32) -> Pid {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let children = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            return Pid::from_raw(child.parse().unwrap());
        }
        assert!(Instant::now() < end, "nsenter has started nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a command to its end, and gives whether it succeeded and what it printed.
pub fn run(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().expect("a command that is there");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
