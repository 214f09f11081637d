//! Load over raw sockets, so that it costs little compared with what is measured.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc;

/// The outcome of a load.
pub struct Outcome {
    /// Requests answered 200, a second.
    pub rate: f64,
    pub took: Latencies,
}

impl Outcome {
    fn new(took: Vec<Duration>, began: Instant) -> Self {
        let rate = took.len() as f64 / began.elapsed().as_secs_f64();
        let took = Latencies::new(took);
        Self { rate, took }
    }
}

/// How long requests took, shortest first.
pub struct Latencies(Vec<Duration>);

impl Latencies {
    pub fn new(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        Self(took)
    }

    /// A percentile, in milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (self.0.len() as f64 * percent / 100.0).ceil() as usize;
        let took = self.0.get(rank.saturating_sub(1));
        took.map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
    }
}

/// A connection that is used for one request after the other.
pub struct Connection {
    socket: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            answer: vec![0; 16 * 1024],
        }
    }

    /// Sends a request; the body of the answer, which must be 200.
    pub async fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.socket.write_all(request).await.unwrap();
        let mut length = 0;
        let body = loop {
            let read = self.socket.read(&mut self.answer[length..]).await.unwrap();
            assert!(read > 0, "the connection ended");
            length += read;
            if let Some(body) = body_of(&self.answer[..length]) {
                break body;
            }
        };
        let answer = &self.answer[..length];
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(answer)
        );
        &answer[body..]
    }
}

/// Where the body of an answer begins, once the answer is whole. Every handler here announces the length.
fn body_of(answer: &[u8]) -> Option<usize> {
    let begins = answer.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..begins]).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1)?.lines().next()?;
    let length: usize = length.trim().parse().ok()?;
    (answer.len() >= begins + length).then_some(begins)
}

/// Runs on a thread of its own, with a runtime of one thread.
pub fn alone<T: Send>(load: impl AsyncFnOnce() -> T + Send) -> T {
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

async fn opened(address: &str, connections: usize) -> Vec<Connection> {
    join_all((0..connections).map(|_| Connection::open(address))).await
}

/// Sends requests over so many connections, on each the next one when the last is answered.
pub fn closed(address: &str, requests: &[Vec<u8>], connections: usize) -> Outcome {
    alone(async || {
        let next = Rc::new(RefCell::new(requests.iter()));
        let opened = opened(address, connections).await;
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
        Outcome::new(took, began)
    })
}

/// Sends so many requests a second, whatever becomes of those before. A request's latency counts from when
/// it was due, so one that had to wait for a connection, or for this program, has waited for the server.
pub fn open(address: &str, requests: &[Vec<u8>], rate: f64, connections: usize) -> Outcome {
    alone(async || {
        let opened = opened(address, connections).await;
        let (due, dues) = mpsc::unbounded_channel();
        let dues = Mutex::new(dues);
        let began = Instant::now();
        // A clock of its own: the runtime's timers are late by up to a millisecond, which slow rates would show.
        std::thread::spawn({
            let count = requests.len();
            move || tell_what_is_due(count, rate, began, &due)
        });
        let lanes = opened.into_iter().map(|mut connection| {
            let dues = &dues;
            async move {
                let mut took = Vec::new();
                loop {
                    let next = dues.lock().await.recv().await;
                    let Some((n, due)) = next else { return took };
                    connection.ask(&requests[n]).await;
                    took.push(Instant::elapsed(&due));
                }
            }
        });
        let took = join_all(lanes).await.concat();
        Outcome::new(took, began)
    })
}

const TICK: Duration = Duration::from_millis(1);

/// Request number n is due n / rate seconds after the beginning. To wake for each of thousands a second would take
/// the processor from the server: those of one [`TICK`] are told together, and the wait counts as their latency.
fn tell_what_is_due(
    count: usize,
    rate: f64,
    began: Instant,
    due: &mpsc::UnboundedSender<(usize, Instant)>,
) {
    for n in 0..count {
        let at = began + Duration::from_secs_f64(n as f64 / rate);
        let early = at.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early.max(TICK));
        }
        if due.send((n, at)).is_err() {
            return;
        }
    }
}
