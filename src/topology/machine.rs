//! The machine as plain data: packages, their NUMA nodes, their cores, and each core's PUs.
//!
//! In goes hwloc's description, or `/sys`, or a line of text; out comes a tree that holds only what this
//! job may use. [`super::binding`] shares it out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CpuSet, TopologyError, apply, sysfs};

/// Memory of each NUMA node that [`Machine::synthetic`] makes, in bytes.
const SYNTHETIC_MEMORY_BYTES: u64 = 16 << 30;

/// Packages, NUMA nodes, cores and PUs that this job may use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Whether this is the host that the process runs on.
    pub origin: Origin,
    /// Packages that have a usable core.
    pub packages: Vec<Package>,
}

/// Where a [`Machine`] comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The host that the process runs on.
    Host,
    /// A description (text, `HWLOC_SYNTHETIC`, `HWLOC_XMLFILE`): its CPUs cannot be bound to.
    Described,
}

/// The operating system's number of a package (a socket).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PackageId(pub u32);

/// The operating system's number of a NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NumaId(pub u32);

/// What sits in one socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Package {
    /// The operating system's number.
    pub id: PackageId,
    /// NUMA nodes that have a usable core in this package.
    ///
    /// A node that serves two packages is listed in both, with all of its memory.
    pub numa_nodes: Vec<NumaNode>,
}

/// Memory, and the cores that are nearest to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NumaNode {
    /// The operating system's number.
    pub id: NumaId,
    /// All memory of the node, 0 where it is not known.
    pub memory_bytes: u64,
    /// Usable cores, neighbours next to each other.
    pub cores: Vec<Core>,
}

/// One physical core.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Core {
    /// Its usable PUs (SMT siblings), at least one.
    pub pus: CpuSet,
}

/// Where one core sits: what every kind of discovery boils down to.
pub(super) struct CorePlace {
    pub(super) package: PackageId,
    pub(super) numa_node: NumaId,
    pub(super) pus: CpuSet,
}

impl Machine {
    /// Describes the machine this process runs on, limited to what the job's cpuset allows.
    ///
    /// A rank's own affinity, which its launcher may have narrowed, does not limit it. hwloc is asked first, and
    /// `HWLOC_SYNTHETIC` and `HWLOC_XMLFILE` replace the machine; without hwloc `/sys` is read, and without that
    /// the allowed CPUs are one flat node.
    ///
    /// # Errors
    /// [`TopologyError::Affinity`] if not even the allowed CPUs can be read.
    pub fn discover() -> Result<Self, TopologyError> {
        let permitted = apply::permitted_cpus()?;
        #[cfg(feature = "hwloc")]
        match super::hwloc::discover(&permitted) {
            Ok(machine) => return Ok(machine),
            Err(error) => tracing::warn!(%error, "hwloc does not describe this machine, reading /sys"),
        }
        match sysfs::discover(&permitted) {
            Ok(machine) => Ok(machine),
            Err(error) => {
                tracing::warn!(%error, "taking the allowed CPUs as one NUMA node");
                Ok(Self::flat(&permitted, 0))
            }
        }
    }

    /// One package with one NUMA node in which every CPU is a core.
    pub fn flat(cpus: &CpuSet, memory_bytes: u64) -> Self {
        let cores = cpus.iter().map(|cpu| CorePlace {
            package: PackageId(0),
            numa_node: NumaId(0),
            pus: [cpu].into_iter().collect(),
        });
        Self::from_cores(Origin::Host, cores, &BTreeMap::from([(NumaId(0), memory_bytes)]))
    }

