//! A connection's socket, with timeouts for clients that are slow to send or to read, and bounded buffers.
//!
//! All timeouts of a connection are here, below actix, whose own cover only the first head and the idle time.
//! A connection whose time is up is ended by a failing read or write. While a handler works or its response is
//! produced, nothing is timed but a write that makes no progress, so a response may take as long as it needs.
//!
//! actix decodes all requests it has read, and each takes some hundred bytes until it is handled. So a read
//! brings little at a time, and nothing is read while a request is handled or a write is pending. Pipelined
//! requests wait in the system's receive buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::memory_budget::Reservation;

/// The most bytes that are read before other connections have their turn. It is also the most that can be
/// decoded ahead of the request being handled.
const MAX_READ: usize = 4 * 1024;

/// actix discards a longer head, in bytes, so a head needs no more memory than this.
const MAX_HEAD: usize = 128 * 1024;

/// How long a client has to read its response after its body was left unread.
const CLOSING: Duration = Duration::from_secs(2);

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To send a head, from the opening of the connection or, later, from the head's first byte
    /// (`http.header_timeout`).
    pub header: Duration,
    /// To begin the next request (`http.keep_alive`).
    pub keep_alive: Duration,
}

impl Timeouts {
    /// To accept any byte of a response.
    fn write(self) -> Duration {
        self.keep_alive + self.header
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the next request.
    Idle,
    /// A head is arriving. A new connection begins here.
    Head,
    /// A handler reads the body, which has timeouts of its own.
    Body,
    /// A handler works, or its response is being sent.
    Response,
    /// A response is being sent that goes on for as long as the client stays.
    Stream,
    /// A body was left unread, so the connection ends after the response.
    Closing,
}

/// The phase of a connection and its deadline, shared by the socket and the requests of the connection.
#[derive(Debug)]
pub struct ConnectionState {
    timeouts: Timeouts,
    phase: Cell<Phase>,
    /// When the phase must have ended.
    deadline: Cell<Option<Instant>>,
    /// How long the client may accept nothing of a response.
    write_timeout: Cell<Duration>,
    /// A timeout that the system is to be told of, for bytes that the client does not acknowledge.
    new_user_timeout: Cell<Option<Duration>>,
    /// Whether the client accepted nothing for too long.
    is_stalled: Cell<bool>,
    head: RefCell<ArrivingHead>,
}

/// The head that is arriving.
#[derive(Debug)]
struct ArrivingHead {
    bytes: usize,
    reservation: Reservation,
}

impl ConnectionState {
    fn new(timeouts: Timeouts, reservation: Reservation) -> Self {
        let bytes = 0;
        let state = Self {
            timeouts,
            phase: Cell::new(Phase::Head),
            deadline: Cell::new(None),
            write_timeout: Cell::new(timeouts.write()),
            new_user_timeout: Cell::new(None),
            is_stalled: Cell::new(false),
            head: RefCell::new(ArrivingHead { bytes, reservation }),
        };
        state.enter(Phase::Head);
        state
    }

    /// Marks that a head is complete. The request lasts until the result is dropped.
    pub fn begin_request(self: &Rc<Self>) -> RequestGuard {
        let mut head = self.head.borrow_mut();
        head.bytes = 0;
        head.reservation.release();
        self.enter(Phase::Response);
        RequestGuard(self.clone())
    }

    /// Marks that a handler reads the request's body. Nothing of a body is read from the socket before.
    pub fn begin_body(&self) {
        self.enter(Phase::Body);
    }

    /// Marks that the body was read to its end.
    pub fn end_body(&self) {
        self.enter(Phase::Response);
    }

    /// Marks that the body is not read to its end. Nothing more is read, and the connection is closed soon.
    pub fn abandon_body(&self) {
        self.enter(Phase::Closing);
    }

    /// Marks that the response is a stream, whose client is cut after it took nothing of it for so long. The connection
    /// serves no other request after it.
    ///
    /// The system is told as well. Small pieces fit into its buffer, so no write would show for long that a client
    /// neither reads nor is there.
    pub fn begin_stream(&self, timeout: Duration) {
        self.enter(Phase::Stream);
        self.write_timeout.set(timeout);
        self.new_user_timeout.set(Some(timeout));
    }

    /// Whether the client accepted nothing for too long.
    pub fn is_stalled(&self) -> bool {
        self.is_stalled.get()
    }

    fn end_request(&self) {
        if self.phase.get() != Phase::Closing {
            self.enter(Phase::Idle);
        }
    }

    /// Begins a phase, or its time anew.
    fn enter(&self, phase: Phase) {
        let timeout = match phase {
            Phase::Idle => Some(self.timeouts.keep_alive),
            Phase::Head => Some(self.timeouts.header),
            Phase::Closing => Some(CLOSING),
            Phase::Body | Phase::Response | Phase::Stream => None,
        };
        self.phase.set(phase);
        self.deadline
            .set(timeout.map(|timeout| Instant::now() + timeout));
    }

    fn may_read(&self) -> bool {
        !matches!(
            self.phase.get(),
            Phase::Response | Phase::Stream | Phase::Closing
        )
    }

