//! The private cluster against a real PostgreSQL: what survives, what is adopted, what is refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tempfile::TempDir;

use super::*;

/// A directory that the database's user can enter.
fn state_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

async fn start(dir: &TempDir) -> Postgres {
    Postgres::start(&dir.path().join("postgres"), None, 20).await.unwrap()
}

/// Waits until the server answers, as a pool does.
async fn connect(options: &PgConnectOptions) -> PgConnection {
    let attempts = async {
        loop {
            match options.connect().await {
                Ok(conn) => return conn,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), attempts).await.expect("PostgreSQL answers again")
}

fn server_pid(dir: &TempDir) -> Pid {
    let text = std::fs::read_to_string(dir.path().join("postgres/data/postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
}

async fn remember(options: &PgConnectOptions) {
    let mut conn = connect(options).await;
    sqlx::raw_sql("create table memory (x int); insert into memory values (42)")
        .execute(&mut conn)
        .await
        .unwrap();
}

async fn remembered(options: &PgConnectOptions) -> i32 {
    let mut conn = connect(options).await;
    sqlx::query_scalar("select x from memory").fetch_one(&mut conn).await.unwrap()
}

#[tokio::test]
async fn data_outlives_a_clean_stop_and_nothing_else_does() {
    let dir = state_dir();
    let postgres = start(&dir).await;
    remember(postgres.options()).await;
    let by_url: PgConnectOptions = postgres.url().parse().unwrap();
    assert_eq!(remembered(&by_url).await, 42);
    let pid = server_pid(&dir);
    postgres.stop().await.unwrap();
    assert!(kill(pid, None).is_err(), "the server is gone");
    assert!(!dir.path().join("postgres/data/postmaster.pid").exists());
    let postgres = start(&dir).await;
    assert_eq!(remembered(postgres.options()).await, 42);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_is_started_again_with_its_data() {
    let dir = state_dir();
    let postgres = start(&dir).await;
    remember(postgres.options()).await;
    // A session at work makes a backend that outlives the postmaster for a moment.
    let mut busy = connect(postgres.options()).await;
    let busy = tokio::spawn(async move {
        let slow = sqlx::raw_sql("select pg_sleep(600)").execute(&mut busy).await;
        slow.expect_err("its server is killed");
    });
    let first = server_pid(&dir);
    kill(first, Signal::SIGKILL).unwrap();
    busy.await.unwrap();
    assert_eq!(remembered(postgres.options()).await, 42);
    assert_ne!(server_pid(&dir), first);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_of_a_killed_pileus_is_adopted_and_stopped_by_the_next() {
    let dir = state_dir();
    let orphaned = start(&dir).await;
    remember(orphaned.options()).await;
    let pid = server_pid(&dir);
    // What `kill -9` of pileus does to its tasks.
    orphaned.keeper.abort();
    let next = start(&dir).await;
    assert_eq!(server_pid(&dir), pid, "it is the same server");
    assert_eq!(remembered(next.options()).await, 42);
    next.stop().await.unwrap();
    assert!(!dir.path().join("postgres/data/postmaster.pid").exists());
}

#[tokio::test]
async fn a_pid_file_that_names_another_process_is_not_a_running_server() {
    let dir = state_dir();
    let postgres = start(&dir).await;
    remember(postgres.options()).await;
    let text = std::fs::read_to_string(dir.path().join("postgres/data/postmaster.pid")).unwrap();
    postgres.stop().await.unwrap();
    // A process of the same user, which PostgreSQL itself would take for another server.
    let uid = std::fs::metadata(dir.path().join("postgres/data")).unwrap().uid();
    let mut other = Command::new("sleep");
    other.arg("600");
    if Uid::effective().is_root() {
        other.uid(uid);
    }
    let mut other = other.spawn().unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    let file = dir.path().join("postgres/data/postmaster.pid");
    std::fs::write(&file, format!("{}\n{rest}", other.id())).unwrap();
    // The lock of its socket, which a kill leaves too, names the same pid: by it alone PostgreSQL would not start.
    let cluster = Cluster::open(&dir.path().join("postgres"), None, 20).unwrap();
    let lock = cluster.socket_dir().unwrap().join(".s.PGSQL.5432.lock");
    std::fs::write(&lock, format!("{}\n{rest}", other.id())).unwrap();
    chown(&lock, Some(uid), None).unwrap();
    let postgres = start(&dir).await;
    assert_eq!(remembered(postgres.options()).await, 42);
    postgres.stop().await.unwrap();
    assert!(other.try_wait().unwrap().is_none(), "the innocent process lives");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn an_interrupted_initdb_is_done_again() {
    let dir = state_dir();
    let unfinished = dir.path().join("postgres/data.unfinished");
    let cluster = Cluster::open(&dir.path().join("postgres"), None, 20).unwrap();
    std::fs::create_dir(&unfinished).unwrap();
    std::fs::write(unfinished.join("PG_VERSION"), "15\n").unwrap();
    cluster.init().await.unwrap();
    assert!(!unfinished.exists() && cluster.data().join("PG_VERSION").exists());
    let postgres = start(&dir).await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn two_clusters_run_side_by_side_even_under_long_names() {
    let (short, long) = (state_dir(), state_dir());
    let deep = long.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let first = start(&short).await;
    let second = Postgres::start(&deep, None, 20).await;
    // The directory is root's: it must be refused, or (without root) taken after its mode is right.
    assert!(second.unwrap_err().to_string().contains("mode 0700"));
    let second = Postgres::start(&deep.join("postgres"), None, 20).await.unwrap();
    remember(first.options()).await;
    remember(second.options()).await;
    let socket_dir = second.options().get_socket().unwrap().clone();
    assert!(!socket_dir.starts_with(&deep), "{}", socket_dir.display());
    assert_eq!(std::fs::metadata(&socket_dir).unwrap().mode() & 0o777, 0o700);
    first.stop().await.unwrap();
    assert_eq!(remembered(second.options()).await, 42);
    second.stop().await.unwrap();
    std::fs::remove_dir_all(socket_dir).unwrap();
}

#[tokio::test]
async fn the_server_is_neither_root_nor_on_a_network() {
    let dir = state_dir();
    let postgres = start(&dir).await;
    let pid = server_pid(&dir);
    let uid = std::fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_ne!(uid, 0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
    assert!(!Uid::effective().is_root() || groups.trim().is_empty(), "groups: {groups}");
    let mut conn = connect(postgres.options()).await;
    for (name, wanted) in [("listen_addresses", ""), ("fsync", "on"), ("data_checksums", "on")] {
        let show = "select current_setting($1)";
        let value: String = sqlx::query_scalar(show).bind(name).fetch_one(&mut conn).await.unwrap();
        assert_eq!(value, wanted, "{name}");
    }
    conn.close().await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_the_servers_user_cannot_enter_is_refused_with_the_remedy() {
    if !Uid::effective().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let error = Cluster::open(&dir.path().join("postgres"), None, 20).unwrap_err().to_string();
    assert!(error.contains("chmod o+x"), "{error}");
}

#[tokio::test]
async fn tests_share_a_server_and_never_a_database() {
    let (first, second) = (throwaway::empty().await.unwrap(), throwaway::empty().await.unwrap());
    remember(&first).await;
    remember(&second).await;
    assert_eq!(first.get_socket(), second.get_socket());
    assert_ne!(first.get_database(), second.get_database());
}

#[tokio::test]
#[ignore = "the other half of the next test: it holds a server until it is killed"]
async fn holds_a_throwaway_server() {
    let options = throwaway::empty().await.unwrap();
    println!("\nsocket={}", options.get_socket().unwrap().display());
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_test_process_leaves_no_server_and_no_directory() {
    use std::io::{BufRead, BufReader};
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "cli::postgres::tests::holds_a_throwaway_server",
            "--ignored",
            "--nocapture",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let socket_dir = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("socket=").map(std::path::PathBuf::from))
        .expect("the holder prints where its server is");
    let dir = socket_dir.parent().unwrap();
    let pid = std::fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
    let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
    holder.kill().unwrap(); // SIGKILL
    holder.wait().unwrap();
    let gone = || !dir.exists() && !Path::new(&format!("/proc/{pid}/cwd")).exists();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !gone() {
        assert!(std::time::Instant::now() < deadline, "{} or pid {pid} is left", dir.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_migrated_database_has_the_schema_and_is_a_tests_own() {
    let migrations = &crate::store::MIGRATIONS;
    let first = throwaway::migrated(migrations).await.unwrap();
    let second = throwaway::migrated(migrations).await.unwrap();
    assert_ne!(first.get_database(), second.get_database());
    let mut conn = connect(&second).await;
    let count = sqlx::query_scalar::<_, i64>("select count(*) from _sqlx_migrations");
    let count = count.fetch_one(&mut conn).await.unwrap();
    assert_eq!(usize::try_from(count).unwrap(), migrations.iter().count());
}
