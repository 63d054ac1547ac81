//! A real worker under a scripted scheduler: tasks, values between workers, failures and the end.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::iter::from_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use dcluster::model::error::ErrorKind;
use dcluster::model::pack::pack;
use dcluster::model::unpack::unpack;
use dcluster::model::{Data, FunctionId, Packed, TaskError, TaskId, WorkerId};
use dcluster::registry::arguments::{put_input, put_value};
use dcluster::registry::{Registry, TaskDefinition};
use dcluster::security::{Credentials, RunCredentials};
use dcluster::topology::{Binding, CpuSet, DecidedBy, MemoryPolicy, Sharing};
use dcluster::transport::data::{DataError, DataPool, Meter};
use dcluster::transport::tcp::{Connection, Listener, Reach, ReadHalf, WriteHalf, hello};
use dcluster::wire::Peer;
use dcluster::wire::handshake::{BuildHash, Role};
use dcluster::wire::worker::{
    Assignment, Caution, Finished, Input, Join, PairReader, Shutdown, Source, TaskReader, ToWorkerOutbox,
    WorkerMessage,
};
use dcluster::worker::spill::SpillPlace;
use dcluster::worker::{WorkerConfig, WorkerError, run};
use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Long enough for a busy machine; only a hang takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

#[dcluster::task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[dcluster::task]
fn ramp(length: u64) -> Vec<f64> {
    (0..length).map(|index| index as f64).collect()
}

#[dcluster::task]
fn total(numbers: &[f64]) -> f64 {
    numbers.iter().sum()
}

#[dcluster::task]
fn fall(depth: i64) -> i64 {
    assert!(depth < 0, "fell {depth} m");
    depth
}

#[dcluster::task]
fn doze(millis: u64) -> u64 {
    thread::sleep(Duration::from_millis(millis));
    millis
}

/// Says that it is at the door, and waits until that is open.
#[dcluster::task]
fn pass(knock: PathBuf, open: PathBuf) {
    std::fs::write(knock, "").unwrap();
    wait_for_file(&open);
}

fn wait_for_file(file: &Path) {
    while !file.exists() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn registry() -> Arc<Registry> {
    let tasks: [&'static TaskDefinition; 6] = [
        &add::DEFINITION,
        &ramp::DEFINITION,
        &total::DEFINITION,
        &fall::DEFINITION,
        &doze::DEFINITION,
        &pass::DEFINITION,
    ];
    Arc::new(Registry::of(tasks).unwrap())
}

fn build() -> Option<BuildHash> {
    Some(BuildHash(registry().table_hash()))
}

/// The scheduler's end of the cluster.
struct Cluster {
    credentials: RunCredentials,
    listener: Listener,
}

/// A worker, its connection, and the thread that it lives on.
struct Worker {
    join: Join,
    reader: ReadHalf,
    writer: WriteHalf,
    outbox: ToWorkerOutbox,
    /// How tasks are to be started.
    caution: Caution,
    reports: VecDeque<Report>,
    stop: Option<oneshot::Sender<()>>,
    ended: std_mpsc::Receiver<Result<Shutdown, WorkerError>>,
}

#[derive(Debug, PartialEq)]
enum Report {
    Finished { task: u64, inline: Option<Bytes>, nbytes: u64 },
    Failed { task: u64, error: Box<TaskError> },
    Returned(u64),
    Started(u64),
    Fenced(u64),
    Holds(u64, u64),
    Unavailable(u64, u64),
    Metrics { values: u64 },
}

impl Cluster {
    async fn start() -> Self {
        let credentials = Credentials::generate().unwrap();
        let hello = hello(Role::Scheduler, build());
        let listener = Listener::bind(&Reach::Machine, 0, &credentials.scheduler, hello).await.unwrap();
        Self { credentials, listener }
    }

    fn config(&self, threads: usize) -> WorkerConfig {
        WorkerConfig {
            scheduler: self.listener.address().to_owned(),
            credentials: self.credentials.member.clone(),
            registry: registry(),
            binding: Binding {
                cpus: CpuSet::default(),
                executors: vec![CpuSet::default(); threads],
                numa_nodes: vec![],
                memory: MemoryPolicy::Local,
                sharing: Sharing::Shared,
                decided_by: DecidedBy::Plan,
                warnings: vec![],
            },
            machine: None,
            rank: Some(7),
            reach: Reach::Machine,
            memory_bytes_max: 1 << 30,
            spill: SpillPlace::Nowhere(String::new()),
            workers_in_process: 1,
            connect_within: PATIENCE,
            mpi: None,
            shm: None,
        }
    }

    async fn worker(&mut self, threads: usize) -> Worker {
        let config = self.config(threads);
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = std_mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let stop = async {
                match stopped.await {
                    Ok(()) => Shutdown { reason: "test".to_owned(), code: 0 },
                    Err(_) => pending().await,
                }
            };
            let _ = end.send(runtime.block_on(run(config, stop)));
        });
        let connection = timeout(PATIENCE, self.listener.accept()).await.unwrap();
        Worker::joined(connection, stop, ended).await
    }

    fn pool(&self) -> DataPool {
        DataPool::new(&self.credentials.member, build(), 1 << 30).unwrap()
    }
}

