//! How the ranks of one launch find each other, whatever carries it: what each says of itself, who shares a host, and
//! which share of that host each is bound to.
//!
//! A [`Meeting`] is two collective operations; `mpi.rs` has them from MPI, `files.rs` from a shared directory. All ranks
//! call [`agree`] at about the same time, and get the connection and their binding from it.

use serde::{Deserialize, Serialize};

use super::LaunchError;
use super::memory::Leader;
use super::offer::{self, Offer, Tasks, TurnedAway};
use crate::topology::{self, Binding, CpuSet, Machine, RankRequest, RankRole};

/// The ranks of one launch, coming together before any thread runs.
pub trait Meeting {
    /// This rank, from 0.
    fn rank(&self) -> u32;
    /// How many ranks there are.
    fn size(&self) -> u32;
    /// Hands `mine` to every rank; the answer has one entry per rank, in order.
    ///
    /// Collective: every rank calls it with the same `topic`, in the same order of topics.
    ///
    /// # Errors
    /// [`LaunchError`] if the others did not come in time.
    fn all_gather(&mut self, topic: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>, LaunchError>;
}

/// What one rank says when the ranks meet.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Greeting {
    host: String,
    role: RankRole,
    cpus: CpuSet,
    /// The connection file's content; from rank 0 only.
    connection: Option<Vec<u8>>,
    tasks: Tasks,
}

/// What a rank is for, by its number.
pub fn role_of(rank: u32, size: u32) -> RankRole {
    match (rank, size) {
        (0, 1) => RankRole::Both,
        (0, _) => RankRole::Scheduler,
        _ => RankRole::Worker,
    }
}

/// What the ranks have agreed on.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// The connection file's content, as rank 0 has it.
    pub connection: Vec<u8>,
    /// Where this rank runs.
    pub binding: Binding,
    /// The CPUs it was started on, for a driver that is not to be bound.
    pub cpus_at_start: CpuSet,
    /// How many ranks of its host run tasks and share the memory.
    pub workers_on_host: u32,
    /// Whether rank 0 shares it with them.
    pub leader: Leader,
    /// What the first rank of each host sees of it; None on the other ranks.
    pub machine: Option<Machine>,
    /// Ranks that cannot work; the same list on all ranks.
    pub turned_away: Vec<TurnedAway>,
}

/// Meets the other ranks.
///
/// # Errors
/// [`LaunchError`] if the others do not come, make no sense, or the machine cannot be read.
pub fn agree(meeting: &mut dyn Meeting, offer: Offer) -> Result<Agreement, LaunchError> {
    let role = role_of(meeting.rank(), meeting.size());
    let cpus = topology::allowed_cpus()?;
    let Offer { connection, tasks } = offer;
    let mine = Greeting { host: crate::topology::host_name(), role, cpus: cpus.clone(), connection, tasks };
    let bytes = serde_json::to_vec(&mine).map_err(LaunchError::nonsense)?;
    let greetings = meeting
        .all_gather("greeting", &bytes)?
        .iter()
        .map(|bytes| serde_json::from_slice(bytes).map_err(LaunchError::nonsense))
        .collect::<Result<Vec<Greeting>, _>>()?;

    let neighbours = neighbours(&greetings, &mine.host);
    let works = |rank: &&usize| greetings[**rank].role != RankRole::Scheduler;
    let workers_on_host = neighbours.iter().filter(works).count().max(1) as u32;
    let leader = if neighbours.contains(&0) { Leader::Here } else { Leader::Elsewhere };
    let (binding, machine) = share_host(meeting, &greetings, &neighbours)?;
    let offers = greetings.iter().map(|greeting| (greeting.host.as_str(), &greeting.tasks));
    let turned_away = offer::turned_away(offers);
    let connection = greetings.into_iter().next().and_then(|greeting| greeting.connection);
    let connection = connection.ok_or_else(|| LaunchError::nonsense("rank 0 named no address"))?;
    Ok(Agreement { connection, binding, cpus_at_start: cpus, workers_on_host, leader, machine, turned_away })
}