    fn count_read(&self, bytes: usize) -> io::Result<()> {
        if self.phase.get() == Phase::Body || bytes == 0 {
            return Ok(());
        }
        if self.phase.get() == Phase::Idle {
            self.enter(Phase::Head);
        }
        let mut head = self.head.borrow_mut();
        head.bytes += bytes;
        let held = head.bytes.min(MAX_HEAD);
        if head.reservation.grow_to(held) {
            Ok(())
        } else {
            Err(io::ErrorKind::OutOfMemory.into())
        }
    }
}

/// A request that is being answered. Dropping it lets the connection wait for the next one.
pub struct RequestGuard(Rc<ConnectionState>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

/// A response body that ends its request when actix has taken the last of it, or drops it.
pub struct TrackedBody {
    body: BoxBody,
    _request: RequestGuard,
}

impl TrackedBody {
    /// Ties a request to its response body.
    pub fn new(body: BoxBody, request: RequestGuard) -> Self {
        Self {
            body,
            _request: request,
        }
    }
}

impl MessageBody for TrackedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(cx)
    }
}

/// A socket that fails when the client has used up its time.
pub struct TimeoutStream {
    socket: TcpStream,
    state: Rc<ConnectionState>,
    /// Wakes the connection at its deadline or earlier. It is set anew only when it has gone off or the deadline
    /// has come nearer, so requests usually do not touch the timer.
    alarm: Pin<Box<Sleep>>,
    /// When a pending write must have made progress.
    write_deadline: Option<Instant>,
    /// Bytes read since the connection last waited.
    read_in_turn: usize,
    /// Whether bytes may be there that were not read because reading was paused.
    read_paused: bool,
}

impl TimeoutStream {
    /// Wraps a new connection. `reservation` is for heads that need more than what is free.
    pub fn new(socket: TcpStream, timeouts: Timeouts, reservation: Reservation) -> Self {
        Self {
            socket,
            state: Rc::new(ConnectionState::new(timeouts, reservation)),
            alarm: Box::pin(tokio::time::sleep(timeouts.header)),
            write_deadline: None,
            read_in_turn: 0,
            read_paused: false,
        }
    }

    /// The state, for the connection's requests.
    pub fn state(&self) -> Rc<ConnectionState> {
        self.state.clone()
    }

    fn may_read(&self) -> bool {
        self.write_deadline.is_none() && self.state.may_read()
    }

    /// Fails if the deadline has passed, and otherwise has the connection polled when it does.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let deadline = self.write_deadline.or(self.state.deadline.get());
        let Some(deadline) = deadline else {
            return Ok(());
        };
        if self.alarm.deadline() > deadline {
            self.alarm.as_mut().reset(deadline);
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Err(self.timed_out());
            }
            self.alarm.as_mut().reset(deadline);
        }
        Ok(())
    }

    /// Notes the system's own timeout.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
            self.state.is_stalled.set(true);
        }
        result
    }

    fn timed_out(&self) -> io::Error {
        if self.write_deadline.is_some() {
            self.state.is_stalled.set(true);
            // Otherwise the system would keep what the client does not read, and go on offering it.
            let _ = self.socket.set_zero_linger();
        }
        io::ErrorKind::TimedOut.into()
    }
}

impl AsyncRead for TimeoutStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.may_read() {
            this.read_in_turn = 0;
            // A reset ends the connection even now.
            let mut byte = [0];
            let peeked = ready!(this.socket.poll_peek(cx, &mut ReadBuf::new(&mut byte)));
            let is_end = this.noted(peeked)? == 0;
            if is_end && this.state.phase.get() == Phase::Stream {
                // Nobody reads the rest of a stream without listening for it.
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            this.read_paused = true;
            return Poll::Pending;
        }
        if this.read_in_turn >= MAX_READ {
            this.read_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = MAX_READ.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        if Pin::new(&mut this.socket)
            .poll_read(cx, &mut part)?
            .is_pending()
        {
            this.read_in_turn = 0;
            return Poll::Pending;
        }
        let bytes = part.filled().len();
        buffer.advance(bytes);
        this.read_in_turn += bytes;
        Poll::Ready(this.state.count_read(bytes))
    }
}

impl AsyncWrite for TimeoutStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(timeout) = this.state.new_user_timeout.take() {
            let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            set_tcp_user_timeout(&this.socket, millis)?;
        }
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        let written = written.map(|written| this.noted(written));
        if written.is_pending() {
            if this.write_deadline.is_none() {
                this.write_deadline = Some(Instant::now() + this.state.write_timeout.get());
            }
            this.check_deadline(cx)?;
        } else if this.write_deadline.take().is_some() {
            // A client that reads loses none of the time for its next request.
            this.state.enter(this.state.phase.get());
        }
        written
    }

    /// actix calls this at the end of each turn in which no write is pending.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read_paused && this.may_read() {
            this.read_paused = false;
            cx.waker().wake_by_ref();
        }
        this.check_deadline(cx)?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::memory_budget::MemoryBudget;
    use super::*;

    /// actix offers a large buffer once a connection has had a long head.
    #[tokio::test]
    async fn a_read_is_bounded_whatever_the_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(&[b'x'; 3 * MAX_READ]).await.unwrap();
        let minute = Duration::from_secs(60);
        let timeouts = Timeouts {
            header: minute,
            keep_alive: minute,
        };
        let reservation = MemoryBudget::new(0).reservation();
        let mut stream = TimeoutStream::new(server, timeouts, reservation);
        let mut buffer = vec![0; 16 * MAX_READ];
        let (mut total, mut largest) = (0, 0);
        while total < 3 * MAX_READ {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0);
            total += read;
            largest = largest.max(read);
        }
        assert!(largest <= MAX_READ, "{largest} bytes at once");
    }
}
