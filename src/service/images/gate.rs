//! The gate: whether gathered bytes are what was declared, and safe to give to a host.
//!
//! Our own strict reader looks at the header first; what it lets through is looked at by `qemu-img`, with the format given (it
//! never probes), as nobody, under limits, with nothing but a descriptor of the file.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::unistd::Uid;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::scratch::{Gathered, Scratch, disk};
use crate::config::Config;
use crate::domain::error::{Error, Result};
use crate::domain::image::ImageFormat;
use crate::domain::qcow2;

/// A disk is made of sectors: a raw image that ends within one is continued with zeros.
const SECTOR: u64 = 512;

/// More output than this has no sound image.
const OUTPUT_MAX: u64 = 1 << 20;

/// The user and group `nobody`, to whom nothing belongs.
const NOBODY: u32 = 65534;

/// Lets the bytes pass and gives the size of the disk that a guest will see, in bytes.
///
/// # Errors
/// `Invalid` about the whole body, with what would do.
pub async fn check(config: &Config, format: ImageFormat, bytes: &Gathered) -> Result<u64> {
    if bytes.size == 0 {
        return Err(refused("it is empty: send the image's bytes as the body"));
    }
    match format {
        ImageFormat::Raw if bytes.head.starts_with(&qcow2::MAGIC) => {
            Err(refused("it is declared as raw and is qcow2: create the image with format qcow2"))
        }
        ImageFormat::Raw => Ok(bytes.size.next_multiple_of(SECTOR)),
        ImageFormat::Qcow2 => {
            let limit = limit_bytes(config);
            let header = qcow2::parse(&bytes.head, bytes.size, limit)
                .map_err(|fault: qcow2::Fault| refused(&fault.to_string()))?;
            let scratch = bytes.scratch.as_ref().ok_or_else(|| {
                Error::Internal(anyhow::anyhow!("the gate was given no file to look at"))
            })?;
            let info = info(config, scratch).await?;
            info.agrees(header.virtual_size)?;
            consistent(config, scratch).await?;
            Ok(header.virtual_size)
        }
    }
}

/// The largest image, in bytes.
pub fn limit_bytes(config: &Config) -> u64 {
    config.image_max_gib << 30
}

fn refused(why: &str) -> Error {
    Error::field("", format!("the data is refused: {why}"))
}

/// What `qemu-img info` says; what it may say beside this is of no concern.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    format: String,
    virtual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    snapshots: Vec<serde_json::Value>,
    format_specific: Option<Specific>,
}