/// The ranks on `host`, in order; the position is the local rank.
fn neighbours(greetings: &[Greeting], host: &str) -> Vec<usize> {
    (0..greetings.len()).filter(|&rank| greetings[rank].host == host).collect()
}

/// The first rank of each host plans for all of them, because each may see another part of the machine.
fn share_host(
    meeting: &mut dyn Meeting,
    greetings: &[Greeting],
    neighbours: &[usize],
) -> Result<(Binding, Option<Machine>), LaunchError> {
    let me = meeting.rank() as usize;
    let leader = neighbours.first().copied().unwrap_or(me);
    let (mut plan, mut machine) = (Vec::new(), None);
    if leader == me {
        let request = |(local, &rank): (usize, &usize)| RankRequest {
            local_rank: local as u32,
            role: greetings[rank].role,
            cpus: greetings[rank].cpus.clone(),
        };
        let requests: Vec<RankRequest> = neighbours.iter().enumerate().map(request).collect();
        let found = Machine::discover()?;
        let bindings = topology::plan(&found, &requests);
        machine = Some(found);
        plan = serde_json::to_vec(&bindings).map_err(LaunchError::nonsense)?;
    }
    let plans = meeting.all_gather("binding", &plan)?;
    let bindings: Vec<Binding> = serde_json::from_slice(&plans[leader]).map_err(LaunchError::nonsense)?;
    let local = neighbours.iter().position(|&rank| rank == me);
    let mine = local.and_then(|local| bindings.into_iter().nth(local));
    let mine = mine.ok_or_else(|| LaunchError::nonsense("this rank is missing in the plan of its host"))?;
    Ok((mine, machine))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Barrier, Mutex};

    use super::*;

    type Board = Arc<Mutex<std::collections::BTreeMap<(String, u32), Vec<u8>>>>;

    /// Ranks as threads.
    struct Room {
        rank: u32,
        size: u32,
        board: Board,
        barrier: Arc<Barrier>,
    }

    impl Meeting for Room {
        fn rank(&self) -> u32 {
            self.rank
        }

        fn size(&self) -> u32 {
            self.size
        }

        fn all_gather(&mut self, topic: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>, LaunchError> {
            self.board.lock().unwrap().insert((topic.to_owned(), self.rank), mine.to_vec());
            self.barrier.wait();
            let board = self.board.lock().unwrap();
            Ok((0..self.size).map(|rank| board[&(topic.to_owned(), rank)].clone()).collect())
        }
    }

    fn meet(size: u32) -> Vec<Agreement> {
        let (board, barrier) = (Board::default(), Arc::new(Barrier::new(size as usize)));
        let rank = |rank| {
            let mut room = Room { rank, size, board: board.clone(), barrier: barrier.clone() };
            let offer = Offer { connection: (rank == 0).then(|| b"door".to_vec()), tasks: Tasks::None };
            std::thread::spawn(move || agree(&mut room, offer).unwrap())
        };
        let threads: Vec<_> = (0..size).map(rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    #[test]
    fn every_rank_learns_the_address_and_its_binding() {
        let agreements = meet(3);
        assert!(agreements.iter().all(|agreement| agreement.connection == b"door"));
        assert_eq!(agreements[0].binding.threads(), 0, "rank 0 only schedules");
        assert!(agreements[1..].iter().all(|agreement| agreement.binding.threads() >= 1));
    }

    #[test]
    fn a_single_rank_schedules_and_works() {
        assert!(meet(1)[0].binding.threads() >= 1);
    }

    #[test]
    fn only_ranks_of_the_same_host_are_neighbours() {
        let on = |host: &str| Greeting {
            host: host.to_owned(),
            role: RankRole::Worker,
            cpus: CpuSet::default(),
            connection: None,
            tasks: Tasks::None,
        };
        let greetings = [on("a"), on("b"), on("a")];
        assert_eq!(neighbours(&greetings, "a"), [0, 2]);
        assert_eq!(neighbours(&greetings, "b"), [1]);
    }
}
