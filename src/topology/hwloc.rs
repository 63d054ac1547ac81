//! The machine as hwloc sees it: the only file that names the `hwloc2` crate.
//!
//! In go the CPUs this job may use; out comes a [`Machine`]. The crate takes hwloc's virtual depths for positive
//! numbers and panics on NUMA objects, so a core's node is read from its nodeset, and a node's memory from the
//! largest object that has exactly that node. Where hwloc is not built in, `sysfs.rs` answers instead.

use std::collections::BTreeMap;

use hwloc2::{Bitmap, ObjectType, Topology, TopologyObject};

use super::cpuset::CPU_INDEX_MAX;
use super::machine::CorePlace;
use super::{CpuSet, Machine, NumaId, Origin, PackageId, TopologyError};

/// Loads hwloc's topology; of the host's own it keeps what is in `permitted`.
pub(super) fn discover(permitted: &CpuSet) -> Result<Machine, TopologyError> {
    let no_cores = |reason: &str| TopologyError::NoCores { method: "hwloc".into(), reason: reason.into() };
    let Some(topology) = Topology::new() else {
        return Err(no_cores("the topology cannot be loaded"));
    };
    // hwloc offers to bind only on the system it runs on; HWLOC_SYNTHETIC and HWLOC_XMLFILE take that away.
    let origin = match topology.support().cpu().set_current_process() {
        true => Origin::Host,
        false => Origin::Described,
    };
    let packages: Vec<(PackageId, CpuSet)> = objects(&topology, &ObjectType::Package)
        .into_iter()
        .map(|package| (package_id(package), bits(package.cpuset())))
        .collect();

    let mut cores = objects(&topology, &ObjectType::Core);
    if cores.is_empty() {
        cores = objects(&topology, &ObjectType::PU);
    }
    let mut memory_bytes = BTreeMap::new();
    let mut places = Vec::new();
    for core in cores {
        let pus = bits(core.cpuset());
        let package =
            packages.iter().find(|(_, cpus)| pus.is_subset(cpus)).map_or(PackageId(0), |(id, _)| *id);
        // A core may have several nodes (DRAM and HBM): the lowest number is the ordinary memory.
        let numa_node = NumaId(bits(core.nodeset()).iter().next().unwrap_or(0));
        memory_bytes.entry(numa_node).or_insert_with(|| node_memory_bytes(core));
        places.push(CorePlace { package, numa_node, pus });
    }
    let machine = Machine::from_cores(origin, places, &memory_bytes);
    let machine = match origin {
        Origin::Host => machine.restricted_to(permitted),
        Origin::Described => machine,
    };
    if machine.packages.is_empty() {
        return Err(no_cores("no core is in the job's cpuset"));
    }
    Ok(machine)
}

fn objects<'a>(topology: &'a Topology, kind: &ObjectType) -> Vec<&'a TopologyObject> {
    match topology.depth_for_type(kind) {
        Ok(depth) => topology.objects_at_depth(depth),
        Err(_) => Vec::new(),
    }
}

/// The system's number, or hwloc's own where the system has none.
fn package_id(package: &TopologyObject) -> PackageId {
    match package.os_index() {
        u32::MAX => PackageId(package.logical_index()),
        index => PackageId(index),
    }
}

/// The bits of a set; those of an infinite one are cut off.
fn bits(set: Option<Bitmap>) -> CpuSet {
    set.into_iter().flatten().take_while(|&bit| bit <= CPU_INDEX_MAX).collect()
}

/// Memory of the node nearest to `core`, or of its nodes together where it has several.
fn node_memory_bytes(core: &TopologyObject) -> u64 {
    let nodes = bits(core.nodeset());
    let mut memory_bytes = 0;
    let mut object = Some(core);
    while let Some(around) = object.filter(|around| bits(around.nodeset()) == nodes) {
        memory_bytes = around.total_memory();
        object = around.parent();
    }
    memory_bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    const ROLE: &str = "DCLUSTER_TEST_PRINTS_MACHINE";

    /// What `discover` sees in a process with `variable` set, found by running this very test in a child.
    fn seen_with(test: &str, variable: &str, value: &str) -> Machine {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("topology::hwloc::tests::{test}"), "--nocapture"])
            .env(ROLE, "1")
            .env(variable, value)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let json = text.lines().find_map(|line| line.split_once("machine=")).map(|(_, json)| json);
        serde_json::from_str(json.unwrap_or_else(|| panic!("no machine in {text}"))).unwrap()
    }

    fn is_child() -> bool {
        if std::env::var_os(ROLE).is_none() {
            return false;
        }
        println!("\nmachine={}", serde_json::to_string(&Machine::discover().unwrap()).unwrap());
        true
    }

    #[test]
    fn numa_nodes_come_from_the_nodesets_of_cores() {
        if is_child() {
            return;
        }
        let test = "numa_nodes_come_from_the_nodesets_of_cores";
        let text = "pack:2 group:4 [numa(memory=17179869184)] l3:1 core:16 pu:2";
        let machine = seen_with(test, "HWLOC_SYNTHETIC", text);
        assert_eq!(machine, Machine::synthetic("package:2 numa:4 core:16 pu:2").unwrap());
    }
}
