//! The feed as server-sent events: a task a stream, which a reader that does not read cannot hold.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::sse::{Event as Line, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::domain::error::Error;
use crate::service::App;
use crate::service::events::{Follower, Start};
use crate::service::limits::Permit;

/// Lines that wait for the reader.
const BUFFER: usize = 16;

/// Whether the client would rather have a stream.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        range.split(';').next().is_some_and(|r| r.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

/// The stream from `start` on. It ends when the client leaves or does not read for two keepalives, when its token is no longer
/// good, and when the server stops.
pub fn answer(app: &App, start: Start, permit: Permit) -> Response {
    let (lines, receiver) = mpsc::channel(BUFFER);
    let stream = Stream {
        lines,
        keepalive: app.config.stream_keepalive,
        follower: start.follower,
        _permit: permit,
    };
    let shutdown = app.shutdown.clone();
    // It ends with the process: nothing waits for it, since it holds nothing that must be put down.
    tokio::spawn(async move {
        let hung_up = stream.lines.clone();
        tokio::select! {
            _ = stream.run(start.forgotten) => {}
            () = hung_up.closed() => {}
            () = shutdown.cancelled() => {
                // No room means that the reader is behind: it hears nothing, and goes on from its last id.
                let _ = hung_up.try_send(Ok(end("the server stops: connect again")));
            }
        }
    });
    let headers = [(header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")];
    (headers, Sse::new(ReceiverStream::new(receiver))).into_response()
}

/// Asks proxies not to hold lines back.
const BUFFERING: header::HeaderName = header::HeaderName::from_static("x-accel-buffering");

struct Stream {
    lines: mpsc::Sender<Result<Line, Infallible>>,
    keepalive: Duration,
    follower: Follower,
    _permit: Permit,
}

/// The reader left, or does not read.
struct Gone;

impl Stream {
    async fn run(mut self, forgotten: Option<i64>) -> Result<(), Gone> {
        if let Some(seq) = forgotten {
            let data = json!({ "forgotten_seq": seq });
            self.send(Line::default().id(seq.to_string()).event("gap").data(data.to_string()))
                .await?;
        }
        let mut beat = interval_at(Instant::now() + self.keepalive, self.keepalive);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.catch_up().await?;
            tokio::select! {
                () = self.follower.grown() => {}
                _ = beat.tick() => {
                    self.send(Line::default().comment("")).await?;
                    if let Err(error @ (Error::Unauthenticated(_) | Error::Forbidden(_))) =
                        self.follower.check().await
                    {
                        return self.send(end(&error.to_string())).await;
                    }
                }
            }
        }
    }

    /// Sends all that the feed has by now.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        loop {
            let events = match timeout(self.keepalive * 2, self.follower.read()).await {
                Ok(Ok(events)) => events,
                Err(_late) => {
                    tracing::warn!("an event stream has no answer of the database; trying again");
                    return Ok(());
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "an event stream cannot read the feed; trying again");
                    return Ok(());
                }
            };
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                let line = Line::default().id(event.seq.to_string()).event(&event.kind);
                match line.json_data(&event) {
                    Ok(line) => self.send(line).await?,
                    Err(error) => tracing::error!(%error, seq = event.seq, "an event is no JSON"),
                }
            }
        }
    }

    async fn send(&self, line: Line) -> Result<(), Gone> {
        let sent = timeout(self.keepalive * 2, self.lines.send(Ok(line))).await;
        sent.ok().and_then(Result::ok).ok_or(Gone)
    }
}

fn end(reason: &str) -> Line {
    Line::default().event("end").data(json!({ "reason": reason }).to_string())
}
