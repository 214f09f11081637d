//! The server under the routes: workers, connections and their timeouts.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive};
use actix_service::{ServiceFactoryExt as _, fn_service, map_config};
use actix_web::dev::{AppConfig, Server, Service as _};
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, Error};
use futures_util::future::{Either, ready};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tracing::Instrument as _;

use super::connection::{ConnectionState, TimeoutStream, Timeouts, TrackedBody};
use super::cors;
use super::memory_budget::MemoryBudget;
use super::request::Observed;
use super::{Service, routes};
use crate::config::Http;

/// File descriptors kept for MongoDB, the spool and logs.
pub(crate) const OTHER_FILES: usize = 128;

/// How long a connection stays open after a response whose request body was left unread, so that the client
/// can read the response.
const DISCONNECT: Duration = Duration::from_secs(1);

/// The send buffer of a connection, in bytes; Linux takes twice as much. By itself it would grow to megabytes for
/// a client that does not read, and a client would have to read a good part of that to show that it reads.
const SEND_BUFFER: usize = 128 * 1024;

/// Serves the service's routes on a socket.
///
/// # Errors
/// When the socket cannot be served.
pub fn start(listener: TcpListener, shared: web::Data<Service>) -> io::Result<Server> {
    // Accepted connections have the listening socket's buffer.
    set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
    let limits = shared.limits.clone();
    let memory_budget = shared.memory_budget.clone();
    let connections = within_files(limits.max_connections);
    let subscriptions = &shared.subscriptions;
    subscriptions.within_connections(limits.max_connections, connections);
    serve(
        listener,
        &limits,
        connections,
        memory_budget,
        move |config| {
            routes(&shared, config);
        },
    )
}

/// Serves any routes on a socket, with the timeouts and limits of this service. It is
/// [`actix_web::HttpServer`] put together by hand, because that one has no way to wrap its connections in a
/// [`TimeoutStream`].
fn serve(
    listener: TcpListener,
    limits: &Http,
    connections: usize,
    memory_budget: Arc<MemoryBudget>,
    routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let timeouts = Timeouts {
        header: limits.header_timeout,
        keep_alive: limits.keep_alive,
    };
    let workers = available_parallelism().map_or(2, usize::from);
    let left_to_finish = limits.shutdown_timeout - limits.shutdown_delay;
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections(connections.div_ceil(workers))
        .disable_signals()
        .shutdown_timeout(left_to_finish.as_secs_f64().ceil() as u64);
    let draining = server.graceful_shutdown_signal();
    let server = server.listen("http", listener, move || {
        let (draining, memory_budget) = (draining.clone(), memory_budget.clone());
        let app = App::new().configure(&routes).wrap_fn(|request, routes| {
            let state = request.conn_data::<Rc<ConnectionState>>();
            let state = state.expect("every connection is a TimeoutStream");
            let guard = state.begin_request();
            let observed = Observed::begin(&request);
            let response = match cors::preflight(&request, observed.route) {
                Some(Ok(answer)) => Either::Left(ready(Ok(request.into_response(answer)))),
                Some(Err(problem)) => Either::Left(ready(Ok(request.error_response(problem)))),
                None => Either::Right(routes.call(request)),
            };
            let response = response.instrument(observed.span.clone());
            async move {
                let response = observed.finish(response.await?);
                Ok(response.map_body(|_, body| TrackedBody::new(body, guard)))
            }
        });
        let app = map_config(app, |()| AppConfig::default());
        let http = HttpService::build()
            // As `HttpServer` does: a stop closes idle connections at once.
            .graceful_shutdown_signal(move || {
                let draining = draining.clone();
                async move { draining.notified().await }
            })
            // Idle connections are timed by `TimeoutStream`.
            .keep_alive(KeepAlive::Os)
            // So are heads. actix would answer a late one with 408, and a client that begins to send at that
            // moment would take that for the response to its callback.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(DISCONNECT)
            .on_connect_ext(|socket: &TimeoutStream, data| {
                data.insert(socket.state());
            })
            .h1(app.map_err(|error: Error| error.error_response()));
        fn_service(move |socket: TcpStream| {
            let peer = socket.peer_addr().ok();
            let socket = TimeoutStream::new(socket, timeouts, memory_budget.reservation());
            async move { Ok((socket, peer)) }
        })
        .and_then(http)
    })?;
    Ok(server.run())
}

