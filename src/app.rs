//! The service as a whole: [`Application::build`] makes the parts and binds the socket, [`Application::run`]
//! serves until it is told to stop.

use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mongodb::error::ErrorKind;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::net::TcpSocket;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Http};
use crate::http;
use crate::http::unread::live::CountLive;
use crate::ingest::drain::AppLookup;
use crate::ingest::{Drain, Durable, Outage};
use crate::live::{Live, ReloadableConfig};
use crate::metrics::Metrics;
use crate::spool::Spool;
use crate::store::Store;
use crate::store::diagnosis::Cause;
use crate::store::reconcile::ReconcileSettings;
use crate::subscriptions::Subscriptions;
use crate::upkeep::{
    keep_counting_quarantine, keep_ensuring_other_indexes, keep_ensuring_query_indexes,
    keep_resolving, keep_watching_retention, keep_watching_team_counts,
};

/// A service with its socket bound, not yet serving.
pub struct Application {
    listener: TcpListener,
    shared: web::Data<http::Service>,
    reconcile: ReconcileSettings,
    limits: Http,
    committers: TaskTracker,
    drain: Drain,
    mongodb_uri: SecretString,
    /// [`place`]
    place: String,
    is_resolved: bool,
}

/// MongoDB has said that this configuration can never store anything.
#[derive(Debug, thiserror::Error)]
#[error("{cause}; {}", match waiting_bytes {
    0 => "nothing waits in the spool".to_owned(),
    bytes => format!("{bytes} bytes of acknowledged callbacks are in the spool, and are stored after the next start"),
})]
pub struct CannotWork {
    /// What MongoDB has said.
    pub cause: Cause,
    /// What waits in the spool.
    pub waiting_bytes: u64,
}

