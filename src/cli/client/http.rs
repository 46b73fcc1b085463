//! Requests and answers: JSON in and out, names made into ids, busy servers asked again, errors told.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::connection::Kept;
use super::failure::Failure;
use super::nouns::Noun;
use crate::config::Secret;

/// How often a busy server is asked again, and how long we wait for it at most each time.
const ATTEMPTS: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A server and who we are there.
#[derive(Debug, Clone)]
pub struct Http {
    client: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Http {
    pub fn new(url: &str, token: Option<&str>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("pileus/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // Waits say that nothing has come yet by nothing, for up to an hour.
            .read_timeout(Duration::from_secs(3700))
            .build()
            .context("the HTTP client cannot be made")?;
        Ok(Self {
            client,
            url: url.trim_end_matches('/').to_owned(),
            token: token.map(str::to_owned),
        })
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// Sends a request and gives the body of its answer. A POST bears an `Idempotency-Key`, so that all may be repeated while
    /// the server is busy.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let key = Uuid::new_v4().to_string();
        let mut attempt = 0;
        let answer = loop {
            attempt += 1;
            let mut request = self.request(method.clone(), path);
            if method == Method::POST && self.token.is_some() {
                request = request.header("idempotency-key", &key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let answer = self.answer(request).await?;
            let busy = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
            if !busy || attempt == ATTEMPTS {
                break answer;
            }
            tokio::time::sleep(pause(answer.headers())).await;
        };
        let body = checked(answer).await?.bytes().await.context("the answer was cut")?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).context("the answer is no JSON: is the server Pileus?")
    }

    /// An answer with its headers, whose body is still to be read.
    pub async fn open(&self, request: RequestBuilder) -> Result<Response> {
        checked(self.answer(request).await?).await
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|error| {
            let what = if error.is_connect() { "cannot be reached" } else { "did not answer" };
            let message = format!("{} {what}", self.url);
            anyhow::Error::new(error).context(message)
        })
    }

    /// All of a list, page by page, up to `most`.
    pub async fn list(
        &self,
        path: &str,
        query: &[(String, String)],
        most: u64,
    ) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let left = most.saturating_sub(values.len() as u64);
            if left == 0 {
                return Ok(values);
            }
            let mut query = query.to_vec();
            query.push(("limit".into(), left.min(1000).to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor".into(), cursor)));
            let mut page = self.get(&format!("/v1/{path}?{}", encode(&query))).await?;
            if let Value::Array(items) = page["items"].take() {
                values.extend(items);
            }
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(values),
            }
        }
    }

    /// The id of what is called `text`, or `text` itself if it is an id.
    pub async fn resolve(&self, noun: &'static Noun, text: &str) -> Result<String> {
        if let Ok(id) = text.parse::<Uuid>() {
            return Ok(id.to_string());
        }
        let query = if noun.by_name { vec![("name".into(), text.into())] } else { Vec::new() };
        let mut found = self.list(noun.path, &query, u64::MAX).await?;
        found.retain(|value| value["name"] == *text);
        let ids: Vec<&str> = found.iter().filter_map(|value| value["id"].as_str()).collect();
        match ids.as_slice() {
            [id] => Ok((*id).to_owned()),
            [] => {
                let message = format!("there is no {} called {text}", noun.name);
                Err(Failure::new(Failure::NOT_FOUND, message).into())
            }
            several => {
                let message = format!(
                    "{} {}s are called {text}: give the id of one: {}",
                    several.len(),
                    noun.name,
                    several.join(", ")
                );
                Err(Failure::new(Failure::REFUSED, message).into())
            }
        }
    }

    pub async fn login(&self, user: &str, password: &Secret, tenant: Option<&str>) -> Result<Kept> {
        let mut body = json!({ "user": user, "password": password.expose() });
        if let Some(tenant) = tenant {
            body["tenant"] = json!(tenant);
        }
        let answer = self.send(Method::POST, "/v1/auth/login", Some(&body)).await?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Kept {
            url: self.url.clone(),
            token: text(&answer["token"]).context("the answer holds no token: is it Pileus?")?,
            expires_at: serde_json::from_value(answer["expires_at"].clone())
                .context("the answer holds no expires_at: is it Pileus?")?,
            user: user.into(),
            tenant: text(&answer["tenant"]["name"]),
            token_id: None,
        })
    }
}

/// The answer, or its problem.
async fn checked(answer: Response) -> Result<Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let id = answer.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    let id = id.map(str::to_owned);
    let body = answer.bytes().await.unwrap_or_default();
    Err(Failure::of(status, id.as_deref(), &body).into())
}

fn pause(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).min(PAUSE_MAX)
}

/// `application/x-www-form-urlencoded`.
pub fn encode(pairs: &[(String, String)]) -> String {
    let escape = |text: &str| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        text.bytes()
            .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect()
    };
    let each: Vec<_> = pairs.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
    each.join("&")
}
