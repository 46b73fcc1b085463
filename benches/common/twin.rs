//! What bare libvirt is asked to do beside us: a guest of ours again, under another name, UUID and MAC address, on copies of
//! its disks.

use std::path::PathBuf;
use std::time::Instant;

use super::{Libvirtd, ms};

/// A domain to be, and the files that only it has.
pub struct Twin {
    pub xml: String,
    pub name: String,
    file: PathBuf,
    files: Vec<String>,
}

impl Twin {
    pub fn of(host: &Libvirtd, id: &str) -> Self {
        let uuid = uuid::Uuid::new_v4().to_string();
        let name = format!("twin-{uuid}");
        let mut xml = host.virsh(&["dumpxml", "--inactive", id]);
        let old_name = between(&xml, "<name>", "</name>").to_owned();
        xml = xml.replace(&old_name, &name).replace(id, &uuid);
        let mac = between(&xml, "<mac address='", "'").to_owned();
        xml = xml.replace(&mac, &format!("52:54:01{}", &mac[8..]));
        let mut files = vec![];
        for path in ["disk-", "seed-"].map(|part| path_with(&xml, part)) {
            let copy = path.replace("/disk-", "/twin-disk-").replace("/seed-", "/twin-seed-");
            std::fs::copy(&path, &copy).expect("a copy");
            xml = xml.replace(&path, &copy);
            files.push(copy);
        }
        let log = path_with(&xml, "consoles/");
        let twin_log = format!("{log}.twin");
        xml = xml.replace(&log, &twin_log);
        files.push(twin_log);
        let file = host.path(&format!("{name}.xml"));
        std::fs::write(&file, &xml).expect("a file");
        Self { xml, name, file, files }
    }

    /// Milliseconds of `virsh define` and `start`.
    pub fn start(&self, host: &Libvirtd) -> f64 {
        virsh(host, &format!("define {}; start {}", self.file.display(), self.name))
    }

    /// Milliseconds of `virsh destroy` and `undefine`, and of removing the files.
    pub fn end(&self, host: &Libvirtd) -> f64 {
        let begun = Instant::now();
        virsh(host, &format!("destroy {0}; undefine {0}", self.name));
        self.remove_files();
        ms(begun.elapsed())
    }

    pub fn remove_files(&self) {
        for file in &self.files {
            std::fs::remove_file(file).expect("the file is there");
        }
    }
}

/// One virsh with both commands, connected as the server is.
fn virsh(host: &Libvirtd, commands: &str) -> f64 {
    let begun = Instant::now();
    let output = std::process::Command::new("virsh")
        .args(["-q", "-c", &host.uri(), commands])
        .output()
        .expect("virsh");
    let spent = ms(begun.elapsed());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    spent
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).and_then(|(_, rest)| rest.split_once(after)).expect(before).0
}

/// The quoted path in `xml` that has this part.
fn path_with(xml: &str, part: &str) -> String {
    xml.split('\'').find(|text| text.starts_with('/') && text.contains(part)).expect(part).into()
}
