//! An agreed connection: frames in, outboxes out.
//!
//! Both halves share the TLS session behind a lock that is held for the length of one poll and, on the
//! one thread that a shell's connections live on, is never contended: some nanoseconds beside the
//! microseconds of a system call. Reading drains what has arrived before it yields, so that a shell books all of it as
//! one batch.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsStream;

use super::socket::Socket;
use crate::wire::frame::{Frame, FrameError, FrameReader};
use crate::wire::handshake::Hello;

/// Reading pauses after this much, so that one busy peer does not starve the others.
const FILL_BYTES_MAX: usize = 1 << 20;

/// A connection to a peer of the same run, after the handshake.
#[derive(Debug)]
pub struct Connection {
    reader: ReadHalf,
    writer: WriteHalf,
    protocol: u16,
}

/// The end that receives.
#[derive(Debug)]
pub struct ReadHalf {
    stream: tokio::io::ReadHalf<TlsStream<Socket>>,
    frames: FrameReader,
    failure: Option<io::Error>,
    /// Whether bytes came together with the handshake, which count as the first that arrive.
    has_carried: bool,
    remote: Arc<Remote>,
}

/// The end that sends.
#[derive(Debug)]
pub struct WriteHalf {
    stream: tokio::io::WriteHalf<TlsStream<Socket>>,
    pending: Vec<u8>,
    written: usize,
    remote: Arc<Remote>,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Where it connected from, or where it was found.
    pub address: SocketAddr,
    /// What it said about itself.
    pub hello: Hello,
}

/// No more frames come from this peer.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It sent something that is no frame.
    #[error("{remote} sent no valid frame")]
    Frame {
        /// Who.
        remote: Arc<Remote>,
        /// What is wrong.
        source: FrameError,
    },
    /// It closed the connection in the middle of a frame.
    #[error("{remote} closed the connection {bytes} bytes into a frame")]
    Truncated {
        /// Who.
        remote: Arc<Remote>,
        /// How much of the frame came.
        bytes: usize,
    },
    /// The connection broke: the process ended without closing it, or the network failed.
    #[error("the connection to {remote} is lost")]
    Lost {
        /// Who.
        remote: Arc<Remote>,
        /// What the system said.
        source: io::Error,
    },
}

impl Connection {
    pub(super) fn new(stream: TlsStream<Socket>, frames: FrameReader, remote: Remote, protocol: u16) -> Self {
        let remote = Arc::new(remote);
        let (read, write) = tokio::io::split(stream);
        let has_carried = frames.buffered_bytes() > 0;
        Self {
            reader: ReadHalf {
                stream: read,
                frames,
                failure: None,
                has_carried,
                remote: Arc::clone(&remote),
            },
            writer: WriteHalf { stream: write, pending: Vec::new(), written: 0, remote },
            protocol,
        }
    }

    /// Who is at the other end.
    pub fn remote(&self) -> &Remote {
        &self.reader.remote
    }

    /// The protocol version that both ends speak.
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// Both ends, to be used by different tasks.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.reader, self.writer)
    }

    /// Both ends, to be used by one task.
    pub fn halves(&mut self) -> (&mut ReadHalf, &mut WriteHalf) {
        (&mut self.reader, &mut self.writer)
    }
}