impl Application {
    /// Makes the parts, opens the spool and binds the socket. MongoDB may still be unavailable.
    ///
    /// # Errors
    /// When the address or the spool is in use, or the MongoDB options are invalid.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let spool = Spool::open(config.spool)?;
        let metrics = Arc::new(Metrics::new());
        let store = Store::new(config.store.clone(), metrics.clone());
        let committers = TaskTracker::new();
        let commit_timeout = config.store.commit_timeout;
        let durable = Durable::start(
            store.clone(),
            spool.clone(),
            config.ingest,
            commit_timeout,
            metrics.clone(),
            &committers,
        );
        committers.close();
        let place = place(&config.mongodb_uri, &config.store.database);
        if spool.has_confirmed(&place) {
            durable.outage.confirmed_before();
        }
        let is_resolved = contact(&store, &config.mongodb_uri, &durable.outage).await?;
        let limits = config.http;
        let listener = listen(limits.listen)
            .with_context(|| format!("cannot listen on {} (http.listen)", limits.listen))?;
        let live = Live::new(ReloadableConfig::new(
            config.apps,
            config.keys,
            config.tokens,
        ));
        let subscriptions = Subscriptions::new(config.stream, store.clone(), metrics.clone());
        let drain = Drain {
            spool,
            store,
            outage: durable.outage.clone(),
            app: apps(live.clone()),
            limits: config.ingest,
            metrics: metrics.clone(),
            dead_letter_lines: durable.dead_letter_lines.clone(),
        };
        let shared = web::Data::new(http::Service {
            live,
            durable,
            stopping: CancellationToken::new(),
            memory_budget: http::memory_budget::MemoryBudget::new(limits.bytes_reading),
            rejection_log: http::rejections::RejectionLog::default(),
            key_failures: http::key_failures::KeyFailures::new(metrics.clone()),
            rate_limits: http::rate_limits::RateLimits::new(metrics.clone()),
            checked: Mutex::default(),
            limits: limits.clone(),
            retention: config.retention,
            presence: config.presence,
            subscriptions: subscriptions.clone(),
            metrics,
        });
        let counter = CountLive::new(&shared.clone().into_inner());
        subscriptions.begin(Box::new(counter));
        Ok(Self {
            listener,
            shared,
            reconcile: config.reconcile,
            limits,
            committers,
            drain,
            mongodb_uri: config.mongodb_uri,
            place,
            is_resolved,
        })
    }

    /// The bound address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the system does not return it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The part of the configuration that can be replaced while the service runs.
    pub fn live(&self) -> Live {
        self.shared.live.clone()
    }

    /// Serves until `shutdown` completes, then finishes the requests in flight, within `http.shutdown_timeout`. The
    /// spool keeps its callbacks for the next start.
    ///
    /// # Errors
    /// When the socket cannot be served, or with [`CannotWork`] when MongoDB says for long that it can never work, and
    /// it never confirmed a write.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let Self {
            listener,
            shared,
            reconcile,
            limits,
            committers,
            drain,
            mongodb_uri,
            place,
            is_resolved,
        } = self;
        let durable = shared.durable.clone();
        let stopping = shared.stopping.clone();
        // Callbacks are accepted until the server has ended, and depend on the background tasks until then.
        let ended = CancellationToken::new();
        let upkeep = {
            let (store, uri, retention) =
                (durable.store.clone(), mongodb_uri.clone(), shared.retention);
            let live = shared.live.clone();
            async move || {
                if !is_resolved {
                    keep_resolving(&store, &uri).await;
                }
                keep_ensuring_query_indexes(&store).await;
                tokio::join!(
                    keep_ensuring_other_indexes(&store),
                    store.keep_catching_up(reconcile),
                    keep_watching_retention(&store, retention),
                    keep_watching_team_counts(&store, &live),
                );
            }
        };
        let upkeep = supervise(upkeep).boxed();
        let spool = durable.spool.clone();
        let background = spawn_background(&durable, &ended, upkeep, drain, (mongodb_uri, place));
        let (store, complete) = (durable.store.clone(), durable.complete.clone());
        let outage = durable.outage.clone();
        let subscriptions = shared.subscriptions.clone();
        let following = subscriptions.clone();
        let follow = supervise(async move || following.keep_following().await);
        spawn_until(&background, &ended, follow.boxed());
        background.close();
        drop(durable);
        let server = http::server::start(listener, shared)?;
        let handle = server.handle();
        let stopped = tokio::spawn(async move {
            let refused = tokio::select! {
                () = shutdown => None,
                cause = outage.refused() => Some(cause),
            };
            let deadline = Instant::now() + limits.shutdown_timeout;
            // `/readyz` answers 503 from here on.
            stopping.cancel();
            tracing::info!("stopping");
            tokio::time::sleep(limits.shutdown_delay).await;
            handle.stop(true).await;
            (deadline, refused)
        });
        server.await.context("the HTTP server failed")?;
        subscriptions.end();
        ended.cancel();
        let (deadline, refused) = stopped.await.context("the shutdown task failed")?;
        // The workers held the last senders of the queue, so the committers finish it and end.
        let finish = async {
            committers.wait().await;
            background.wait().await;
            complete.end().await;
            store.close().await;
        };
        if tokio::time::timeout_at(deadline + Duration::from_millis(500), finish)
            .await
            .is_err()
        {
            tracing::warn!("not everything under way ended in time");
        }
        match refused {
            Some(cause) => Err(CannotWork {
                cause,
                waiting_bytes: spool.status().bytes,
            }
            .into()),
            None => Ok(()),
        }
    }
}

/// Makes the first contact with MongoDB, and returns whether its name is resolved. If MongoDB confirms nothing in
/// time, the service starts, and its first probe decides whether there is an outage: a distant cluster is only slow.
///
/// # Errors
/// When the connection string cannot be used.
async fn contact(store: &Store, uri: &SecretString, outage: &Outage) -> anyhow::Result<bool> {
    let first = async {
        store.reach(uri.expose_secret()).await?;
        if store.probe().await.is_ok() {
            outage.confirmed();
        }
        Ok::<_, mongodb::error::Error>(())
    };
    match timeout(CONTACT_TIMEOUT, first).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if !matches!(*error.kind, ErrorKind::DnsResolve { .. }) => {
            return Err(unusable());
        }
        Ok(Err(_)) => {
            tracing::error!("the name in mongodb.uri is not resolved");
            outage.begin();
        }
        Err(_) if store.is_reached() => {}
        Err(_) => outage.begin(),
    }
    Ok(store.is_reached())
}

