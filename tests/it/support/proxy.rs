//! A TCP proxy between the service and MongoDB, that can refuse, cut and stall.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Passes bytes.
    Open,
    /// Refuses new connections and has cut the old ones.
    Cut,
    /// Accepts and answers nothing.
    Stalled,
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

    /// A connection string through the proxy. Direct, since discovery would lead around it.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    pub fn set(&self, line: Line) {
        self.line.send(line).unwrap();
    }
}

async fn carry(mut client: TcpStream, target: Arc<str>, mut state: watch::Receiver<Line>) {
    loop {
        let line = *state.borrow_and_update();
        match line {
            Line::Cut => return,
            Line::Stalled => {
                if state.changed().await.is_err() {
                    return;
                }
            }
            Line::Open => {
                let Ok(mut server) = TcpStream::connect(&*target).await else {
                    return;
                };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => return,
                    _ = state.changed() => {}
                }
                // A stream that was interrupted in the middle cannot go on; held open, it stalls.
                if *state.borrow_and_update() == Line::Stalled {
                    let _ = state.changed().await;
                }
                return;
            }
        }
    }
}
