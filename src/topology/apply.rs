//! Makes a binding real: the affinity and memory policy of threads, and the thread counts of numeric libraries.
//!
//! The only file of the topology that changes the process. In goes a [`Binding`]; what the kernel refuses comes back
//! as warnings, because a rank that is not bound is slow and not broken.
#![allow(unsafe_code)] // set_mempolicy has no safe wrapper, and the environment is process-wide.

use std::ffi::OsStr;
use std::fs;
use std::io;

use nix::sched::{sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{Binding, CpuSet, MemoryPolicy, NumaId, TopologyError, Warning, WarningKind};

/// What numeric libraries read to size their thread pools.
const THREAD_VARIABLES: [&str; 7] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
];

impl Binding {
    /// Binds the calling thread, and every thread it starts from here on, to this rank's CPUs and memory.
    ///
    /// Called from the main thread before it starts others. Gives a warning for each part that the kernel refuses,
    /// as in a container without the rights, or for a described machine.
    pub fn apply_to_process(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if !self.cpus.is_empty()
            && let Err(error) = set_affinity(&self.cpus)
        {
            let text = format!(
                "this rank is not bound to CPUs {} ({}) and may move: check the job's cpuset with `taskset -p $$`",
                self.cpus,
                reason(&error)
            );
            warnings.push(Warning::new(WarningKind::NotApplied, text));
        }
        if let MemoryPolicy::Prefer(node) = self.memory
            && let Err(error) = prefer_memory_of(node)
        {
            let text = format!(
                "memory is not bound to {node} ({error}) and comes from where it is touched first: allow \
                 set_mempolicy in this container, or check `numactl --show`"
            );
            warnings.push(Warning::new(WarningKind::NotApplied, text));
        }
        warnings
    }
}

/// Pins the calling thread to one executor's CPUs, see [`Binding::executors`].
///
/// # Errors
/// [`TopologyError::Affinity`] if the kernel refuses.
pub fn pin_thread(cpus: &CpuSet) -> Result<(), TopologyError> {
    set_affinity(cpus)
}

/// The CPUs the calling thread may run on: what the launcher gave this rank, if asked before anything is bound.
///
/// # Errors
/// [`TopologyError::Affinity`] if the kernel refuses, as it does with more than 1024 CPUs.
pub fn allowed_cpus() -> Result<CpuSet, TopologyError> {
    let set = sched_getaffinity(Pid::from_raw(0)).map_err(|source| TopologyError::Affinity {
        action: "read the allowed",
        cpus: String::new(),
        source,
    })?;
    let is_set = |cpu: &u32| set.is_set(*cpu as usize).unwrap_or(false);
    Ok((0..nix::sched::CpuSet::count() as u32).filter(is_set).collect())
}

/// The CPUs this process may bind itself to: the cpuset of its job, whatever its launcher narrowed it to.
///
/// The kernel cuts a request for all CPUs down to the cpuset, under every version of cgroups; a short-lived
/// thread asks, so that the caller's own affinity stays.
pub(super) fn permitted_cpus() -> Result<CpuSet, TopologyError> {
    let ask = || {
        let mut all = nix::sched::CpuSet::new();
        let filled = (0..nix::sched::CpuSet::count()).all(|cpu| all.set(cpu).is_ok());
        if filled && sched_setaffinity(Pid::from_raw(0), &all).is_err() {
            tracing::debug!("the kernel does not tell the job's cpuset; taking this thread's");
        }
        allowed_cpus()
    };
    match std::thread::Builder::new().name("cpuset".to_owned()).spawn(ask).map(|thread| thread.join()) {
        Ok(Ok(cpus)) => cpus,
        _ => allowed_cpus(),
    }
}

/// The variables that make numeric libraries use `cores_per_task` threads, without those the user has set.
pub fn thread_environment(cores_per_task: usize) -> Vec<(&'static str, String)> {
    thread_variables(cores_per_task, |name| std::env::var_os(name).is_some())
}

/// Puts [`thread_environment`] into this process's environment, for libraries that read it when first used.
///
/// First thing in `main`: before the runtime, MPI or any library starts a thread.
///
/// # Errors
/// [`TopologyError::ThreadsRunning`] if a second thread runs; nothing is set then.
pub fn set_thread_environment(cores_per_task: usize) -> Result<(), TopologyError> {
    set_environment(thread_environment(cores_per_task))
}

