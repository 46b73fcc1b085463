//! One PostgreSQL for a test binary, with a database for each test; it goes when the process goes, however that ends.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::cluster::Cluster;

/// Waits on a pipe that only the test process holds: its end, by any signal, is the end of the pipe.
/// (A parent-death signal would not remove the directory, and fires when the thread that spawned ends.)
const KEEPER: &str = r#"
dir=$1; shift
"$@" </dev/null & server=$!
read -r _
kill -QUIT $server
wait $server
rm -rf "$dir"
"#;

struct Server {
    options: PgConnectOptions,
    /// Its standard input is the pipe.
    _keeper: Child,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
static TEMPLATE: OnceCell<()> = OnceCell::const_new();
const TEMPLATE_NAME: &str = "migrated";

/// A new, empty database.
pub async fn empty() -> Result<PgConnectOptions> {
    create("template0").await
}

/// A new database with the migrations applied: they run once a process, each test gets a copy.
pub async fn migrated(migrator: &Migrator) -> Result<PgConnectOptions> {
    let server = SERVER.get_or_try_init(start).await?;
    TEMPLATE
        .get_or_try_init(|| async {
            let mut conn = server.options.connect().await?;
            // A first attempt may have failed half-way.
            let drop =
                AssertSqlSafe(format!("drop database if exists {TEMPLATE_NAME} with (force)"));
            sqlx::raw_sql(drop).execute(&mut conn).await?;
            let create = AssertSqlSafe(format!("create database {TEMPLATE_NAME}"));
            sqlx::raw_sql(create).execute(&mut conn).await?;
            conn.close().await?;
            let mut conn = server.options.clone().database(TEMPLATE_NAME).connect().await?;
            migrator.run(&mut conn).await?;
            conn.close().await?;
            anyhow::Ok(())
        })
        .await?;
    create(TEMPLATE_NAME).await
}

async fn create(template: &str) -> Result<PgConnectOptions> {
    let server = SERVER.get_or_try_init(start).await?;
    let name = format!("t_{}", Uuid::new_v4().simple());
    let mut conn = server.options.connect().await?;
    let create = AssertSqlSafe(format!("create database {name} template {template}"));
    // PostgreSQL itself waits for the session that migrated the template to be gone.
    sqlx::raw_sql(create).execute(&mut conn).await.context("the test's database was not made")?;
    conn.close().await?;
    Ok(server.options.clone().database(&name))
}

async fn start() -> Result<Server> {
    let dir = std::env::temp_dir().join(format!("pileus-test-{}", Uuid::new_v4().simple()));
    let cluster = Cluster::open(&dir, None, 300)?.throwaway();
    cluster.init().await?;
    let socket_dir = cluster.socket_dir()?;
    let mut command = Command::new("/bin/sh");
    cluster.as_user(&mut command);
    command.args(["-c", KEEPER, "keeper"]).arg(&dir).arg(cluster.program("postgres"));
    command.args(cluster.arguments(&socket_dir)).stdin(Stdio::piped()).stdout(Stdio::null());
    let log = dir.join("log");
    command.stderr(std::fs::File::create(&log)?);
    super::kept::file(&log);
    // Not tokio's: each test has its own runtime, and this belongs to the process.
    let mut keeper =
        command.spawn().context("the keeper of the test's PostgreSQL did not start")?;
    let options = cluster.options(&socket_dir);
    for _ in 0..1200 {
        if let Ok(conn) = options.connect().await {
            conn.close().await?;
            return Ok(Server { options, _keeper: keeper });
        }
        if keeper.try_wait()?.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the test's PostgreSQL did not start: {}", std::fs::read_to_string(log)?)
}
