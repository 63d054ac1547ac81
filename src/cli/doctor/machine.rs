//! What the host gives: topology, network, limits, shared memory, a place for files.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::super::status::bytes;
use super::Check;
use crate::launch::files;
use crate::launch::memory;
use crate::launch::role::Environment;
use crate::security::Surroundings;
use crate::topology::Machine;

const SHMEM_HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
const LOOKUP_WAIT_MAX: Duration = Duration::from_secs(5);
const OPEN_FILES_MIN: u64 = 256;
const OPEN_FILES_GOOD: u64 = 1024;
const LOCKED_GOOD_BYTES: u64 = 1 << 30;
const SHARED_GOOD_BYTES: u64 = 1 << 30;

pub(super) fn checks(env: &Environment) -> Vec<Check> {
    let host = crate::topology::host_name();
    vec![
        topology(),
        hdf5(),
        judge_name(&host, &resolve(&host)),
        loopback(),
        judge_interfaces(&interfaces()),
        judge_open_files(getrlimit(Resource::RLIMIT_NOFILE).ok()),
        judge_locked(
            getrlimit(Resource::RLIMIT_MEMLOCK).ok(),
            fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some()),
        ),
        judge_shared_memory(shared_memory()),
        judge_mapping(map_from_another_process()),
        judge_huge_pages(fs::read_to_string(SHMEM_HUGE_PAGES).ok().as_deref()),
        run_directory(env),
        judge_memory(memory::limit_of_cgroup(), memory::total()),
    ]
}

/// (A library that cannot be loaded ends the program before this, with the loader's message.)
fn hdf5() -> Check {
    match crate::collections::storage::hdf5_version() {
        Some(version) => Check::ok("HDF5", format!("{version}, from the library that this program loaded")),
        None => Check::warn(
            "HDF5",
            "not in this build: arrays in HDF5 files cannot be read or written",
            "for HDF5 files, build with the feature `hdf5` (needs libhdf5-dev, hdf5-devel or `module load hdf5`)",
        ),
    }
}

fn topology() -> Check {
    let how = if cfg!(feature = "hwloc") { "hwloc" } else { "/sys" };
    match Machine::discover() {
        Ok(machine) => Check::ok(
            "topology",
            format!(
                "{} package(s), {} NUMA node(s), {} core(s) for this job, by {how}",
                machine.packages.len(),
                machine.numa_nodes().count(),
                machine.cores().count()
            ),
        ),
        Err(error) => Check::fail(
            "topology",
            error.to_string(),
            "run lstopo; check the cpuset of the job and that /sys is mounted",
        ),
    }
}

/// The addresses of a name, or why there are none.
fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let (answer, heard) = mpsc::channel();
    let name = host.to_owned();
    // A resolver may take minutes to give up.
    thread::spawn(move || {
        let found =
            (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
        let _ = answer.send(found);
    });
    match heard.recv_timeout(LOOKUP_WAIT_MAX) {
        Ok(found) => found.map_err(|error: io::Error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOKUP_WAIT_MAX.as_secs())),
    }
}

fn judge_name(host: &str, found: &Result<Vec<IpAddr>, String>) -> Check {
    let fix =
        "other nodes are given the address instead; add the name to DNS or /etc/hosts if they cannot connect";
    match found {
        Ok(addresses) if addresses.iter().any(|address| !address.is_loopback()) => {
            let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            Check::ok("host name", format!("{host} is {}", list.join(", ")))
        }
        Ok(_) => Check::warn("host name", format!("{host} is only a loopback address"), fix),
        Err(reason) => Check::warn("host name", format!("{host} does not resolve: {reason}"), fix),
    }
}

fn loopback() -> Check {
    let connect = || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        TcpStream::connect(listener.local_addr()?)
    };
    match connect() {
        Ok(_) => Check::ok("loopback", "a TCP connection works"),
        Err(error) => Check::fail(
            "loopback",
            format!("no TCP connection to 127.0.0.1: {error}"),
            "bring the interface lo up (ip link set lo up), and allow local connections",
        ),
    }
}

/// Addresses by which other nodes may reach this one.
fn interfaces() -> Vec<String> {
    use nix::net::if_::InterfaceFlags;
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let reachable = |interface: &nix::ifaddrs::InterfaceAddress| {
        interface.flags.contains(InterfaceFlags::IFF_UP)
            && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let shown = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let ip: IpAddr = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().into(),
            (None, Some(v6)) if !v6.ip().is_unicast_link_local() => v6.ip().into(),
            _ => return None,
        };
        Some(format!("{} {ip}", interface.interface_name))
    };
    all.filter(reachable).filter_map(shown).collect()
}

fn judge_interfaces(found: &[String]) -> Check {
    if found.is_empty() {
        let fix = "a cluster on this node alone works; for several nodes bring a network interface up";
        return Check::warn("network", "no interface but loopback", fix);
    }
    Check::ok("network", found.join(", "))
}

