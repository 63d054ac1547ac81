//! A rank that holds values and fetches them, as rank 0 tells it: the data port of a worker without the worker.
//!
//! As in a worker, one thread has the connections and the main thread has MPI.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::command::{Command, Holder, Lane, Reply, Sample, append, read};
use crate::launch::main_thread::{MainThread, Told};
use crate::model::buffer::AlignedBuffer;
use crate::model::{Packed, TaskId};
use crate::security::Credentials;
use crate::transport::data::{DataPool, Fetched, LaneKind, LaneOffers, MpiOffer};
use crate::transport::mpi::{Order, Progress, Raw};
use crate::transport::shm;
use crate::transport::tcp::{Connector, Listener, Reach, hello};
use crate::wire::frame::HEADER_BYTES;
use crate::wire::handshake::Role;
use crate::wire::worker::{ToWorkerMessage, ToWorkerOutbox};
use crate::worker::engine::Engine;
use crate::worker::io::IDLE_FRACTION;
use crate::worker::transfer::{Lanes, Transfer};

/// How long rank 0 may take to be reached.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// How long values that were interrupted may take to end, on both ends.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What is in a message that is sent with blocking calls, again and again.
const CONTENT: [u8; 4096] = [0x5a; 4096];

/// What the main thread is told.
pub(super) enum Notice {
    Mpi(Order),
    Exchange { exchange: Exchange, done: oneshot::Sender<Vec<f64>> },
    CpuTime(oneshot::Sender<f64>),
    Ended(anyhow::Result<bool>),
}

/// Blocking messages from one end to the other.
pub(super) struct Exchange {
    peer: u32,
    bytes: usize,
    times: u32,
    end: ExchangeEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExchangeEnd {
    Asks,
    Answers,
}

impl Told for Notice {
    fn into_order(self) -> Result<Order, Self> {
        match self {
            Self::Mpi(order) => Ok(order),
            other => Err(other),
        }
    }
}

/// What a rank needs to take part.
pub(super) struct Post {
    pub(super) rank: u32,
    pub(super) control: String,
    pub(super) credentials: Credentials,
    pub(super) lanes: Lanes,
    pub(super) value_bytes_max: u64,
}

/// Does what rank 0 says until it says that all is over. Whether all ranks lived to the end.
pub(super) fn serve(
    post: Post,
    (sender, receiver): (Sender<Notice>, std::sync::mpsc::Receiver<Notice>),
    progress: Option<Progress>,
    raw: Option<Raw<'_>>,
) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("transfer".to_owned()).spawn(move || {
        let ended = runtime.block_on(async { Agent::start(post, sender.clone()).await?.obey().await });
        // The receiver lives as long as the process.
        let _ = sender.send(Notice::Ended(ended));
    })?;
    let mut main = MainThread::new(receiver, progress);
    let mut memory = AlignedBuffer::zeroed(0);
    loop {
        match main.hear(None)? {
            Notice::Exchange { exchange, done } => {
                let raw = raw.as_ref().context("MPI is not there")?;
                let _ = done.send(exchange.run(raw, &mut memory));
            }
            Notice::CpuTime(to) => drop(to.send(cpu_seconds()?)),
            Notice::Ended(ended) => {
                let all_there = ended?;
                ensure!(!all_there || main.drain(DRAIN_MAX), "values that were interrupted did not end");
                return Ok(all_there);
            }
            // (`hear` keeps them for itself.)
            Notice::Mpi(_) => {}
        }
    }
}