#[derive(Debug, Deserialize)]
struct Specific {
    data: Features,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Features {
    data_file: Option<String>,
    #[serde(default)]
    corrupt: bool,
}

impl Info {
    /// Two readers that disagree are a trap for one of them.
    fn agrees(&self, virtual_size: u64) -> Result<()> {
        let features = self.format_specific.as_ref().map(|specific| &specific.data);
        let sound = self.format == "qcow2"
            && self.virtual_size == virtual_size
            && self.backing_filename.is_none()
            && !self.encrypted
            && self.snapshots.is_empty()
            && features.is_none_or(|f| f.data_file.is_none() && !f.corrupt);
        if sound {
            return Ok(());
        }
        tracing::warn!(info = ?self, virtual_size, "qemu-img reads an image otherwise than we do");
        Err(refused(
            "qemu-img reads its header otherwise than we do: make it anew with qemu-img convert -O qcow2",
        ))
    }
}

async fn info(config: &Config, scratch: &Scratch) -> Result<Info> {
    let (status, output) = qemu_img(config, scratch, "info").await?;
    if !status.success() {
        return Err(refused(
            "qemu-img cannot read it: make it anew with qemu-img convert -O qcow2",
        ));
    }
    serde_json::from_slice(&output).map_err(Error::internal)
}

async fn consistent(config: &Config, scratch: &Scratch) -> Result<()> {
    let (status, _) = qemu_img(config, scratch, "check").await?;
    // 3: clusters that nothing uses: a waste, and no harm.
    match status.code() {
        Some(0 | 3) => Ok(()),
        _ => Err(refused(
            "qemu-img check finds it corrupt: repair it with qemu-img check -r all, or make it anew",
        )),
    }
}

/// Runs `qemu-img` on the file within the configured time and memory. Ended by a limit counts against the image.
async fn qemu_img(config: &Config, scratch: &Scratch, what: &str) -> Result<(ExitStatus, Vec<u8>)> {
    let time = config.image_check_timeout;
    let mut command = Command::new("prlimit");
    // prlimit(1) sets the limits between fork and exec: doing it ourselves would take unsafe code.
    command.arg(format!("--as={}", config.image_check_memory_mib << 20));
    command.arg(format!("--cpu={}", time.as_secs()));
    command.args(["--fsize=0", "--core=0", "--nofile=64", "qemu-img", what, "--output=json"]);
    // No name that the file could refer to, and no lock: it is ours alone, and open for writing.
    command.args(["-f", "qcow2", "-U", "/dev/stdin"]);
    command.stdin(scratch.reader().map_err(disk)?);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C");
    command.current_dir("/").kill_on_drop(true);
    if Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let (status, output, errors) = ended_within(time, command).await?;
    if status.code() == Some(127) {
        return Err(missing("qemu-img (qemu-utils)", io::Error::other(errors)));
    }
    if !status.success() {
        tracing::info!(%status, what, errors = errors.trim(), "qemu-img refuses an image");
    }
    Ok((status, output))
}

/// What the command answered, its output and what it complained of; ended after `time`, which counts against the image.
async fn ended_within(
    time: Duration,
    mut command: Command,
) -> Result<(ExitStatus, Vec<u8>, String)> {
    let mut child = command.spawn().map_err(|e| missing("prlimit (util-linux)", e))?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let streams = child.stdout.take().zip(child.stderr.take());
    let run = async {
        if let Some((stdout, stderr)) = streams {
            let (mut stdout, mut stderr) = (stdout.take(OUTPUT_MAX), stderr.take(OUTPUT_MAX));
            tokio::try_join!(stdout.read_to_end(&mut output), stderr.read_to_end(&mut errors))?;
        }
        child.wait().await
    };
    let status = match tokio::time::timeout(time, run).await {
        Ok(status) => status.map_err(Error::internal)?,
        Err(_elapsed) => {
            // Reaped here; a caller that goes away leaves that to the runtime.
            child.kill().await.map_err(Error::internal)?;
            return Err(too_long(time));
        }
    };
    Ok((status, output, String::from_utf8_lossy(&errors).into_owned()))
}

fn missing(what: &str, source: io::Error) -> Error {
    Error::Internal(anyhow::Error::new(source).context(format!("{what} cannot be run: install it")))
}

fn too_long(time: Duration) -> Error {
    let seconds = time.as_secs();
    refused(&format!(
        "qemu-img did not come to an end within {seconds} s: make it anew with qemu-img convert -O qcow2"
    ))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio_util::bytes::Bytes;

    use super::*;
    use crate::config::Flags;
    use crate::service::images::scratch::{Place, gather};

    fn config() -> Config {
        Config::load(&Flags::default(), []).expect("the defaults")
    }

    async fn gathered(dir: &std::path::Path, bytes: &'static [u8]) -> Gathered {
        let body = stream::iter([Ok::<_, Error>(Bytes::from_static(bytes))]);
        let place = Place { dir: dir.to_owned(), spare: 0 };
        gather(Some(place), 1 << 30, body).await.unwrap()
    }

    #[tokio::test]
    async fn a_check_beyond_its_time_is_ended_and_counts_against_the_image() {
        let mut command = Command::new("sleep");
        command.arg("600").stdout(Stdio::piped()).stderr(Stdio::piped());
        let error = ended_within(Duration::from_millis(50), command).await.unwrap_err().to_string();
        assert!(error.contains("did not come to an end"), "{error}");
    }

    #[tokio::test]
    async fn what_qemu_img_cannot_read_or_finds_corrupt_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = gathered(dir.path(), b"no image at all").await;
        let scratch = bytes.scratch.as_ref().unwrap();
        let error = info(&config(), scratch).await.unwrap_err().to_string();
        assert!(error.contains("cannot read it"), "{error}");
        let error = consistent(&config(), scratch).await.unwrap_err().to_string();
        assert!(error.contains("finds it corrupt"), "{error}");
    }

    #[tokio::test]
    async fn a_raw_image_is_whole_sectors_and_something() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, size) in [(&b"x"[..], 512), (&[1; 512], 512), (&[1; 513], 1024)] {
            let bytes = gathered(dir.path(), bytes).await;
            assert_eq!(check(&config(), ImageFormat::Raw, &bytes).await.unwrap(), size);
        }
        let empty = gathered(dir.path(), b"").await;
        assert!(check(&config(), ImageFormat::Raw, &empty).await.is_err());
    }

    #[test]
    fn what_qemu_reads_otherwise_than_we_do_is_refused() {
        let info = |extra: &str| -> Info {
            let text = format!(r#"{{"format":"qcow2","virtual-size":1024{extra}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        assert!(info("").agrees(1024).is_ok());
        assert!(info("").agrees(512).is_err());
        for extra in [
            r#","backing-filename":"/etc/passwd""#,
            r#","encrypted":true"#,
            r#","snapshots":[{}]"#,
            r#","format-specific":{"type":"qcow2","data":{"data-file":"x"}}"#,
            r#","format-specific":{"type":"qcow2","data":{"corrupt":true}}"#,
        ] {
            assert!(info(extra).agrees(1024).is_err(), "{extra}");
        }
    }
}
