//! The text of `dcluster topo`: for each host a map of ranks on packages, NUMA nodes and cores, warnings below.
//!
//! In go hosts with their machine and bindings; out comes text of at most 100 columns. The same data as JSON is
//! [`HostPlacement`] through serde.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::cpuset::ranges;
use super::{Binding, Core, DecidedBy, Machine, MemoryPolicy, NumaNode, RankRole, Sharing};

const COLUMNS: usize = 100;
const INDENT: &str = "      ";

/// One host and its ranks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostPlacement {
    /// The host's name.
    pub host: String,
    /// What the job may use of it.
    pub machine: Machine,
    /// Its ranks.
    pub ranks: Vec<RankPlacement>,
}

/// One rank and its binding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RankPlacement {
    /// Its number in the whole cluster.
    pub rank: u32,
    /// What it does.
    pub role: RankRole,
    /// Where it does it.
    pub binding: Binding,
}

/// Where a process of a cluster runs, as it tells the scheduler.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Its own share of the host.
    pub binding: Binding,
    /// What the job may use of the host, from one process of each host.
    pub machine: Option<Machine>,
}

/// Draws every host, in the order given.
pub fn draw(hosts: &[HostPlacement]) -> String {
    let mut text = String::new();
    for (at, host) in hosts.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        draw_host(&mut text, host);
    }
    if !hosts.is_empty() {
        text.push_str("\nEach number is the rank on that core, a dot a core without one.\n");
    }
    text
}

fn draw_host(text: &mut String, host: &HostPlacement) {
    let machine = &host.machine;
    let node_count = machine.numa_nodes().map(|node| node.id).collect::<BTreeSet<_>>().len();
    line(
        text,
        &format!(
            "{}: {}, {}, {}, {}, {}",
            host.host,
            count(machine.packages.len(), "package"),
            count(node_count, "NUMA node"),
            count(machine.cores().count(), "core"),
            count(machine.cpus().len(), "PU"),
            memory(machine.memory_bytes()),
        ),
        "",
    );
    let width = machine.cores().map(|core| cell(host, core).len()).max().unwrap_or(1);
    for package in &machine.packages {
        line(text, &format!("  {}", package.id), "");
        for node in &package.numa_nodes {
            draw_node(text, host, node, width);
        }
    }
    draw_ranks(text, host);
    draw_warnings(text, host);
}

fn draw_node(text: &mut String, host: &HostPlacement, node: &NumaNode, width: usize) {
    let cpus = ranges(node.cores.iter().flat_map(|core| core.pus.iter()).collect::<BTreeSet<_>>());
    line(text, &format!("    {}, {}, CPUs {cpus}", node.id, memory(node.memory_bytes)), INDENT);
    let fitting = (COLUMNS - INDENT.len()) / (width + 1);
    let per_line = [32, 16, 8, 4].into_iter().find(|&cells| cells <= fitting).unwrap_or(1);
    for cores in node.cores.chunks(per_line) {
        text.push_str(&INDENT[1..]);
        for core in cores {
            let _ = write!(text, " {:>width$}", cell(host, core));
        }
        text.push('\n');
    }
}

/// The ranks on a core. A scheduler that floats over everybody's cores is told of in words instead.
fn cell(host: &HostPlacement, core: &Core) -> String {
    let floats = |placed: &RankPlacement| {
        placed.role == RankRole::Scheduler && placed.binding.sharing == Sharing::Shared
    };
    let here =
        host.ranks.iter().filter(|placed| !floats(placed) && !placed.binding.cpus.is_disjoint(&core.pus));
    let ranks: BTreeSet<u32> = here.map(|placed| placed.rank).collect();
    let text = ranges(ranks.iter().copied());
    match ranks.first() {
        None => ".".to_owned(),
        Some(first) if text.len() > 9 => format!("{first}+{}", ranks.len() - 1),
        Some(_) => text,
    }
}

