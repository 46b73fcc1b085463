//! What happens in a storm: wishes of people, turns of workers, and what befalls the hosts.

use chrono::TimeDelta;
use pileus::domain::error::Error;
use pileus::domain::id::InstanceId;
use pileus::domain::instance::{Action, Instance, NewInstance, Wanted};
use pileus::hypervisor::{Hypervisor, Power};
use pileus::reconcile::hosts;
use pileus::service::instances;

use super::{Storm, Wish};
use crate::case::{Event, TO_THE_END};
use crate::jobs::Worker;

impl Storm<'_> {
    pub async fn happen(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Create { nics, big, image, stopped } => {
                self.create(nics, big, image, stopped).await
            }
            Event::Wish { which, action } if !self.wishes.is_empty() => {
                self.wish(which % self.wishes.len(), action).await
            }
            Event::Turn { worker, job, polls } => {
                let worker = worker % self.workers.len();
                if self.workers[worker].is_idle() {
                    self.begin_job(worker, job);
                }
                if polls == TO_THE_END {
                    self.finish(worker).await
                } else {
                    self.workers[worker].go(polls).await;
                    Ok(())
                }
            }
            Event::Crash { worker } => {
                let worker = worker % self.workers.len();
                self.workers[worker] = Worker::new(self.process());
                Ok(())
            }
            Event::Signals { lost } => self.signal(lost).await,
            Event::Clock { seconds } => {
                self.clock.advance(TimeDelta::seconds(seconds));
                Ok(())
            }
            Event::Unreachable { host, until_noticed } => {
                let (id, fake) = self.hosts[host % self.hosts.len()].clone();
                fake.set_reachable(false);
                if until_noticed {
                    let ctx = self.workers[0].ctx.clone();
                    self.helped(async move { hosts::look(&ctx, id).await }).await?.ok();
                }
                Ok(())
            }
            Event::Wish { .. }
            | Event::Fault { .. }
            | Event::Reachable { .. }
            | Event::PowerCycle { .. }
            | Event::Deaf { .. }
            | Event::Kill { .. }
            | Event::PauseBehind { .. }
            | Event::Foreign { .. }
            | Event::NoForeign => {
                self.befall(event);
                Ok(())
            }
        }
    }

    /// What befalls a host.
    fn befall(&mut self, event: &Event) {
        let number = |host: usize| host % self.hosts.len();
        match *event {
            Event::Fault { host, call, wrong, nth } => {
                self.faults.arm(number(host), call, wrong, nth);
            }
            Event::Reachable { host } => self.hosts[number(host)].1.set_reachable(true),
            Event::PowerCycle { host } => self.hosts[number(host)].1.power_cycle(),
            Event::Deaf { host, deaf } => self.hosts[number(host)].1.set_deaf(deaf),
            Event::Kill { which } => {
                if let Some(id) = self.pick(which) {
                    for (number, (_, host)) in self.hosts.iter().enumerate() {
                        if !self.foreign.contains(&(number, id)) {
                            host.kill(id);
                        }
                    }
                }
            }
            Event::PauseBehind { which } => {
                if let Some(id) = self.pick(which) {
                    for (_, host) in &self.hosts {
                        // Most hosts have no such domain.
                        let _ = self.faults.aside(|| host.pause(id));
                    }
                }
            }
            Event::Foreign { which, host } => {
                if let Some(id) = self.pick(which) {
                    let host = number(host);
                    self.hosts[host].1.add_foreign_domain(id, "stranger", Power::Running);
                    self.foreign.insert((host, id));
                }
            }
            Event::NoForeign => {
                for (host, id) in std::mem::take(&mut self.foreign) {
                    self.hosts[host].1.kill(id);
                }
            }
            Event::Create { .. }
            | Event::Wish { .. }
            | Event::Turn { .. }
            | Event::Crash { .. }
            | Event::Signals { .. }
            | Event::Unreachable { .. }
            | Event::Clock { .. } => {}
        }
    }

    fn pick(&self, which: usize) -> Option<InstanceId> {
        let count = self.wishes.len();
        (count > 0).then(|| self.wishes[which % count].id)
    }

    async fn create(
        &mut self,
        nics: usize,
        big: bool,
        image: usize,
        stopped: bool,
    ) -> Result<(), String> {
        let networks: Vec<_> =
            (0..nics).map(|nic| serde_json::json!({ "network": format!("net-{nic}") })).collect();
        let body = serde_json::json!({
            "name": format!("i{}", self.wishes.len()),
            "image": format!("image-{image}"),
            "flavor": if big { "big" } else { "small" },
            "networks": networks,
            "wanted": if stopped { "stopped" } else { "running" },
        });
        let new: NewInstance = serde_json::from_value(body).map_err(|error| error.to_string())?;
        let (app, caller) = (self.lane.app.clone(), self.lane.caller.clone());
        let made = self.helped(async move { instances::create(&app, &caller, &new).await }).await?;
        let made = made.map_err(|error| format!("create: {error:#}"))?;
        self.accepted.push((made.id, "instance.create"));
        self.wishes.push(Wish {
            id: made.id,
            nics,
            vcpus: made.flavor.vcpus.into(),
            wanted: made.wanted,
            boot: made.boot,
            revision: made.revision,
        });
        Ok(())
    }

    pub async fn wish(&mut self, index: usize, action: Action) -> Result<(), String> {
        let id = self.wishes[index].id;
        let (operation, kind) = match action {
            Action::Start => ("start_instance", "instance.start"),
            Action::Stop { .. } => ("stop_instance", "instance.stop"),
            Action::Reboot { .. } => ("reboot_instance", "instance.reboot"),
            Action::Pause => ("pause_instance", "instance.pause"),
            Action::Resume => ("resume_instance", "instance.resume"),
            Action::Delete => {
                self.faults.delete_asked(id);
                ("delete_instance", "instance.delete")
            }
        };
        let (app, caller) = (self.lane.app.clone(), self.lane.caller.clone());
        let asked = async move { instances::act(&app, &caller, id, operation, action, None).await };
        match self.helped(asked).await? {
            Ok(instance) => self.accept(index, kind, &instance),
            // The case asks for anything at any time; what is refused must leave no trace, which the oracle sees.
            Err(Error::Conflict { .. } | Error::NotFound { .. }) if action != Action::Delete => {}
            Err(Error::NotFound { .. }) if self.wishes[index].wanted == Wanted::Deleted => {}
            Err(error) => return Err(format!("{operation} of {id}: {error:#}")),
        }
        Ok(())
    }

    fn accept(&mut self, index: usize, kind: &'static str, answer: &Instance) {
        let wish = &mut self.wishes[index];
        if answer.revision != wish.revision {
            self.accepted.push((wish.id, kind));
        }
        wish.wanted = answer.wanted;
        wish.boot = answer.boot;
        wish.revision = answer.revision;
    }
}