impl Exchange {
    /// What a message took each time, from the request on. It lies in `memory`, of the kind that values have, which is
    /// used again for the next of its length. The content is checked at the end.
    fn run(self, raw: &Raw<'_>, memory: &mut AlignedBuffer) -> Vec<f64> {
        let Self { peer, bytes, times, end } = self;
        if memory.len() != bytes {
            *memory = AlignedBuffer::for_overwrite(bytes);
            memory.as_mut_slice().fill(if end == ExchangeEnd::Answers { CONTENT[0] } else { 0 });
        }
        let mut seconds = Vec::new();
        for _ in 0..times {
            let begun = Instant::now();
            match end {
                ExchangeEnd::Asks => raw.ask(peer, memory.as_mut_slice()),
                ExchangeEnd::Answers => raw.answer(peer, memory.as_slice()),
            }
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let mut parts = memory.as_slice().chunks(CONTENT.len());
        assert!(parts.all(|part| *part == CONTENT[..part.len()]), "MPI changed a message on its way");
        seconds
    }
}

/// The thread with the connections.
struct Agent {
    engine: Arc<Engine>,
    transfer: Transfer,
    pool: DataPool,
    lanes: Lanes,
    main: Sender<Notice>,
    control: crate::transport::tcp::Connection,
    credentials: Credentials,
    rank: u32,
    value_bytes_max: u64,
}

impl Agent {
    async fn start(post: Post, main: Sender<Notice>) -> anyhow::Result<Self> {
        let Post { rank, control, credentials, lanes, value_bytes_max } = post;
        shm::use_pool(value_bytes_max / IDLE_FRACTION);
        let engine = Arc::new(Engine::new(1));
        let pool = DataPool::new(&credentials, None, value_bytes_max)?;
        let of_port = credentials.clone();
        let listen = move || async move {
            Listener::bind(&Reach::network(), 0, &of_port, hello(Role::Peer, None)).await
        };
        let (of_engine, of_pool) = (Arc::clone(&engine), pool.clone());
        let transfer = Transfer::start(of_engine, of_pool, value_bytes_max, lanes.clone(), listen).await?;
        // The port's thread keeps its pool; this thread needs one of its own.
        let pool = DataPool::new(&credentials, None, value_bytes_max)?;
        let connector = Connector::new(&credentials, hello(Role::Peer, None))?;
        let control = connector.connect(&control, CONNECT_MAX).await.context("rank 0 is not there")?;
        Ok(Self { engine, transfer, pool, lanes, main, control, credentials, rank, value_bytes_max })
    }

    /// Whether all ranks lived to the end.
    async fn obey(mut self) -> anyhow::Result<bool> {
        let holder = Holder { address: self.transfer.address().to_owned(), rank: self.rank };
        let (has_mpi, host) = (self.lanes.mpi.is_some(), self.lanes.shm);
        let mut reply = Reply::Ready { holder, has_mpi, host };
        loop {
            let mut frames = Vec::new();
            append(&reply, &mut frames)?;
            let (reader, writer) = self.control.halves();
            writer.write_all(&mut frames).await?;
            let frame = reader.frame().await?.context("rank 0 is gone")?;
            reply = match read(&frame)? {
                Command::End { all_there } => return Ok(all_there),
                command => {
                    self.carry_out(command).await.unwrap_or_else(|error| Reply::Failed(format!("{error:#}")))
                }
            };
        }
    }

    async fn carry_out(&self, command: Command) -> anyhow::Result<Reply> {
        match command {
            Command::Hold(sample) => {
                let (id, packed) = (sample.id(), tokio::task::spawn_blocking(move || sample.make()).await?);
                self.engine.put(id, packed);
                Ok(Reply::Done)
            }
            Command::Drop { task } => self.forget(TaskId(task)),
            Command::Fetch { sample, holder, lane, times } => {
                self.fetch_again_and_again(&sample, &holder, lane, times).await
            }
            Command::FetchTogether { samples, holder, lane } => {
                self.fetch_together(samples, &holder, lane).await
            }
            Command::Interrupt { sample, holder, lane, after_us } => {
                self.interrupt(&sample, &holder, lane, after_us).await?;
                self.fetch_again_and_again(&sample, &holder, lane, 1).await
            }
            Command::FetchFromDying { sample, holder, lane } => {
                if let Ok(fetched) = self.fetch(&sample, &holder, lane).await {
                    judge(&sample, &fetched.packed)?;
                }
                Ok(Reply::Done)
            }
            Command::Die => {
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?;
                Ok(Reply::Done)
            }
            Command::Ask { peer, bytes, times } => self.exchange(peer, bytes, times, ExchangeEnd::Asks).await,
            Command::Answer { peer, bytes, times } => {
                self.exchange(peer, bytes, times, ExchangeEnd::Answers).await
            }
            Command::CpuTime => {
                let (to, seconds) = oneshot::channel();
                self.tell_main(Notice::CpuTime(to))?;
                Ok(Reply::Took { seconds: vec![seconds.await?] })
            }
            Command::End { .. } => Ok(Reply::Done),
        }
    }

