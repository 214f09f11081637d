//! The service as a whole: [`Service::build`] makes the parts and binds the socket, [`Service::run`]
//! works until it is told to stop.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use anyhow::Context;
use mongodb::options::ClientOptions;
use secrecy::ExposeSecret;
use tokio::net::TcpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Http};
use crate::http;
use crate::ingest::{Durable, GroupCommit};
use crate::live::{Current, Live};
use crate::spool::{Drain, Outage, Spool};
use crate::store::indexes::Retention;
use crate::store::reconcile;
use crate::store::{Store, Submission};

/// A service with its socket bound, not yet serving.
pub struct Service {
    listener: TcpListener,
    shared: web::Data<http::Service>,
    retention: Retention,
    reconcile: reconcile::Settings,
    limits: Http,
    committers: TaskTracker,
    drain: Drain,
}

impl Service {
    /// Makes the parts, opens the spool and binds the socket. MongoDB need not be there yet.
    ///
    /// # Errors
    /// When the address or the spool is taken, or the MongoDB options cannot be used.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let store = connect(&config).await?;
        let spool = Spool::open(config.spool)?;
        let limits = config.http;
        let listener = listen(limits.listen)
            .with_context(|| format!("cannot listen on {} (http.listen)", limits.listen))?;
        let outage = Outage::default();
        let live = Live::new(Current::new(config.apps, config.keys));
        let durable = Durable {
            store: store.clone(),
            spool: spool.clone(),
            outage: outage.clone(),
        };
        let committing = durable.clone();
        let commit = move |batch: Arc<[Submission]>| {
            let durable = committing.clone();
            async move { durable.commit(batch).await }
        };
        let committers = TaskTracker::new();
        let commits = GroupCommit::start(commit, config.ingest, &committers);
        committers.close();
        let drain = Drain {
            durable: durable.clone(),
            live: live.clone(),
            limits: config.ingest,
        };
        let shared = web::Data::new(http::Service {
            live,
            commits,
            durable,
            stopping: CancellationToken::new(),
            reading: http::room::Room::new(limits.bytes_reading),
            refusals: http::refusals::Refusals::default(),
            limits: limits.clone(),
        });
        Ok(Self {
            listener,
            shared,
            retention: config.retention,
            reconcile: config.reconcile,
            limits,
            committers,
            drain,
        })
    }

    /// The address that was bound, with the port the system chose if port 0 was asked for.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The part of the configuration that can be replaced while the service runs.
    pub fn live(&self) -> Live {
        self.shared.live.clone()
    }

    /// Serves until `shutdown` is done, then finishes what is under way, within
    /// `http.shutdown_timeout`. What the spool holds stays there for the next start.
    ///
    /// # Errors
    /// When the socket cannot be served.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let Self {
            listener,
            shared,
            retention,
            reconcile,
            limits,
            committers,
            drain,
        } = self;
        let store = shared.durable.store.clone();
        let stopping = shared.stopping.clone();
        let background = TaskTracker::new();
        let indexes = keep_ensuring_indexes(store.clone(), retention, stopping.clone());
        let timer = reconcile::Timer {
            store: store.clone(),
            settings: reconcile,
        };
        let stop_timer = stopping.clone();
        background.spawn(async move {
            indexes.await;
            timer.run(stop_timer).await;
        });
        background.spawn(drain.run(stopping.clone()));
        background.close();
        let server = http::server::start(listener, shared)?;
        let handle = server.handle();
        let stopped = tokio::spawn(async move {
            shutdown.await;
            let deadline = Instant::now() + limits.shutdown_timeout;
            // From here on `/readyz` says so, and the background tasks end.
            stopping.cancel();
            tracing::info!("stopping");
            tokio::time::sleep(limits.shutdown_delay).await;
            handle.stop(true).await;
            deadline
        });
        server.await.context("the HTTP server failed")?;
        let deadline = stopped.await.context("the shutdown task failed")?;
        // The workers held the last ways into the queue, so the committers finish what is in it.
        let finish = async {
            committers.wait().await;
            background.wait().await;
            store.close().await;
        };
        if tokio::time::timeout_at(deadline + Duration::from_millis(500), finish)
            .await
            .is_err()
        {
            tracing::warn!("not everything under way ended in time");
        }
        Ok(())
    }
}

/// Binds the socket, with room for a burst of connections to wait in: std's 128 make the system ignore the
/// others, and their clients try again a second later.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)?.into_std()
}

/// Prepares the store that a configuration names.
///
/// # Errors
/// When the connection string cannot be resolved or used.
pub async fn connect(config: &Config) -> anyhow::Result<Store> {
    let options = ClientOptions::parse(config.mongodb_uri.expose_secret())
        .await
        // The driver's text may quote the string, which may hold a password.
        .map_err(|_| anyhow::anyhow!("mongodb.uri cannot be resolved"))?;
    Store::new(options, config.store.clone()).context("mongodb.uri cannot be used")
}

/// Makes the indexes as soon as MongoDB is there. Callbacks need none and do not wait for them.
async fn keep_ensuring_indexes(store: Store, retention: Retention, stopping: CancellationToken) {
    let mut pause = Duration::from_millis(500);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            made = store.ensure_indexes(retention) => match made {
                Ok(()) => {
                    tracing::info!("indexes are present");
                    return;
                }
                Err(error) => tracing::warn!(%error, "indexes cannot be made yet"),
            },
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(30)),
        }
    }
}
