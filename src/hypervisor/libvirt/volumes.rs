//! Volumes of our disk pool: base images and seeds are uploaded, root disks are overlays.

use std::io::Read;

use virt::connect::Connect;
use virt::error::ErrorNumber as Code;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

use super::Libvirt;
use super::domains::present;
use super::fault::{during, fault, is, is_absent};
use crate::domain::checksum::Checksum;
use crate::hypervisor::{Fault, Overlay, Upload, VolumeFormat, VolumeSeen, xml};

/// libvirt cuts a stream into messages of at most 256 KiB.
const CHUNK: usize = 256 << 10;

fn lookup(pool: &StoragePool, name: &str) -> Result<Option<StorageVol>, Fault> {
    present(&format!("find volume {name}"), pool.lookup_storage_vol_by_name(name))
}

fn see(name: &str, volume: &StorageVol) -> Result<Option<VolumeSeen>, Fault> {
    let info = present(&format!("read volume {name}"), volume.info())?;
    Ok(info.map(|info| VolumeSeen {
        name: name.to_owned(),
        capacity_bytes: info.capacity,
        file_bytes: None,
    }))
}

impl Libvirt {
    pub(super) fn find_volume(
        &self,
        conn: &Connect,
        name: &str,
    ) -> Result<Option<VolumeSeen>, Fault> {
        match lookup(&self.pool(conn, &self.disk_pool())?, name)? {
            Some(volume) => see(name, &volume),
            None => Ok(None),
        }
    }

    pub(super) fn all_volumes(&self, conn: &Connect) -> Result<Vec<VolumeSeen>, Fault> {
        if self.has_left() {
            return Ok(Vec::new());
        }
        let pool = self.pool(conn, &self.disk_pool())?;
        pool.refresh(0).map_err(during("refresh the disk pool"))?;
        let volumes = pool.list_all_volumes(0).map_err(during("list the disk pool"))?;
        let each = volumes.iter().map(|volume| {
            let name = volume.name().map_err(during("read a volume's name"))?;
            if self.mock() {
                return see(&name, volume);
            }
            // With this flag, what is told as the allocation is the file's length.
            let physical = volume.info_flags(sys::VIR_STORAGE_VOL_GET_PHYSICAL);
            let info = present("read a volume", physical)?;
            Ok(info.map(|info| VolumeSeen {
                name,
                capacity_bytes: info.capacity,
                file_bytes: Some(info.allocation),
            }))
        });
        each.filter_map(Result::transpose).collect()
    }

    pub(super) fn sum_volume(&self, conn: &Connect, name: &str) -> Result<Option<String>, Fault> {
        let pool = self.pool(conn, &self.disk_pool())?;
        let Some(volume) = lookup(&pool, name)? else { return Ok(None) };
        let what = format!("read volume {name}");
        let stream = Stream::new(conn, 0).map_err(during(what.as_str()))?;
        match volume.download(&stream, 0, 0, 0) {
            Ok(()) => {}
            // Removed since it was found; and the mock driver keeps no bytes.
            Err(error) if is_absent(&error) || is(&error, Code::NoSupport) => return Ok(None),
            Err(error) => return Err(fault(&what, &error)),
        }
        let (mut buffer, mut sum) = (vec![0; CHUNK], Checksum::default());
        loop {
            match stream.recv(&mut buffer) {
                Ok(0) => break,
                Ok(got) => sum.update(&buffer[..usize::try_from(got).unwrap_or(0)]),
                Err(error) => {
                    let _ = stream.abort();
                    return Err(fault(&what, &error));
                }
            }
        }
        stream.finish().map_err(during(what))?;
        Ok(Some(sum.hex()))
    }

    pub(super) fn make_overlay(&self, conn: &Connect, overlay: &Overlay) -> Result<(), Fault> {
        let pool = self.pool(conn, &self.disk_pool())?;
        if let Some(volume) = lookup(&pool, &overlay.name)? {
            return self.judge_overlay(conn, &pool, &volume, overlay);
        }
        match create_overlay(&pool, overlay) {
            Ok(()) => Ok(()),
            Err(failed) => {
                // A crash of the host's daemon may have left the file unknown to it.
                pool.refresh(0).map_err(during("refresh the disk pool"))?;
                match lookup(&pool, &overlay.name)? {
                    Some(volume) => self.judge_overlay(conn, &pool, &volume, overlay),
                    None => Err(failed),
                }
            }
        }
    }

