//! Judges what the launcher did with the ranks of a host: to be kept, or to be planned anew, and why.
//!
//! In goes what each rank was started on; out comes the groups of ranks that divide CPUs among themselves, or the
//! area to plan over and the warning. [`super::binding`] acts on it.

use std::collections::BTreeMap;

use super::binding::{Group, Seat, Warning, WarningKind};
use super::share::share_out;
use super::{CpuSet, Machine, RankRole};

/// What becomes of the launcher's binding.
pub(super) enum Verdict {
    /// It is kept: each group divides its own CPUs.
    Sane { groups: Vec<Group>, warnings: Vec<Warning> },
    /// It is not: all ranks divide `area`.
    Unfit { area: CpuSet, warning: Warning },
}

const UNBIND: &str = "start with `mpirun --bind-to none` or `srun --cpu-bind=none`";

/// Looks for the first reason not to keep what the launcher did.
pub(super) fn judge(machine: &Machine, seats: &[Seat]) -> Verdict {
    let groups = group(seats);
    let used: CpuSet = seats.iter().flat_map(|seat| seat.cpus.iter()).collect();
    // Inside what the launcher used if that is enough: CPUs beyond it may belong to somebody else's job.
    let area = match machine.core_count_of(&used) >= seats.len() {
        true => used.clone(),
        false => machine.cpus(),
    };
    let warning = stacked(machine, seats, &groups, &used)
        .or_else(|| overlapping(machine, seats, &groups, &used))
        .or_else(|| across_packages(machine, seats, &groups, &used));
    match warning {
        Some(warning) => Verdict::Unfit { area, warning },
        None => {
            let warnings = cores_unused(machine, seats, &used)
                .into_iter()
                .chain(scheduler_oversized(machine, seats, &groups))
                .collect();
            Verdict::Sane { groups, warnings }
        }
    }
}

/// Ranks with equal CPUs, in order of the first of them.
fn group(seats: &[Seat]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: BTreeMap<&CpuSet, usize> = BTreeMap::new();
    for (index, seat) in seats.iter().enumerate() {
        let at = *known.entry(&seat.cpus).or_insert_with(|| {
            groups.push(Group { cpus: seat.cpus.clone(), members: Vec::new() });
            groups.len() - 1
        });
        groups[at].members.push(index);
    }
    groups
}

/// All ranks on fewer cores than ranks, or one core, although the machine has more.
fn stacked(machine: &Machine, seats: &[Seat], groups: &[Group], used: &CpuSet) -> Option<Warning> {
    let (cores, all) = (machine.core_count_of(used), machine.cores().count());
    // One CPU for each rank, siblings included, is what a launcher that allocates by PU means to give.
    let by_pu = cores > 1 && groups.iter().all(|group| group.cpus.len() >= group.members.len());
    if cores >= seats.len() || by_pu || cores >= all {
        return None;
    }
    let text = format!(
        "the launcher put {} ranks on {cores} of {all} usable cores (CPUs {used}); they are rebound to separate \
         cores: {UNBIND}",
        seats.len()
    );
    Some(Warning::new(WarningKind::Stacked, text))
}

/// Two groups with CPUs (or, if cores suffice, cores) in common, or one with more ranks than cores beside others with cores to spare.
fn overlapping(machine: &Machine, seats: &[Seat], groups: &[Group], used: &CpuSet) -> Option<Warning> {
    let name = |group: &Group| {
        let ranks = super::cpuset::ranges(group.members.iter().map(|&seat| seats[seat].local_rank));
        format!("local rank{} {ranks} CPUs {}", if group.members.len() > 1 { "s" } else { "" }, group.cpus)
    };
    let enough_cores = machine.core_count_of(used) >= seats.len();
    let enough_pus = used.len() >= seats.len();
    for (at, group) in groups.iter().enumerate() {
        let taken = if enough_cores { machine.whole_cores_of(&group.cpus) } else { group.cpus.clone() };
        if let Some(other) = groups[at + 1..].iter().find(|other| !other.cpus.is_disjoint(&taken)) {
            let text = format!(
                "the launcher gave {} and {}, which share cores; all ranks are rebound: {UNBIND}",
                name(group),
                name(other)
            );
            return Some(Warning::new(WarningKind::Overlapping, text));
        }
        let ranks = group.members.len();
        if (enough_cores && machine.core_count_of(&group.cpus) < ranks)
            || (enough_pus && group.cpus.len() < ranks)
        {
            let text = format!(
                "the launcher gave {}, too few cores beside others that are free; all ranks are rebound: {UNBIND}",
                name(group)
            );
            return Some(Warning::new(WarningKind::Overlapping, text));
        }
    }
    None
}

/// A rank over several packages, if a plan over the same CPUs avoids that and no worker gets less for it.
fn across_packages(machine: &Machine, seats: &[Seat], groups: &[Group], used: &CpuSet) -> Option<Warning> {
    let alone = |group: &&Group| group.members.len() == 1 && machine.packages_of(&group.cpus).len() > 1;
    let spread = groups.iter().find(alone)?;
    if machine.core_count_of(used) < seats.len() {
        return None;
    }
    let roles: Vec<RankRole> = seats.iter().map(|seat| seat.role).collect();
    let is_worker = |seat: &&Seat| seat.role != RankRole::Scheduler;
    let given = seats.iter().filter(is_worker).map(|seat| machine.core_count_of(&seat.cpus)).min()?;
    for (seat, share) in seats.iter().zip(share_out(&machine.restricted_to(used), &roles)) {
        let (cores, packages) = (machine.core_count_of(&share.cpus), machine.packages_of(&share.cpus));
        if is_worker(&seat) && (cores < given || packages.len() > 1) {
            return None;
        }
    }
    let packages =
        super::cpuset::ranges(machine.packages_of(&spread.cpus).into_iter().map(|package| package.0));
    let text = format!(
        "the launcher spread local rank {} over packages {packages} (CPUs {}); all ranks are rebound so that each \
         stays in one: start with `mpirun --map-by numa --bind-to none` or `srun --distribution=block:block`",
        seats[spread.members[0]].local_rank, spread.cpus
    );
    Some(Warning::new(WarningKind::AcrossPackages, text))
}

/// At least one more core for every rank lies idle.
fn cores_unused(machine: &Machine, seats: &[Seat], used: &CpuSet) -> Option<Warning> {
    let (cores, all) = (machine.core_count_of(used), machine.cores().count());
    if seats.is_empty() || all - cores < seats.len() {
        return None;
    }
    let text = format!(
        "the launcher bound {} to {cores} of {all} cores; if the others belong to this job too, {UNBIND}",
        if seats.len() == 1 { "the only rank".to_owned() } else { format!("{} ranks", seats.len()) },
    );
    Some(Warning::new(WarningKind::CoresUnused, text))
}

/// The scheduler, one loop, alone on several cores while there are workers.
fn scheduler_oversized(machine: &Machine, seats: &[Seat], groups: &[Group]) -> Option<Warning> {
    let alone = |group: &&Group| {
        let [seat] = group.members.as_slice() else { return false };
        seats[*seat].role == RankRole::Scheduler && machine.core_count_of(&group.cpus) > 1
    };
    let scheduler = groups.iter().find(alone).filter(|_| seats.len() > 1)?;
    let text = format!(
        "the scheduler runs no task, yet the launcher gave it {} cores (CPUs {}): {UNBIND}, and it takes one",
        machine.core_count_of(&scheduler.cpus),
        scheduler.cpus
    );
    Some(Warning::new(WarningKind::SchedulerOversized, text))
}
