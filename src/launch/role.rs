//! Which launcher started this process, and as which rank: read from the environment before anything else.
//!
//! A pure function from variables to [`Launch`]; nothing here touches MPI. [`super::process`] strips the same
//! variables from children, so that a driver is never taken for a rank.

use std::collections::BTreeMap;

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// Who started the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI's `mpirun`, which sets `OMPI_COMM_WORLD_RANK`.
    OpenMpi,
    /// A launcher that speaks PMI 1 or 2, such as MPICH's `mpiexec` and `srun --mpi=pmi2`.
    Pmi,
    /// A launcher that speaks PMIx, such as `srun --mpi=pmix`.
    Pmix,
    /// `srun` without any PMI.
    Slurm,
}

impl Launcher {
    /// The name shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "mpirun (Open MPI)",
            Self::Pmi => "a PMI launcher",
            Self::Pmix => "a PMIx launcher",
            Self::Slurm => "srun without PMI",
        }
    }
}

/// One rank of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Who started it.
    pub launcher: Launcher,
    /// Its number, from 0.
    pub rank: u32,
    /// How many ranks there are; unknown where the launcher leaves it to MPI.
    pub size: Option<u32>,
    /// A name that the ranks of this launch share and no other launch of this user has.
    pub run: String,
}

/// Reads the launch from `env`; None if this process was started by hand, or is the shell of a batch script.
pub fn detect(env: &Environment) -> Option<Launch> {
    let of = |launcher, rank: &str, size: &[&str]| {
        Some(Launch {
            launcher,
            rank: number(env, rank)?,
            size: size.iter().find_map(|name| number(env, name)).filter(|size| *size > 0),
            run: run_name(env, launcher),
        })
    };
    of(Launcher::OpenMpi, "OMPI_COMM_WORLD_RANK", &["OMPI_COMM_WORLD_SIZE"])
        .or_else(|| of(Launcher::Pmi, "PMI_RANK", &["PMI_SIZE"]))
        .or_else(|| of(Launcher::Pmix, "PMIX_RANK", &["PMIX_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]))
        .or_else(|| {
            step(env)?;
            number(env, "SLURM_NTASKS").or_else(|| number(env, "SLURM_NPROCS"))?;
            of(Launcher::Slurm, "SLURM_PROCID", &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"])
        })
}

/// The name of the launch: the job, the step and the restart for Slurm, else what the launcher calls it.
fn run_name(env: &Environment, launcher: Launcher) -> String {
    if let Some(run) = env.get("DCLUSTER_RUN_ID") {
        return plain(run);
    }
    let slurm = || {
        let restart = env.get("SLURM_RESTART_COUNT").map_or("0", String::as_str);
        Some(format!("slurm-{}-{}-{restart}", env.get("SLURM_JOB_ID")?, step(env)?))
    };
    let first = |names: &[&str]| names.iter().find_map(|name| env.get(*name)).map(|name| plain(name));
    let name = match launcher {
        Launcher::OpenMpi => first(&["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri"]),
        Launcher::Pmi => slurm().or_else(|| first(&["PMI_JOBID", "PMI_KVS", "HYDI_CONTROL_FD"])),
        Launcher::Pmix => slurm().or_else(|| first(&["PMIX_NAMESPACE"])),
        Launcher::Slurm => slurm(),
    };
    name.unwrap_or_else(|| format!("parent-{}", std::os::unix::process::parent_id()))
}

/// The Slurm step, unless it is one that runs a shell: batch, interactive or external.
fn step(env: &Environment) -> Option<&str> {
    const INTERACTIVE_STEP: u64 = 4_294_967_290;
    let step = env.get("SLURM_STEP_ID").or_else(|| env.get("SLURM_STEPID"))?;
    step.parse::<u64>().is_ok_and(|number| number < INTERACTIVE_STEP).then_some(step)
}

fn number(env: &Environment, name: &str) -> Option<u32> {
    env.get(name)?.trim().parse().ok()
}

/// Only what is safe in a file name, and not too much of it.
fn plain(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().take(80).map(safe).collect::<String>().trim_start_matches('.').to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn env(text: &str) -> Environment {
        let pair = |word: &str| word.split_once('=').map(|(name, value)| (name.into(), value.into()));
        text.split_whitespace().map(|word| pair(word).unwrap()).collect()
    }

    fn launch(text: &str) -> Option<(Launcher, u32, Option<u32>)> {
        detect(&env(text)).map(|launch| (launch.launcher, launch.rank, launch.size))
    }

    #[test]
    fn a_process_started_by_hand_is_no_rank() {
        assert_eq!(launch(""), None);
        assert_eq!(launch("OMPI_MCA_pml=ucx SLURM_JOB_ID=7 SLURM_NTASKS=4"), None);
    }

    #[test]
    fn each_launcher_is_told_by_its_rank_variable() {
        assert_eq!(
            launch("OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 PMIX_RANK=3 PMIX_NAMESPACE=1234"),
            Some((Launcher::OpenMpi, 3, Some(4)))
        );
        assert_eq!(launch("PMI_RANK=1 PMI_SIZE=2 PMI_FD=9"), Some((Launcher::Pmi, 1, Some(2))));
        assert_eq!(launch("PMIX_RANK=1 PMIX_NAMESPACE=n"), Some((Launcher::Pmix, 1, None)));
    }

    #[test]
    fn srun_with_pmix_takes_its_size_from_slurm() {
        let vars = "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=4 PMIX_RANK=1";
        assert_eq!(launch(vars), Some((Launcher::Pmix, 1, Some(4))));
    }

    #[test]
    fn srun_without_pmi_is_a_launch() {
        let vars = "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=2 SLURM_NTASKS=4";
        assert_eq!(launch(vars), Some((Launcher::Slurm, 2, Some(4))));
    }

    #[test]
    fn the_shell_of_a_batch_script_is_no_rank() {
        let shell = "SLURM_JOB_ID=7 SLURM_PROCID=0 SLURM_NTASKS=4";
        assert_eq!(launch(shell), None);
        assert_eq!(launch(&format!("{shell} SLURM_STEP_ID=batch")), None);
        assert_eq!(launch(&format!("{shell} SLURM_STEP_ID=4294967291")), None, "the batch step's number");
        assert_eq!(launch(&format!("{shell} SLURM_STEP_ID=4294967290")), None, "the interactive step's");
    }

    #[test]
    fn mpirun_inside_a_slurm_step_is_mpirun() {
        let vars = "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1 \
                    OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8";
        assert_eq!(launch(vars), Some((Launcher::OpenMpi, 5, Some(8))));
    }

    #[test]
    fn nonsense_in_a_rank_variable_is_no_rank() {
        assert_eq!(launch("OMPI_COMM_WORLD_RANK=x OMPI_COMM_WORLD_SIZE=4"), None);
        assert_eq!(launch("PMI_RANK=-1 PMI_SIZE=2"), None);
        assert_eq!(launch("PMI_RANK=0 PMI_SIZE=0"), Some((Launcher::Pmi, 0, None)));
    }

    #[test]
    fn the_run_is_named_by_job_step_and_restart() {
        let vars = "SLURM_JOB_ID=7 SLURM_STEP_ID=2 SLURM_PROCID=0 SLURM_NTASKS=4";
        assert_eq!(detect(&env(vars)).unwrap().run, "slurm-7-2-0");
        let again = format!("{vars} SLURM_RESTART_COUNT=1");
        assert_eq!(detect(&env(&again)).unwrap().run, "slurm-7-2-1");
    }

    #[test]
    fn a_run_name_is_a_plain_file_name() {
        let vars = "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 PMIX_NAMESPACE=../a/b;c";
        assert_eq!(detect(&env(vars)).unwrap().run, "-a-b-c");
    }
}