    async fn fetch_again_and_again(
        &self,
        sample: &Sample,
        holder: &Holder,
        lane: Lane,
        times: u32,
    ) -> anyhow::Result<Reply> {
        let mut seconds = Vec::new();
        for time in 1..=times {
            let begun = Instant::now();
            let fetched = self.fetch(sample, holder, lane).await?;
            seconds.push(begun.elapsed().as_secs_f64());
            if time == times {
                judge(sample, &fetched.packed)?;
                took(lane, sample, fetched.lane)?;
                return Ok(Reply::Took { seconds });
            }
        }
        bail!("asked to fetch nothing")
    }

    async fn fetch_together(
        &self,
        samples: Vec<Sample>,
        holder: &Holder,
        lane: Lane,
    ) -> anyhow::Result<Reply> {
        let begun = Instant::now();
        let mut fetches = JoinSet::new();
        for sample in samples {
            let (pool, address, offers) =
                (self.pool.clone(), holder.address.clone(), self.offers(lane, holder.rank)?);
            fetches.spawn(async move { (pool.fetch(&address, sample.id(), offers).await, sample) });
        }
        while let Some(ended) = fetches.join_next().await {
            let (fetched, sample) = ended?;
            let fetched = fetched?;
            judge(&sample, &fetched.packed)?;
            took(lane, &sample, fetched.lane)?;
        }
        Ok(Reply::Took { seconds: vec![begun.elapsed().as_secs_f64()] })
    }

    /// Fetches over a connection of its own, which is closed in the middle.
    async fn interrupt(
        &self,
        sample: &Sample,
        holder: &Holder,
        lane: Lane,
        after_us: u64,
    ) -> anyhow::Result<()> {
        let pool = DataPool::new(&self.credentials, None, self.value_bytes_max)?;
        // (Connecting takes longer than what is to be interrupted.)
        pool.fetch(&holder.address, TaskId(u64::MAX), LaneOffers::default()).await.err();
        let fetch = pool.fetch(&holder.address, sample.id(), self.offers(lane, holder.rank)?);
        // Whether it was too late does not matter.
        let _ = tokio::time::timeout(Duration::from_micros(after_us), fetch).await;
        Ok(())
    }

    async fn fetch(&self, sample: &Sample, holder: &Holder, lane: Lane) -> anyhow::Result<Fetched> {
        let offers = self.offers(lane, holder.rank)?;
        Ok(self.pool.fetch(&holder.address, sample.id(), offers).await?)
    }

    fn offers(&self, lane: Lane, rank: u32) -> anyhow::Result<LaneOffers> {
        let mut offers = LaneOffers::default();
        match lane {
            Lane::Tcp => {}
            Lane::Mpi => {
                let mpi = self.lanes.mpi.as_ref().context("the ranks did not meet over MPI")?;
                offers.mpi = MpiOffer::to(mpi, rank, self.value_bytes_max);
            }
            Lane::Shm => offers.shm = self.lanes.shm,
        }
        Ok(offers)
    }

    async fn exchange(&self, peer: u32, bytes: u64, times: u32, end: ExchangeEnd) -> anyhow::Result<Reply> {
        let (done, seconds) = oneshot::channel();
        let exchange = Exchange { peer, bytes: usize::try_from(bytes)?, times, end };
        self.tell_main(Notice::Exchange { exchange, done })?;
        Ok(Reply::Took { seconds: seconds.await? })
    }

    fn forget(&self, task: TaskId) -> anyhow::Result<Reply> {
        let (mut outbox, mut frames) = (ToWorkerOutbox::default(), Vec::new());
        outbox.free(task);
        outbox.outbox().swap_into(&mut frames);
        let mut message = ToWorkerMessage::read(frames[4], &frames[HEADER_BYTES..])?;
        self.engine.withdraw(&mut message)?;
        Ok(Reply::Done)
    }

    fn tell_main(&self, notice: Notice) -> anyhow::Result<()> {
        self.main.send(notice).map_err(|_| anyhow!("the main thread has ended"))
    }
}

/// Whether a value came on the lane that was asked for, or over TCP if it is too small for that.
fn took(asked: Lane, sample: &Sample, kind: LaneKind) -> anyhow::Result<()> {
    let expected = asked.for_value(sample.bytes());
    ensure!(expected.is(kind), "{} bytes came over {kind} and not {}", sample.bytes(), expected.name());
    Ok(())
}

fn judge(sample: &Sample, packed: &Packed) -> anyhow::Result<()> {
    ensure!(sample.is(packed), "a value of {} bytes arrived changed", sample.bytes());
    Ok(())
}

/// CPU time of the calling thread.
fn cpu_seconds() -> anyhow::Result<f64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
