//! A client that costs next to nothing, so that what is measured is the server: keep-alive connections, one thread each.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One connection that asks and reads answers.
pub struct Asker {
    stream: TcpStream,
    buffer: Vec<u8>,
    head: String,
}

impl Asker {
    /// To a server at `http://ADDRESS`.
    pub fn new(url: &str, token: &str) -> Self {
        let address = url.trim_start_matches("http://");
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        let head = format!("Host: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
        Self { stream, buffer: vec![0; 1 << 21], head }
    }

    /// GET; gives the body. Panics where the answer is not 200.
    pub fn get(&mut self, path: &str) -> &[u8] {
        let request = format!("GET {path} HTTP/1.1\r\n{}", self.head);
        self.stream.write_all(request.as_bytes()).expect("sent");
        let (mut filled, mut whole, mut body) = (0, usize::MAX, 0);
        while filled < whole {
            let got = self.stream.read(&mut self.buffer[filled..]).expect("an answer");
            assert!(got > 0, "the server hung up");
            filled += got;
            if whole == usize::MAX
                && let Some(end) = find(&self.buffer[..filled], b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let length = head.split_once("content-length: ").expect("a length").1;
                let length: usize =
                    length.split("\r\n").next().and_then(|l| l.parse().ok()).expect("a number");
                (body, whole) = (end + 4, end + 4 + length);
                assert!(whole <= self.buffer.len(), "the answer is too long");
            }
        }
        &self.buffer[body..whole]
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Answers per second over `connections` for `time`; `path` of the connection's number and how many it has sent.
pub fn per_second(
    url: &str,
    token: &str,
    connections: usize,
    time: Duration,
    path: impl Fn(usize, u64) -> String + Sync,
) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for connection in 0..connections {
            let (stop, count, path) = (&stop, &count, &path);
            scope.spawn(move || {
                let mut asker = Asker::new(url, token);
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    asker.get(&path(connection, sent));
                    sent += 1;
                }
                count.fetch_add(sent, Ordering::Relaxed);
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}