impl Worker {
    async fn joined(
        connection: Connection,
        stop: oneshot::Sender<()>,
        ended: std_mpsc::Receiver<Result<Shutdown, WorkerError>>,
    ) -> Self {
        let (mut reader, writer) = connection.split();
        let frame = timeout(PATIENCE, reader.frame()).await.unwrap().unwrap().unwrap();
        let WorkerMessage::Join(join) = WorkerMessage::read(frame.opcode, &frame.body).unwrap() else {
            panic!("the first message of a worker is its join")
        };
        Self {
            join: *join,
            reader,
            writer,
            outbox: ToWorkerOutbox::default(),
            caution: Caution::None,
            reports: VecDeque::new(),
            stop: Some(stop),
            ended,
        }
    }

    fn assign(&mut self, task: u64, function: FunctionId, arguments: &[u8], inputs: &[(u64, Source<'_>)]) {
        let inputs: SmallVec<[Input<'_>; 2]> = inputs
            .iter()
            .map(|(input, source)| Input { task: TaskId(*input), source: source.clone() })
            .collect();
        self.outbox.assign(&Assignment {
            task: TaskId(task),
            function,
            priority: 0,
            caution: self.caution,
            arguments,
            inputs,
        });
    }

    fn call<T: serde::Serialize>(&mut self, task: u64, definition: &TaskDefinition, arguments: &[T]) {
        let mut bytes = Vec::new();
        arguments.iter().for_each(|argument| put_value(&mut bytes, argument).unwrap());
        self.assign(task, definition.id, &bytes, &[]);
    }

    /// Assigns a task that takes the value of `input` and nothing else.
    fn call_on(&mut self, task: u64, definition: &TaskDefinition, input: u64, source: Source<'_>) {
        let mut bytes = Vec::new();
        put_input(&mut bytes, 0);
        self.assign(task, definition.id, &bytes, &[(input, source)]);
    }

    async fn flush(&mut self) {
        let mut frames = Vec::new();
        self.outbox.outbox().swap_into(&mut frames);
        self.writer.write_all(&mut frames).await.unwrap();
    }

    /// The next report that is no measurement.
    async fn report(&mut self) -> Report {
        loop {
            match self.any_report().await {
                Report::Metrics { .. } => {}
                report => return report,
            }
        }
    }

    async fn any_report(&mut self) -> Report {
        self.flush().await;
        while self.reports.is_empty() {
            let frame = timeout(PATIENCE, self.reader.frame()).await.expect("a report is due");
            let frame = frame.unwrap().expect("the worker is connected");
            self.read(frame.opcode, &frame.body);
        }
        self.reports.pop_front().unwrap()
    }

    fn read(&mut self, opcode: u8, body: &Bytes) {
        let reports = &mut self.reports;
        match WorkerMessage::read(opcode, body).unwrap() {
            WorkerMessage::Join(_) | WorkerMessage::Missed(_) => panic!("it joins once and acquires nothing"),
            WorkerMessage::Finished(mut batch) => {
                while let Some(Finished { task, nbytes, inline, .. }) = batch.next_finished().unwrap() {
                    let inline = inline.map(Bytes::copy_from_slice);
                    reports.push_back(Report::Finished { task: task.0, inline, nbytes });
                }
            }
            WorkerMessage::Failed(mut batch) => {
                while let Some(failed) = batch.next_failed().unwrap() {
                    let error = Box::new(TaskError::unpack(failed.error));
                    reports.push_back(Report::Failed { task: failed.task.0, error });
                }
            }
            WorkerMessage::Returned(batch) => reports.extend(tasks(batch).map(Report::Returned)),
            WorkerMessage::Started(batch) => reports.extend(tasks(batch).map(Report::Started)),
            WorkerMessage::Fenced(mut batch) => {
                reports.extend(from_fn(|| batch.next_number().unwrap()).map(Report::Fenced));
            }
            WorkerMessage::Holds(batch) => reports.extend(pairs(batch, Report::Holds)),
            WorkerMessage::Unavailable(batch) => reports.extend(pairs(batch, Report::Unavailable)),
            WorkerMessage::Metrics(metrics) => reports.push_back(Report::Metrics { values: metrics.values }),
            // Copies, memory and transfers have tests of their own.
            _ => {}
        }
    }

    async fn result<T: Data>(&mut self, expected: u64) -> T {
        match self.report().await {
            Report::Finished { task, inline: Some(flat), .. } if task == expected => decode(&flat),
            other => panic!("task {expected} should finish with a small result, but: {other:?}"),
        }
    }

    fn ended(&self) -> Result<Shutdown, WorkerError> {
        self.ended.recv_timeout(PATIENCE).expect("the worker ends")
    }
}

fn pairs(mut batch: PairReader<'_>, report: fn(u64, u64) -> Report) -> impl Iterator<Item = Report> {
    std::iter::from_fn(move || batch.next_pair().unwrap().map(|(task, number)| report(task.0, number)))
}

fn tasks(mut batch: TaskReader<'_>) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || batch.next_task().unwrap().map(|task| task.0))
}

fn decode<T: Data>(flat: &[u8]) -> T {
    unpack(&Packed::decode(Bytes::copy_from_slice(flat)).unwrap()).unwrap()
}

fn flat<T: Data>(value: &T) -> Bytes {
    pack(value).unwrap().encode()
}

#[tokio::test]
async fn worker_introduces_itself_and_runs_a_task() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(2).await;
    assert_eq!((worker.join.rank, worker.join.threads), (Some(7), 2));
    assert!(worker.join.functions.iter().any(|function| function.name.ends_with("add")));
    worker.call(1, &add::DEFINITION, &[30i64, 12]);
    assert_eq!(worker.result::<i64>(1).await, 42);
}

#[tokio::test]
async fn thousands_of_tasks_finish_once_each() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(3).await;
    for task in 0..5000 {
        worker.call(task, &add::DEFINITION, &[task as i64, 1]);
    }
    let mut results = vec![None; 5000];
    for _ in 0..5000 {
        let Report::Finished { task, inline: Some(inline), .. } = worker.report().await else { panic!() };
        assert_eq!(results[task as usize].replace(decode::<i64>(&inline)), None);
    }
    assert!(results.iter().enumerate().all(|(task, result)| *result == Some(task as i64 + 1)));
}

#[tokio::test]
async fn chain_runs_without_the_scheduler() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    worker.call(0, &add::DEFINITION, &[0i64, 1]);
    for task in 1..500 {
        let mut arguments = Vec::new();
        put_input(&mut arguments, 0);
        put_value(&mut arguments, &1i64).unwrap();
        worker.assign(task, add::DEFINITION.id, &arguments, &[(task - 1, Source::Local)]);
    }
    for task in 0..500 {
        assert_eq!(worker.result::<i64>(task).await, task as i64 + 1);
    }
}

