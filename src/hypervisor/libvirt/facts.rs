//! Who a host is and what it has, and the pools that we need there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use uuid::Uuid;
use virt::connect::Connect;
use virt::storage_pool::StoragePool;
use virt::sys;

use super::domains::present;
use super::fault::{during, is_absent};
use super::{Libvirt, networks, routes};
use crate::domain::host::VirtType;
use crate::hypervisor::{Fault, HostFacts, names, xml};

const GIB: u64 = 1 << 30;

impl Libvirt {
    pub(super) fn read_facts(&self, conn: &Connect) -> Result<HostFacts, Fault> {
        if !self.mock() {
            self.move_pool(conn, &self.console_pool())?;
            self.move_pool(conn, &self.disk_pool())?;
        }
        let capabilities = conn.capabilities().map_err(during("read the host's capabilities"))?;
        let host = xml::host::read(&capabilities)?;
        // Models such as EPYC imply most of what they can; spelled out, they tell all of it.
        let flags = sys::VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES;
        let expanded = || conn.baseline_cpu(&[&host.cpu], flags).ok();
        let x86 = matches!(host.arch.as_str(), "x86_64" | "i686");
        let features = if x86 { expanded() } else { None };
        let features = features.as_deref().map(xml::host::features).transpose();
        let features = features.ok().flatten().unwrap_or_default();
        let virt_type = resolve_auto(&host, x86, &features);
        let cpu_level = if host.arch == "x86_64" { xml::host::level(&features) } else { 0 };
        let node = conn.node_info().map_err(during("read the host's size"))?;
        let hostname = conn.hostname().map_err(during("read the host's name"))?;
        let host_uuid = match host.uuid {
            Some(uuid) => uuid,
            // The mock host has none; the rest of libvirt always has.
            None if self.mock() => Uuid::new_v5(&Uuid::NAMESPACE_URL, self.target.uri.as_bytes()),
            None => {
                return Err(Fault::permanent(
                    "read the host's capabilities: it has no UUID: set host_uuid in its libvirtd.conf",
                ));
            }
        };
        self.pool(conn, &self.console_pool())?;
        let disks = self.pool(conn, &self.disk_pool())?;
        // The numbers are those of the last refresh. One is refused while a volume is being made, and then the next serves.
        let _ = disks.refresh(0);
        let space = disks.info().map_err(during("read the disk pool's size"))?;
        let mut foreign_subnets: Vec<_> = networks::all(conn, self.target.cloud)?
            .into_iter()
            .filter(|network| network.ours.is_none())
            .flat_map(|network| network.subnets)
            .collect();
        foreign_subnets.extend(routes::subnets(&self.target.uri));
        foreign_subnets.sort_unstable();
        foreign_subnets.dedup();
        Ok(HostFacts {
            host_uuid,
            hostname,
            arch: host.arch,
            vcpus: i32::try_from(node.cpus).unwrap_or(i32::MAX),
            memory_mib: to_i64(node.memory / 1024),
            disk_gib: to_i64(space.capacity / GIB),
            disk_free_gib: to_i64(space.available / GIB),
            virt_type,
            libvirt_version: version(conn.lib_version().map_err(during("read libvirt's version"))?),
            hypervisor_version: version(
                conn.hyp_version().map_err(during("read the hypervisor's version"))?,
            ),
            cpu_model: host.cpu_model,
            cpu_level,
            foreign_subnets,
        })
    }

    /// The architecture, for a domain's XML.
    pub(super) fn arch(&self, conn: &Connect) -> Result<String, Fault> {
        if let Some(arch) = self.arch.get() {
            return Ok(arch.clone());
        }
        let capabilities = conn.capabilities().map_err(during("read the host's capabilities"))?;
        let arch = xml::host::read(&capabilities)?.arch;
        Ok(self.arch.get_or_init(|| arch).clone())
    }