impl ReadHalf {
    /// Waits until bytes arrive and takes all that are there; false when the peer has closed.
    ///
    /// Call [`next_frame`](Self::next_frame) until it is empty, then this again. Nothing is lost if the
    /// future is dropped.
    pub async fn fill(&mut self) -> Result<bool, ReadError> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// [`fill`](Self::fill), for a loop that polls many connections.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReadError>> {
        let mut filled_bytes = 0;
        if std::mem::take(&mut self.has_carried) {
            return Poll::Ready(Ok(true));
        }
        if let Some(source) = self.failure.take() {
            return Poll::Ready(Err(ReadError::Lost { remote: Arc::clone(&self.remote), source }));
        }
        loop {
            let read = pin!(self.stream.read_buf(self.frames.buffer())).poll(cx);
            match read {
                Poll::Ready(Ok(0)) if filled_bytes == 0 => return Poll::Ready(self.closed()),
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(true)),
                Poll::Ready(Ok(bytes)) => filled_bytes += bytes,
                Poll::Ready(Err(error)) if filled_bytes == 0 => {
                    let (remote, source) = (Arc::clone(&self.remote), plain(error));
                    return Poll::Ready(Err(ReadError::Lost { remote, source }));
                }
                Poll::Ready(Err(error)) => {
                    // What came before the failure is still of use.
                    self.failure = Some(plain(error));
                    return Poll::Ready(Ok(true));
                }
                Poll::Pending if filled_bytes == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(true)),
            }
            if filled_bytes >= FILL_BYTES_MAX {
                return Poll::Ready(Ok(true));
            }
        }
    }

    /// The next frame among what has been received, `None` if it is not complete yet.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        self.frames
            .next_frame()
            .map_err(|source| ReadError::Frame { remote: Arc::clone(&self.remote), source })
    }

    /// Waits for the next frame; `None` when the peer has closed.
    pub async fn frame(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for the header of the next frame: its opcode and the length of its body, which the caller then
    /// takes with [`read_body`](Self::read_body).
    pub async fn header(&mut self) -> Result<Option<(u8, u32)>, ReadError> {
        loop {
            let header = self.frames.next_header();
            let header =
                header.map_err(|source| ReadError::Frame { remote: Arc::clone(&self.remote), source })?;
            if header.is_some() || !self.fill().await? {
                return Ok(header);
            }
        }
    }

    /// Receives bytes of a body straight into `out` until it is full, for bodies too large to copy.
    ///
    /// Must be polled to the end: a dropped future loses bytes.
    pub async fn read_body(&mut self, out: &mut [u8]) -> Result<(), ReadError> {
        let buffered = self.frames.take(out);
        let rest = &mut out[buffered..];
        match self.failure.take() {
            None if rest.is_empty() => Ok(()),
            None => self.stream.read_exact(rest).await.map(drop),
            Some(failure) => Err(failure),
        }
        .map_err(|error| ReadError::Lost { remote: Arc::clone(&self.remote), source: plain(error) })
    }

    /// Who is at the other end.
    pub fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    fn closed(&self) -> Result<bool, ReadError> {
        match self.frames.buffered_bytes() {
            0 => Ok(false),
            bytes => Err(ReadError::Truncated { remote: Arc::clone(&self.remote), bytes }),
        }
    }
}

impl WriteHalf {
    /// Writes all of `frames` and leaves it empty, with memory to be used again.
    ///
    /// If the future is dropped, what it took is written before anything else by the next call.
    pub async fn write_all(&mut self, frames: &mut Vec<u8>) -> io::Result<()> {
        self.flush().await?;
        std::mem::swap(&mut self.pending, frames);
        self.flush().await?;
        std::mem::swap(&mut self.pending, frames);
        Ok(())
    }

    /// Writes what a dropped [`write_all`](Self::write_all) has left.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Appends `bytes` to what is to be written, without writing; for a loop that polls.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// [`flush`](Self::flush), for a loop that polls many connections.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            self.written += ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.pending.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Takes the start of `bytes` to be written, after what is pending; how much it took. For a loop that keeps
    /// what it writes, and that ends with [`poll_flush`](Self::poll_flush).
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.pending.is_empty() {
            ready!(self.poll_flush(cx))?;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// Writes borrowed bytes, for bodies too large to copy; the header went out before.
    ///
    /// Must be polled to the end: a dropped future leaves a frame cut off.
    pub async fn write_body(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.flush().await?;
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Writes what is left and tells the peer that nothing follows.
    pub async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }

    /// Who is at the other end.
    pub fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.hello, self.address)
    }
}

/// What the system said, where the TLS library would explain its own protocol.
fn plain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "its process ended without closing the connection")
        }
        _ => error,
    }
}