fn peer(id: u32, address: &str) -> Peer {
    Peer { worker: WorkerId(id), address: address.to_owned(), mpi_rank: None, shm: None }
}

#[tokio::test]
async fn inline_input_is_used() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    let numbers = flat(&vec![1.5f64, 2.5]);
    worker.call_on(5, &total::DEFINITION, 4, Source::Inline(&numbers));
    assert_eq!(worker.result::<f64>(5).await, 4.0);
}

#[tokio::test]
async fn panic_is_reported_with_its_place_and_the_worker_goes_on() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    let peer = peer(3, &worker.join.address);
    worker.outbox.peers(&[peer]);
    worker.call(1, &fall::DEFINITION, &[9i64]);
    worker.call_on(2, &fall::DEFINITION, 1, Source::Local);
    let Report::Failed { task: 1, error } = worker.report().await else { panic!() };
    assert_eq!((error.kind.clone(), error.message.as_str()), (ErrorKind::Panic, "fell 9 m"));
    assert!(error.location.as_ref().unwrap().file.ends_with("worker.rs"));
    assert!(error.backtrace.is_some() && error.host.is_some());
    assert_eq!((error.worker, error.rank), (Some(WorkerId(3)), Some(7)));
    assert_eq!(worker.report().await, Report::Returned(2));
    worker.call(3, &fall::DEFINITION, &[-1i64]);
    assert_eq!(worker.result::<i64>(3).await, -1);
}