    /// Takes a pool away that has another directory than ours, as after a change of the host's pool path.
    fn move_pool(&self, conn: &Connect, name: &str) -> Result<(), Fault> {
        let what = format!("move the storage pool {name}");
        let found = present(&what, conn.lookup_storage_pool_by_name(name))?;
        let Some(pool) = found else { return Ok(()) };
        let path = xml::storage::pool_path(&pool.xml_desc(0).map_err(during(what.as_str()))?)?;
        if self.is_pools_path(name, path.as_deref()) {
            return Ok(());
        }
        if pool.is_active().map_err(during(what.as_str()))? {
            pool.refresh(0).map_err(during(what.as_str()))?;
            if !pool.list_all_volumes(0).map_err(during(what.as_str()))?.is_empty() {
                return Err(Fault::conflict(format!(
                    "{what}: it is there with the directory {}, which is not empty: give this host its former pool path \
                     again, or take the pool away (virsh pool-destroy, pool-undefine; its files stay)",
                    path.unwrap_or_default()
                )));
            }
            present(&what, pool.destroy())?;
        }
        present(&what, pool.undefine())?;
        Ok(())
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// One of our two pools, running; made where it is missing.
    pub(super) fn pool(&self, conn: &Connect, name: &str) -> Result<StoragePool, Fault> {
        let doing = |what: &str| format!("{what} the storage pool {name}");
        if self.has_left() {
            return Err(Fault::permanent("this host is leaving the cloud"));
        }
        let pool = match conn.lookup_storage_pool_by_name(name) {
            Ok(pool) => pool,
            Err(error) if is_absent(&error) => {
                let uuid = names::pool_uuid(self.target.cloud, name);
                let xml = xml::storage::pool(name, uuid, &self.pool_path(name))?;
                conn.define_storage_pool_xml(&xml, 0).map_err(during(doing("define")))?
            }
            Err(error) => return Err(during(doing("find"))(error)),
        };
        // Also of one that runs: somebody may have put another in its place.
        let text = pool.xml_desc(0).map_err(during(doing("look at")))?;
        let path = xml::storage::pool_path(&text)?;
        if !self.is_pools_path(name, path.as_deref()) {
            return Err(Fault::conflict(format!(
                "use the storage pool {name}: it is there with the directory {}, and should have {}: take it away \
                 (virsh pool-destroy, pool-undefine; its files stay), and it is made as it should be",
                path.unwrap_or_default(),
                self.pool_path(name)
            )));
        }
        if pool.is_active().map_err(during(doing("look at")))? {
            return Ok(pool);
        }
        pool.build(0).map_err(during(doing("make the directory of")))?;
        if let Err(error) = pool.create(0) {
            // Another call may have been faster.
            if !pool.is_active().map_err(during(doing("look at")))? {
                return Err(during(doing("start"))(error));
            }
        }
        // Kept from a host's reboot; without it the next call starts the pool.
        let _ = pool.set_autostart(true);
        Ok(pool)
    }

    /// Takes our pools from the host's libvirt, and their directories where these are empty.
    pub(super) fn remove_pools(&self, conn: &Connect) -> Result<(), Fault> {
        for name in [self.console_pool(), self.disk_pool()] {
            let what = format!("remove the storage pool {name}");
            let found = present(&what, conn.lookup_storage_pool_by_name(&name))?;
            let Some(pool) = found else { continue };
            if present(&what, pool.is_active())?.unwrap_or(false) {
                present(&what, pool.destroy())?;
            }
            // Its directory, if nothing is in it: what is there is not ours.
            let _ = pool.delete(0);
            present(&what, pool.undefine())?;
        }
        Ok(())
    }

    fn is_pools_path(&self, name: &str, path: Option<&str>) -> bool {
        path.is_some_and(|path| plain(path) == self.pool_path(name))
    }

    fn pool_path(&self, name: &str) -> String {
        let part = if name == self.console_pool() { "consoles" } else { "disks" };
        plain(&format!("{}/{part}", self.target.pool_path))
    }

    pub(super) fn console_path(&self, file: &str) -> String {
        format!("{}/{file}", self.pool_path(&self.console_pool()))
    }
}

/// Without empty and `.` parts: libvirt leaves the empty ones out of the path that it tells.
fn plain(path: &str) -> String {
    Path::new(path).components().collect::<PathBuf>().to_string_lossy().into_owned()
}

/// A `/dev/kvm` that opens is not a KVM that runs guests: under some nested hypervisors only the CPU's features tell.
fn resolve_auto(host: &xml::host::Seen, x86: bool, features: &HashSet<String>) -> VirtType {
    let can = || features.contains("vmx") || features.contains("svm");
    if host.kvm && (!x86 || host.hardware || can()) { VirtType::Kvm } else { VirtType::Qemu }
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// libvirt's `major × 1,000,000 + minor × 1,000 + release`.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}
