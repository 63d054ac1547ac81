//! The machine as `/sys/devices/system` describes it, for builds without hwloc and hosts where hwloc fails.
//!
//! In go the CPUs this job may use; out comes a [`Machine`]. Linux numbers everything as hwloc does, so both
//! answers are the same on an ordinary host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::machine::CorePlace;
use super::{CpuSet, Machine, NumaId, Origin, PackageId, TopologyError};

/// Reads the topology of `permitted` CPUs.
pub(super) fn discover(permitted: &CpuSet) -> Result<Machine, TopologyError> {
    read(Path::new("/sys/devices/system"), permitted)
}

fn read(root: &Path, permitted: &CpuSet) -> Result<Machine, TopologyError> {
    let nodes = numa_nodes(root);
    let mut places = Vec::new();
    let mut seen = BTreeSet::new();
    for cpu in permitted.iter() {
        let topology = root.join(format!("cpu/cpu{cpu}/topology"));
        let Some(package) = number(&topology.join("physical_package_id")) else {
            let reason = format!("{} is missing", topology.display());
            return Err(TopologyError::NoCores { method: root.display().to_string(), reason });
        };
        let siblings = list(&topology.join("thread_siblings_list")).unwrap_or_default();
        let pus = siblings.union(&[cpu].into_iter().collect()).intersection(permitted);
        if seen.insert(pus.clone()) {
            let numa_node =
                nodes.iter().find(|(_, node)| node.cpus.contains(cpu)).map_or(NumaId(0), |(id, _)| *id);
            places.push(CorePlace { package: PackageId(package), numa_node, pus });
        }
    }
    if places.is_empty() {
        let reason = "the job's cpuset is empty".to_owned();
        return Err(TopologyError::NoCores { method: root.display().to_string(), reason });
    }
    places.sort_by_key(|place| (place.package, place.numa_node));
    let memory_bytes = nodes.into_iter().map(|(id, node)| (id, node.memory_bytes)).collect();
    Ok(Machine::from_cores(Origin::Host, places, &memory_bytes))
}

struct Node {
    cpus: CpuSet,
    memory_bytes: u64,
}

/// NUMA nodes by number; empty on a kernel without NUMA.
fn numa_nodes(root: &Path) -> BTreeMap<NumaId, Node> {
    let online = list(&root.join("node/online")).unwrap_or_default();
    let node = |id: u32| {
        let directory = root.join(format!("node/node{id}"));
        let cpus = list(&directory.join("cpulist"))?;
        let memory_bytes = memory_total_bytes(&directory.join("meminfo")).unwrap_or(0);
        Some((NumaId(id), Node { cpus, memory_bytes }))
    };
    online.iter().filter_map(node).collect()
}

/// `Node 0 MemTotal:       5990708 kB`
fn memory_total_bytes(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let (_, rest) = text.split_once("MemTotal:")?;
    rest.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn number(path: &Path) -> Option<u32> {
    // Virtual machines say -1 where there is no package number.
    let number: i64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(u32::try_from(number).unwrap_or(0))
}

fn list(path: &Path) -> Option<CpuSet> {
    fs::read_to_string(path).ok()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two packages, three nodes of 4, 2 and 2 PUs; siblings are half the machine apart.
    fn fake_host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: String, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("node/online".into(), "0-2\n");
        for (node, cpus) in [(0, "0-1,4-5\n"), (1, "2,6\n"), (2, "3,7\n")] {
            put(format!("node/node{node}/cpulist"), cpus);
            put(
                format!("node/node{node}/meminfo"),
                &format!("Node {node} MemTotal:  {} kB\nNode {node} MemFree: 1 kB\n", 1024 * (node + 1)),
            );
        }
        for cpu in 0..8 {
            put(
                format!("cpu/cpu{cpu}/topology/physical_package_id"),
                if cpu % 4 < 3 { "0\n" } else { "1\n" },
            );
            put(
                format!("cpu/cpu{cpu}/topology/thread_siblings_list"),
                &format!("{},{}\n", cpu % 4, cpu % 4 + 4),
            );
        }
        root
    }

    #[test]
    fn packages_nodes_and_siblings_are_read() {
        let root = fake_host();
        let machine = read(root.path(), &"0-7".parse().unwrap()).unwrap();
        let cores: Vec<String> = machine.cores().map(|core| core.pus.to_string()).collect();
        assert_eq!(cores, ["0,4", "1,5", "2,6", "3,7"]);
        assert_eq!(machine.packages.iter().map(|p| p.numa_nodes.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(machine.memory_bytes(), (1 + 2 + 3) << 20);
    }

    #[test]
    fn only_permitted_cpus_are_seen() {
        let root = fake_host();
        let machine = read(root.path(), &"4,6-7".parse().unwrap()).unwrap();
        assert_eq!(machine.cpus().to_string(), "4,6-7");
        assert_eq!(machine.numa_nodes().count(), 3);
    }

    #[test]
    fn a_host_without_sys_is_an_error_that_names_the_path() {
        let root = tempfile::tempdir().unwrap();
        let error = read(root.path(), &"0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("cpu0/topology is missing"), "{error}");
    }

    #[cfg(feature = "hwloc")]
    #[test]
    fn sys_and_hwloc_agree_on_this_host() {
        let permitted = super::super::apply::permitted_cpus().unwrap();
        let by_sys = discover(&permitted).unwrap();
        let by_hwloc = super::super::hwloc::discover(&permitted).unwrap();
        let shape = |machine: &Machine| {
            let node = |node: &super::super::NumaNode| (node.id, node.cores.clone());
            machine
                .packages
                .iter()
                .map(|p| (p.id, p.numa_nodes.iter().map(node).collect()))
                .collect::<Vec<(_, Vec<_>)>>()
        };
        assert_eq!(shape(&by_sys), shape(&by_hwloc));
    }
}
