//! Divides an area of the machine among ranks: whole packages, then whole NUMA nodes, then cores of one node.
//!
//! In go a [`Machine`] cut down to the area and the ranks' roles; out comes the CPUs of each. Called by the
//! plan in [`super::binding`].

use super::{Core, CpuSet, Machine, RankRole, Sharing};

/// One rank's part of an area.
pub(super) struct Share {
    pub(super) cpus: CpuSet,
    pub(super) sharing: Sharing,
}

/// A share for each of `roles`, in their order.
pub(super) fn share_out(area: &Machine, roles: &[RankRole]) -> Vec<Share> {
    let ranks = roles.len();
    if area.cores().count() >= ranks {
        return divide_cores(area.clone(), roles);
    }
    // More ranks than cores: SMT siblings keep the ranks apart as far as they go.
    let siblings = with_pus_as_cores(area);
    if siblings.cores().count() >= ranks {
        return divide_cores(siblings, roles);
    }
    overlay(&siblings, roles)
}

/// Disjoint shares of at least as many cores as there are ranks.
fn divide_cores(mut area: Machine, roles: &[RankRole]) -> Vec<Share> {
    let workers = roles.iter().filter(|role| **role != RankRole::Scheduler).count();
    if workers == 0 {
        let shares = divide(&packages(&area), roles.len());
        return shares.into_iter().map(exclusive).collect();
    }
    // The scheduler is one loop in every task's path: behind a busy executor it would wait a time slice per
    // message, and a second core would only idle. It takes the first core because the kernel's own work lands there
    // most, where it would hold up one executor and with it every barrier of tasks.
    let mut reserved = Vec::new();
    for _ in workers..roles.len() {
        let Some(core) = area.cores().next().map(|core| core.pus.clone()) else { break };
        area = area.restricted_to(&area.cpus().difference(&core));
        reserved.push(core);
    }
    let mut reserved = reserved.into_iter();
    let mut shares = divide(&packages(&area), workers).into_iter();
    let mut next = |role: &RankRole| match role {
        RankRole::Scheduler => reserved.next().into_iter().collect(),
        RankRole::Worker | RankRole::Both => shares.next().unwrap_or_default(),
    };
    roles.iter().map(|role| exclusive(next(role))).collect()
}

/// One CPU for each worker, neighbours together, and all CPUs for a scheduler: the kernel finds it the idlest.
fn overlay(area: &Machine, roles: &[RankRole]) -> Vec<Share> {
    let cpus: Vec<CpuSet> = area.cores().map(|core| core.pus.clone()).collect();
    let workers = roles.iter().filter(|role| **role != RankRole::Scheduler).count();
    let mut worker = 0;
    let mut share = |role: &RankRole| match role {
        RankRole::Scheduler => cpus.clone(),
        RankRole::Worker | RankRole::Both => {
            let at = worker * cpus.len() / workers;
            worker += 1;
            cpus[at..].iter().take(1).cloned().collect()
        }
    };
    roles.iter().map(|role| Share { cpus: merge(share(role)), sharing: Sharing::Shared }).collect()
}

fn exclusive(cores: Vec<CpuSet>) -> Share {
    Share { cpus: merge(cores), sharing: Sharing::Exclusive }
}

fn merge(cores: Vec<CpuSet>) -> CpuSet {
    cores.iter().flat_map(CpuSet::iter).collect()
}

fn with_pus_as_cores(area: &Machine) -> Machine {
    let mut area = area.clone();
    for node in area.packages.iter_mut().flat_map(|package| &mut package.numa_nodes) {
        let pus = node.cores.iter().flat_map(|core| core.pus.iter());
        node.cores = pus.map(|pu| Core { pus: [pu].into_iter().collect() }).collect();
    }
    area
}

/// A package, a NUMA node or a core: what a share is made of as a whole if it can be.
struct Part {
    cores: Vec<CpuSet>,
    inside: Vec<Part>,
}

impl Part {
    fn around(inside: Vec<Part>) -> Self {
        Self { cores: inside.iter().flat_map(|part| part.cores.iter().cloned()).collect(), inside }
    }
}

fn packages(area: &Machine) -> Vec<Part> {
    let core = |core: &Core| Part { cores: vec![core.pus.clone()], inside: Vec::new() };
    let node = |cores: &Vec<Core>| Part::around(cores.iter().map(core).collect());
    area.packages
        .iter()
        .map(|package| Part::around(package.numa_nodes.iter().map(|numa| node(&numa.cores)).collect()))
        .collect()
}

/// `shares` disjoint shares of all cores of `parts`, which has at least as many cores.
///
/// With fewer shares than parts each share is a run of whole parts; otherwise each part is divided on its own.
fn divide(parts: &[Part], shares: usize) -> Vec<Vec<CpuSet>> {
    let weights: Vec<usize> = parts.iter().map(|part| part.cores.len()).collect();
    if shares < parts.len() {
        return runs(&weights, shares)
            .into_iter()
            .map(|run| parts[run].iter().flat_map(|part| part.cores.iter().cloned()).collect())
            .collect();
    }
    let mut divided = Vec::with_capacity(shares);
    for (part, count) in parts.iter().zip(apportion(&weights, shares)) {
        match count {
            1 => divided.push(part.cores.clone()),
            _ => divided.extend(divide(&part.inside, count)),
        }
    }
    divided
}

/// How many of `seats` each part gets: at least one, at most its weight, so that the smallest share is largest.
///
/// Highest averages after D'Hondt; the first part wins a tie.
fn apportion(weights: &[usize], seats: usize) -> Vec<usize> {
    let mut counts = vec![1; weights.len()];
    for _ in weights.len()..seats {
        // Compares weights[a] / (counts[a] + 1) without fractions.
        let better = |&a: &usize, &b: &usize| {
            let (left, right) = (weights[a] * (counts[b] + 1), weights[b] * (counts[a] + 1));
            left.cmp(&right).then(b.cmp(&a))
        };
        let Some(most) = (0..weights.len()).max_by(better) else { break };
        counts[most] += 1;
    }
    counts
}

/// Cuts parts into `runs` non-empty runs of neighbours, each as near to its fair weight as whole parts allow.
fn runs(weights: &[usize], runs: usize) -> Vec<std::ops::Range<usize>> {
    let total: usize = weights.iter().sum();
    let mut cuts = Vec::with_capacity(runs);
    let (mut start, mut before) = (0, 0);
    for run in 1..=runs {
        let (goal, last) = (total * run / runs, weights.len() - (runs - run));
        let mut end = start + 1;
        let mut weight = before + weights[start];
        // A part goes to the run that more than half of it belongs to.
        while end < last && (run == runs || weight + weights[end] / 2 < goal) {
            weight += weights[end];
            end += 1;
        }
        cuts.push(start..end);
        (start, before) = (end, weight);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_follow_the_weights() {
        assert_eq!(apportion(&[16, 16], 3), [2, 1]);
        assert_eq!(apportion(&[4, 12], 4), [1, 3]);
        assert_eq!(apportion(&[1, 1, 6], 8), [1, 1, 6]);
    }

    #[test]
    fn runs_are_whole_and_balanced() {
        assert_eq!(runs(&[16; 8], 3), [0..3, 3..5, 5..8]);
        assert_eq!(runs(&[15, 16, 16, 16], 2), [0..2, 2..4]);
        assert_eq!(runs(&[1, 1, 1, 13], 2), [0..3, 3..4]);
        assert_eq!(runs(&[13, 1, 1, 1], 3), [0..1, 1..2, 2..4]);
    }
}
