//! What starts the ranks: the MPI library, `mpirun`, `srun`, and whether they fit together.

use super::Check;
use crate::launch::output;
use crate::launch::role::{self, Environment};
use crate::launch::way::{self, Library, Remark};

pub(super) fn checks(env: &Environment) -> Vec<Check> {
    let library = library_name();
    let mpirun = output::of("mpirun", &["--version"]);
    // `srun --mpi=list` answers on standard error.
    let slurm =
        output::of("srun", &["--version"]).map(|_| output::of("srun", &["--mpi=list"]).unwrap_or_default());
    let mut checks =
        vec![judge_library(library.as_deref()), judge_mpirun(library.as_deref(), mpirun.as_deref())];
    checks.extend(slurm.map(|list| judge_srun(library.as_deref(), &list)));
    checks.push(judge_launch(env));
    checks
}

fn library_name() -> Option<String> {
    #[cfg(feature = "mpi")]
    return Some(crate::launch::mpi::library());
    #[cfg(not(feature = "mpi"))]
    None
}

fn judge_library(library: Option<&str>) -> Check {
    match library {
        Some("") => Check::warn(
            "MPI library",
            "does not say what it is",
            "check it with ldd: is it the one you mean?",
        ),
        Some(library) => Check::ok("MPI library", library),
        None => Check::warn(
            "MPI library",
            "built without MPI: ranks meet through files and data goes over TCP",
            "build with the feature mpi (on by default) for MPI",
        ),
    }
}

fn judge_mpirun(library: Option<&str>, mpirun: Option<&str>) -> Check {
    let Some(version) = mpirun.map(|text| text.lines().next().unwrap_or_default().trim().to_owned()) else {
        let fix = "install MPI or load its module (module load openmpi), or start with srun";
        return Check::warn("mpirun", "not on PATH", fix);
    };
    let family = |text: &str| {
        if text.contains("Open MPI") {
            Some("Open MPI")
        } else {
            ["MPICH", "HYDRA"].iter().find(|name| text.contains(**name)).map(|_| "MPICH")
        }
    };
    match (library.and_then(family), mpirun.and_then(family)) {
        (Some(library), Some(launcher)) if library != launcher => Check::warn(
            "mpirun",
            format!(
                "of {launcher}, but dcluster is linked with {library}: ranks would not see each other over MPI"
            ),
            format!(
                "put the mpirun of {library} first on PATH, or build dcluster again with MPICC of {launcher}"
            ),
        ),
        _ => Check::ok("mpirun", version),
    }
}

fn judge_srun(library: Option<&str>, list: &str) -> Check {
    let offers = |name: &str| list.split_whitespace().any(|word| word.starts_with(name));
    let open_mpi = library.is_some_and(|library| library.contains("Open MPI"));
    match library {
        // Without a daemon to ask it prints an error instead of the list.
        Some(_) if !offers("none") => {
            Check::ok("srun", "is here and names no PMI: this host is not part of a Slurm cluster")
        }
        None => Check::ok("srun", "without MPI any --mpi will do; --mpi=none is quickest"),
        Some(_) if open_mpi && !offers("pmix") => Check::warn(
            "srun",
            "has no PMIx, which Open MPI needs",
            "start with mpirun inside the allocation, or with srun --mpi=none (data goes over TCP)",
        ),
        Some(_) if open_mpi => Check::ok("srun", "use --mpi=pmix"),
        Some(_) => Check::ok("srun", "use --mpi=pmi2"),
    }
}

fn judge_launch(env: &Environment) -> Check {
    let Some(launch) = role::detect(env) else {
        let found = match env.get("SLURM_JOB_ID") {
            Some(job) => format!("none: in Slurm job {job}, started by hand"),
            None => "none: started by hand".to_owned(),
        };
        return Check::ok("launcher", found);
    };
    let size = launch.size.map_or("?".to_owned(), |size| size.to_string());
    let found = format!("{}: rank {} of {size}, run {}", launch.launcher.name(), launch.rank, launch.run);
    match way::choose(&launch, Library::own(), env) {
        (_, Some(Remark::Warning(text))) => Check::warn("launcher", found, text),
        (_, Some(Remark::Note(text))) => Check::ok("launcher", format!("{found}; {text}")),
        (_, None) => Check::ok("launcher", found),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_mpirun_of_another_mpi_is_noticed() {
        let hydra = "HYDRA build details:\n    Version: 4.0.2";
        let check = judge_mpirun(Some("Open MPI v4.1.4"), Some(hydra));
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.found.contains("MPICH") && check.fix.unwrap().contains("Open MPI"));
        let check = judge_mpirun(Some("Open MPI v4.1.4"), Some("mpirun (Open MPI) 4.1.4\n\nReport bugs"));
        assert_eq!((check.verdict, check.found.as_str()), (Verdict::Ok, "mpirun (Open MPI) 4.1.4"));
    }

    #[test]
    fn a_missing_mpirun_is_no_failure() {
        assert_eq!(judge_mpirun(Some("Open MPI"), None).verdict, Verdict::Warn);
    }

    #[test]
    fn srun_is_judged_by_what_the_library_speaks() {
        let list = "MPI plugin types are...\n\tpmi2\n\tnone\n\tcray_shasta\n";
        assert_eq!(judge_srun(Some("Open MPI v4.1.4"), list).verdict, Verdict::Warn);
        let check = judge_srun(Some("Open MPI v4.1.4"), &format!("{list}\tpmix_v4\n"));
        assert!(check.found.contains("pmix"), "{check:?}");
        assert!(judge_srun(Some("MPICH Version: 4.0.2"), list).found.contains("pmi2"));
    }
}
