//! The wish, and how actions change it.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Wanted {
    Running,
    Stopped,
    Paused,
    Deleted,
}

/// What a new instance may be asked to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FirstWish {
    #[default]
    Running,
    Stopped,
}

impl From<FirstWish> for Wanted {
    fn from(first: FirstWish) -> Self {
        match first {
            FirstWish::Running => Self::Running,
            FirstWish::Stopped => Self::Stopped,
        }
    }
}

/// The whole wish: only requests write it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub wanted: Wanted,
    /// When it was asked for: the grace of a stop counts from here.
    pub wanted_at: Time,
    /// Which power-on is asked for; the domain's stamp says which one it is.
    pub boot: i64,
    /// Bring a running guest down at once, not by ACPI.
    pub hard: bool,
    /// How long after the ACPI button a guest may take.
    pub grace: TimeDelta,
}

/// What can be asked of an instance that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    Start,
    Stop { hard: bool, grace_s: i64 },
    Reboot { hard: bool, grace_s: i64 },
    Pause,
    Resume,
    Delete,
}

impl Wish {
    /// The wish after `action`; `None` where it is the wish already. An instance that is being deleted wants nothing else.
    pub fn after(&self, action: Action, now: Time) -> Result<Option<Self>> {
        let wanted = |wanted| Self { wanted, wanted_at: now, hard: false, ..self.clone() };
        let stopped = |verb: &str| {
            Error::conflict(
                "instance-stopped",
                format!("a stopped instance cannot {verb}: start it first"),
            )
        };
        Ok(match (action, self.wanted) {
            (Action::Delete, Wanted::Deleted) => None,
            (Action::Delete, _) => Some(Self { hard: true, ..wanted(Wanted::Deleted) }),
            (_, Wanted::Deleted) => {
                return Err(Error::conflict(
                    "instance-deleting",
                    "the instance is being deleted: make a new one",
                ));
            }
            (Action::Start | Action::Resume, Wanted::Running) => None,
            (Action::Start, Wanted::Stopped) => {
                Some(Self { boot: self.boot + 1, ..wanted(Wanted::Running) })
            }
            (Action::Start | Action::Resume, Wanted::Paused) => Some(wanted(Wanted::Running)),
            (Action::Resume, Wanted::Stopped) => return Err(stopped("be resumed")),
            (Action::Pause, Wanted::Paused) => None,
            (Action::Pause, Wanted::Running) => Some(wanted(Wanted::Paused)),
            (Action::Pause, Wanted::Stopped) => return Err(stopped("be paused")),
            // A hard stop overtakes a soft one that is under way.
            (Action::Stop { hard, .. }, Wanted::Stopped) if self.hard || !hard => None,
            (
                Action::Stop { hard, grace_s },
                Wanted::Running | Wanted::Paused | Wanted::Stopped,
            ) => Some(Self { hard, grace: TimeDelta::seconds(grace_s), ..wanted(Wanted::Stopped) }),
            (Action::Reboot { .. }, Wanted::Stopped) => return Err(stopped("be rebooted")),
            (Action::Reboot { hard, grace_s }, Wanted::Running | Wanted::Paused) => Some(Self {
                boot: self.boot + 1,
                hard,
                grace: TimeDelta::seconds(grace_s),
                ..wanted(Wanted::Running)
            }),
        })
    }

    /// When a soft stop turns hard.
    pub fn deadline(&self) -> Time {
        self.wanted_at + self.grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(wanted: Wanted) -> Wish {
        Wish {
            wanted,
            wanted_at: Time::default(),
            boot: 1,
            hard: false,
            grace: TimeDelta::seconds(30),
        }
    }

    #[test]
    fn a_delete_wins_over_everything_and_nothing_wins_over_it() {
        for wanted in [Wanted::Running, Wanted::Stopped, Wanted::Paused] {
            let after = wish(wanted)
                .after(Action::Delete, Time::default())
                .expect("accepted")
                .expect("changed");
            assert_eq!(after.wanted, Wanted::Deleted);
            assert!(after.after(Action::Start, Time::default()).is_err());
            assert_eq!(after.after(Action::Delete, Time::default()).expect("accepted"), None);
        }
    }

    #[test]
    fn a_start_after_a_stop_and_a_reboot_ask_for_a_new_power_on() {
        let started = wish(Wanted::Stopped)
            .after(Action::Start, Time::default())
            .expect("ok")
            .expect("changed");
        assert_eq!((started.wanted, started.boot), (Wanted::Running, 2));
        let reboot = Action::Reboot { hard: true, grace_s: 0 };
        let rebooted =
            wish(Wanted::Running).after(reboot, Time::default()).expect("ok").expect("changed");
        assert_eq!((rebooted.boot, rebooted.hard), (2, true));
        assert!(wish(Wanted::Stopped).after(reboot, Time::default()).is_err());
    }

    #[test]
    fn a_hard_stop_overtakes_a_soft_one() {
        let soft = Action::Stop { hard: false, grace_s: 30 };
        let hard = Action::Stop { hard: true, grace_s: 0 };
        let stopping =
            wish(Wanted::Running).after(soft, Time::default()).expect("ok").expect("changed");
        assert_eq!(stopping.after(soft, Time::default()).expect("ok"), None);
        assert!(stopping.after(hard, Time::default()).expect("ok").expect("changed").hard);
    }
}
