//! Marked secrets go through a real server that logs all it can, and are then looked for in everything that comes out of it.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pileus::cli::postgres::{kept, throwaway};
use pileus::store;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool, Row};
use tokio::process::{Child, Command};

use crate::harness::Client;
use crate::sse::PATIENCE;

/// In each secret, so that none is missed for being cut, quoted or wrapped.
const MARK: &str = "mArKeD";

fn secret(what: &str) -> String {
    format!("{MARK}-{what}-secret")
}

struct Server {
    process: Child,
    dir: tempfile::TempDir,
    db: PgPool,
    url: String,
    metrics: String,
}

/// An address that is free at this moment.
fn free() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").to_string()
}

impl Server {
    /// `pileus serve` on a new database, with a planted password in its URL, logging everything.
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = throwaway::migrated(&store::MIGRATIONS).await.expect("a database");
        let db = store::connect(options.clone(), 2).await.expect("a pool");
        let log = File::create(dir.path().join("log")).expect("a log");
        kept::file(&dir.path().join("log"));
        let (address, metrics) = (free(), free());
        let database = options.password(&secret("database")).to_url_lossy().to_string();
        let process = Command::new(env!("CARGO_BIN_EXE_pileus"))
            .arg("serve")
            .env("PILEUS_LISTEN", &address)
            .env("PILEUS_METRICS_LISTEN", &metrics)
            .env("PILEUS_STATE_DIR", dir.path())
            .env("PILEUS_DATABASE_URL", database)
            .env("PILEUS_ADMIN_PASSWORD", secret("admin"))
            .env("PILEUS_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("pileus serve");
        let url = format!("http://{address}");
        let server = Self { process, dir, db, url, metrics: format!("http://{metrics}") };
        let anonymous = Client::new(server.url.clone());
        let ready = async {
            while !anonymous
                .ask(Method::GET, "/readyz")
                .try_send()
                .await
                .is_ok_and(|a| a.status == 200)
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ready = tokio::time::timeout(PATIENCE * 2, ready).await;
        assert!(ready.is_ok(), "pileus serve is not ready: {}", server.log());
        server
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("log")).expect("the log");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Every row of every table, as JSON, with the table's name.
    async fn rows(&self) -> Vec<(String, Value)> {
        let tables = "select tablename::text from pg_tables where schemaname = 'public'";
        let tables = sqlx::query(tables).fetch_all(&self.db).await.expect("the tables");
        let mut all = Vec::new();
        for table in tables {
            let table: String = table.get(0);
            let rows = AssertSqlSafe(format!("select to_jsonb(t) from {table} t"));
            let rows = sqlx::query(rows).fetch_all(&self.db).await.expect("the rows");
            all.extend(rows.iter().map(|row| (table.clone(), row.get(0))));
        }
        all
    }
}

/// Uses every secret there is, rightly and wrongly; gives the tokens, and the answers that should hold no secret.
async fn use_all(server: &Server) -> (Vec<String>, Vec<String>) {
    let anonymous = Client::new(server.url.clone());
    let mut answers = Vec::new();
    let admin = anonymous.login_with("admin", &secret("admin")).await;
    let user = json!({"name": "anne", "password": secret("first")});
    answers.push(admin.post("/v1/users", &user).await);
    let tenant = admin.get("/v1/auth/whoami").await.expect(200)["tenant"]["id"].clone();
    let id = answers[0].expect(201)["id"].as_str().expect("an id").to_owned();
    let member = format!("/v1/tenants/{}/members/{id}", tenant.as_str().expect("an id"));
    admin.put(&member, &json!({"role": "member"})).await.expect(200);
    let anne = anonymous.login_with("anne", &secret("first")).await;
    // A token, and the same request again, whose answer is kept.
    let ask = || anne.ask(Method::POST, "/v1/tokens").header("idempotency-key", "once");
    let token = ask().json(&json!({"name": "ci"})).send().await.expect(201)["secret"].clone();
    let token = token.as_str().expect("a secret").to_owned();
    answers.push(ask().json(&json!({"name": "ci"})).send().await);
    let program = anonymous.with_token(&token);
    answers.push(program.get("/v1/tokens").await);
    // User data, accepted and kept.
    answers.push(admin.post("/v1/images", &json!({"name": "i", "format": "raw"})).await);
    let image = answers.last().expect("an answer").expect(201)["id"].clone();
    let path = format!("/v1/images/{}/data", image.as_str().expect("an id"));
    let data = admin.ask(Method::PUT, &path).header("content-type", "application/octet-stream");
    answers.push(data.body(vec![7; 1 << 20]).send().await);
    let instance = json!({"name": "vm", "image": image, "flavor": "nano",
        "user_data": format!("#cloud-config\npassword: {}\n", secret("user-data"))});
    let make = admin.ask(Method::POST, "/v1/instances").header("idempotency-key", "vm");
    answers.push(make.json(&instance).send().await);
    answers.last().expect("an answer").expect(202);
    answers.push(admin.post("/v1/instances?dry_run=true", &instance).await);
    // Wrong ones, and right ones at wrong places.
    for body in [
        json!({"user": "anne", "password": secret("wrong")}),
        json!({"user": secret("typed-as-name"), "password": "x"}),
        json!({"user": "anne", "password": {secret("key"): 1}}),
        json!({"user": "anne", "password": [secret("list")]}),
    ] {
        answers.push(anonymous.post("/v1/auth/login", &body).await);
    }
    answers.push(admin.post("/v1/users", &json!({"name": "b", "password": MARK})).await);
    let change = json!({"old_password": secret("wrong"), "new_password": secret("second")});
    answers.push(anne.post("/v1/auth/password", &change).await);
    let cut = format!("{{\"user\":\"anne\",\"password\":\"{}", secret("cut"));
    let ask = anonymous.ask(Method::POST, "/v1/auth/login");
    answers.push(ask.header("content-type", "application/json").body(cut).send().await);
    answers.push(
        anonymous.with_token(&format!("pileus_{}", secret("token"))).get("/v1/flavors").await,
    );
    answers.push(anonymous.with_token(&secret("jwt")).get("/v1/flavors").await);
    let change = json!({"old_password": secret("first"), "new_password": secret("second")});
    answers.push(anne.post("/v1/auth/password", &change).await);
    assert_eq!(answers.last().expect("an answer").status, 204);
    answers.push(admin.get("/v1/events?limit=1000&all_tenants=true").await);
    answers.push(admin.get("/v1/instances").await);
    answers.push(admin.get("/v1/users").await);
    let tokens = [&admin.token, &anne.token].map(|jwt| jwt.clone().expect("a token"));
    let texts = answers.iter().map(|answer| format!("{:?} {:?}", answer, answer.headers)).collect();
    ([tokens.to_vec(), vec![token]].concat(), texts)
}

#[tokio::test]
async fn no_secret_comes_out_of_a_server_that_logs_all_it_can() {
    let mut server = Server::start().await;
    let limits = format!("/proc/{}/limits", server.process.id().expect("a process"));
    let limits = std::fs::read_to_string(limits).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let (tokens, mut answers) = use_all(&server).await;
    let metrics = Client::new(server.metrics.clone()).get("/metrics").await;
    assert!(metrics.status == 200 && metrics.text.contains("pileus_"), "{metrics:?}");
    answers.push(metrics.text);
    let rows = server.rows().await;
    let private: Vec<Vec<u8>> = sqlx::query_scalar("select private_key from signing_keys")
        .fetch_all(&server.db)
        .await
        .expect("the keys");
    server.process.kill().await.expect("ended");
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("TRACE") || line.contains("DEBUG")).count();
    assert!(lines > 100, "{lines} lines are not a full log: {log}");

    // What no line of the log and no answer may hold. A signature alone would do, so a part of each token counts.
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut hidden = vec![MARK.to_owned()];
    hidden.extend(tokens.iter().map(|token| token[token.len() - 30..].to_owned()));
    hidden.extend(private.iter().flat_map(|key| [hex(&key[16..]), STANDARD.encode(&key[18..45])]));
    for hidden in &hidden {
        let line = log.lines().find(|line| line.contains(hidden.as_str()));
        assert!(line.is_none(), "{hidden} is in the log: {line:?}");
        for answer in &answers {
            assert!(!answer.contains(hidden.as_str()), "{hidden} is in {answer}");
        }
    }
    // The database holds user data, which guests must be given again, and nothing else of it.
    for (table, row) in &rows {
        for (column, value) in row.as_object().expect("a row") {
            let text = value.to_string();
            let kept = table == "instances" && column == "user_data";
            assert!(kept || !text.contains(MARK), "{table}.{column} holds a secret: {text}");
            for token in &tokens {
                let tail = &token[token.len() - 30..];
                assert!(!text.contains(tail), "{table}.{column} holds a token: {text}");
            }
        }
    }
}