#[tokio::test]
async fn unknown_function_is_an_error_of_the_task() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    worker.assign(1, FunctionId(12345), &[], &[]);
    let Report::Failed { task: 1, error } = worker.report().await else { panic!() };
    assert_eq!(error.kind, ErrorKind::UnknownFunction);
}

#[tokio::test]
async fn values_of_all_sizes_are_fetched_from_a_peer() {
    let mut cluster = Cluster::start().await;
    let (mut maker, mut user) = (cluster.worker(1).await, cluster.worker(1).await);
    let peers = [peer(0, &maker.join.address), peer(1, &user.join.address)];
    user.outbox.peers(&peers);
    // 8 KiB, 1 MiB and 200 MB of numbers.
    for (task, length) in [(1, 1024), (2, 131_072), (3, 25_000_000u64)] {
        maker.call(task, &ramp::DEFINITION, &[length]);
        let Report::Finished { inline: None, nbytes, .. } = maker.report().await else { panic!() };
        assert!(nbytes >= length * 8);
        let remote = Source::Remote { nbytes, holders: smallvec![WorkerId(0)] };
        user.call_on(100 + task, &total::DEFINITION, task, remote);
        assert_eq!(user.report().await, Report::Holds(task, nbytes));
        assert_eq!(user.result::<f64>(100 + task).await, (length * (length - 1) / 2) as f64);
        // The copy stays.
        user.call_on(200 + task, &total::DEFINITION, task, Source::Local);
        assert_eq!(user.result::<f64>(200 + task).await, (length * (length - 1) / 2) as f64);
        maker.outbox.free(TaskId(task));
    }
}

