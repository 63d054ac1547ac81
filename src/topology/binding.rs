//! The plan: which CPUs, executor threads and memory each rank of a host gets.
//!
//! In go the [`Machine`] and what the launcher gave each rank; out comes one [`Binding`] per rank, a pure
//! function of the two. `verdict.rs` judges what the launcher did, `share.rs` divides cores; [`super::apply`] makes
//! a binding real and [`super::map`] draws it.

use serde::{Deserialize, Serialize};

use super::share::{Share, share_out};
use super::verdict::{Verdict, judge};
use super::{Core, CpuSet, Machine, NumaId};

/// What one rank is bound to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// The CPUs that the rank's threads may run on.
    pub cpus: CpuSet,
    /// The CPUs of each executor thread: one physical core each, empty for a scheduler.
    ///
    /// A thread may move between the PUs of its core; the siblings get no executor of their own.
    pub executors: Vec<CpuSet>,
    /// The NUMA nodes of [`Binding::cpus`], in ascending order.
    pub numa_nodes: Vec<NumaId>,
    /// Where the rank's memory comes from.
    pub memory: MemoryPolicy,
    /// Whether another rank may run on the same CPUs.
    pub sharing: Sharing,
    /// Who chose these CPUs.
    pub decided_by: DecidedBy,
    /// What a user should know about this binding.
    pub warnings: Vec<Warning>,
}

/// Where a rank's memory comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPolicy {
    /// The kernel's default: the node of the thread that touches a page first.
    ///
    /// For a rank over several nodes, whose pinned executors each have a nearest one.
    Local,
    /// This node, and another one only when it is full.
    ///
    /// A strict policy would end the process there instead.
    Prefer(NumaId),
}

/// Whether a rank has its CPUs for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// No other rank of this host may use them.
    Exclusive,
    /// Other ranks of this host may use them too.
    Shared,
}

/// Who chose a rank's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The launcher bound this rank, and that is kept.
    Launcher,
    /// The plan, inside what the launcher allows or against it (with a warning).
    Plan,
}

/// What a user should look at, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Warning {
    /// The sort of trouble.
    pub kind: WarningKind,
    /// What is wrong, what was done about it and what to do.
    pub text: String,
}

/// Sorts of trouble with a binding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WarningKind {
    /// The launcher put the ranks on too few cores while others are free; they were rebound.
    Stacked,
    /// The launcher gave ranks partly the same CPUs; they were rebound.
    Overlapping,
    /// The launcher spread a rank over packages without need; the ranks were rebound.
    AcrossPackages,
    /// There are more ranks than cores.
    Oversubscribed,
    /// The launcher's binding is kept but leaves many cores without a rank.
    CoresUnused,
    /// The launcher's binding is kept but gives the scheduler cores that it cannot use.
    SchedulerOversized,
    /// The kernel refused a part of the binding.
    NotApplied,
}

/// What a rank of this host does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankRole {
    /// Schedules and runs no task.
    Scheduler,
    /// Runs tasks.
    Worker,
    /// Schedules and runs tasks in one process, planned as a worker.
    Both,
}

/// What one rank brings to the plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RankRequest {
    /// Its number among the ranks of this host.
    pub local_rank: u32,
    /// What it does.
    pub role: RankRole,
    /// The CPUs it was started on, see [`super::allowed_cpus`].
    pub cpus: CpuSet,
}

/// A rank in order of its local number.
pub(super) struct Seat {
    pub(super) local_rank: u32,
    pub(super) role: RankRole,
    /// What the launcher gave it of this machine; everything if it gave nothing of it.
    pub(super) cpus: CpuSet,
    /// Where its binding goes in the answer.
    at: usize,
}

/// Ranks that were started on the same CPUs.
pub(super) struct Group {
    pub(super) cpus: CpuSet,
    /// Indices of seats.
    pub(super) members: Vec<usize>,
}