/// One line for all ranks that are bound alike.
fn draw_ranks(text: &mut String, host: &HostPlacement) {
    let mut alike: Vec<(String, BTreeSet<u32>)> = Vec::new();
    let mut placed: Vec<&RankPlacement> = host.ranks.iter().collect();
    placed.sort_by_key(|placed| placed.rank);
    for RankPlacement { rank, role, binding } in placed {
        let words = describe(*role, binding);
        match alike.iter_mut().find(|(known, _)| *known == words) {
            Some((_, ranks)) => {
                ranks.insert(*rank);
            }
            None => alike.push((words, BTreeSet::from([*rank]))),
        }
    }
    for (words, ranks) in alike {
        line(text, &format!("  {}: {words}", rank_list(&ranks)), INDENT);
    }
}

fn describe(role: RankRole, binding: &Binding) -> String {
    let threads = count(binding.threads(), "executor thread");
    let work = match (role, binding.sharing) {
        (RankRole::Scheduler, Sharing::Exclusive) => {
            format!("scheduler on CPUs of its own ({})", binding.cpus)
        }
        (RankRole::Scheduler, Sharing::Shared) => "scheduler on any CPU of the others".to_owned(),
        (RankRole::Worker, _) => format!("worker, {threads}"),
        (RankRole::Both, _) => format!("scheduler and worker, {threads}"),
    };
    let cores = match (role, binding.sharing) {
        (RankRole::Scheduler, _) => "",
        (_, Sharing::Exclusive) => " on CPUs of its own",
        (_, Sharing::Shared) => " on CPUs shared with other ranks",
    };
    let memory = match binding.memory {
        MemoryPolicy::Prefer(_) => "memory of its NUMA node".to_owned(),
        MemoryPolicy::Local => format!("memory where touched, {} NUMA nodes", binding.numa_nodes.len()),
    };
    let decided_by = match binding.decided_by {
        DecidedBy::Launcher => "bound by the launcher",
        DecidedBy::Plan => "bound by dcluster",
    };
    format!("{work}{cores}, {memory}, {decided_by}")
}

fn draw_warnings(text: &mut String, host: &HostPlacement) {
    let mut warnings: Vec<(&str, BTreeSet<u32>)> = Vec::new();
    for RankPlacement { rank, binding, .. } in &host.ranks {
        for warning in &binding.warnings {
            match warnings.iter_mut().find(|(known, _)| *known == warning.text) {
                Some((_, ranks)) => {
                    ranks.insert(*rank);
                }
                None => warnings.push((&warning.text, BTreeSet::from([*rank]))),
            }
        }
    }
    for (words, ranks) in warnings {
        line(text, &format!("  warning, {}: {words}", rank_list(&ranks)), INDENT);
    }
}

