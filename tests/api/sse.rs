//! A reader of server-sent events.

use std::time::Duration;

use futures_util::TryStreamExt;
use reqwest::Method;
use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::Client;

/// How long something that must come may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One event of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
}

impl Frame {
    pub fn seq(&self) -> i64 {
        self.id.as_ref().expect("an id").parse().expect("a number")
    }
}

pub struct Stream {
    response: Response,
    text: String,
    /// Comments so far.
    pub comments: usize,
}

impl Stream {
    /// Follows `path`, after the event `last` where one is given.
    pub async fn open(client: &Client, path: &str, last: Option<i64>) -> Self {
        let mut ask = client.ask(Method::GET, path).header("accept", "text/event-stream");
        if let Some(last) = last {
            ask = ask.header("last-event-id", last.to_string());
        }
        let response = ask.open().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new(), comments: 0 }
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("an event in time")
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    let line = block.lines().find(|line| line.starts_with(name));
                    line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
                };
                let Some(data) = field("data:") else {
                    self.comments += 1;
                    continue;
                };
                return Some(Frame {
                    id: field("id:"),
                    event: field("event:").expect("a name"),
                    data: serde_json::from_str(&data).expect("JSON"),
                });
            }
            let chunk = self.response.chunk().await.expect("a chunk")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// Waits for a comment.
    pub async fn comment(&mut self) {
        let before = self.comments;
        let read = async {
            while self.comments == before {
                let chunk = self.response.chunk().await.expect("a chunk").expect("no end");
                self.comments += usize::from(chunk.starts_with(b":"));
            }
        };
        timeout(PATIENCE, read).await.expect("a comment in time");
    }

    /// Everything that is left, until the stream ends or breaks; how many bytes.
    pub async fn drain(self) -> usize {
        let rest = self
            .response
            .bytes_stream()
            .try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) });
        timeout(PATIENCE, rest).await.expect("an end in time").unwrap_or(0)
    }
}