/// Which MongoDB that is, as a digest: the servers of the connection string, the replica set and the database. Not the
/// login, which may be replaced while it is the same MongoDB.
fn place(uri: &SecretString, database: &str) -> String {
    let uri = uri.expose_secret();
    let (uri, options) = uri.split_once('?').unwrap_or((uri, ""));
    // A password may hold a slash, which the driver refuses, but no `@` comes after it.
    let servers = uri.rsplit_once('@').map_or(uri, |(_, servers)| servers);
    let servers = servers.trim_start_matches("mongodb://");
    let servers = servers
        .split_once('/')
        .map_or(servers, |(servers, _)| servers);
    let mut servers: Vec<_> = servers.split(',').collect();
    servers.sort_unstable();
    let is_set = |option: &&str| option.to_ascii_lowercase().starts_with("replicaset=");
    let set = options.split('&').find(is_set).unwrap_or_default();
    let text = format!("{}\n{}\n{database}", servers.join(","), set);
    hex::encode(Sha256::digest(text))
}

/// Records in the spool that MongoDB confirmed a write, for the next start.
async fn note_confirmed(outage: Outage, spool: Spool, place: String) {
    outage.until_confirmed().await;
    let noted = spawn_blocking(move || spool.note_confirmed(&place)).await;
    if !matches!(noted, Ok(Ok(()))) {
        tracing::warn!("the spool cannot record that MongoDB confirmed a write");
    }
}

/// The way from names to the apps that are configured now.
fn apps(live: Live) -> AppLookup {
    Box::new(move |name| live.current().app(name.as_str()).cloned())
}

/// Starts the background tasks, which run until `ended`.
fn spawn_background(
    durable: &Durable,
    ended: &CancellationToken,
    upkeep: BoxFuture<'static, ()>,
    drain: Drain,
    (mongodb_uri, place): (SecretString, String),
) -> TaskTracker {
    let background = TaskTracker::new();
    let spawn = |task: BoxFuture<'static, ()>| spawn_until(&background, ended, task);
    let (store, outage) = (durable.store.clone(), durable.outage.clone());
    let (projection, complete, end) = (store.clone(), durable.complete.clone(), ended.clone());
    let (spool, told) = (durable.spool.clone(), outage.clone());
    spawn(upkeep);
    spawn(supervise(async move || keep_counting_quarantine(&spool).await).boxed());
    spawn(note_confirmed(outage.clone(), durable.spool.clone(), place).boxed());
    spawn(supervise(async move || projection.keep_applying_marks().await).boxed());
    spawn(supervise(async move || outage.keep_probing(&store, &mongodb_uri).await).boxed());
    spawn(supervise(async move || drain.run().await).boxed());
    background.spawn(supervise(async move || {
        complete.keep_reporting(&told, &end).await
    }));
    background
}

fn spawn_until(background: &TaskTracker, ended: &CancellationToken, task: BoxFuture<'static, ()>) {
    let ended = ended.clone();
    background.spawn(async move { ended.run_until_cancelled(task).await });
}

/// Binds the socket with a backlog for bursts. Beyond std's 128 the system would drop connections, and their clients
/// would try again a second later.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)?.into_std()
}

/// How long the start waits for name servers and for MongoDB.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects the store of a configuration, for commands.
///
/// # Errors
/// When the connection string cannot be resolved or used.
pub async fn connect(config: &Config) -> anyhow::Result<Store> {
    let store = Store::new(config.store.clone(), Arc::default());
    let reached = store.reach(config.mongodb_uri.expose_secret()).await;
    reached.map_err(|_| unusable())?;
    Ok(store)
}

/// Without the driver's text, which may quote the connection string and so a password.
fn unusable() -> anyhow::Error {
    anyhow::anyhow!("mongodb.uri cannot be resolved or used")
}

/// Restarts a background task when it panics. The service would otherwise go on without it.
async fn supervise(task: impl AsyncFn()) {
    while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
        tracing::error!("a background task panicked and is restarted");
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}