#[tokio::test]
async fn lost_peer_is_reported_and_the_next_holder_asked() {
    let mut cluster = Cluster::start().await;
    let mut user = cluster.worker(1).await;
    let mut keeper = cluster.worker(1).await;
    let mut lost = cluster.worker(1).await;
    let [lost_address, keeper_address] = [&lost, &keeper].map(|worker| worker.join.address.clone());
    user.outbox.peers(&[peer(8, &lost_address), peer(9, &keeper_address)]);
    keeper.call(1, &ramp::DEFINITION, &[1000u64]);
    let Report::Finished { nbytes, .. } = keeper.report().await else { panic!() };
    lost.stop.take().unwrap().send(()).unwrap();
    lost.ended().unwrap();
    let holders = smallvec![WorkerId(8), WorkerId(9)];
    user.call_on(2, &total::DEFINITION, 1, Source::Remote { nbytes, holders });
    assert_eq!(user.report().await, Report::Unavailable(1, 8));
    assert_eq!(user.report().await, Report::Holds(1, nbytes));
    assert_eq!(user.result::<f64>(2).await, 499_500.0);
    // Nobody else has this one; nobody has said where worker 77 is.
    let holders = smallvec![WorkerId(9), WorkerId(77)];
    user.call_on(3, &total::DEFINITION, 50, Source::Remote { nbytes, holders });
    assert_eq!(user.report().await, Report::Unavailable(50, 9));
    assert_eq!(user.report().await, Report::Unavailable(50, 77));
    assert_eq!(user.report().await, Report::Returned(3));
}

#[tokio::test]
async fn client_puts_a_value_and_fetches_a_result() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    let (pool, address) = (cluster.pool(), worker.join.address.clone());
    let numbers = vec![0.5f64; 200_000];
    pool.put(&address, TaskId(1), &pack(&numbers).unwrap(), Meter::default()).await.unwrap();
    assert!(matches!(worker.report().await, Report::Holds(1, 1_600_000..)));
    worker.call_on(2, &total::DEFINITION, 1, Source::Local);
    assert_eq!(worker.result::<f64>(2).await, 100_000.0);
    let fetched = pool.fetch(&address, TaskId(1), Default::default()).await.unwrap().packed;
    assert!(fetched.buffers.iter().all(|buffer| (buffer.as_ptr() as usize).is_multiple_of(64)));
    assert_eq!(unpack::<Vec<f64>>(&fetched).unwrap(), numbers);
    worker.outbox.free(TaskId(1));
    worker.call(3, &add::DEFINITION, &[1i64, 1]);
    worker.result::<i64>(3).await;
    let freed = pool.fetch(&address, TaskId(1), Default::default()).await;
    assert_eq!(freed, Err(DataError::NotHere { address, task: TaskId(1) }));
}

#[tokio::test]
async fn requests_to_one_data_port_share_a_connection_and_all_are_answered() {
    let mut cluster = Cluster::start().await;
    let worker = cluster.worker(1).await;
    let (pool, address) = (cluster.pool(), worker.join.address.clone());
    let sizes = [0usize, 1, 5000, 70_000, 3_000_000];
    let puts = sizes.iter().enumerate().map(|(task, size)| {
        let packed = pack(&vec![task as u8; *size]).unwrap();
        let (pool, address) = (&pool, &address);
        async move {
            pool.put(address, TaskId(task as u64), &packed, Meter::default()).await.unwrap();
            let fetched = pool.fetch(address, TaskId(task as u64), Default::default()).await;
            assert_eq!(fetched.unwrap().packed, packed);
        }
    });
    timeout(PATIENCE, futures_util::future::join_all(puts)).await.unwrap();
}

#[tokio::test]
async fn value_over_the_memory_limit_is_refused_on_either_end() {
    let mut cluster = Cluster::start().await;
    let worker = cluster.worker(1).await;
    let address = worker.join.address.clone();
    let packed = pack(&vec![1.0f64; 100_000]).unwrap();
    let small = DataPool::new(&cluster.credentials.member, build(), 1000).unwrap();
    small.put(&address, TaskId(1), &packed, Meter::default()).await.unwrap();
    let refused = small.fetch(&address, TaskId(1), Default::default()).await;
    assert!(matches!(refused, Err(DataError::TooLarge { bytes_max: 1000, .. })));
    // The connection is still of use.
    small.put(&address, TaskId(2), &pack(&1u8).unwrap(), Meter::default()).await.unwrap();
    assert!(small.fetch(&address, TaskId(2), Default::default()).await.is_ok());
}

