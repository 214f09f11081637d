//! A TCP proxy between the service and MongoDB, that can refuse, cut, reset, delay and stall.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Passes bytes.
    Open,
    /// Refuses new connections and has cut the old ones.
    Cut,
    /// Like cut, with a reset: bytes in flight are lost on both sides.
    Reset,
    /// Accepts and answers nothing.
    Stalled,
    /// Passes commands to MongoDB and half of its first answer, then nothing more.
    HalfAnswers,
    /// Passes bytes with a delay of this many milliseconds.
    Slow(u64),
}

pub struct Proxy {
    pub address: SocketAddr,
    line: watch::Sender<Line>,
}

impl Proxy {
    /// A proxy to the host and port of a connection string.
    pub async fn to(uri: &str) -> Self {
        let target = uri.trim_start_matches("mongodb://");
        let target = target.rsplit_once('@').map_or(target, |(_, host)| host);
        let target: Arc<str> = target.split(['/', ',', '?']).next().unwrap().into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, state) = watch::channel(Line::Open);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(carry(client, target.clone(), state.clone()));
            }
        });
        Self { address, line }
    }

    /// A connection string through the proxy. Direct, since discovery would bypass it.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    pub fn set(&self, line: Line) {
        self.line.send(line).unwrap();
    }
}

async fn carry(mut client: TcpStream, target: Arc<str>, mut state: watch::Receiver<Line>) {
    let stalls = |line: &Line| matches!(line, Line::Stalled | Line::HalfAnswers);
    let is_down = |line: &Line| matches!(line, Line::Cut | Line::Reset);
    let Ok(line) = state.wait_for(|line| !stalls(line)).await.map(|line| *line) else {
        return;
    };
    if is_down(&line) {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&*target).await else {
        return;
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut watched = state.clone();
    tokio::select! {
        _ = watched.wait_for(is_down) => {}
        () = pump(from_client, to_server, state.clone(), false) => {}
        () = pump(from_server, to_client, state.clone(), true) => {}
    }
    if *state.borrow() == Line::Reset {
        // With nothing lingering, the end of a stream is a reset.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Passes bytes one way until the connection is interrupted. A stream that stalled in the middle cannot continue.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<Line>,
    answers: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let line = *state.borrow_and_update();
        let passed = match line {
            Line::HalfAnswers if answers => read / 2,
            Line::Stalled => 0,
            _ => read,
        };
        if let Line::Slow(milliseconds) = line {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        if to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        if passed < read {
            let _ = state.changed().await;
            return;
        }
    }
}