/// Lowers the number of connections to what the process may have open files for, after raising its limit.
/// More would take the files that the spool and MongoDB need.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::convert::Infallible;
    use std::io::ErrorKind;
    use std::net::SocketAddr;

    use actix_web::dev::ServerHandle;
    use actix_web::{HttpResponse, Route, rt};
    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use tokio::net::tcp::OwnedWriteHalf;
    use tokio::sync::{Notify, Semaphore};
    use tokio::time::{sleep, timeout};

    use super::*;

    /// Generous, for a busy machine.
    const SOON: Duration = Duration::from_secs(20);
    const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server with one route.
    struct TestServer {
        address: SocketAddr,
        handle: ServerHandle,
    }

    impl TestServer {
        /// `timeout` is that for a head and for the next request.
        fn start(timeout: Duration, route: impl Fn() -> Route + Clone + Send + 'static) -> Self {
            let limits = Http {
                listen: ([127, 0, 0, 1], 0).into(),
                max_body: 1024,
                max_ids: 1,
                max_id_length: 1,
                max_team_unread: 1,
                max_connections: 10,
                header_timeout: timeout,
                keep_alive: timeout,
                body_timeout: timeout,
                min_body_rate: 1,
                bytes_reading: 1024,
                trusted_proxies: Vec::new(),
                cors_origins: Vec::new(),
                open_metrics: true,
                shutdown_timeout: Duration::from_secs(1),
                shutdown_delay: Duration::ZERO,
            };
            let socket = small_socket();
            socket.bind(limits.listen).unwrap();
            let listener = socket.listen(16).unwrap().into_std().unwrap();
            let address = listener.local_addr().unwrap();
            let memory_budget = MemoryBudget::new(limits.bytes_reading);
            let routes = move |config: &mut ServiceConfig| {
                config.route("/", route());
            };
            let server = serve(
                listener,
                &limits,
                limits.max_connections,
                memory_budget,
                routes,
            )
            .unwrap();
            let handle = server.handle();
            rt::spawn(server);
            Self { address, handle }
        }

        async fn connect(&self) -> TcpStream {
            small_socket().connect(self.address).await.unwrap()
        }
    }

    /// A socket with buffers of a few KiB, so that they hide little of what the other side does not read.
    /// Accepted sockets have those of the listening one.
    fn small_socket() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket
    }

    #[actix_web::test]
    async fn a_response_may_take_longer_than_every_timeout() {
        const PIECES: usize = 5;
        let route = || {
            web::to(async || {
                let pieces = stream::iter(0..PIECES).then(async |n| {
                    sleep(Duration::from_millis(400)).await;
                    Ok::<_, Infallible>(Bytes::from(format!("piece {n}")))
                });
                HttpResponse::Ok().streaming(pieces)
            })
        };
        let server = TestServer::start(Duration::from_millis(100), route);
        let mut socket = server.connect().await;
        for _ in 0..2 {
            socket.write_all(GET.as_bytes()).await.unwrap();
            let (mut response, mut part) = (String::new(), [0; 1024]);
            while !response.ends_with("\r\n0\r\n\r\n") {
                let read = timeout(SOON, socket.read(&mut part)).await.unwrap();
                let read = read.unwrap();
                assert!(read > 0, "cut after {response:?}");
                response.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            assert_eq!(response.matches("piece ").count(), PIECES, "{response}");
        }
        // The timeout for the next request holds again.
        let end = timeout(SOON, socket.read(&mut [0; 16])).await.unwrap();
        assert_eq!(end.unwrap(), 0);
        server.handle.stop(false).await;
    }

    /// actix takes a short body as a whole, so its request has ended while most of it is still to be written. It
    /// asks for the rest of a long one as the client reads.
    #[actix_web::test]
    async fn a_client_may_read_for_longer_than_every_timeout() {
        /// What sockets may hold, which is read at once: it is no longer the server's.
        const IN_SOCKETS: usize = 16 * 1024;
        for (bytes, at_once) in [(30 * 1024, 512), (512 * 1024, 8192)] {
            let route =
                move || web::to(move || async move { HttpResponse::Ok().body(vec![b'~'; bytes]) });
            let server = TestServer::start(Duration::from_millis(300), route);
            let mut socket = server.connect().await;
            // The second response shows that there was time for a second request.
            for n in 0..2 {
                socket.write_all(GET.as_bytes()).await.unwrap();
                let (mut body, mut part) = (0, vec![0; at_once]);
                while body < bytes {
                    if body + IN_SOCKETS < bytes {
                        sleep(Duration::from_millis(20)).await;
                    }
                    let read = timeout(SOON, socket.read(&mut part)).await.unwrap();
                    let read = read.unwrap();
                    assert!(read > 0, "cut after {body} of {bytes} bytes, response {n}");
                    body += part[..read].iter().filter(|byte| **byte == b'~').count();
                }
            }
            server.handle.stop(false).await;
        }
    }

    #[actix_web::test]
    async fn a_client_that_stops_reading_is_cut() {
        struct NotifyOnDrop(Arc<Notify>);

        impl Drop for NotifyOnDrop {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }

        let dropped = Arc::new(Notify::new());
        let on_drop = dropped.clone();
        let route = move || {
            let on_drop = on_drop.clone();
            web::to(move || {
                let on_drop = NotifyOnDrop(on_drop.clone());
                let endless = stream::repeat_with(move || {
                    let _held = &on_drop;
                    Ok::<_, Infallible>(Bytes::from_static(&[b'~'; 1024]))
                });
                async { HttpResponse::Ok().streaming(endless) }
            })
        };
        let server = TestServer::start(Duration::from_millis(300), route);
        let mut socket = server.connect().await;
        socket.write_all(GET.as_bytes()).await.unwrap();
        socket.read_exact(&mut [0; 64 * 1024]).await.unwrap();
        let end = timeout(SOON, dropped.notified()).await;
        end.expect("the response is still being produced");
        let rest = timeout(SOON, socket.read_to_end(&mut Vec::new())).await;
        let error = rest.unwrap().expect_err("the system goes on sending");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        server.handle.stop(false).await;
    }

    /// Writes requests until the server takes no more. Returns how many, the last of them perhaps in part, and
    /// what is missing of that.
    async fn flood(to: &mut OwnedWriteHalf) -> (usize, &'static [u8]) {
        const QUIET: Duration = Duration::from_millis(500);
        let many = GET.repeat(1000);
        let mut written = 0;
        loop {
            let rest = &many.as_bytes()[written % GET.len()..];
            let Ok(more) = timeout(QUIET, to.write(rest)).await else {
                break;
            };
            written += more.unwrap();
            assert!(written < 64 * 1024, "{written} bytes are taken");
        }
        let missing = GET.len() - written % GET.len();
        (
            written / GET.len() + 1,
            &GET.as_bytes()[GET.len() - missing..],
        )
    }

    /// Whether the handler waits or the client does not read, few requests are taken from the socket, so few are
    /// held in memory. All are answered in the end.
    #[actix_web::test]
    async fn pipelined_requests_are_left_in_the_socket_and_answered() {
        let cases = [
            (0, "body"),
            (Semaphore::MAX_PERMITS, "body"),
            (Semaphore::MAX_PERMITS, ""),
        ];
        for (permits, body) in cases {
            let handlers = Arc::new(Semaphore::new(permits));
            let waiting = handlers.clone();
            let route = move || {
                let waiting = waiting.clone();
                web::to(move || {
                    let waiting = waiting.clone();
                    async move {
                        let _ = waiting.acquire().await;
                        HttpResponse::Ok().body(body)
                    }
                })
            };
            let server = TestServer::start(SOON, route);
            let (mut from, mut to) = server.connect().await.into_split();
            let (requests, missing) = flood(&mut to).await;
            handlers.close();
            let read = async {
                let (mut responses, mut part) = (String::new(), [0; 4096]);
                while responses.matches("HTTP/1.1 200 OK").count() < requests {
                    let read = from.read(&mut part).await.unwrap();
                    assert!(read > 0, "cut after {} bytes", responses.len());
                    responses.push_str(std::str::from_utf8(&part[..read]).unwrap());
                }
            };
            let both = async { tokio::join!(to.write_all(missing), read) };
            let (finished, ()) = timeout(SOON, both).await.expect("some are not answered");
            finished.unwrap();
            server.handle.stop(false).await;
        }
    }
}
