//! The service as a whole: [`Service::build`] makes the parts and binds the socket, [`Service::run`]
//! works until it is told to stop.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::{App as ActixApp, HttpServer, web};
use anyhow::Context;
use mongodb::options::ClientOptions;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Http};
use crate::http;
use crate::http::auth::Keys;
use crate::ingest::GroupCommit;
use crate::store::indexes::Retention;
use crate::store::{Store, Submission};

/// A service with its socket bound, not yet serving.
pub struct Service {
    listener: TcpListener,
    shared: web::Data<http::Service>,
    store: Store,
    retention: Retention,
    limits: Http,
    committers: TaskTracker,
}

impl Service {
    /// Makes the parts and binds the socket. MongoDB need not be there yet.
    ///
    /// # Errors
    /// When the address is taken, or the MongoDB options cannot be used.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let store = connect(&config).await?;
        let limits = config.http;
        let listener = TcpListener::bind(limits.listen)
            .with_context(|| format!("cannot listen on {} (http.listen)", limits.listen))?;
        let committers = TaskTracker::new();
        let committing = store.clone();
        let commit = move |batch: Arc<[Submission]>| {
            let store = committing.clone();
            async move { store.commit(&batch).await }
        };
        let commits = GroupCommit::start(commit, config.ingest, &committers);
        committers.close();
        let mut callback_paths = Vec::new();
        let mut apps = Vec::new();
        for (i, configured) in config.apps.into_iter().enumerate() {
            callback_paths.extend(configured.callback_path.map(|path| (path, i)));
            apps.push(configured.app);
        }
        let shared = web::Data::new(http::Service {
            apps,
            callback_paths,
            keys: Keys::new(config.keys),
            commits,
            store: store.clone(),
            limits: limits.clone(),
        });
        Ok(Self {
            listener,
            shared,
            store,
            retention: config.retention,
            limits,
            committers,
        })
    }

    /// The address that was bound, with the port the system chose if port 0 was asked for.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is done, then finishes what is under way.
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
            store,
            retention,
            limits,
            committers,
        } = self;
        let stopping = CancellationToken::new();
        let indexes = tokio::spawn(keep_ensuring_indexes(
            store.clone(),
            retention,
            stopping.clone(),
        ));
        let server = HttpServer::new(move || {
            let shared = shared.clone();
            ActixApp::new().configure(move |config| http::routes(&shared, config))
        })
        .disable_signals()
        .shutdown_timeout(limits.shutdown_timeout.as_secs())
        .listen(listener)?
        .run();
        let handle = server.handle();
        tokio::spawn(async move {
            shutdown.await;
            let stopped = handle.stop(true);
            tracing::info!("stopping");
            stopped.await;
        });
        server.await.context("the HTTP server failed")?;
        // The workers held the last ways into the queue, so the committers finish what is in it.
        stopping.cancel();
        if tokio::time::timeout(limits.shutdown_timeout, committers.wait())
            .await
            .is_err()
        {
            tracing::warn!("some commits did not end in time");
        }
        indexes.await.context("the index task failed")?;
        store.close().await;
        Ok(())
    }
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