/// Puts variables into this process's environment, for libraries that read them when first used.
///
/// First thing in `main`, as [`set_thread_environment`].
///
/// # Errors
/// [`TopologyError::ThreadsRunning`] if a second thread runs; nothing is set then.
pub fn set_environment<V: AsRef<OsStr>>(
    variables: impl IntoIterator<Item = (&'static str, V)>,
) -> Result<(), TopologyError> {
    let threads = fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads != 1 {
        return Err(TopologyError::ThreadsRunning { threads });
    }
    for (name, value) in variables {
        // SAFETY: this is the only thread of the process, counted above, so nothing reads the environment meanwhile.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

fn thread_variables(cores_per_task: usize, is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
    let cores = cores_per_task.max(1).to_string();
    THREAD_VARIABLES.into_iter().filter(|name| !is_set(name)).map(|name| (name, cores.clone())).collect()
}

fn set_affinity(cpus: &CpuSet) -> Result<(), TopologyError> {
    let refused =
        |source| TopologyError::Affinity { action: "set the affinity to", cpus: cpus.to_string(), source };
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu as usize).map_err(refused)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(refused)
}

fn reason(error: &TopologyError) -> String {
    match error {
        TopologyError::Affinity { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// `set_mempolicy(MPOL_PREFERRED)` for the calling thread and those it starts.
fn prefer_memory_of(node: NumaId) -> io::Result<()> {
    let bits = libc::c_ulong::BITS;
    let mut mask: Vec<libc::c_ulong> = vec![0; (node.0 / bits) as usize + 1];
    mask[(node.0 / bits) as usize] = 1 << (node.0 % bits);
    // The kernel reads one bit less than it is told.
    let bit_count = mask.len() * bits as usize + 1;
    // SAFETY: the kernel only reads `mask`, which lives through the call and has `bit_count - 1` bits.
    let answer =
        unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_PREFERRED, mask.as_ptr(), bit_count) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Machine, RankRequest, RankRole, plan};
    use super::*;

    fn in_own_thread<T: Send>(test: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(test).join().unwrap())
    }

    /// The calling thread's memory policy and the first word of its node mask.
    fn memory_policy() -> (libc::c_int, libc::c_ulong) {
        let mut mode: libc::c_int = -1;
        let mut mask = [0 as libc::c_ulong; 64];
        let bits = 64 * 64;
        // SAFETY: the kernel writes one int and `bits` bits, which is what both buffers hold.
        let answer = unsafe {
            libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, mask.as_mut_ptr(), bits, 0usize, 0usize)
        };
        assert_eq!(answer, 0, "{}", io::Error::last_os_error());
        (mode, mask[0])
    }

    #[test]
    fn every_rank_runs_where_the_plan_says() {
        let machine = Machine::discover().unwrap();
        let cores = machine.cores().count() as u32;
        let cpus = allowed_cpus().unwrap();
        let rank = |local_rank| RankRequest { local_rank, role: RankRole::Worker, cpus: cpus.clone() };
        let bindings = plan(&machine, &(0..cores).map(rank).collect::<Vec<_>>());
        for binding in bindings {
            in_own_thread(|| {
                assert_eq!(binding.apply_to_process(), []);
                assert_eq!(allowed_cpus().unwrap(), binding.cpus);
                // Threads started afterwards are bound too, and an executor narrows that to its core.
                in_own_thread(|| {
                    assert_eq!(allowed_cpus().unwrap(), binding.cpus);
                    pin_thread(&binding.executors[0]).unwrap();
                    assert_eq!(allowed_cpus().unwrap(), binding.executors[0]);
                });
            });
        }
        assert_eq!(allowed_cpus().unwrap(), cpus);
    }

    #[test]
    fn memory_comes_from_the_ranks_node() {
        let machine = Machine::discover().unwrap();
        let node = machine.numa_nodes().next().unwrap();
        let rank = RankRequest {
            local_rank: 0,
            role: RankRole::Worker,
            cpus: node.cores.iter().flat_map(|core| core.pus.iter()).collect(),
        };
        let bindings = plan(&machine, &[rank]);
        assert_eq!(bindings[0].memory, MemoryPolicy::Prefer(node.id));
        in_own_thread(|| {
            assert_eq!(bindings[0].apply_to_process(), []);
            assert_eq!(memory_policy(), (libc::MPOL_PREFERRED, 1 << node.id.0));
        });
    }

    #[test]
    fn what_the_kernel_refuses_is_a_warning_that_names_it() {
        let machine = Machine::synthetic("package:2 numa:32 core:2 pu:1").unwrap();
        let mut binding = plan(
            &machine.restricted_to(&"126-127".parse().unwrap()),
            &[RankRequest { local_rank: 0, role: RankRole::Worker, cpus: CpuSet::default() }],
        )
        .remove(0);
        binding.cpus = "1023".parse().unwrap();
        let warnings = in_own_thread(|| binding.apply_to_process());
        let texts: Vec<&str> = warnings.iter().map(|warning| warning.text.as_str()).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].contains("CPUs 1023") && texts[0].contains("EINVAL"), "{texts:?}");
        assert!(texts[1].contains("NUMA node 63"), "{texts:?}");
        let error = in_own_thread(|| pin_thread(&binding.cpus)).unwrap_err();
        assert_eq!(error.to_string(), "cannot set the affinity to CPUs 1023 for this thread");
    }

    #[test]
    fn library_threads_follow_the_cores_of_a_task_unless_the_user_chose() {
        let variables = thread_variables(4, |name| name == "MKL_NUM_THREADS");
        assert!(variables.contains(&("OMP_NUM_THREADS", "4".to_owned())));
        assert!(variables.contains(&("RAYON_NUM_THREADS", "4".to_owned())));
        assert!(variables.iter().all(|(name, _)| *name != "MKL_NUM_THREADS"));
        assert!(thread_variables(0, |_| false).iter().all(|(_, cores)| cores == "1"));
    }

    #[test]
    fn the_environment_is_left_alone_once_threads_run() {
        let error = in_own_thread(|| set_thread_environment(2)).unwrap_err();
        assert!(matches!(error, TopologyError::ThreadsRunning { threads: 2.. }), "{error}");
    }
}