    /// A regular machine from text such as `package:2 numa:4 core:16 pu:2`, CPUs numbered in that order.
    ///
    /// Levels go from outside in; a level left out has one member. Each NUMA node gets 16 GiB. What is irregular is
    /// made from it with [`Machine::restricted_to`].
    ///
    /// # Errors
    /// [`TopologyError::Synthetic`] if a level is unknown, out of order or has no member.
    pub fn synthetic(text: &str) -> Result<Self, TopologyError> {
        let [packages, numa_nodes, cores, pus] = synthetic_levels(text)
            .map_err(|reason| TopologyError::Synthetic { text: text.to_owned(), reason })?;
        let places = (0..packages * numa_nodes * cores).map(|core| CorePlace {
            package: PackageId(core / (numa_nodes * cores)),
            numa_node: NumaId(core / cores),
            pus: (core * pus..(core + 1) * pus).collect(),
        });
        let memory = (0..packages * numa_nodes).map(|node| (NumaId(node), SYNTHETIC_MEMORY_BYTES)).collect();
        Ok(Self::from_cores(Origin::Described, places, &memory))
    }

    /// The tree over `cores`: packages and nodes in order of their first core, cores in the order given.
    pub(super) fn from_cores(
        origin: Origin,
        cores: impl IntoIterator<Item = CorePlace>,
        memory_bytes: &BTreeMap<NumaId, u64>,
    ) -> Self {
        let mut packages: Vec<Package> = Vec::new();
        for place in cores {
            let at = packages.iter().position(|package| package.id == place.package).unwrap_or_else(|| {
                packages.push(Package { id: place.package, numa_nodes: Vec::new() });
                packages.len() - 1
            });
            let numa_nodes = &mut packages[at].numa_nodes;
            let at = numa_nodes.iter().position(|node| node.id == place.numa_node).unwrap_or_else(|| {
                let memory_bytes = memory_bytes.get(&place.numa_node).copied().unwrap_or(0);
                numa_nodes.push(NumaNode { id: place.numa_node, memory_bytes, cores: Vec::new() });
                numa_nodes.len() - 1
            });
            numa_nodes[at].cores.push(Core { pus: place.pus });
        }
        Self { origin, packages }
    }

    /// The same machine without the CPUs that are not in `allowed`, and without what is empty then.
    #[must_use]
    pub fn restricted_to(&self, allowed: &CpuSet) -> Self {
        let mut machine = self.clone();
        for package in &mut machine.packages {
            for node in &mut package.numa_nodes {
                for core in &mut node.cores {
                    core.pus = core.pus.intersection(allowed);
                }
                node.cores.retain(|core| !core.pus.is_empty());
            }
            package.numa_nodes.retain(|node| !node.cores.is_empty());
        }
        machine.packages.retain(|package| !package.numa_nodes.is_empty());
        machine
    }

    /// All NUMA nodes, package by package.
    pub fn numa_nodes(&self) -> impl Iterator<Item = &NumaNode> {
        self.packages.iter().flat_map(|package| &package.numa_nodes)
    }

    /// All cores, package by package and node by node.
    pub fn cores(&self) -> impl Iterator<Item = &Core> {
        self.numa_nodes().flat_map(|node| &node.cores)
    }

    /// All CPUs.
    pub fn cpus(&self) -> CpuSet {
        self.cores().flat_map(|core| core.pus.iter()).collect()
    }

    /// The packages that `cpus` touch.
    pub fn packages_of(&self, cpus: &CpuSet) -> BTreeSet<PackageId> {
        let touched = |package: &&Package| package.numa_nodes.iter().any(|node| node.touches(cpus));
        self.packages.iter().filter(touched).map(|package| package.id).collect()
    }

    /// The NUMA nodes that `cpus` touch.
    pub fn numa_nodes_of(&self, cpus: &CpuSet) -> BTreeSet<NumaId> {
        self.numa_nodes().filter(|node| node.touches(cpus)).map(|node| node.id).collect()
    }

    /// How many cores `cpus` touch.
    pub fn core_count_of(&self, cpus: &CpuSet) -> usize {
        self.cores().filter(|core| !core.pus.is_disjoint(cpus)).count()
    }

    /// `cpus` and the siblings of each on its core.
    pub fn whole_cores_of(&self, cpus: &CpuSet) -> CpuSet {
        self.cores().filter(|core| !core.pus.is_disjoint(cpus)).flat_map(|core| core.pus.iter()).collect()
    }

