//! Where initdb and postgres are on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The oldest major version that our SQL runs on.
pub const OLDEST: u32 = 15;

/// One installation of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

impl Binaries {
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The newest installation, or the one of `major` where a cluster of it exists already:
    /// PostgreSQL does not open the files of another major version.
    pub fn find(setting: Option<&Path>, major: Option<u32>) -> Result<Self> {
        let dirs = match setting {
            Some(dir) => vec![dir.to_owned()],
            None => candidates(),
        };
        let found: Vec<Self> = dirs.iter().filter_map(|dir| Self::at(dir)).collect();
        choose(&found, major, &dirs)
    }

    fn at(dir: &Path) -> Option<Self> {
        if !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
        let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { dir: dir.to_owned(), major })
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = crate::config::search_path();
    // Debian and Ubuntu keep each major version apart, and off PATH; so do the PGDG packages for Fedora and RHEL.
    let children = |parent: &str| std::fs::read_dir(parent).into_iter().flatten().flatten();
    dirs.extend(children("/usr/lib/postgresql").map(|entry| entry.path().join("bin")));
    let named =
        |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("pgsql-");
    dirs.extend(children("/usr").filter(named).map(|entry| entry.path().join("bin")));
    dirs
}

fn choose(found: &[Binaries], major: Option<u32>, dirs: &[PathBuf]) -> Result<Binaries> {
    if let Some(major) = major {
        return match found.iter().find(|b| b.major == major) {
            Some(binaries) => Ok(binaries.clone()),
            None => bail!(
                "the cluster was made by PostgreSQL {major}, which is not installed: \
                 `apt-get install postgresql-{major}` brings it back; to change to another version, use pg_upgrade"
            ),
        };
    }
    match found.iter().filter(|b| b.major >= OLDEST).max_by_key(|b| b.major) {
        Some(binaries) => Ok(binaries.clone()),
        None => {
            let old: Vec<String> = found.iter().map(|b| b.major.to_string()).collect();
            let seen = if old.is_empty() {
                format!("no initdb and postgres in {} directories", dirs.len())
            } else {
                format!("only version {}", old.join(", "))
            };
            bail!(
                "PostgreSQL {OLDEST} or later is needed, and there is {seen}: `apt-get install postgresql` installs it; \
                 or name its directory with --postgres-bin, or another server with --database-url"
            )
        }
    }
}

/// `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)` is 15.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(majors: &[u32]) -> Vec<Binaries> {
        let at = |major: &u32| Binaries { dir: format!("/{major}").into(), major: *major };
        majors.iter().map(at).collect()
    }

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("sh: postgres: not found"), None);
    }

    #[test]
    fn a_new_cluster_takes_the_newest_and_an_old_one_its_own() {
        let found = installed(&[14, 17, 15]);
        assert_eq!(choose(&found, None, &[]).unwrap().major, 17);
        assert_eq!(choose(&found, Some(15), &[]).unwrap().major, 15);
        let error = choose(&found, Some(16), &[]).unwrap_err().to_string();
        assert!(error.contains("postgresql-16"), "{error}");
    }

    #[test]
    fn the_error_names_the_package() {
        for found in [installed(&[]), installed(&[13])] {
            let error = choose(&found, None, &[]).unwrap_err().to_string();
            assert!(error.contains("apt-get install postgresql"), "{error}");
        }
    }
}
