//! The threads that run tasks: one per slot, each pinned to its core.
//!
//! A thread takes its turns from the [`Engine`], runs the task's function, packs a small
//! result and hands the outcome back with its next turn. A panic in a task is an error of that task.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::warn;

use super::core::ThreadId;
use super::engine::{Ended, Engine, Outcome, Start, StartInput, Turn};
use crate::model::error::ErrorKind;
use crate::model::{Packed, RESULT_INLINE_BYTES_MAX, Resident, TaskError, Value, WorkerId};
use crate::registry::panic::catch_task_panic;
use crate::registry::{Arguments, Registry};
use crate::topology::{CpuSet, pin_thread};

/// Who runs the tasks; written into their errors.
#[derive(Debug, Default)]
pub struct Identity {
    /// Known once the scheduler has said it.
    pub worker: OnceLock<WorkerId>,
    /// The rank in the launch, if there is one.
    pub rank: Option<u32>,
    /// The machine.
    pub host: String,
}

/// The executor threads of a worker.
#[derive(Debug)]
pub struct Executor {
    engine: Arc<Engine>,
    /// Closed when the last thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Executor {
    /// Starts one thread per entry of `cpus`, pinned to it; an empty set pins nothing.
    pub fn start(
        engine: &Arc<Engine>,
        cpus: &[CpuSet],
        registry: &Arc<Registry>,
        identity: &Arc<Identity>,
    ) -> io::Result<Self> {
        let (alive, ended) = mpsc::channel();
        for (index, cpus) in cpus.iter().enumerate() {
            let runner = Runner {
                engine: Arc::clone(engine),
                thread: ThreadId(index as u32),
                registry: Arc::clone(registry),
                identity: Arc::clone(identity),
                flat: Vec::new(),
            };
            let (cpus, alive) = (cpus.clone(), alive.clone());
            thread::Builder::new().name(format!("dcluster-exec-{index}")).spawn(move || {
                pin(&cpus);
                runner.run();
                drop(alive);
            })?;
        }
        Ok(Self { engine: Arc::clone(engine), ended })
    }

    /// Ends the threads; one that still runs a task after `grace` is left to the end of the process.
    pub fn stop(self, grace: Duration) {
        self.engine.stop();
        if self.ended.recv_timeout(grace) == Err(RecvTimeoutError::Timeout) {
            warn!(seconds = grace.as_secs_f32(), "tasks are still running and are left behind");
        }
    }
}

fn pin(cpus: &CpuSet) {
    if !cpus.is_empty()
        && let Err(error) = pin_thread(cpus)
    {
        warn!(%cpus, %error, "an executor thread is not pinned");
    }
}

/// One thread.
struct Runner {
    engine: Arc<Engine>,
    thread: ThreadId,
    registry: Arc<Registry>,
    identity: Arc<Identity>,
    /// The flat form of the result or error at hand.
    flat: Vec<u8>,
}

/// What a run came to, before it is booked.
enum Ran {
    Value { value: Value, nbytes: u64, form: Form },
    Error,
}

/// Where the packed form of a result is.
enum Form {
    /// In `flat`.
    Small,
    /// Nowhere.
    Large,
}

impl Runner {
    fn run(mut self) {
        let _alarm = Alarm { engine: Arc::clone(&self.engine) };
        self.engine.enlist(self.thread);
        let mut turn = self.engine.next_turn(self.thread, None);
        loop {
            turn = match turn {
                Turn::Run(start) => self.run_task(start),
                Turn::Park => {
                    thread::park();
                    self.engine.next_turn(self.thread, None)
                }
                Turn::Stop => return,
            };
        }
    }

    fn run_task(&mut self, start: Start) -> Turn {
        let task = start.task;
        let begun = Instant::now();
        self.flat.clear();
        let ran = self.call(start).unwrap_or_else(|error| self.fail(error));
        let duration_us = begun.elapsed().as_micros() as u64;
        let outcome = match ran {
            Ran::Value { value, nbytes, form } => {
                let inline = matches!(form, Form::Small).then_some(self.flat.as_slice());
                Outcome::Value { value, nbytes, inline }
            }
            Ran::Error => Outcome::Error(&self.flat),
        };
        self.engine.next_turn(self.thread, Some(Ended { task, duration_us, outcome }))
    }

    /// Runs the function and packs its result if it is small.
    fn call(&mut self, start: Start) -> Result<Ran, TaskError> {
        let Some(definition) = self.registry.find(start.function) else {
            let message = format!("no function with id {:016x} is linked into this worker", start.function.0);
            return Err(TaskError::new(ErrorKind::UnknownFunction, message));
        };
        let inputs = start.inputs.into_iter().map(resident).collect::<Result<Vec<_>, _>>()?;
        let value = (definition.run)(Arguments { bytes: &start.arguments, inputs: &inputs })?;
        // A type's own `Serialize` may panic as well.
        let packed = catch_task_panic(|| {
            Ok(match value.pack_within(RESULT_INLINE_BYTES_MAX)? {
                Some(packed) if packed.flat_len() <= RESULT_INLINE_BYTES_MAX => Ok(packed),
                Some(packed) => Err(packed.len()),
                None => Err(value.packed_len()?),
            })
        });
        let packed = packed?.map_err(|error: crate::model::pack::PackError| {
            let mut error = TaskError::unpackable_result(error);
            error.task = Some(definition.name.to_owned());
            error
        })?;
        Ok(match packed {
            Ok(packed) => {
                packed.encode_into(&mut self.flat);
                Ran::Value { value, nbytes: packed.len() as u64, form: Form::Small }
            }
            Err(length) => Ran::Value { value, nbytes: length as u64, form: Form::Large },
        })
    }

    fn fail(&mut self, mut error: TaskError) -> Ran {
        error.worker = self.identity.worker.get().copied();
        error.rank = self.identity.rank;
        error.host = Some(self.identity.host.clone());
        self.flat.clear();
        self.flat.extend_from_slice(&error.pack());
        Ran::Error
    }
}

fn resident(input: StartInput) -> Result<Arc<Resident>, TaskError> {
    match input {
        StartInput::Held(value) => Ok(value),
        StartInput::Inline(flat) => inline(flat),
    }
}

fn inline(flat: Bytes) -> Result<Arc<Resident>, TaskError> {
    match Packed::decode(flat) {
        Ok(packed) => Ok(Arc::new(Resident::packed_form(packed))),
        Err(error) => Err(TaskError::new(ErrorKind::ArgumentType, error.to_string())),
    }
}

/// Tells the IO loop when a thread ends by a panic, which only a broken engine can cause.
struct Alarm {
    engine: Arc<Engine>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.engine.set_broken();
        }
    }
}