    /// A file that a crash left before it became a qcow2 was never a guest's disk, and is made again.
    fn judge_overlay(
        &self,
        conn: &Connect,
        pool: &StoragePool,
        volume: &StorageVol,
        overlay: &Overlay,
    ) -> Result<(), Fault> {
        let what = || format!("read volume {}", overlay.name);
        let text = volume.xml_desc(0).map_err(during(what()))?;
        let seen = xml::storage::read(&text)?;
        if seen.format == VolumeFormat::Qcow2.as_str() {
            return Ok(());
        }
        self.remove_volume(conn, &self.disk_pool(), &overlay.name)?;
        create_overlay(pool, overlay)
    }

    pub(super) fn remove_volume(
        &self,
        conn: &Connect,
        pool: &str,
        name: &str,
    ) -> Result<(), Fault> {
        let pool = self.pool(conn, pool)?;
        let Some(volume) = lookup(&pool, name)? else { return Ok(()) };
        match volume.delete(0) {
            Err(error) if !is_absent(&error) => {
                Err(fault(&format!("delete volume {name}"), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn fill_volume(
        &self,
        conn: &Connect,
        upload: &Upload,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Fault> {
        let Upload { name, length, .. } = upload;
        let pool = self.pool(conn, &self.disk_pool())?;
        self.remove_volume(conn, &self.disk_pool(), name)?;
        // Raw whatever is in it: the bytes are to be the file's, and qemu-img would put a header of its own there.
        let xml = xml::storage::volume(name, VolumeFormat::Raw, *length, None)?;
        let volume = match StorageVol::create_xml(&pool, &xml, 0) {
            Ok(volume) => volume,
            Err(first) => {
                // A file that the pool does not know of, left by a crash.
                pool.refresh(0).map_err(during("refresh the disk pool"))?;
                self.remove_volume(conn, &self.disk_pool(), name)?;
                StorageVol::create_xml(&pool, &xml, 0).map_err(|error| {
                    let fault = fault(&format!("create volume {name}"), &error);
                    Fault {
                        message: format!("{} (at first: {})", fault.message, first.message()),
                        ..fault
                    }
                })?
            }
        };
        let sent = send(conn, &volume, upload, source, progress);
        if sent.is_err() {
            // What is half filled must not be taken for whole. If this fails too, the next upload replaces it.
            let _ = volume.delete(0);
        }
        sent
    }
}

fn create_overlay(pool: &StoragePool, overlay: &Overlay) -> Result<(), Fault> {
    let Overlay { name, base, base_format, capacity_bytes } = overlay;
    let base = lookup(pool, base)?.ok_or_else(|| {
        Fault::transient(format!("create volume {name}: its base {base} is not on the host"))
    })?;
    let path = base.path().map_err(during("read the base volume's path"))?;
    let backing = Some((path.as_str(), *base_format));
    let xml = xml::storage::volume(name, VolumeFormat::Qcow2, *capacity_bytes, backing)?;
    StorageVol::create_xml(pool, &xml, 0).map(drop).map_err(during(format!("create volume {name}")))
}

fn send(
    conn: &Connect,
    volume: &StorageVol,
    upload: &Upload,
    source: &mut dyn Read,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Fault> {
    let what = format!("upload volume {}", upload.name);
    let stream = Stream::new(conn, 0).map_err(during(what.as_str()))?;
    match volume.upload(&stream, 0, upload.length, 0) {
        Ok(()) => {}
        // The mock driver keeps records of volumes, not their bytes.
        Err(error) if is(&error, Code::NoSupport) => {
            progress(upload.length);
            return Ok(());
        }
        Err(error) => return Err(fault(&what, &error)),
    }
    match pump(&stream, &what, upload.length, source, progress) {
        Ok(()) => stream.finish().map_err(during(what)),
        Err(failed) => {
            let _ = stream.abort();
            Err(failed)
        }
    }
}

fn pump(
    stream: &Stream,
    what: &str,
    length: u64,
    source: &mut dyn Read,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<(), Fault> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        let room = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
        let read = match source.read(&mut buffer[..room]) {
            Ok(0) => {
                return Err(Fault::permanent(format!(
                    "{what}: the source ended after {done} of {length} bytes"
                )));
            }
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::unreadable(what, &error)),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let sent = stream.send(rest).map_err(during(what))?;
            let sent = usize::try_from(sent).ok().filter(|n| (1..=rest.len()).contains(n));
            let sent = sent.ok_or_else(|| {
                Fault::transient(format!("{what}: the stream took no more after {done} bytes"))
            })?;
            rest = &rest[sent..];
        }
        done += read as u64;
        if !progress(done) {
            return Err(Fault::transient(format!("{what}: stopped after {done} bytes")));
        }
    }
    Ok(())
}
