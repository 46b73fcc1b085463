//! The status that people read: computed from the wish, what was seen and the last fault; never stored.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Power;
use super::wish::Wanted;
use crate::domain::clock::Time;

/// One word for where an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits to be given a host.
    Scheduling,
    /// No host has room: it waits its turn; `reason` says what is missing, `queue` where it stands.
    WaitingForCapacity,
    /// Its first start is being prepared.
    Building,
    Starting,
    Running,
    Rebooting,
    Pausing,
    Paused,
    Resuming,
    Stopping,
    Stopped,
    Deleting,
    /// Nothing of it is left: only the answer to a wait shows this.
    Deleted,
    /// Its host does not answer: what it was last is in `power`.
    Unknown,
}

/// What the status is computed from.
#[derive(Debug, Clone)]
pub struct Account<'a> {
    pub wanted: Wanted,
    pub boot: i64,
    pub power: Power,
    /// The boot that was last seen.
    pub observed_boot: Option<i64>,
    pub placed: bool,
    /// No host has had room for it.
    pub queued: bool,
    /// The host's reason and since when, where it does not answer.
    pub host_down: Option<(&'a str, Time)>,
    /// What the reconciler waits for.
    pub waiting: Option<&'a str>,
    /// The last error, while it stands in the way.
    pub failing: Option<&'a str>,
    /// It was seen since then, so that the error is over where what was seen is as wished.
    pub seen_since: bool,
    pub stalled_since: Option<Time>,
}

/// The status, and why it is not what was wished for.
pub fn status(account: &Account<'_>) -> (Status, Option<String>) {
    let status = match (account.wanted, account.power) {
        (Wanted::Deleted, _) => Status::Deleting,
        _ if account.host_down.is_some() => Status::Unknown,
        (Wanted::Running | Wanted::Paused, Power::None | Power::Off) if !account.placed => {
            if account.queued {
                Status::WaitingForCapacity
            } else {
                Status::Scheduling
            }
        }
        (Wanted::Running | Wanted::Paused, Power::None | Power::Off)
            if account.observed_boot.is_none() =>
        {
            Status::Building
        }
        (Wanted::Running | Wanted::Paused, Power::None | Power::Off) => {
            // Between the two halves of a reboot, or after the guest went down by itself.
            Status::Starting
        }
        (Wanted::Running | Wanted::Paused, Power::Running | Power::Paused)
            if account.observed_boot.is_some_and(|boot| boot < account.boot) =>
        {
            Status::Rebooting
        }
        (Wanted::Running, Power::Running) => Status::Running,
        (Wanted::Running, Power::Paused) => Status::Resuming,
        (Wanted::Paused, Power::Paused) => Status::Paused,
        (Wanted::Paused, Power::Running) => Status::Pausing,
        (Wanted::Stopped, Power::None) => Status::Stopped,
        (Wanted::Stopped, Power::Off | Power::Running | Power::Paused) => Status::Stopping,
    };
    (status, reason(status, account))
}

fn reason(status: Status, account: &Account<'_>) -> Option<String> {
    if let Some((why, since)) = account.host_down {
        return Some(format!("its host has not answered since {}: {why}", since.to_rfc3339()));
    }
    let settled = matches!(status, Status::Running | Status::Paused | Status::Stopped);
    let failing = account.failing.filter(|_| !(settled && account.seen_since));
    match (failing, account.waiting) {
        (Some(error), _) => Some(match account.stalled_since {
            Some(since) => format!("stalled since {}: {error}", since.to_rfc3339()),
            None => error.to_owned(),
        }),
        (None, Some(waiting)) if !settled => Some(waiting.to_owned()),
        (None, None | Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(wanted: Wanted, power: Power) -> Account<'static> {
        Account {
            wanted,
            boot: 1,
            power,
            observed_boot: Some(1),
            placed: true,
            queued: false,
            host_down: None,
            waiting: None,
            failing: None,
            seen_since: false,
            stalled_since: None,
        }
    }

    #[test]
    fn a_stopped_wish_over_a_running_guest_is_stopping_and_a_lower_boot_is_rebooting() {
        assert_eq!(status(&account(Wanted::Stopped, Power::Running)).0, Status::Stopping);
        let reboot = Account { boot: 2, ..account(Wanted::Running, Power::Running) };
        assert_eq!(status(&reboot).0, Status::Rebooting);
    }

    #[test]
    fn a_silent_host_never_passes_for_running() {
        let silent = Account {
            host_down: Some(("refused", Time::default())),
            ..account(Wanted::Running, Power::Running)
        };
        let (word, reason) = status(&silent);
        assert_eq!(word, Status::Unknown);
        assert!(reason.is_some_and(|r| r.contains("refused")));
    }

    #[test]
    fn a_fault_gives_the_reason_and_says_since_when_it_stalls() {
        let failing = Account {
            failing: Some("no space left"),
            stalled_since: Some(Time::default()),
            ..account(Wanted::Running, Power::None)
        };
        let reason = status(&failing).1.expect("a reason");
        assert!(
            reason.contains("no space left") && reason.contains("stalled since 1970"),
            "{reason}"
        );
        // It has been seen to be as wished since, or otherwise.
        let over = Account { seen_since: true, ..failing.clone() };
        assert_eq!(status(&Account { power: Power::Running, ..over.clone() }).1, None);
        assert!(status(&Account { power: Power::Paused, ..over }).1.is_some());
    }
}
