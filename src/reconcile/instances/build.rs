//! The steps from nothing to a running domain: disk, seed, networks, start.

use std::net::IpAddr;
use std::time::Instant;

use chrono::TimeDelta;

use super::{Look, QUICK_EXIT};
use crate::domain::id::{HostId, IncarnationId};
use crate::domain::image::Blob;
use crate::domain::instance::hostname;
use crate::domain::port;
use crate::domain::volume::{disk_name, seed_name};
use crate::guest::seed::{self, Seed, SeedNic};
use crate::hypervisor::{DomainSpec, Fault, Nic, Overlay, Stamp, Upload, VolumeFormat};
use crate::reconcile::{Outcome, Trouble, fault, hold, host_images, host_networks};
use crate::store;
use crate::store::instances::Record;
use crate::store::ports::PortView;

/// After so many failed attempts to make a disk its base image is thought to be damaged, and is uploaded anew: once, since most
/// failures have other causes.
const DOUBTFUL: i64 = 2;

/// What a start needs and was not made whole yet.
#[derive(Debug, Clone, Copy)]
pub struct Missing {
    pub disk: bool,
    pub seed: bool,
}

impl Look<'_> {
    /// All that is missing, and then the start, with no look between: the host has just said that there is no domain, and
    /// answers for what it made. Disk, seed and networks are made side by side, as none needs another.
    pub(super) async fn make(
        &self,
        incarnation: IncarnationId,
        host: HostId,
        missing: Missing,
    ) -> Result<Outcome, Trouble> {
        if let Some(wait) = self.slowed_down() {
            return Ok(wait);
        }
        fault::point("making");
        let until = match missing {
            Missing { disk: false, seed: false } => Instant::now(),
            Missing { .. } => {
                let until = self.ctx.confirm(self.lease).await?;
                // What the host bears the number of, the database has counted: the claim is on its disk, or a crash has taken
                // it back since it was read.
                if !store::incarnations::is_there(&mut *self.ctx.conn().await?, incarnation).await?
                {
                    return Ok(Outcome::Again);
                }
                until
            }
        };
        let disk = async {
            if missing.disk { self.create_disk(incarnation, host, until).await } else { Ok(()) }
        };
        let seed = async {
            if missing.seed { self.write_seed(incarnation, host, until).await } else { Ok(()) }
        };
        // Each to its end, whatever becomes of the others: nothing is still being made when the next attempt begins.
        let (disk, seed, networks) = tokio::join!(disk, seed, self.networks(host));
        disk.and(seed).and(networks)?;
        self.start(incarnation, host, missing).await
    }

    /// A guest that ends soon after each start is started ever more slowly.
    fn slowed_down(&self) -> Option<Outcome> {
        if self.record.quick_exits == 0 || self.record.observed_boot != Some(self.record.boot) {
            return None;
        }
        let config = &self.ctx.config;
        let pause = config
            .backoff_min
            .saturating_mul(1 << self.record.quick_exits.clamp(0, 12))
            .min(config.backoff_max);
        let ready = self.record.observed_at.unwrap_or(self.now)
            + TimeDelta::from_std(pause).unwrap_or(TimeDelta::zero());
        (self.now < ready).then(|| {
            let why = format!(
                "the guest ended {} times within {} s of its start: starting again at {}",
                self.record.quick_exits,
                QUICK_EXIT.num_seconds(),
                ready.to_rfc3339()
            );
            Outcome::wait(ready - self.now, why)
        })
    }

    async fn networks(&self, host: HostId) -> Result<(), Trouble> {
        if !self.ports.is_empty() && hold::why(self.ctx, host).await?.is_some() {
            self.no_twins(host).await?;
        }
        let networks: std::collections::BTreeSet<_> =
            self.ports.iter().map(|p| p.network_id).collect();
        for network in networks {
            host_networks::settle(self.ctx, host, network).await?;
            fault::point("network_made");
        }
        Ok(())
    }

    /// A database that is older than the world gives addresses away that guests have which it does not know.
    async fn no_twins(&self, host: HostId) -> Result<(), Trouble> {
        let look = self.ctx.look(host, "look for guests", |host| {
            let all = host.domains()?.into_iter().map(|domain| host.domain(domain.id));
            all.filter_map(Result::transpose).collect::<Result<Vec<_>, Fault>>()
        });
        let domains = look.await?;
        for domain in domains.iter().filter(|domain| domain.id != self.record.id) {
            let twin = |port: &&PortView| {
                let stands = match port.address {
                    IpAddr::V4(address) => domain.macs.contains(&port::mac(address)),
                    IpAddr::V6(_) => false,
                };
                stands || domain.macs.contains(&port.mac)
            };
            if let Some(port) = self.ports.iter().find(twin) {
                let what = format!(
                    "{} on network {} is the address of another guest on this host, domain {}, which the database does not know: have an admin look into `pileus admin drift`, or make the instance anew",
                    port.address, port.network_name, domain.name
                );
                return Err(Fault::conflict(what).into());
            }
        }
        Ok(())
    }

    async fn create_disk(
        &self,
        incarnation: IncarnationId,
        host: HostId,
        until: Instant,
    ) -> Result<(), Trouble> {
        let blob = host_images::blob(self.ctx, self.record.image_id).await?;
        let overlay = Overlay {
            name: disk_name(incarnation),
            base: store::host_images::volume_name(&blob.sha256, blob.format),
            base_format: blob.format,
            capacity_bytes: u64::try_from(self.record.disk_gib).unwrap_or(0) << 30,
        };
        fault::point("disk_creating");
        let made = self
            .ctx
            .effect_until(until, host, "create the disk", move |host| {
                // Not marked as made, so what is there was left half-made.
                host.delete_volume(&overlay.name)?;
                host.create_overlay(&overlay)
            })
            .await;
        let doubt = self.lease.attempts == DOUBTFUL;
        self.or_base_lost(host, &blob, made, doubt).await?;
        fault::point("disk_created");
        Ok(())
    }

    /// What failed because somebody removed the base image is mended by another upload: the bytes are the same. `doubt`: so is what
    /// failed though one is there.
    async fn or_base_lost(
        &self,
        host: HostId,
        blob: &Blob,
        done: Result<(), Trouble>,
        doubt: bool,
    ) -> Result<(), Trouble> {
        let Err(Trouble::Host(fault)) = done else { return done };
        let base = store::host_images::volume_name(&blob.sha256, blob.format);
        let there = self.ctx.look(host, "look for the base image", move |host| host.volume(&base));
        if there.await?.is_none() || doubt {
            host_images::lost(self.ctx, Some(self.lease), host, &blob.sha256).await?;
        }
        Err(fault.into())
    }

    async fn write_seed(
        &self,
        incarnation: IncarnationId,
        host: HostId,
        until: Instant,
    ) -> Result<(), Trouble> {
        let data =
            store::instances::seed_data(&mut *self.ctx.conn().await?, self.record.id).await?;
        let Some(data) = data else { return Ok(()) };
        let seed = Seed {
            instance_id: self.record.id.to_string(),
            hostname: hostname(&self.record.name, self.record.id),
            public_keys: data.ssh_keys,
            user_data: data.user_data.unwrap_or_default().into_bytes(),
            nics: self
                .ports
                .iter()
                .map(|p| SeedNic { mac: p.mac.clone(), dns: p.dns.clone() })
                .collect(),
        };
        let bytes = seed::seed_iso(&seed)
            .map_err(|error| Fault::permanent(format!("the seed cannot be written: {error}")))?;
        fault::point("seed_writing");
        let upload = Upload {
            name: seed_name(incarnation),
            format: VolumeFormat::Raw,
            length: bytes.len() as u64,
            virtual_bytes: bytes.len() as u64,
        };
        self.ctx
            .effect_until(until, host, "write the seed", move |host| {
                host.upload(&upload, &mut bytes.as_slice(), &mut |_| true)
            })
            .await?;
        fault::point("seed_written");
        Ok(())
    }

    async fn start(
        &self,
        incarnation: IncarnationId,
        host: HostId,
        missing: Missing,
    ) -> Result<Outcome, Trouble> {
        // Somebody may have changed the wish, or taken the item over, while the parts were made. What was made is noted here,
        // in one commit that waits for the disk, and with it for all that was committed before, the claim on this host among
        // it: what runs is never unknown to the database.
        let (mut tx, until) = self.ctx.write_until(self.lease).await?;
        if missing.disk || missing.seed {
            store::incarnations::set_made(&mut tx, incarnation, true, true).await?;
        }
        let current = store::instances::lock(&mut tx, None, self.record.id).await?;
        let reached = store::hosts::reached(&mut tx, host).await?;
        tx.commit().await?;
        let ours = |current: &Record| {
            current.revision == self.record.revision && current.incarnation_id == Some(incarnation)
        };
        if !current.as_ref().is_some_and(ours) {
            return Ok(Outcome::Again);
        }
        let Some(reached) = reached else { return Ok(Outcome::Again) };
        let spec = DomainSpec {
            stamp: Stamp {
                cloud: self.ctx.cloud,
                instance: self.record.id,
                incarnation,
                revision: self.record.revision,
                boot: self.record.boot,
            },
            title: self.record.name.to_string(),
            vcpus: self.record.vcpus,
            memory_mib: self.record.memory_mib,
            virt_type: reached.resolved_virt_type(),
            disk: disk_name(incarnation),
            seed: seed_name(incarnation),
            nics: self
                .ports
                .iter()
                .map(|p| Nic {
                    network: p.network_id,
                    mac: p.mac.clone(),
                    address: p.address,
                    port_security: p.port_security,
                })
                .collect(),
        };
        let started =
            self.ctx.effect_until(until, host, "start", move |host| host.start(&spec)).await;
        if started.is_err() {
            let blob = host_images::blob(self.ctx, self.record.image_id).await?;
            self.or_base_lost(host, &blob, started, false).await?;
        }
        fault::point("started");
        Ok(Outcome::Again)
    }
}
