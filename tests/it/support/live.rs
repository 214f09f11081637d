//! A subscriber of live counts, over a socket of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{READ_KEY, log_guard};

/// Generous, for a busy machine. How soon something must come is asserted where it matters.
const PATIENCE: Duration = Duration::from_secs(60);

/// An event, or a comment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveEvent {
    pub event: String,
    pub id: String,
    pub data: String,
    pub comment: String,
    pub retry: String,
}

impl LiveEvent {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A stream that is open, or an answer that refuses it.
pub struct LiveClient {
    socket: TcpStream,
    received: Vec<u8>,
    text: String,
    pub status: u16,
    pub head: String,
}

impl LiveClient {
    /// Subscribes with the read key.
    pub async fn open(address: SocketAddr, query: &str) -> Self {
        let client = Self::ask(address, query, READ_KEY, "").await;
        assert_eq!(client.status, 200, "{}", client.head);
        client
    }

    /// Asks for a stream, with more header lines.
    pub async fn ask(address: SocketAddr, query: &str, key: &str, more: &str) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        Self::over(socket, query, key, more).await
    }

    /// Subscribes over a socket that takes little.
    pub async fn open_narrow(address: SocketAddr, query: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let socket = socket.connect(address).await.unwrap();
        Self::over(socket, query, READ_KEY, "").await
    }

    async fn over(mut socket: TcpStream, query: &str, key: &str, more: &str) -> Self {
        log_guard::forbid_secret(key);
        let request = format!(
            "GET /v1/unread/stream?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{more}\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut client = Self {
            socket,
            received: Vec::new(),
            text: String::new(),
            status: 0,
            head: String::new(),
        };
        let end = loop {
            if let Some(at) = find(&client.received, b"\r\n\r\n") {
                break at + 4;
            }
            assert!(client.receive().await, "no head");
        };
        let head = client.received.drain(..end).collect();
        client.head = String::from_utf8(head).unwrap();
        client.status = client.head[9..12].parse().unwrap();
        client
    }

    /// Reads more; `false` at the end of the connection.
    async fn receive(&mut self) -> bool {
        let mut part = [0; 4096];
        let read = timeout(PATIENCE, self.socket.read(&mut part)).await;
        let read = read.expect("nothing comes").unwrap_or(0);
        self.received.extend_from_slice(&part[..read]);
        read > 0
    }

    /// Unwraps the next chunk; `false` at the end of the response.
    async fn chunk(&mut self) -> bool {
        loop {
            if let Some(at) = find(&self.received, b"\r\n") {
                let size = std::str::from_utf8(&self.received[..at]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let end = at + 2 + size + 2;
                if self.received.len() >= end {
                    let chunk = self.received[at + 2..end - 2].to_vec();
                    self.received.drain(..end);
                    self.text.push_str(&String::from_utf8(chunk).unwrap());
                    return size > 0;
                }
            }
            if !self.receive().await {
                return false;
            }
        }
    }

    /// The next event, comment or `retry`; `None` at the end.
    pub async fn next_any(&mut self) -> Option<LiveEvent> {
        let end = loop {
            if let Some(end) = self.text.find("\n\n") {
                break end;
            }
            if !self.chunk().await {
                return None;
            }
        };
        let lines: String = self.text.drain(..end + 2).collect();
        let mut event = LiveEvent::default();
        for line in lines.trim_end().lines() {
            let (field, value) = line.split_once(": ").unwrap();
            let field = match field {
                "event" => &mut event.event,
                "id" => &mut event.id,
                "data" => &mut event.data,
                "retry" => &mut event.retry,
                "" => &mut event.comment,
                other => panic!("{other} in {lines:?}"),
            };
            value.clone_into(field);
        }
        Some(event)
    }

    /// The next event of any name.
    pub async fn next(&mut self) -> Option<LiveEvent> {
        let next = async {
            loop {
                let event = self.next_any().await?;
                if !event.event.is_empty() {
                    return Some(event);
                }
            }
        };
        timeout(PATIENCE, next).await.expect("only comments come")
    }

    /// The next counts, with no other event before.
    pub async fn counts(&mut self) -> Value {
        let event = self.next().await.expect("the stream ended");
        assert_eq!(event.event, "counts", "{event:?}");
        event.json()
    }

    /// Reads counts until they are these, whatever is told before.
    pub async fn until(&mut self, counts: &Value) {
        let since = Instant::now();
        let mut last = Value::Null;
        while last != *counts {
            let event = timeout(PATIENCE, self.next()).await;
            let event = event.unwrap_or_else(|_| panic!("{last} and not {counts}"));
            let event = event.unwrap_or_else(|| panic!("ended with {last} and not {counts}"));
            if event.event == "counts" {
                last = event.json();
            }
            assert!(since.elapsed() < PATIENCE, "{last} and not {counts}");
        }
    }

    /// Reads counts until their total is this.
    pub async fn until_total(&mut self, total: u64) {
        while self.counts().await["total"] != total {}
    }

    /// Nothing but comments comes for a while.
    pub async fn expect_silence(&mut self, time: Duration) {
        if let Ok(event) = timeout(time, self.next()).await {
            panic!("{event:?}");
        }
    }

    /// The code of the event that ends the stream, and the end of the connection after it.
    pub async fn end(&mut self) -> String {
        loop {
            let event = self.next().await.expect("no event says why it ended");
            if event.event == "end" {
                assert_eq!(self.next_any().await, None);
                return event.json()["code"].as_str().unwrap().to_owned();
            }
        }
    }

    /// The document of a refusal.
    pub async fn problem(mut self) -> Value {
        let start = self.received.clone();
        let mut body = start;
        while !body.ends_with(b"}") {
            self.received.clear();
            assert!(self.receive().await, "{}", self.head);
            body.extend_from_slice(&self.received);
        }
        serde_json::from_slice(&body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
