//! The server under the routes: workers, connections and their deadlines.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::thread::available_parallelism;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{ServiceFactoryExt as _, fn_service, map_config};
use actix_web::dev::{AppConfig, Server, Service as _};
use actix_web::rt::net::TcpStream;
use actix_web::{App, Error, web};

use super::connection::{Guarded, Patience, Turn};
use super::{Service, routes};

/// What is left of the process's file descriptors for MongoDB, the spool and logs.
const OTHER_FILES: usize = 128;

/// How long a close waits for the client to take its answer, while what it still sends is thrown away.
const DISCONNECT: Duration = Duration::from_secs(1);

/// Serves the routes on a socket. It is [`actix_web::HttpServer`] put together by hand, because that one
/// takes no other connections than its own, and these are [`Guarded`].
///
/// # Errors
/// When the socket cannot be served.
pub fn start(listener: TcpListener, shared: web::Data<Service>) -> io::Result<Server> {
    let limits = &shared.limits;
    let patience = Patience {
        header: limits.header_timeout,
        keep_alive: limits.keep_alive,
    };
    let workers = available_parallelism().map_or(2, usize::from);
    let connections = within_files(limits.max_connections);
    let left_to_finish = limits.shutdown_timeout - limits.shutdown_delay;
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections(connections.div_ceil(workers))
        .disable_signals()
        .shutdown_timeout(left_to_finish.as_secs_f64().ceil() as u64);
    let draining = server.graceful_shutdown_signal();
    let server = server.listen("http", listener, move || {
        let (shared, draining) = (shared.clone(), draining.clone());
        let memory_budget = shared.memory_budget.clone();
        let app = App::new()
            .configure(|config| routes(&shared, config))
            .wrap_fn(|request, routes| {
                let turn = request.conn_data::<Rc<Turn>>().cloned();
                let answer = routes.call(request);
                async move {
                    let turn = turn.expect("every connection is guarded");
                    turn.request_begins().await;
                    let answer = answer.await;
                    turn.request_ends();
                    answer
                }
            });
        let app = map_config(app, |()| AppConfig::default());
        let http = HttpService::build()
            // As `HttpServer` does: a stop closes idle connections at once.
            .graceful_shutdown_signal(move || {
                let draining = draining.clone();
                async move { draining.notified().await }
            })
            .keep_alive(patience.keep_alive)
            // It would answer 408 to a connection that was opened and not used yet, and a client that begins to
            // send at that moment would take that for the answer to its callback. The guard cuts it in silence.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(DISCONNECT)
            .on_connect_ext(|socket: &Guarded, data| {
                data.insert(socket.turn());
            })
            .h1(app.map_err(|error: Error| error.error_response()));
        fn_service(move |socket: TcpStream| {
            let peer = socket.peer_addr().ok();
            let socket = Guarded::new(socket, patience, memory_budget.reservation());
            async move { Ok((socket, peer)) }
        })
        .and_then(http)
    })?;
    Ok(server.run())
}

/// As many connections as the process may have files for, which are as many as the system lets it have. Else
/// they would take the ones that the spool and MongoDB need.
fn within_files(connections: usize) -> usize {
    let wanted = (connections + OTHER_FILES) as u64;
    // The usual soft limit of 1024 is there for programs that use `select`.
    let files = rlimit::increase_nofile_limit(wanted).unwrap_or(wanted);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let most = files.saturating_sub(OTHER_FILES).max(1);
    if connections > most {
        tracing::warn!(
            max_connections = most,
            "fewer connections than http.max_connections, for want of open files; raise the hard limit (`ulimit -Hn`, LimitNOFILE)"
        );
    }
    connections.min(most)
}
