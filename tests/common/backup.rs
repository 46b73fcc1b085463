//! Backup and restore of a test's database, by PostgreSQL's own programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::postgres::PgConnectOptions;

/// Dumps the database while it is in use, as docs/operations.md tells it.
pub fn dump(database: &PgConnectOptions, file: &Path) {
    let mut command = program("pg_dump", database);
    command.args(["--format=custom", "--file"]).arg(file);
    run(command);
}

/// Restores a dump into an empty database.
pub fn restore(file: &Path, database: &PgConnectOptions) {
    let mut command = program("pg_restore", database);
    command.args(["--exit-on-error", "--no-owner"]).arg(file);
    run(command);
}

/// A program of PostgreSQL's, connected to this database.
fn program(name: &str, database: &PgConnectOptions) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let paths = versions.map(|version| version.path().join("bin").join(name));
    let newest = paths.filter(|path| path.is_file()).max();
    let mut command = Command::new(newest.unwrap_or_else(|| PathBuf::from(name)));
    command.arg("--host").arg(database.get_socket().expect("a socket"));
    command.args(["--port", &database.get_port().to_string()]);
    command.args(["--username", database.get_username(), "--no-password"]);
    command.args(["--dbname", database.get_database().expect("a database")]);
    command
}

fn run(mut command: Command) {
    let done = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command:?}: {said}");
}
