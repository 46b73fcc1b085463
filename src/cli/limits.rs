//! What the kernel lets a server's process do: many files, and no core dumps, which would hold every secret in memory.

use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Set before anything is opened or started; what the process starts inherits the limits.
pub fn set(connections: u32) -> Result<()> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_CORE).context("the limit of core dumps is unknown")?;
    // The soft limit only: a guest's QEMU may be told otherwise by whoever looks for a fault in it.
    setrlimit(Resource::RLIMIT_CORE, 0, hard).context("core dumps cannot be switched off")?;
    // Nor may another process of the same user look into this one.
    prctl::set_dumpable(false).context("the process cannot be made undumpable")?;
    files(connections).context("the limit of open files cannot be raised")
}

/// As many open files as the process may have: the usual 1,024 end before the connections do.
fn files(connections: u32) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    // Beside connections: the database, hosts, images.
    let wanted = u64::from(connections) + 512;
    if hard < wanted {
        tracing::warn!(
            hard,
            wanted,
            "the process may open fewer files than max_connections needs: raise LimitNOFILE or lower max_connections"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_process_is_dumped_and_it_may_open_all_the_files_it_can() {
        set(16).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap().0, 0);
        assert!(!prctl::get_dumpable().unwrap());
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
