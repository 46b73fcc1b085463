//! Console logs: files that virtlogd (or libvirtd itself) writes, read as volumes of a pool of their own.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use super::Libvirt;
use super::domains::present;
use super::fault::{during, fault, is_absent};
use crate::domain::id::IncarnationId;
use crate::hypervisor::{Fault, names};

/// A pool knows of new files only after a refresh, which opens every one of them: readers share one a second.
const REFRESH: Duration = Duration::from_secs(1);
/// virtlogd keeps `max_backups` rotated parts, three where nobody changed it.
const MAX_PARTS: u32 = 32;
const CHUNK: usize = 64 << 10;

/// When the pool was last refreshed.
#[derive(Default)]
pub struct Freshness(Mutex<Option<Instant>>);

impl Libvirt {
    /// The pool, with a refresh if the last is too old or `now`.
    fn console_pool_fresh(&self, conn: &Connect, now: bool) -> Result<StoragePool, Fault> {
        let pool = self.pool(conn, &self.console_pool())?;
        let mut last = self.consoles.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now || last.is_none_or(|last| last.elapsed() > REFRESH) {
            pool.refresh(0).map_err(during("refresh the console pool"))?;
            *last = Some(Instant::now());
        }
        Ok(pool)
    }

    /// The kept parts of a log, oldest first.
    fn parts(&self, conn: &Connect, incarnation: IncarnationId) -> Result<Vec<StorageVol>, Fault> {
        let log = names::console_log(incarnation);
        let what = format!("find console log {log}");
        let look =
            |pool: &StoragePool, name: &str| present(&what, pool.lookup_storage_vol_by_name(name));
        let mut pool = self.console_pool_fresh(conn, false)?;
        let mut current = look(&pool, &log)?;
        if current.is_none() && !self.mock() {
            pool = self.console_pool_fresh(conn, true)?;
            current = look(&pool, &log)?;
        }
        let mut parts: Vec<_> = current.into_iter().collect();
        for index in 0..MAX_PARTS {
            match look(&pool, &format!("{log}.{index}"))? {
                Some(part) => parts.push(part),
                None => break,
            }
        }
        parts.reverse();
        Ok(parts)
    }

    pub(super) fn read_console(
        &self,
        conn: &Connect,
        incarnation: IncarnationId,
        offset: u64,
        max: usize,
    ) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let mut skip = offset;
        let parts = self.parts(conn, incarnation)?;
        for (index, part) in parts.iter().enumerate() {
            if bytes.len() >= max {
                break;
            }
            // Rotated parts grow no more, so that their size is known; the current one is read to its end.
            if index + 1 < parts.len() {
                let Some(info) = present("read a console log", part.info())? else { continue };
                if skip >= info.capacity {
                    skip -= info.capacity;
                    continue;
                }
            }
            // More than any file has, and no offset for libvirt: there is nothing.
            if skip >= BEYOND {
                break;
            }
            read(conn, part, skip, max - bytes.len(), &mut bytes)?;
            skip = 0;
        }
        Ok(bytes)
    }

    pub(super) fn remove_console(
        &self,
        conn: &Connect,
        incarnation: IncarnationId,
    ) -> Result<(), Fault> {
        let pool = self.console_pool_fresh(conn, true)?;
        for name in pool.list_volumes().map_err(during("list the console pool"))? {
            if names::console_incarnation(&name) == Some(incarnation) {
                self.remove_volume(conn, &self.console_pool(), &name)?;
            }
        }
        Ok(())
    }

    pub(super) fn all_consoles(&self, conn: &Connect) -> Result<Vec<IncarnationId>, Fault> {
        if self.has_left() {
            return Ok(Vec::new());
        }
        let pool = self.console_pool_fresh(conn, true)?;
        let names = pool.list_volumes().map_err(during("list the console pool"))?;
        let found: BTreeSet<_> =
            names.iter().filter_map(|name| names::console_incarnation(name)).collect();
        Ok(found.into_iter().collect())
    }
}

/// An offset that no console log has: 1 TiB.
const BEYOND: u64 = 1 << 40;

/// Appends up to `max` bytes of the volume from `offset`.
fn read(
    conn: &Connect,
    volume: &StorageVol,
    offset: u64,
    max: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), Fault> {
    let what = "read a console log";
    let stream = Stream::new(conn, 0).map_err(during(what))?;
    match volume.download(&stream, offset, 0, 0) {
        Ok(()) => {}
        // Removed since it was found.
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(fault(what, &error)),
    }
    let mut buffer = vec![0; CHUNK.min(max.max(1))];
    let mut left = max;
    while left > 0 {
        let room = buffer.len().min(left);
        let got = match stream.recv(&mut buffer[..room]) {
            Ok(got) => usize::try_from(got).unwrap_or(0),
            Err(error) => {
                let _ = stream.abort();
                return Err(fault(what, &error));
            }
        };
        if got == 0 {
            return stream.finish().map_err(during(what));
        }
        bytes.extend_from_slice(&buffer[..got]);
        left -= got;
    }
    // Enough; the rest is not wanted.
    let _ = stream.abort();
    Ok(())
}
