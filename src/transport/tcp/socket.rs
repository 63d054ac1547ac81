//! The TCP stream below TLS: its options, and a read buffer.
//!
//! The TLS library reads at most 4 KiB at a time. The buffer turns that into one system call per wake; it
//! starts small, because a scheduler has thousands of quiet connections, and grows where there is traffic.
//! Writes pass through: TLS hands over up to 64 KiB at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const BUFFER_BYTES_MIN: usize = 4 * 1024;
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// A quiet connection is probed after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// And then this often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A peer that acknowledges nothing for this long is gone; also one that takes no bytes for this long
/// while some are waiting.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

/// A TCP stream with a read buffer.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Socket {
    /// Takes over a connected stream and sets its options: no delay, and a dead peer is found within 30 s.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let options = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
        options.set_tcp_keepalive(&keepalive)?;
        options.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        Ok(Self { stream, buffer: vec![0; BUFFER_BYTES_MIN].into(), start: 0, end: 0 })
    }

    /// Fills the empty buffer with one read; `Ready(Ok(0))` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.end == self.buffer.len() && self.end < BUFFER_BYTES_MAX {
            self.buffer = vec![0; self.buffer.len() * 4].into();
        }
        (self.start, self.end) = (0, 0);
        let mut room = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        self.end = room.filled().len();
        Poll::Ready(Ok(self.end))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end && ready!(this.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        let taken = out.remaining().min(this.end - this.start);
        out.put_slice(&this.buffer[this.start..this.start + taken]);
        this.start += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