#[tokio::test]
async fn queued_task_is_given_back_and_a_running_one_is_not() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    worker.call(1, &doze::DEFINITION, &[300u64]);
    worker.call(2, &doze::DEFINITION, &[0u64]);
    worker.call(3, &doze::DEFINITION, &[0u64]);
    worker.outbox.retract(TaskId(1));
    worker.outbox.retract(TaskId(2));
    worker.outbox.abandon(TaskId(3));
    assert_eq!(worker.report().await, Report::Returned(2));
    assert_eq!(worker.report().await, Report::Returned(3));
    assert_eq!(worker.result::<u64>(1).await, 300);
}

#[tokio::test]
async fn measurements_follow_a_change_and_then_stop() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    worker.call(1, &ramp::DEFINITION, &[1000u64]);
    worker.report().await;
    assert_eq!(worker.any_report().await, Report::Metrics { values: 1 });
    let quiet = timeout(Duration::from_millis(2500), worker.reader.frame()).await;
    assert!(quiet.is_err(), "an idle worker said something: {quiet:?}");
}

#[tokio::test]
async fn shutdown_ends_the_worker_with_its_code_also_while_a_task_runs() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    worker.call(1, &doze::DEFINITION, &[30_000u64]);
    let shutdown = Shutdown { reason: "the driver is done".to_owned(), code: 3 };
    worker.outbox.shutdown(&shutdown);
    worker.flush().await;
    assert_eq!(worker.ended().unwrap(), shutdown);
}

#[tokio::test]
async fn stop_ends_the_worker() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    worker.stop.take().unwrap().send(()).unwrap();
    assert_eq!(worker.ended().unwrap().reason, "test");
}

#[tokio::test]
async fn death_of_the_scheduler_ends_the_worker_and_names_it() {
    let mut cluster = Cluster::start().await;
    let worker = cluster.worker(1).await;
    let address = cluster.listener.address().to_owned();
    let Worker { reader, writer, ended, stop: _stop, .. } = worker;
    drop((reader, writer));
    let error = ended.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(matches!(error, WorkerError::SchedulerLost { .. }), "{error:?}");
    assert!(error.to_string().contains(&address));
}

#[tokio::test]
async fn nonsense_from_the_scheduler_is_an_error_that_says_so() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    worker.call(1, &doze::DEFINITION, &[500u64]);
    worker.call(1, &doze::DEFINITION, &[500u64]);
    worker.flush().await;
    assert!(matches!(worker.ended(), Err(WorkerError::Protocol { .. })));
}

#[tokio::test]
async fn fence_is_answered_behind_what_was_given_back_and_before_what_runs_ends() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(1).await;
    let door = tempfile::tempdir().unwrap();
    let [knock, open] = ["knock", "open"].map(|name| door.path().join(name));
    worker.call(1, &pass::DEFINITION, &[&knock, &open]);
    worker.call(2, &add::DEFINITION, &[1i64, 1]);
    worker.flush().await;
    wait_for_file(&knock);
    [1, 2].into_iter().for_each(|task| worker.outbox.abandon(TaskId(task)));
    worker.outbox.fence(77);
    assert_eq!(worker.report().await, Report::Returned(2));
    assert_eq!(worker.report().await, Report::Fenced(77));
    std::fs::write(open, "").unwrap();
    assert_eq!(worker.report().await, Report::Returned(1));
}

#[tokio::test]
async fn task_under_caution_is_announced_and_then_runs() {
    let mut cluster = Cluster::start().await;
    let mut worker = cluster.worker(2).await;
    worker.caution = Caution::Announce;
    (0..100).for_each(|task| worker.call(task, &add::DEFINITION, &[20i64, 22]));
    let mut running = BTreeSet::new();
    for _ in 0..200 {
        match worker.report().await {
            Report::Started(task) => assert!(running.insert(task)),
            Report::Finished { task, .. } => assert!(running.remove(&task), "{task} was not announced"),
            other => panic!("{other:?}"),
        }
        assert!(running.len() <= 2, "{running:?} have no thread");
    }
}
