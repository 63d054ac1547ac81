//! `dcluster topo`: where ranks are bound, of this machine, of the ranks of a launcher, or of a running cluster.
//!
//! The drawing is [`crate::topology::draw`]; this file gathers what it draws.

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

/// A worker in the answer to `Query::Topology`.
#[derive(Debug, Deserialize)]
struct Worker {
    id: u64,
    rank: Option<u32>,
    #[serde(default)]
    host: String,
    binding: Option<Binding>,
}

/// The running cluster's bindings as text, one line per worker.
///
/// A client does not see the machines of the workers, so there is no map.
pub fn of_cluster(answer: &Value) -> String {
    let workers = answer["workers"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = String::new();
    for worker in workers.iter().filter_map(|worker| Worker::deserialize(worker).ok()) {
        let rank = worker.rank.map_or("-".to_owned(), |rank| rank.to_string());
        let place = worker.binding.map_or("not known".to_owned(), |binding| describe(&binding));
        text.push_str(&format!("worker {:<4} rank {rank:<4} {:<16} {place}\n", worker.id, worker.host));
    }
    if text.is_empty() {
        text.push_str("no worker has joined\n");
    }
    text
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
    fn a_running_cluster_is_one_line_per_worker() {
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
