//! Load over raw sockets, so that it costs little beside what is measured.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came of a load.
pub struct Outcome {
    /// Requests answered 200, a second.
    pub rate: f64,
    /// How long each took, shortest first.
    pub took: Vec<Duration>,
}

impl Outcome {
    /// A percentile of the latencies, in milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        let at = (self.took.len() as f64 * percent / 100.0) as usize;
        let took = self.took.get(at.min(self.took.len().saturating_sub(1)));
        took.map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
    }
}

struct Connection {
    socket: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            answer: vec![0; 16 * 1024],
        }
    }

    async fn ask(&mut self, request: &[u8]) {
        self.socket.write_all(request).await.unwrap();
        let mut length = 0;
        loop {
            let read = self.socket.read(&mut self.answer[length..]).await.unwrap();
            assert!(read > 0, "the connection ended");
            length += read;
            if is_whole(&self.answer[..length]) {
                break;
            }
        }
        let answer = &self.answer[..length];
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(answer)
        );
    }
}

/// Whether an answer is there with its body, whose length every handler here announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let length: usize = length
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    answer.len() >= end + 4 + length
}

/// Runs on a thread of its own, with a runtime of one thread.
fn alone<T: Send>(load: impl AsyncFnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            tokio::task::LocalSet::new().block_on(&runtime.unwrap(), load())
        });
        thread.join().unwrap()
    })
}

/// Sends requests over so many connections, on each the next one when the last is answered.
pub fn closed(address: &str, requests: &[Vec<u8>], connections: usize) -> Outcome {
    alone(async || {
        let next = Rc::new(RefCell::new(requests.iter()));
        let opened = join_all((0..connections).map(|_| Connection::open(address))).await;
        let began = Instant::now();
        let lanes = opened.into_iter().map(|mut connection| {
            let next = next.clone();
            async move {
                let mut took = Vec::new();
                loop {
                    let Some(request) = next.borrow_mut().next() else {
                        return took;
                    };
                    let sent = Instant::now();
                    connection.ask(request).await;
                    took.push(sent.elapsed());
                }
            }
        });
        let took = join_all(lanes).await.concat();
        outcome(took, began)
    })
}

fn outcome(mut took: Vec<Duration>, began: Instant) -> Outcome {
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    took.sort_unstable();
    Outcome { rate, took }
}