fn judge_open_files(limit: Option<(u64, u64)>) -> Check {
    const NAME: &str = "open files";
    let Some((soft, hard)) = limit else { return Check::ok(NAME, "the limit is not known") };
    let found = format!("{} per process", figure(soft));
    if soft < OPEN_FILES_MIN {
        return Check::fail(NAME, found, "raise the limit: ulimit -n 4096");
    }
    if soft < OPEN_FILES_GOOD {
        let (workers, better) = (soft / 4, figure(hard.min(65_536)));
        return Check::warn(
            NAME,
            found,
            format!("enough for about {workers} workers; raise it: ulimit -n {better}"),
        );
    }
    Check::ok(NAME, found)
}

fn judge_locked(limit: Option<(u64, u64)>, has_infiniband: bool) -> Check {
    const NAME: &str = "locked memory";
    let Some((soft, _)) = limit else { return Check::ok(NAME, "the limit is not known") };
    let found = if soft == RLIM_INFINITY { "unlimited".to_owned() } else { bytes(soft) };
    if has_infiniband && soft < LOCKED_GOOD_BYTES {
        let fix =
            "InfiniBand registers memory: ask for ulimit -l unlimited (for Slurm in slurmd's service file)";
        return Check::warn(NAME, found, fix);
    }
    Check::ok(
        NAME,
        if has_infiniband { found } else { format!("{found} (no InfiniBand here that needs more)") },
    )
}

/// Size and free bytes of `/dev/shm`.
fn shared_memory() -> Option<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs("/dev/shm").ok()?;
    let block = stat.fragment_size();
    Some((stat.blocks() * block, stat.blocks_available() * block))
}

fn judge_shared_memory(found: Option<(u64, u64)>) -> Check {
    const NAME: &str = "/dev/shm";
    // (Our own values do not live there.)
    let fix = "MPI libraries use it: mount it larger (mount -o remount,size=8g /dev/shm; for a container --shm-size=8g)";
    match found {
        Some((size, free)) if free < SHARED_GOOD_BYTES => {
            Check::warn(NAME, format!("{} free of {}", bytes(free), bytes(size)), fix)
        }
        Some((size, free)) => Check::ok(NAME, format!("{} free of {}", bytes(free), bytes(size))),
        None => Check::warn(NAME, "not there", fix),
    }
}

/// Has another process of this user read memory of this one, as ranks of a node do.
fn map_from_another_process() -> Result<(), String> {
    const WORD: &[u8] = b"dcluster";
    let memory = memfd_create("dcluster-doctor", MFdFlags::MFD_CLOEXEC);
    let memory = memory.map_err(|error| format!("no memory behind a descriptor (memfd_create: {error})"))?;
    let mut memory = fs::File::from(memory);
    memory.write_all(WORD).map_err(|error| error.to_string())?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let read = Command::new("cat").arg(&path).output().map_err(|error| format!("cat: {error}"))?;
    match read.stdout == WORD {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&read.stderr).trim().to_owned()),
    }
}

fn judge_mapping(found: Result<(), String>) -> Check {
    const NAME: &str = "mapping values";
    match found {
        Ok(()) => Check::ok(NAME, "processes of this host can map each other's memory"),
        Err(reason) => Check::warn(
            NAME,
            format!("values are copied between the ranks of a node: {reason}"),
            "mount /proc without hidepid, run all ranks as one user, and make the program readable for it",
        ),
    }
}

/// The setting is a list of words, of which the one in brackets holds.
fn judge_huge_pages(setting: Option<&str>) -> Check {
    const NAME: &str = "huge pages";
    let chosen = setting.and_then(|words| Some(words.split_once('[')?.1.split_once(']')?.0));
    match chosen {
        Some(word @ ("always" | "within_size" | "advise" | "force")) => {
            Check::ok(NAME, format!("large values have them (shmem_enabled is {word})"))
        }
        Some(word) => Check::warn(
            NAME,
            format!("large values have small pages (shmem_enabled is {word})"),
            format!("for faster first use of memory, as root: echo advise > {SHMEM_HUGE_PAGES}"),
        ),
        None => Check::ok(NAME, "this kernel has none for large values"),
    }
}

fn run_directory(env: &Environment) -> Check {
    const NAME: &str = "run directory";
    let fix = "set DCLUSTER_RUN_DIR to a directory that only you can enter";
    let directory = match Surroundings::of_process().directory() {
        Ok(directory) => directory,
        Err(error) => return Check::fail(NAME, error.to_string(), fix),
    };
    let probe = directory.join(format!(".doctor-{}", std::process::id()));
    let usable = files::make_private(&directory).and_then(|()| fs::write(&probe, b"x"));
    let _ = fs::remove_file(&probe);
    match usable {
        Ok(()) => judge_sharing(NAME, &directory, env),
        Err(error) => Check::fail(NAME, format!("{}: {error}", directory.display()), fix),
    }
}

