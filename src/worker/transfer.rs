//! The data port: hands values out, takes values in, and fetches those of peers.
//!
//! It has a thread and a runtime of its own, so that the bytes of large values do not delay the connection to
//! the scheduler. Values come from and go to the [`Engine`].

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::engine::{Engine, FetchRequest};
use crate::model::{Packed, Resident, TaskId, WorkerId};
use crate::transport::data::stream::{Broken, receive_value, send_value, skip_value};
use crate::transport::data::{DataError, DataPool};
use crate::transport::tcp::{Connection, ListenError, Listener, ReadError, ReadHalf, WriteHalf};
use crate::wire::peer::{PeerReply, PeerRequest, Shape};
use crate::wire::{Peer, WireError};

/// Values larger than this are packed on another thread, so that transfers go on meanwhile.
const PACKED_HERE_BYTES_MAX: usize = 64 * 1024;

/// The running data port. It ends when this is dropped.
#[derive(Debug)]
pub struct Transfer {
    orders: mpsc::UnboundedSender<Order>,
    address: String,
}

#[derive(Debug)]
enum Order {
    Fetch(FetchRequest),
    Peers(Vec<Peer>),
}

/// The data port cannot be opened.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The port.
    #[error("cannot open the data port")]
    Listen(#[from] ListenError),
    /// The thread or its runtime.
    #[error("cannot start the thread of the data port")]
    Thread(#[from] io::Error),
    /// The thread ended before it opened the port.
    #[error("the thread of the data port ended at once")]
    Ended,
}

/// Why a peer's connection ends.
#[derive(Debug, Error)]
enum PeerError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("cannot write")]
    Write(#[from] io::Error),
}

impl Transfer {
    /// Opens the data port with `listen` and serves it. Values over `value_bytes_max` are not taken in.
    pub async fn start<F>(
        engine: Arc<Engine>,
        pool: DataPool,
        value_bytes_max: u64,
        listen: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, TransferError>
    where
        F: Future<Output = Result<Listener, ListenError>>,
    {
        let (opened, listening) = oneshot::channel();
        let (orders, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("dcluster-data".to_owned()).spawn(move || {
            runtime.block_on(async move {
                match listen().await {
                    Ok(listener) => {
                        // If nobody waits any more, the orders are closed as well and `serve` returns.
                        let _ = opened.send(Ok(listener.address().to_owned()));
                        serve(listener, engine, pool, value_bytes_max, received).await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            });
            // Packing that still runs must not hold up the end.
            runtime.shutdown_background();
        })?;
        let address = listening.await.map_err(|_| TransferError::Ended)??;
        Ok(Self { orders, address })
    }

    /// `host:port` under which peers reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Begins a fetch; the engine is told how it ends.
    pub fn fetch(&self, request: FetchRequest) {
        // The thread lives as long as this does.
        let _ = self.orders.send(Order::Fetch(request));
    }

    /// Learns where peers are.
    pub fn add_peers(&self, peers: Vec<Peer>) {
        let _ = self.orders.send(Order::Peers(peers));
    }
}

async fn serve(
    mut listener: Listener,
    engine: Arc<Engine>,
    pool: DataPool,
    value_bytes_max: u64,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut addresses = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Fetch(request)) => {
                    let address = addresses.get(&request.holder).cloned();
                    tokio::spawn(fetch(Arc::clone(&engine), pool.clone(), request, address));
                }
                Some(Order::Peers(peers)) => {
                    addresses.extend(peers.into_iter().map(|peer| (peer.worker, peer.address)));
                }
                None => return,
            },
            connection = listener.accept() => {
                tokio::spawn(attend(Arc::clone(&engine), value_bytes_max, connection));
            }
        }
    }
}

async fn fetch(engine: Arc<Engine>, pool: DataPool, request: FetchRequest, address: Option<String>) {
    let FetchRequest { task, holder, .. } = request;
    let fetched = match &address {
        Some(address) => pool.fetch(address, task).await,
        None => Err(DataError::Connect { address: holder.to_string(), reason: unknown_peer(holder) }),
    };
    if let Err(error) = &fetched {
        debug!(%task, %holder, %error, "fetch failed");
    }
    engine.fetched(task, fetched.ok());
}

fn unknown_peer(holder: WorkerId) -> String {
    format!("the scheduler has not said where {holder} is")
}

/// Serves one peer until it leaves.
async fn attend(engine: Arc<Engine>, value_bytes_max: u64, connection: Connection) {
    let (reader, writer) = connection.split();
    let remote = Arc::clone(reader.remote());
    let mut attendant = Attendant { engine, value_bytes_max, reader, writer, frames: Vec::new() };
    if let Err(error) = attendant.run().await {
        match error {
            // It went without a word, as a killed process does.
            PeerError::Read(ReadError::Lost { .. }) | PeerError::Write(_) => {
                debug!(%remote, %error, "peer lost")
            }
            _ => warn!(%remote, %error, "dropped a peer"),
        }
    }
}

struct Attendant {
    engine: Arc<Engine>,
    value_bytes_max: u64,
    reader: ReadHalf,
    writer: WriteHalf,
    frames: Vec<u8>,
}

impl Attendant {
    async fn run(&mut self) -> Result<(), PeerError> {
        while let Some(frame) = self.reader.frame().await? {
            match PeerRequest::read(frame.opcode, &frame.body)? {
                PeerRequest::Fetch { task } => self.hand_out(task).await?,
                PeerRequest::Put { task, shape } => self.take_in(task, &shape).await?,
            }
            self.writer.write_all(&mut self.frames).await?;
            self.frames.clear();
        }
        Ok(())
    }

    async fn hand_out(&mut self, task: TaskId) -> Result<(), PeerError> {
        let Some(value) = self.engine.value(task) else {
            PeerReply::NotHere.append(&mut self.frames);
            return Ok(());
        };
        match packed(value).await {
            Ok(packed) => {
                PeerReply::Value { shape: Shape::of(&packed) }.append(&mut self.frames);
                send_value(&mut self.writer, &mut self.frames, &packed).await?;
            }
            Err(reason) => PeerReply::Refused { reason }.append(&mut self.frames),
        }
        Ok(())
    }

    async fn take_in(&mut self, task: TaskId, shape: &Shape) -> Result<(), PeerError> {
        let bytes = shape.bytes().unwrap_or(u64::MAX);
        if bytes > self.value_bytes_max {
            skip_value(&mut self.reader, shape).await?;
            let reason = format!(
                "it has {bytes} bytes, and the worker may use {}; scatter it in parts",
                self.value_bytes_max
            );
            PeerReply::Refused { reason }.append(&mut self.frames);
            return Ok(());
        }
        let packed = receive_value(&mut self.reader, shape).await?;
        self.engine.put(task, packed);
        PeerReply::Stored.append(&mut self.frames);
        Ok(())
    }
}

/// The packed form, made on another thread if it is large.
async fn packed(value: Arc<Resident>) -> Result<Packed, String> {
    if value.bytes() <= PACKED_HERE_BYTES_MAX {
        return value.packed().map_err(|error| error.to_string());
    }
    match tokio::task::spawn_blocking(move || value.packed()).await {
        Ok(packed) => packed.map_err(|error| error.to_string()),
        Err(_) => Err("its type panics when it is packed".to_owned()),
    }
}
