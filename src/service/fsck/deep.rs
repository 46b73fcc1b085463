//! The part of the audit that reads all bytes: of images in the image store, and of base images on hosts.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use super::about;
use crate::domain::checksum::Checksum;
use crate::domain::cloud::Finding;
use crate::domain::error::{Error, Result};
use crate::domain::id::HostId;
use crate::domain::image;
use crate::domain::volume::{Owner, owner};
use crate::service::App;
use crate::store;

/// One volume is read within this time, or its host is called silent.
const LONGEST: Duration = Duration::from_secs(3600);

/// What is wrong with the bytes of a blob that has its file, of its size.
pub async fn blob(app: &App, sha256: &str) -> Result<Option<String>> {
    let path = image::path(&app.config.image_dir, sha256);
    let sum = tokio::task::spawn_blocking(move || sum(&path)).await.map_err(Error::internal)?;
    Ok(match sum {
        Ok(sum) if sum == sha256 => None,
        Ok(sum) => Some(format!(
            "its file has the SHA-256 {sum}: send the image's bytes once more, to a new image, which mends it"
        )),
        // It went meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(format!("its file cannot be read: {error}")),
    })
}

fn sum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut buffer, mut sum) = (vec![0; 256 << 10], Checksum::default());
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum.hex()),
            read => sum.update(&buffer[..read]),
        }
    }
}

/// What is wrong with the bytes of a base image that is on the host. `Err`: it did not answer.
pub async fn base(app: &App, id: HostId, name: &str) -> Result<Result<Option<Finding>, String>> {
    let Some(Owner::Base(expected)) = owner(name) else { return Ok(Ok(None)) };
    let volume = name.to_owned();
    let asked =
        app.hosts.look(id, "read a base image", LONGEST, move |host| host.volume_sum(&volume));
    let sum = match asked.await {
        Ok(Some(sum)) if sum != expected => sum,
        Ok(_) => return Ok(Ok(None)),
        Err(fault) => return Ok(Err(fault.message)),
    };
    let row = store::host_images::find(&mut *app.conn().await?, id, expected).await?;
    Ok(Ok(row.map(|row| {
        let detail = format!(
            "its bytes have the SHA-256 {sum}: `pileus admin retry host_image {}` uploads it anew; guests that run on it have read what is there",
            row.id
        );
        about("base_image", Some(id), name, detail)
    })))
}