fn rank_list(ranks: &BTreeSet<u32>) -> String {
    let plural = if ranks.len() == 1 { "" } else { "s" };
    format!("rank{plural} {}", ranges(ranks.iter().copied()))
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn memory(bytes: u64) -> String {
    match bytes {
        0 => "memory unknown".to_owned(),
        bytes if bytes >= 10 << 30 => format!("{} GiB", bytes >> 30),
        bytes => format!("{} MiB", bytes >> 20),
    }
}

/// Appends `words`, broken at spaces (and at commas of long CPU lists) into lines that fit, later ones after `indent`.
fn line(text: &mut String, words: &str, indent: &str) {
    let mut rest = words;
    let mut room = COLUMNS;
    while rest.len() > room {
        let head = rest.char_indices().take_while(|(at, _)| *at < room).map(|(at, _)| at).last().unwrap_or(0);
        let lead = rest.len() - rest.trim_start().len();
        let at_space = rest[..head].rfind(' ').filter(|&at| at > lead).map(|at| (at, at + 1));
        let at_comma = rest[..head].rfind(',').map(|at| (at + 1, at + 1));
        // A comma inside a long list fills the line far better than the space before that list.
        let (end, next) = match (at_space, at_comma) {
            (Some(space), Some(comma)) if comma.0 > space.0 + 40 => comma,
            (Some(space), _) => space,
            (None, Some(comma)) => comma,
            (None, None) => (head.max(1), head.max(1)),
        };
        text.push_str(&rest[..end]);
        text.push('\n');
        text.push_str(indent);
        rest = &rest[next..];
        room = COLUMNS - indent.len();
    }
    text.push_str(rest);
    text.push('\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::Range;

    use super::super::{RankRequest, plan};
    use super::*;

    /// Rank 0 schedules, `cpus` says what the launcher gave each rank (empty: everything).
    fn host(
        name: &str,
        machine: &Machine,
        ranks: Range<u32>,
        cpus: impl Fn(u32) -> &'static str,
    ) -> HostPlacement {
        let role = |rank| if rank == 0 { RankRole::Scheduler } else { RankRole::Worker };
        let request = |rank| RankRequest {
            local_rank: rank - ranks.start,
            role: role(rank),
            cpus: cpus(rank).parse().unwrap(),
        };
        let bindings = plan(machine, &ranks.clone().map(request).collect::<Vec<_>>());
        let placed = |(rank, binding)| RankPlacement { rank, role: role(rank), binding };
        let ranks = ranks.zip(bindings).map(placed).collect();
        HostPlacement { host: name.to_owned(), machine: machine.clone(), ranks }
    }

    fn drawn(hosts: &[HostPlacement]) -> String {
        let text = draw(hosts);
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
            assert_eq!(line, line.trim_end());
        }
        text
    }

    #[test]
    fn sixty_four_ranks_on_128_cores_fit_the_screen() {
        let machine = Machine::synthetic("package:2 numa:4 core:16 pu:1").unwrap();
        insta::assert_snapshot!(drawn(&[host("node001", &machine, 0..64, |_| "")]));
    }

    #[test]
    fn each_host_has_its_own_map() {
        let machine = Machine::synthetic("package:1 numa:2 core:2 pu:2").unwrap();
        let halves = |rank| if rank == 3 { "0-3" } else { "4-7" };
        let hosts = [host("node001", &machine, 0..3, |_| ""), host("node002", &machine, 3..5, halves)];
        insta::assert_snapshot!(drawn(&hosts));
    }

    #[test]
    fn more_ranks_than_cores_are_listed_by_core_with_a_warning() {
        let machine = Machine::synthetic("core:2").unwrap();
        insta::assert_snapshot!(drawn(&[host("laptop", &machine, 0..16, |_| "")]));
    }

    #[test]
    fn a_bad_launcher_binding_is_explained_below_the_map() {
        let machine = Machine::synthetic("package:2 numa:1 core:4 pu:1").unwrap();
        insta::assert_snapshot!(drawn(&[host("node001", &machine, 0..4, |_| "0")]));
    }

    #[test]
    fn scattered_cpus_are_broken_into_lines() {
        let machine = Machine::synthetic("package:1 numa:1 core:512 pu:1").unwrap();
        let scattered = (0..512).filter(|cpu| cpu % 7 == 0 || cpu % 5 == 0).collect();
        let machine = machine.restricted_to(&scattered);
        insta::assert_snapshot!(drawn(&[host("node001", &machine, 0..300, |_| "")]));
    }

    #[test]
    fn the_facts_survive_json() {
        let machine = Machine::synthetic("package:1 numa:2 core:2 pu:2").unwrap();
        let placed = host("node001", &machine, 0..3, |_| "");
        let json = serde_json::to_string(&placed).unwrap();
        assert!(json.contains(r#""memory":{"prefer":0}"#), "{json}");
        assert!(json.contains(r#""role":"scheduler","binding":{"cpus":"0-1""#), "{json}");
        assert_eq!(serde_json::from_str::<HostPlacement>(&json).unwrap(), placed);
    }
}
