//! Requests over HTTP to a server under test, and answers whose checks say everything when they fail.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fmt;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// Everybody's password, marked as secrets of tests are (`scripts/secrets.sh`); none of the examples in the document, which the authorization test sends.
pub const PASSWORD: &str = "everybody in the harness has this mArKeD word";

/// Somebody who asks.
#[derive(Clone)]
pub struct Client {
    pub url: String,
    pub token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// Nobody, of the server at `http://127.0.0.1:7460` and the like.
    pub fn new(url: String) -> Self {
        Self { url, token: None, http: reqwest::Client::new() }
    }

    /// The same, as this user.
    pub async fn login(&self, user: &str) -> Self {
        self.login_with(user, PASSWORD).await
    }

    pub async fn login_with(&self, user: &str, password: &str) -> Self {
        let login = json!({"user": user, "password": password});
        let answer = self.post("/v1/auth/login", &login).await.expect(200);
        self.with_token(answer["token"].as_str().expect("a token"))
    }

    /// The same, at another server of the cloud.
    pub fn at(&self, url: String) -> Self {
        Self { url, ..self.clone() }
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path).send().await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path).json(body).send().await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PUT, path).json(body).send().await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PATCH, path).json(body).send().await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path).send().await
    }

    /// A request with more to it: `client.ask(Method::GET, path).header("if-none-match", "\"1\"").send().await`.
    pub fn ask(&self, method: Method, path: &str) -> Ask {
        let what = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        Ask { request, what }
    }
}

/// A request that is being put together.
pub struct Ask {
    request: reqwest::RequestBuilder,
    what: String,
}

impl Ask {
    pub fn header(self, name: &str, value: impl AsRef<str>) -> Self {
        Self { request: self.request.header(name, value.as_ref()), ..self }
    }

    pub fn json(self, body: &Value) -> Self {
        Self { request: self.request.json(body), ..self }
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self { request: self.request.body(body), ..self }
    }

    /// The answer while it still comes, for streams.
    pub async fn open(self) -> reqwest::Response {
        self.request.send().await.expect("an answer")
    }

    pub async fn send(self) -> Answer {
        self.try_send().await.expect("an answer")
    }

    /// For servers that may die before they have answered.
    pub async fn try_send(self) -> reqwest::Result<Answer> {
        let response = self.request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await?;
        Ok(Answer { what: self.what, status, headers, text })
    }
}

/// What came back. Its checks panic with the request and the whole answer.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    what: String,
}

impl Answer {
    /// The body, after the status was found to be this one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body()
    }

    /// The problem, after status, media type and the last part of its type were found to be these.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.body();
        assert_eq!(problem["status"], status, "{self:?}");
        let kind = problem["type"].as_str().unwrap_or_default();
        assert_eq!(kind.rsplit('/').next(), Some(code), "{self:?}");
        problem
    }

    /// The pointers of the fields at fault.
    #[track_caller]
    pub fn faults(&self) -> Vec<String> {
        let problem = self.problem(422, "invalid-input");
        let errors = problem["errors"].as_array().expect("errors");
        errors.iter().map(|error| error["pointer"].as_str().expect("a pointer").into()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of text"))
    }

    /// The body as JSON; null if it is empty.
    #[track_caller]
    pub fn body(&self) -> Value {
        if self.text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was answered with {}: {}", self.what, self.status, self.text)
    }
}
