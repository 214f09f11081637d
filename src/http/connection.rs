//! A connection's socket, with the deadlines that actix does not keep.
//!
//! actix times the first head of a connection and its idle time. It does not time a later head, a client
//! that does not read its answers, or the rest of a chunked body that no handler wanted: each of these
//! holds a connection for good. So whatever does not reach the next request in time is cut here, below
//! actix, by a failing read or write. While a handler works, its own deadlines hold, and none here.
//!
//! It also bounds what one connection may hold in memory. actix decodes all it has read into requests
//! that wait, some hundred bytes for each 18-byte request, and reads on while answers are not taken. So
//! a read brings little at a time, and none while a write waits.
//!
//! And it slows down who sends requests without waiting for answers, which no provider and no proxy does:
//! each such request waits a little, and after some in a row the connection ends.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::memory_budget::Reservation;

/// The most that is read in one turn, in bytes.
const READ_AT_ONCE: usize = 4 * 1024;

/// actix refuses a longer head, in bytes. What comes beyond is thrown away and needs no room.
const LONGEST_HEAD: usize = 128 * 1024;

/// How long a client has to read its answer after its body was left unread, and the backstop beyond
/// actix's own deadlines, so that they come first and answer.
const GRACE: Duration = Duration::from_secs(2);

/// How long a request waits that came before the answer to the one before it.
const AHEAD: Duration = Duration::from_millis(100);

/// How many such requests in a row end the connection.
const MOST_AHEAD: u32 = 16;

/// The most that is read in one turn after such a request, in bytes, since it may hold many more.
const READ_AHEAD: usize = 256;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To send a head, from its first byte on (`http.header_timeout`).
    pub header: Duration,
    /// To begin the next request (`http.keep_alive`).
    pub keep_alive: Duration,
}

/// Whose turn it is, the client's or a handler's. The socket and the requests of a connection share it.
#[derive(Debug)]
pub struct Turn {
    patience: Patience,
    /// When the next request must have begun. None while a handler works.
    until: Cell<Option<Instant>>,
    /// Whether the connection is to be closed because a body was not read to its end.
    closing: Cell<bool>,
    /// Requests in a row that came before the answer to the one before.
    ahead: Cell<u32>,
    /// Whether such a request waits now, and so nothing is read.
    waits: Cell<bool>,
    head: RefCell<Head>,
}

/// What was read since the last request began.
#[derive(Debug)]
struct Head {
    bytes: usize,
    reservation: Reservation,
}

impl Turn {
    fn new(patience: Patience, reservation: Reservation) -> Self {
        Self {
            patience,
            until: Cell::new(Some(Instant::now() + patience.header + GRACE)),
            closing: Cell::new(false),
            ahead: Cell::new(0),
            waits: Cell::new(false),
            head: RefCell::new(Head {
                bytes: 0,
                reservation,
            }),
        }
    }

    /// A head is complete, and a handler works once this has passed.
    pub async fn request_begins(&self) {
        self.until.set(None);
        let came_ahead = {
            let mut head = self.head.borrow_mut();
            head.reservation.release();
            std::mem::take(&mut head.bytes) == 0
        };
        if came_ahead {
            self.ahead.set(self.ahead.get() + 1);
            self.waits.set(true);
            tokio::time::sleep(AHEAD).await;
            self.waits.set(false);
        } else {
            self.ahead.set(0);
        }
    }

    /// An answer is made. Now it is for the client to read it and to send the next head.
    pub fn request_ends(&self) {
        let patience = if self.closing.get() {
            GRACE
        } else {
            self.patience.keep_alive + self.patience.header
        };
        self.until.set(Some(Instant::now() + patience));
    }

    /// The body under way is not read to its end, nor is anything after it, and the connection ends soon
    /// after the answer. actix would go on and throw away what comes.
    pub fn leaves_body(&self) {
        self.closing.set(true);
    }

    fn read(&self, bytes: usize) -> io::Result<()> {
        let Some(until) = self.until.get() else {
            return Ok(());
        };
        let mut head = self.head.borrow_mut();
        if head.bytes == 0 && bytes > 0 {
            let head_by = Instant::now() + self.patience.header + GRACE;
            self.until.set(Some(until.min(head_by)));
        }
        head.bytes += bytes;
        let held = head.bytes.min(LONGEST_HEAD);
        if head.reservation.grow_to(held) {
            Ok(())
        } else {
            Err(io::ErrorKind::OutOfMemory.into())
        }
    }
}

/// A socket that gives up on a client that takes too long.
pub struct Guarded {
    socket: TcpStream,
    turn: Rc<Turn>,
    /// Wakes the connection at its deadline, or earlier: a deadline that moves on is looked at when the
    /// alarm goes off, so that a request costs no timer.
    alarm: Pin<Box<Sleep>>,
    read_in_turn: usize,
    write_waits: bool,
    read_waits: bool,
}

impl Guarded {
    /// Guards a new connection. `reservation` is for what its heads need beyond what is free.
    pub fn new(socket: TcpStream, patience: Patience, reservation: Reservation) -> Self {
        let turn = Rc::new(Turn::new(patience, reservation));
        let first = turn.until.get().unwrap_or_else(Instant::now);
        Self {
            socket,
            turn,
            alarm: Box::pin(tokio::time::sleep_until(first)),
            read_in_turn: 0,
            write_waits: false,
            read_waits: false,
        }
    }

    /// The turn, for the connection's requests.
    pub fn turn(&self) -> Rc<Turn> {
        self.turn.clone()
    }

    /// Fails once the deadline has passed or too much came ahead, and else has the connection woken when it does.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.turn.ahead.get() > MOST_AHEAD {
            return Err(self.cut());
        }
        while let Some(until) = self.turn.until.get() {
            if self.alarm.deadline() > until {
                self.alarm.as_mut().reset(until);
            }
            if self.alarm.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(self.cut());
            }
            self.alarm.as_mut().reset(until);
        }
        Ok(())
    }

    fn cut(&self) -> io::Error {
        if self.write_waits {
            // Else the system would go on offering what this client does not read.
            let _ = self.socket.set_zero_linger();
        }
        io::ErrorKind::TimedOut.into()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.watch(cx)?;
        if this.write_waits {
            this.read_waits = true;
            return Poll::Pending;
        }
        // The connection is polled again by the request that waits, or at the deadline.
        if this.turn.waits.get() || this.turn.closing.get() {
            return Poll::Pending;
        }
        let at_once = match this.turn.ahead.get() {
            0 => READ_AT_ONCE,
            _ => READ_AHEAD,
        };
        if this.read_in_turn >= at_once {
            this.read_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = at_once.min(buffer.remaining());
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
        Poll::Ready(this.turn.read(bytes))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.watch(cx)?;
        let written = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.write_waits = written.is_pending();
        if !this.write_waits && std::mem::take(&mut this.read_waits) {
            cx.waker().wake_by_ref();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.watch(cx)?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