fn judge_sharing(name: &'static str, directory: &Path, env: &Environment) -> Check {
    let found = directory.display().to_string();
    let node_local =
        ["/tmp", "/dev/shm", "/run", "/var/tmp"].iter().any(|local| directory.starts_with(local));
    let several_nodes = env.get("SLURM_JOB_NUM_NODES").is_some_and(|count| count != "1");
    if node_local && several_nodes {
        let fix = "set DCLUSTER_RUN_DIR to a directory that all nodes share, so that clients elsewhere find the cluster";
        return Check::warn(name, format!("{found} is on this node only"), fix);
    }
    Check::ok(name, found)
}

fn judge_memory(limit: Option<u64>, total: Option<u64>) -> Check {
    const NAME: &str = "memory";
    let total_text = total.map_or("unknown".to_owned(), bytes);
    match limit {
        // Version 1 writes "no limit" as a very large number.
        Some(limit) if total.is_none_or(|total| limit < total) => {
            Check::ok(NAME, format!("{} for this job, of {total_text} on the host", bytes(limit)))
        }
        _ => Check::ok(NAME, format!("{total_text} on the host, not limited by a cgroup")),
    }
}

fn figure(limit: u64) -> String {
    if limit == RLIM_INFINITY { "unlimited".to_owned() } else { limit.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn few_open_files_are_a_warning_and_very_few_a_failure() {
        assert_eq!(judge_open_files(Some((64, 64))).verdict, Verdict::Fail);
        let check = judge_open_files(Some((512, 4096)));
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.fix.unwrap().contains("ulimit -n 4096"));
        assert_eq!(judge_open_files(Some((RLIM_INFINITY, RLIM_INFINITY))).found, "unlimited per process");
    }

    #[test]
    fn locked_memory_matters_for_infiniband_only() {
        let limit = Some((8 << 20, 8 << 20));
        assert_eq!(judge_locked(limit, false).verdict, Verdict::Ok);
        assert_eq!(judge_locked(limit, true).verdict, Verdict::Warn);
        assert_eq!(judge_locked(Some((RLIM_INFINITY, RLIM_INFINITY)), true).verdict, Verdict::Ok);
    }

    #[test]
    fn a_host_name_on_loopback_is_no_use_to_other_nodes() {
        let address = |text: &str| Ok(vec![text.parse().unwrap()]);
        assert_eq!(judge_name("n", &address("10.1.2.3")).verdict, Verdict::Ok);
        assert_eq!(judge_name("n", &address("127.0.1.1")).verdict, Verdict::Warn);
        assert_eq!(judge_name("n", &Err("unknown".to_owned())).verdict, Verdict::Warn);
    }

    #[test]
    fn the_limit_of_the_job_is_shown_before_the_memory_of_the_host() {
        let gib = 1 << 30;
        assert_eq!(
            judge_memory(Some(2 * gib), Some(8 * gib)).found,
            "2.0 GiB for this job, of 8.0 GiB on the host"
        );
        let unlimited = judge_memory(Some(u64::MAX >> 1), Some(8 * gib));
        assert!(unlimited.found.contains("not limited"), "{unlimited:?}");
    }

    #[test]
    fn a_small_shared_memory_is_a_warning() {
        assert_eq!(judge_shared_memory(Some((64 << 20, 64 << 20))).verdict, Verdict::Warn);
        assert_eq!(judge_shared_memory(None).verdict, Verdict::Warn);
        assert_eq!(judge_shared_memory(Some((8 << 30, 8 << 30))).verdict, Verdict::Ok);
    }

    #[test]
    fn huge_pages_that_nobody_may_have_are_a_warning() {
        let check = judge_huge_pages(Some("always within_size advise [never] deny force\n"));
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.found.contains("never") && check.fix.unwrap().contains("echo advise"));
        let check = judge_huge_pages(Some("always within_size [advise] never deny force\n"));
        assert_eq!(check.verdict, Verdict::Ok);
        assert_eq!(judge_huge_pages(None).verdict, Verdict::Ok);
    }

    #[test]
    fn memory_that_others_cannot_map_is_a_warning() {
        assert_eq!(judge_mapping(map_from_another_process()).verdict, Verdict::Ok);
        let check = judge_mapping(Err("cat: /proc/1/fd/3: Permission denied".to_owned()));
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.found.contains("Permission denied"));
    }

    #[test]
    fn a_directory_on_one_node_does_not_do_for_a_job_on_two() {
        let env: Environment = [("SLURM_JOB_NUM_NODES".to_owned(), "2".to_owned())].into();
        assert_eq!(judge_sharing("x", Path::new("/tmp/a"), &env).verdict, Verdict::Warn);
        assert_eq!(judge_sharing("x", Path::new("/home/a"), &env).verdict, Verdict::Ok);
    }
}