/// Shares `machine` out to the ranks of one host; the answer has the order of `ranks`.
///
/// Ranks that were started on the same CPUs divide these: whole NUMA nodes first, then cores of one. A rank that
/// was started on CPUs of its own keeps them. What makes no sense is planned anew, with a warning. Shares are disjoint
/// wherever there are as many cores as ranks, and every rank has at least one CPU.
pub fn plan(machine: &Machine, ranks: &[RankRequest]) -> Vec<Binding> {
    let seats = take_seats(machine, ranks);
    let verdict = judge(machine, &seats);
    let (groups, warnings) = match verdict {
        Verdict::Sane { groups, warnings } => (groups, warnings),
        Verdict::Unfit { area, warning } => {
            (vec![Group { cpus: area, members: (0..seats.len()).collect() }], vec![warning])
        }
    };

    let mut planned: Vec<(usize, Binding)> = Vec::with_capacity(seats.len());
    for group in &groups {
        let area = machine.restricted_to(&group.cpus);
        let roles: Vec<RankRole> = group.members.iter().map(|&seat| seats[seat].role).collect();
        let kept = group.members.len() == 1 && group.cpus != machine.cpus();
        let decided_by = if kept { DecidedBy::Launcher } else { DecidedBy::Plan };
        for (&seat, share) in group.members.iter().zip(share_out(&area, &roles)) {
            let seat = &seats[seat];
            planned.push((seat.at, Binding::of(machine, seat.role, share, decided_by)));
        }
    }
    planned.sort_by_key(|(at, _)| *at);
    let mut bindings: Vec<Binding> = planned.into_iter().map(|(_, binding)| binding).collect();
    let warnings: Vec<Warning> = warnings.into_iter().chain(oversubscribed(machine, &bindings)).collect();
    for binding in &mut bindings {
        binding.warnings.clone_from(&warnings);
    }
    bindings
}

impl Binding {
    /// Executor threads that the rank runs.
    pub fn threads(&self) -> usize {
        self.executors.len()
    }

    fn of(machine: &Machine, role: RankRole, share: Share, decided_by: DecidedBy) -> Self {
        let Share { cpus, sharing } = share;
        let numa_nodes: Vec<NumaId> = machine.numa_nodes_of(&cpus).into_iter().collect();
        let executors = match role {
            RankRole::Scheduler => Vec::new(),
            RankRole::Worker | RankRole::Both => {
                let parts = machine.cores().map(|core| core.pus.intersection(&cpus));
                parts.filter(|part| !part.is_empty()).collect()
            }
        };
        Self {
            executors,
            memory: match numa_nodes.as_slice() {
                [node] => MemoryPolicy::Prefer(*node),
                _ => MemoryPolicy::Local,
            },
            cpus,
            numa_nodes,
            sharing,
            decided_by,
            warnings: Vec::new(),
        }
    }
}

impl Warning {
    pub(super) fn new(kind: WarningKind, text: String) -> Self {
        Self { kind, text }
    }
}

fn take_seats(machine: &Machine, ranks: &[RankRequest]) -> Vec<Seat> {
    let all = machine.cpus();
    let mut seats: Vec<Seat> = Vec::with_capacity(ranks.len());
    for (at, rank) in ranks.iter().enumerate() {
        let mut cpus = rank.cpus.intersection(&all);
        if cpus.is_empty() {
            cpus.clone_from(&all);
        }
        seats.push(Seat { local_rank: rank.local_rank, role: rank.role, cpus, at });
    }
    seats.sort_by_key(|seat| seat.local_rank);
    seats
}

/// Two ranks on one core; the plan lets that happen only where there are more ranks than cores.
fn oversubscribed(machine: &Machine, bindings: &[Binding]) -> Option<Warning> {
    let ranks_on =
        |core: &Core| bindings.iter().filter(|binding| !binding.cpus.is_disjoint(&core.pus)).count();
    let counts: Vec<usize> = machine.cores().map(ranks_on).filter(|&ranks| ranks > 0).collect();
    if counts.iter().all(|&ranks| ranks == 1) {
        return None;
    }
    let (ranks, cores) = (bindings.len(), counts.len());
    let plural = if cores == 1 { "" } else { "s" };
    let text = format!(
        "{ranks} ranks share {cores} core{plural} and slow each other down: start at most {cores} on this host"
    );
    Some(Warning::new(WarningKind::Oversubscribed, text))
}

#[cfg(test)]
mod tests;
