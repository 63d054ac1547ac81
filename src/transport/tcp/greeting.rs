//! The handshake after TLS: the connecting end says hello, the accepting end answers.
//!
//! The messages are those of [`crate::wire::handshake`]. Bytes that came after the peer's hello stay in
//! the frame reader for the connection that follows.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsStream;

use super::connection::{Connection, Remote};
use super::failure::Failure;
use super::socket::Socket;
use crate::wire::frame::{FrameLimit, FrameReader};
use crate::wire::handshake::{First, Hello, append_refusal};

/// How long a rejected peer is listened to, so that it can read why before the connection resets.
const LINGER: Duration = Duration::from_millis(500);
/// And how much is thrown away meanwhile, in bytes.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// What every connection of one end has in common.
#[derive(Debug, Clone)]
pub(super) struct Manners {
    pub(super) hello: Hello,
    pub(super) limit: FrameLimit,
}

/// A handshake that failed, with what is left of the connection.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) failure: Failure,
    socket: Option<Box<Socket>>,
}

impl Rejected {
    pub(super) fn new(failure: impl Into<Failure>, socket: Option<Socket>) -> Self {
        Self { failure: failure.into(), socket: socket.map(Box::new) }
    }

    /// Closes the connection in a way that lets the peer read what was said to it; gives what went wrong.
    pub(super) async fn linger(self) -> Failure {
        let Some(mut socket) = self.socket else { return self.failure };
        let drained = async {
            socket.shutdown().await?;
            let mut scrap = [0; 4096];
            let mut scrap_bytes = 0;
            while scrap_bytes < LINGER_BYTES_MAX {
                match socket.read(&mut scrap).await? {
                    0 => break,
                    bytes => scrap_bytes += bytes,
                }
            }
            std::io::Result::Ok(())
        };
        let _ = tokio::time::timeout(LINGER, drained).await;
        self.failure
    }
}

impl Manners {
    /// The accepting end: hears, then answers with a hello or a refusal.
    pub(super) async fn answer(
        &self,
        mut stream: TlsStream<Socket>,
        address: SocketAddr,
    ) -> Result<Connection, Rejected> {
        let mut frames = FrameReader::new(FrameLimit::HANDSHAKE);
        let heard = self.hear(&mut stream, &mut frames).await;
        let said = match &heard {
            Ok(_) => self.say(&mut stream).await,
            Err(failure) => refuse(&mut stream, failure).await,
        };
        self.conclude(stream, frames, address, heard.and_then(|heard| said.map(|()| heard)))
    }

    /// The connecting end: says hello, then hears the answer.
    pub(super) async fn introduce(
        &self,
        mut stream: TlsStream<Socket>,
        address: SocketAddr,
    ) -> Result<Connection, Rejected> {
        let mut frames = FrameReader::new(FrameLimit::HANDSHAKE);
        // A peer that rejects our certificate says so and stops reading: its reason is worth more than
        // the failure to write.
        let said = self.say(&mut stream).await;
        let heard = self.hear(&mut stream, &mut frames).await;
        if let Err(failure) = &heard {
            let _ = refuse(&mut stream, failure).await;
        }
        self.conclude(stream, frames, address, heard.and_then(|heard| said.map(|()| heard)))
    }

    async fn say(&self, stream: &mut TlsStream<Socket>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        self.hello.append(&mut bytes);
        stream.write_all(&bytes).await?;
        Ok(stream.flush().await?)
    }

    async fn hear(
        &self,
        stream: &mut TlsStream<Socket>,
        frames: &mut FrameReader,
    ) -> Result<(u16, Hello), Failure> {
        loop {
            if let Some(frame) = frames.next_frame()? {
                return match First::read(&frame)? {
                    First::Refused { reason } => Err(Failure::Refused { reason }),
                    First::Hello { protocol, hello } => {
                        self.hello.agrees_with(&hello)?;
                        Ok((protocol, hello))
                    }
                };
            }
            if stream.read_buf(frames.buffer()).await? == 0 {
                return Err(Failure::Closed);
            }
        }
    }

    fn conclude(
        &self,
        stream: TlsStream<Socket>,
        mut frames: FrameReader,
        address: SocketAddr,
        outcome: Result<(u16, Hello), Failure>,
    ) -> Result<Connection, Rejected> {
        match outcome {
            Ok((protocol, hello)) => {
                frames.set_limit(self.limit);
                Ok(Connection::new(stream, frames, Remote { address, hello }, protocol))
            }
            Err(failure) => Err(Rejected::new(failure, Some(into_socket(stream)))),
        }
    }
}

/// Tells the peer why, if it is there to hear it and this end is the one that refuses.
async fn refuse(stream: &mut TlsStream<Socket>, failure: &Failure) -> Result<(), Failure> {
    let reason = match failure {
        Failure::Hello(reason) => reason.to_string(),
        Failure::Frame(reason) => reason.to_string(),
        _ => return Ok(()),
    };
    let mut bytes = Vec::new();
    append_refusal(&mut bytes, &reason);
    stream.write_all(&bytes).await?;
    Ok(stream.shutdown().await?)
}

fn into_socket(stream: TlsStream<Socket>) -> Socket {
    match stream {
        TlsStream::Client(stream) => stream.into_inner().0,
        TlsStream::Server(stream) => stream.into_inner().0,
    }
}
