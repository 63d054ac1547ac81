//! What values cost on their way between two ranks: each lane against plain blocking messages of MPI.
//!
//! ```text
//! rank 0  crew ── Command ──► rank 1, which fetches ◄── a lane ── the last rank, which holds
//!              ◄── Reply ───
//! ```
//!
//! Rank 0 only says what is done. The same two ranks exchange blocking messages (the baseline) and fetch values over
//! each lane in turns, repetition by repetition. `measure.rs` has the figures, `check.rs` the contract that every lane
//! keeps, `rank.rs` what the other ranks do.

mod check;
mod command;
mod crew;
mod measure;
mod rank;

use std::process::Stdio;
use std::sync::mpsc::channel;

use anyhow::Context as _;
use serde_json::json;

use self::crew::Crew;
use self::rank::{Notice, Post};
use super::super::arguments::Bench;
use super::{Figure, Report};
use crate::launch::meet;
use crate::launch::offer::Offer;
use crate::launch::role::{self, Environment, Launch};
use crate::launch::way::{self, Met};
use crate::launch::{Exit, FINALIZE_MAX, exit, memory};
use crate::security::Credentials;
use crate::topology;
use crate::worker::transfer::Lanes;

/// Rank 0 and the two ends of a transfer.
const RANKS_MIN: u32 = 3;

/// Runs the suite as one rank of a launch, or starts a launch of this machine; the exit code.
pub(in crate::cli) fn run(env: &Environment, typed: &Bench, as_json: bool) -> i32 {
    let done = match role::detect(env) {
        Some(launch) => take_part(&launch, env, typed, as_json),
        None => start_ranks(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: the benchmark did not finish: {error:#}");
        Exit::Failure.code()
    })
}

/// `mpirun -n 3` with the words of this process.
fn start_ranks() -> anyhow::Result<i32> {
    let mut mpirun = super::stage::mpirun(RANKS_MIN)?;
    let status = mpirun.args(std::env::args_os().skip(1)).stdin(Stdio::null()).status();
    let status = status.context("mpirun does not start: install an MPI, or load its module")?;
    Ok(status.code().unwrap_or(Exit::Failure.code()))
}

fn take_part(launch: &Launch, env: &Environment, typed: &Bench, as_json: bool) -> anyhow::Result<i32> {
    #[cfg(feature = "mpi")]
    crate::launch::mpi::set_defaults();
    let door = (launch.rank == 0).then(Crew::open_door).transpose()?;
    let mut met = Met::enter(launch, env)?;
    let (rank, size) = (met.meeting().rank(), met.meeting().size());
    let connection = door.as_ref().map(|door| serde_json::to_vec(&door.card())).transpose()?;
    let agreement = meet::agree(met.meeting(), Offer { connection, ..Offer::default() })?;
    let partner = if rank == 1 { size - 1 } else { 1 };
    let hosts = met.meeting().all_gather("host", topology::host_name().as_bytes())?;
    if rank > 0 && rank < size && hosts.get(partner as usize) == hosts.get(rank as usize) {
        stay_apart(rank == 1)?;
    }
    let over = met.adjourn();
    let done = match door {
        Some(_) if size < RANKS_MIN => {
            Err(anyhow::anyhow!("{size} ranks: start it with at least {RANKS_MIN}"))
        }
        Some(door) => lead(door, size, typed, as_json),
        None if size < RANKS_MIN => Ok((Exit::Failure.code(), true)),
        None => {
            let (control, credentials): (String, Credentials) =
                serde_json::from_slice(&agreement.connection)?;
            let (sender, receiver) = channel();
            let orders = sender.clone();
            let (mpi, progress) = over.lane(env, move |order| drop(orders.send(Notice::Mpi(order))));
            let value_bytes_max = memory::of_host(env);
            let lanes = Lanes { mpi, shm: way::shm_lane(env) };
            let post = Post { rank, control, credentials, lanes, value_bytes_max };
            rank::serve(post, (sender, receiver), progress, over.raw())
                .map(|all_there| (Exit::Success.code(), all_there))
        }
    };
    let (code, all_there) = done.unwrap_or_else(|error| {
        eprintln!("error: rank {rank}: {error:#}");
        (Exit::Failure.code(), true)
    });
    if !all_there {
        // Nobody comes out of MPI_Finalize when a rank is missing.
        exit::at_once(code);
    }
    over.finalize(FINALIZE_MAX, code);
    Ok(code)
}

/// Each of the two ends has half of the host's cores, where they share a host: two threads that poll on one core would
/// measure how the kernel shares it.
fn stay_apart(is_near: bool) -> anyhow::Result<()> {
    let cpus: Vec<u32> = topology::allowed_cpus()?.iter().collect();
    let (lower, upper) = cpus.split_at(cpus.len() / 2);
    if !lower.is_empty() {
        topology::pin_thread(&(if is_near { lower } else { upper }).iter().copied().collect())?;
    }
    Ok(())
}

/// What rank 0 does.
fn lead(door: crew::Door, size: u32, typed: &Bench, as_json: bool) -> anyhow::Result<(i32, bool)> {
    door.run(size, async |crew: &mut Crew| {
        if typed.check {
            let verdicts = check::run(crew, typed.quick, typed.lose_ranks).await?;
            let is_good = verdicts.iter().all(check::Verdict::is_good);
            let text = match as_json {
                true => format!("{}\n", json!({ "checks": verdicts })),
                false => check::table(&verdicts),
            };
            super::super::print(text.as_bytes());
            return Ok(if is_good { Exit::Success } else { Exit::Failure }.code());
        }
        let figures: Vec<Figure> = measure::run(crew, typed.repeat, typed.quick).await?;
        #[cfg(feature = "mpi")]
        let notes = vec![crate::launch::mpi::library_and_settings()];
        #[cfg(not(feature = "mpi"))]
        let notes = Vec::new();
        Ok(super::show(&Report { figures, notes }, as_json))
    })
}
