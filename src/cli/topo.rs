//! `dcluster topo`: where ranks are bound, of this machine, of the ranks of a launcher, or of a running cluster.
//!
//! The drawing is [`crate::topology::draw`]; this file gathers what it draws.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::launch::LaunchError;
use crate::topology::{self, Binding, HostPlacement, Machine, RankPlacement, RankRequest, RankRole};

/// What `ranks` ranks would get on this machine; without a number, one for each NUMA node and a scheduler.
///
/// # Errors
/// [`LaunchError`] if the machine cannot be read.
pub fn of_machine(ranks: Option<u32>) -> Result<HostPlacement, LaunchError> {
    let machine = Machine::discover()?;
    let count = ranks.unwrap_or_else(|| machine.numa_nodes().count() as u32 + 1);
    let cpus = topology::allowed_cpus()?;
    let role = |rank| match (rank, count) {
        (0, 1) => RankRole::Both,
        (0, _) => RankRole::Scheduler,
        _ => RankRole::Worker,
    };
    let request = |rank| RankRequest { local_rank: rank, role: role(rank), cpus: cpus.clone() };
    let requests: Vec<RankRequest> = (0..count).map(request).collect();
    let place = |(rank, binding): (u32, Binding)| RankPlacement { rank, role: role(rank), binding };
    let ranks = (0..).zip(topology::plan(&machine, &requests)).map(place).collect();
    Ok(HostPlacement { host: crate::topology::host_name(), machine, ranks })
}

/// A process in the answer to `Query::Topology`.
#[derive(Debug, Deserialize)]
struct Process {
    /// None of the scheduler.
    id: Option<u64>,
    rank: Option<u32>,
    #[serde(default)]
    host: String,
    binding: Option<Binding>,
    machine: Option<Machine>,
}

/// The running cluster's map; workers without a rank, or on a host that nobody has described, are a line each.
pub fn of_cluster(answer: &Value) -> String {
    let (hosts, others) = placements(answer);
    let mut text = if hosts.is_empty() { String::new() } else { topology::draw(&hosts) };
    for worker in others {
        let id = worker.id.unwrap_or_default();
        let rank = worker.rank.map_or("-".to_owned(), |rank| rank.to_string());
        let place = worker.binding.map_or("not known".to_owned(), |binding| describe(&binding));
        text.push_str(&format!("worker {id:<4} rank {rank:<4} {:<16} {place}\n", worker.host));
    }
    if answer["workers"].as_array().is_none_or(Vec::is_empty) {
        text.push_str("no worker has joined\n");
    }
    text
}

/// The answer with `hosts` as `topo` has them under a launcher.
pub fn with_hosts(mut answer: Value) -> Value {
    let (hosts, _) = placements(&answer);
    answer["hosts"] = serde_json::json!(hosts);
    answer
}

/// Hosts with their ranks, in the order of ranks, and the workers that cannot be drawn.
fn placements(answer: &Value) -> (Vec<HostPlacement>, Vec<Process>) {
    let workers = answer["workers"].as_array().map_or(&[][..], Vec::as_slice);
    let mut processes: Vec<Process> =
        workers.iter().filter_map(|worker| Process::deserialize(worker).ok()).collect();
    processes.sort_by_key(|process| (process.rank.is_none(), process.rank, process.id));
    // The scheduler is rank 0 if it has a place of its own.
    if let Ok(scheduler) = Process::deserialize(&answer["scheduler"])
        && scheduler.binding.is_some()
    {
        processes.insert(0, Process { rank: Some(0), ..scheduler });
    }
    let mut machines: BTreeMap<String, Machine> = BTreeMap::new();
    for process in &mut processes {
        if let Some(machine) = process.machine.take() {
            machines.entry(process.host.clone()).or_insert(machine);
        }
    }
    let (mut hosts, mut others): (Vec<HostPlacement>, Vec<Process>) = (Vec::new(), Vec::new());
    let lone = workers.len() == 1;
    for process in processes {
        let machine = machines.get(&process.host);
        let (Some(rank), Some(binding), Some(machine)) = (process.rank, &process.binding, machine) else {
            others.push(process);
            continue;
        };
        let role = match (process.id, rank) {
            (None, _) => RankRole::Scheduler,
            (Some(_), 0) if lone => RankRole::Both,
            (Some(_), _) => RankRole::Worker,
        };
        let placed = RankPlacement { rank, role, binding: binding.clone() };
        match hosts.iter_mut().find(|host| host.host == process.host) {
            Some(host) => host.ranks.push(placed),
            None => {
                let (host, machine) = (process.host.clone(), machine.clone());
                hosts.push(HostPlacement { host, machine, ranks: vec![placed] });
            }
        }
    }
    (hosts, others)
}

fn describe(binding: &Binding) -> String {
    let nodes: Vec<String> = binding.numa_nodes.iter().map(|node| node.0.to_string()).collect();
    let mut text =
        format!("CPUs {}, NUMA node {}, {} threads", binding.cpus, nodes.join("+"), binding.threads());
    for warning in &binding.warnings {
        text.push_str(&format!("\n  warning: {}", warning.text));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_room_for_a_scheduler_and_a_worker() {
        let host = of_machine(None).unwrap();
        assert!(host.ranks.len() >= 2);
        assert!(topology::draw(&[host]).contains("rank"));
    }

    #[test]
    fn a_running_cluster_is_drawn_as_its_ranks_would_be() {
        let machine = Machine::synthetic("package:1 numa:2 core:4 pu:1").unwrap();
        let role = |rank| if rank == 0 { RankRole::Scheduler } else { RankRole::Worker };
        let requests = [0, 1, 2].map(|rank| RankRequest {
            local_rank: rank,
            role: role(rank),
            cpus: "0-7".parse().unwrap(),
        });
        let bindings = topology::plan(&machine, &requests);
        let placed = |(rank, binding)| RankPlacement { rank, role: role(rank), binding };
        let ranks = (0..).zip(bindings.clone()).map(placed).collect();
        let host = HostPlacement { host: "n1".to_owned(), machine: machine.clone(), ranks };
        let worker = |id: u64, rank: u32| serde_json::json!({"id": id, "rank": rank, "host": "n1", "binding": bindings[rank as usize]});
        let answer = serde_json::json!({
            "scheduler": {"host": "n1", "pid": 1, "binding": bindings[0], "machine": machine},
            "workers": [worker(0, 2), worker(1, 1)],
        });
        assert_eq!(of_cluster(&answer), topology::draw(std::slice::from_ref(&host)));
        assert_eq!(with_hosts(answer)["hosts"], serde_json::json!([host]));
    }

    #[test]
    fn workers_of_which_no_map_can_be_drawn_are_a_line_each() {
        let binding = topology::plan(
            &Machine::synthetic("package:1 numa:2 core:4 pu:1").unwrap(),
            &[0, 1].map(|rank| RankRequest {
                local_rank: rank,
                role: RankRole::Worker,
                cpus: "0-7".parse().unwrap(),
            }),
        );
        let answer = serde_json::json!({"workers": [
            {"id": 0, "rank": 1, "host": "n1", "binding": binding[1]},
            {"id": 1, "rank": null, "host": "n2", "binding": null},
        ]});
        insta::assert_snapshot!(of_cluster(&answer));
        assert_eq!(of_cluster(&serde_json::json!({})), "no worker has joined\n");
    }
}