    /// The memory of all NUMA nodes listed, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.numa_nodes().map(|node| (node.id, node.memory_bytes)).collect::<BTreeMap<_, _>>().values().sum()
    }
}

impl NumaNode {
    fn touches(&self, cpus: &CpuSet) -> bool {
        self.cores.iter().any(|core| !core.pus.is_disjoint(cpus))
    }
}

fn synthetic_levels(text: &str) -> Result<[u32; 4], String> {
    const LEVELS: [&str; 4] = ["package", "numa", "core", "pu"];
    let mut counts = [1; 4];
    let mut next = 0;
    for part in text.split_whitespace() {
        let Some((name, count)) = part.split_once(':') else {
            return Err(format!("{part:?} is not LEVEL:COUNT"));
        };
        let Some(level) = (next..LEVELS.len()).find(|&level| LEVELS[level] == name) else {
            return Err(format!("{name:?} is no level that may come here"));
        };
        counts[level] = match count.parse::<u32>() {
            Ok(count @ 1..=4096) => count,
            _ => return Err(format!("{count:?} is not a count from 1 to 4096")),
        };
        next = level + 1;
    }
    let pus = counts.iter().try_fold(1u32, |product, &count| product.checked_mul(count));
    if pus.is_none_or(|pus| pus > 1 + super::cpuset::CPU_INDEX_MAX) {
        return Err("too many PUs".to_owned());
    }
    Ok(counts)
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "package {}", self.0)
    }
}

impl fmt::Display for NumaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NUMA node {}", self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_describes_packages_nodes_cores_and_siblings() {
        let machine = Machine::synthetic("package:2 numa:4 core:16 pu:2").unwrap();
        assert_eq!(machine.packages.len(), 2);
        assert_eq!(machine.numa_nodes().count(), 8);
        assert_eq!(machine.cores().count(), 128);
        assert_eq!(machine.cpus().to_string(), "0-255");
        assert_eq!(machine.packages[1].numa_nodes[0].id, NumaId(4));
        assert_eq!(machine.packages[1].numa_nodes[0].cores[0].pus.to_string(), "128-129");
        assert_eq!(machine.memory_bytes(), 128 << 30);
    }

    #[test]
    fn a_wrong_description_is_refused_with_an_example() {
        for text in ["core", "core:0", "core:4 numa:2", "socket:2", "package:4096 core:4096"] {
            let error = Machine::synthetic(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("package:2 numa:4 core:16 pu:1"), "{error}");
        }
    }

    #[test]
    fn a_cpuset_leaves_only_what_it_allows() {
        let machine = Machine::synthetic("package:2 numa:2 core:4 pu:2").unwrap();
        let machine = machine.restricted_to(&"1-3,20".parse().unwrap());
        let cores: Vec<String> = machine.cores().map(|core| core.pus.to_string()).collect();
        assert_eq!(cores, ["1", "2-3", "20"]);
        assert_eq!(machine.numa_nodes().map(|node| node.id).collect::<Vec<_>>(), [NumaId(0), NumaId(2)]);
        assert_eq!(machine.packages_of(&"20".parse().unwrap()), BTreeSet::from([PackageId(1)]));
    }

    #[test]
    fn this_machine_has_the_cpus_the_kernel_permits() {
        let machine = Machine::discover().unwrap();
        assert_eq!(machine.origin, Origin::Host);
        assert_eq!(machine.cpus(), apply::permitted_cpus().unwrap());
        assert!(machine.memory_bytes() > 0);
        assert!(machine.cores().all(|core| !core.pus.is_empty()));
    }

    #[test]
    fn a_machine_survives_json() {
        let machine = Machine::synthetic("package:1 numa:2 core:2 pu:2").unwrap();
        let text = serde_json::to_string(&machine).unwrap();
        assert!(text.contains(r#"{"pus":"0-1"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }
}
