//! Takes in orphans and reaps them: where no init does it, a destroyed QEMU is gone in a fifth of a second, not in two.
//!
//! libvirt waits until the process that it killed has vanished, and a zombie has not. QEMU and dnsmasq start as daemons,
//! so they are orphans; as the subreaper we inherit those that libvirtd, itself our child, starts.

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};
use tokio::signal::unix::{SignalKind, signal};

/// Inherits and reaps orphans from now on.
pub fn start() -> Result<()> {
    prctl::set_child_subreaper(true).context("orphans cannot be taken in")?;
    let mut ended = signal(SignalKind::child())?;
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            reap();
        }
    });
    Ok(())
}

/// Reaps the zombies that are not ours to wait for.
///
/// What we spawned ourselves (qemu-img, PostgreSQL, libvirtd) somebody in this process waits for, and must find; all of
/// that is in our session. A daemon has made its own session, so a zombie child of another session is an orphan.
/// Hence no child that this process spawns may call `setsid`.
fn reap() {
    let session = match getsid(None) {
        Ok(session) => session,
        Err(e) => return tracing::warn!("the own session is not known: {e}"),
    };
    for pid in zombie_children(Pid::this()) {
        if getsid(Some(pid)).is_ok_and(|theirs| theirs != session) {
            let status = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            tracing::debug!(%pid, ?status, "reaped an orphan");
        }
    }
}

/// By /proc, since `waitid` shows one zombie only, and that may be one which is not ours to reap.
fn zombie_children(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw)
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            is_zombie_of(&stat, parent)
        })
        .collect()
}

/// `4711 (name (with) anything) Z 1 …`: state and parent follow the last parenthesis.
fn is_zombie_of(stat: &str, parent: Pid) -> bool {
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let mut fields = fields.split_whitespace();
    fields.next() == Some("Z")
        && fields.next().and_then(|pid| pid.parse().ok()) == Some(parent.as_raw())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};

    use super::*;

    #[test]
    fn a_zombie_is_told_whatever_its_name() {
        let me = Pid::from_raw(7);
        assert!(is_zombie_of("9 (a) S 1 (b)) Z 7 9 9 0", me));
        assert!(!is_zombie_of("9 (a) Z 1 9 9 0", me));
        assert!(!is_zombie_of("9 (Z) S 7 9 9 0", me));
        assert!(!is_zombie_of("", me));
    }

    /// Both in one test: the signal's handler and the subreaper belong to the whole process.
    #[tokio::test]
    async fn an_orphan_is_reaped_and_an_own_child_is_left_to_whoever_waits() {
        start().unwrap();
        let mut own = Command::new("true").spawn().unwrap();
        let own_pid = Pid::from_raw(i32::try_from(own.id()).unwrap());
        // A daemon as libvirt starts QEMU: its own session, its parent gone.
        let script = "setsid sh -c 'echo $$; exec sleep 600 >&- 2>&-' &";
        let output =
            tokio::process::Command::new("sh").args(["-c", script]).output().await.unwrap();
        let orphan: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let orphan = Pid::from_raw(orphan);
        let zombie = async {
            while !zombie_children(Pid::this()).contains(&own_pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), zombie).await.expect("`true` ends");
        kill(orphan, Signal::SIGKILL).unwrap();
        let gone = async {
            while kill(orphan, None).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the orphan is reaped");
        prctl::set_child_subreaper(false).unwrap();
        assert!(kill(own_pid, None).is_ok(), "the own child is still to be waited for");
        assert!(own.wait().unwrap().success());
    }
}
