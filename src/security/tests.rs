//! Connection files on a real file system: who may write, read, plant and find them.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::wire::handshake::{BuildHash, Hello, Role};

fn file_at(scheduler: &str) -> ConnectionFile {
    let hello = Hello {
        role: Role::Scheduler,
        build: Some(BuildHash(7)),
        package: "0.1.0".to_owned(),
        host: "n1".to_owned(),
        pid: 42,
        session: None,
    };
    let credentials = Credentials::generate().unwrap().member;
    ConnectionFile::new("words", Some("123".to_owned()), scheduler, &hello, credentials)
}

fn some_file() -> ConnectionFile {
    file_at("n1:4711")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A private file with this content.
fn planted(directory: &Path, content: &[u8]) -> PathBuf {
    let path = directory.join("c.json");
    fs::write(&path, content).unwrap();
    set_mode(&path, 0o600);
    path
}

fn refusal(path: &Path) -> String {
    ConnectionFile::load(path).unwrap_err().to_string()
}

#[test]
fn a_written_file_is_read_back_and_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/for/it/123.json");
    let file = some_file();
    let guard = file.write(&path).unwrap();
    assert_eq!(guard.path(), path);
    assert_eq!(ConnectionFile::load(&path).unwrap(), file);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "only the file itself is left");
}

#[test]
fn the_file_is_json_with_the_schedulers_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    let _guard = some_file().write(&path).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["scheduler"], "n1:4711");
    assert_eq!(json["job_id"], "123");
    assert_eq!(json["pid"], 42);
    assert_eq!(json["version"], 1);
    assert_eq!(json["build"], "0000000000000007");
}

#[test]
fn the_guard_removes_its_own_file_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    drop(some_file().write(&path).unwrap());
    assert!(!path.exists());

    let first = some_file().write(&path).unwrap();
    let second = some_file().write(&path).unwrap();
    drop(first);
    assert!(path.exists(), "the file is the second run's");
    drop(second);
    assert!(!path.exists());

    let gone = some_file().write(&path).unwrap();
    fs::remove_file(&path).unwrap();
    drop(gone);
}

#[test]
fn a_reader_sees_a_whole_file_at_any_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    let files = [some_file(), file_at("elsewhere:1")];
    let _guard = files[0].write(&path).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while reads < 50 || !done.load(Ordering::Relaxed) {
                let read = ConnectionFile::load(&path).unwrap();
                assert!(files.contains(&read));
                reads += 1;
            }
        });
        for round in 0..200 {
            std::mem::forget(files[round % 2].write(&path).unwrap());
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}

#[test]
fn a_missing_file_says_so() {
    assert!(refusal(Path::new("/nowhere/c.json")).starts_with("no connection file at /nowhere/c.json"));
    assert!(refusal(Path::new("/etc/passwd/c.json")).starts_with("no connection file at"));
}

#[test]
fn files_that_are_something_else_each_say_what() {
    let directory = tempfile::tempdir().unwrap();
    let said = |content: &[u8]| refusal(&planted(directory.path(), content));
    assert!(said(b"").contains("is empty"));
    assert!(said(b" \n").contains("is empty"));
    assert!(said(b"hello").contains("is not a connection file: expected"));
    assert!(said(b"{\"version\": 1,").contains("is not a connection file: EOF"));
    assert!(said(b"{}").contains("is incomplete: missing field `version`"));
    assert!(said(b"[1]").contains("is incomplete: missing field `version`"));
    assert!(said(b"{\"version\": 2}").contains("has version 2, this dcluster (0.1.0) reads version 1"));
    assert!(said(b"{\"version\": 1}").contains("is incomplete: missing field `name`"));
}

#[test]
fn every_missing_field_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let whole = serde_json::to_value(some_file()).unwrap();
    for field in ["name", "scheduler", "host", "pid", "started", "package", "credentials"] {
        let mut json = whole.clone();
        json.as_object_mut().unwrap().remove(field);
        let path = planted(directory.path(), json.to_string().as_bytes());
        assert!(refusal(&path).ends_with(&format!("is incomplete: missing field `{field}`")));
    }
}

#[test]
fn a_file_that_others_can_read_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.json");
    let _guard = some_file().write(&path).unwrap();
    for open in [0o640, 0o604, 0o620] {
        set_mode(&path, open);
        assert!(refusal(&path).contains(&format!("is open to others (mode {open:o})")));
    }
    set_mode(&path, 0o400);
    assert!(ConnectionFile::load(&path).is_ok());
}

#[test]
fn a_file_of_another_user_is_not_believed() {
    if nix::unistd::geteuid().is_root() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.json");
        std::mem::forget(some_file().write(&path).unwrap());
        chown(&path, Some(65534), None).unwrap();
        assert!(refusal(&path).contains("belongs to user 65534, you are user 0"));
    } else {
        assert!(refusal(Path::new("/etc/passwd")).contains("belongs to user 0, you are user"));
    }
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    assert!(refusal(directory.path()).ends_with("is not a regular file"));
    let pipe = directory.path().join("pipe.json");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refusal(&pipe).ends_with("is not a regular file"));
}

#[test]
fn a_directory_where_others_can_replace_the_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    for unsafe_mode in [0o770, 0o707, 0o777] {
        set_mode(&open, unsafe_mode);
        let error = some_file().write(&open.join("c.json")).unwrap_err().to_string();
        assert!(error.contains("is not yours alone"), "{error}");
    }
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
    set_mode(&open, 0o1777);
    assert!(some_file().write(&open.join("c.json")).is_ok(), "like /tmp");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        let error = some_file().write(Path::new("/etc/c.json")).unwrap_err();
        assert!(matches!(error, ConnectionFileError::Directory { owner: 0, .. }), "{error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let theirs = directory.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(65534), None).unwrap();
    let error = some_file().write(&theirs.join("c.json")).unwrap_err();
    assert!(matches!(error, ConnectionFileError::Directory { owner: 65534, .. }), "{error}");
}

#[test]
fn a_planted_link_is_replaced_and_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (target, path) = (directory.path().join("target"), directory.path().join("c.json"));
    fs::write(&target, "precious").unwrap();
    symlink(&target, &path).unwrap();
    let _guard = some_file().write(&path).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
}

#[test]
fn a_stale_file_is_described_with_what_to_do() {
    let said = some_file().describe_stale(Path::new("/r/1.json"), &io::ErrorKind::ConnectionRefused.into());
    assert_eq!(
        said,
        "nothing answers at n1:4711 (connection refused): the cluster `words` (process 42 on n1) that wrote \
         /r/1.json has probably ended; if so, remove that file and start another, e.g. `mpirun -n 4 dcluster`"
    );
}

fn surroundings(root: &Path) -> Surroundings {
    Surroundings { home: Some(root.join("home")), ..Surroundings::default() }
}

#[test]
fn everything_lies_in_the_home_that_all_nodes_share_unless_a_variable_says_where() {
    let alone = surroundings(Path::new("/r"));
    assert_eq!(alone.directory().unwrap(), Path::new("/r/home/.dcluster"));
    assert_eq!(alone.default_path("n1", 42).unwrap(), Path::new("/r/home/.dcluster/pid-n1-42.json"));
    let job = Surroundings { job_id: Some("123[4].pbs/x".to_owned()), ..alone };
    assert_eq!(job.default_path("n1", 42).unwrap(), Path::new("/r/home/.dcluster/123[4].pbs_x.json"));
    let chosen = Surroundings { run_directory: Some("/mine".into()), ..job };
    assert_eq!(chosen.default_path("n1", 42).unwrap(), Path::new("/mine/123[4].pbs_x.json"));
    assert!(matches!(Surroundings::default().default_path("n1", 1), Err(FindError::Nowhere)));
}

#[test]
fn a_cluster_on_the_loopback_interface_of_another_host_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let here = surroundings(root.path());
    let write = |name: &str, host: &str, address: &str| {
        let mut file = file_at(address);
        file.host = host.to_owned();
        file.write(&here.directory().unwrap().join(name)).unwrap()
    };
    let _other = write("1.json", "another", "127.0.0.1:4711");
    assert!(matches!(here.find(&Selector::Only), Err(FindError::None { .. })));
    let _own = write("2.json", &crate::topology::host_name(), "127.0.0.1:4712");
    assert_eq!(here.find(&Selector::Only).unwrap().1.scheduler, "127.0.0.1:4712");
}

#[test]
fn a_file_is_found_by_path_by_job_and_by_environment() {
    let root = tempfile::tempdir().unwrap();
    let in_job = Surroundings { job_id: Some("123".to_owned()), ..surroundings(root.path()) };
    let path = in_job.default_path("n1", 42).unwrap();
    let file = some_file();
    let _guard = file.write(&path).unwrap();
    let found = Ok((path.clone(), file));

    let login = surroundings(root.path());
    assert_eq!(login.find(&Selector::Path(path.clone())).map_err(drop), found);
    assert_eq!(login.find(&Selector::Job("123".to_owned())).map_err(drop), found);
    assert_eq!(login.find(&Selector::Only).map_err(drop), found);
    assert_eq!(in_job.find(&Selector::Only).map_err(drop), found);
    let told = Surroundings { connection_file: Some(path), ..Surroundings::default() };
    assert_eq!(told.find(&Selector::Only).map_err(drop), found);

    let error = login.find(&Selector::Job("9".to_owned())).unwrap_err().to_string();
    assert!(error.starts_with("no connection file of job 9 in "), "{error}");
}

#[test]
fn without_any_cluster_the_error_says_how_to_start_one() {
    let root = tempfile::tempdir().unwrap();
    let error = surroundings(root.path()).find(&Selector::Only).unwrap_err().to_string();
    assert!(error.starts_with("no running cluster found in "), "{error}");
    assert!(error.contains("start one, e.g. `mpirun -n 4 dcluster`"), "{error}");
}

#[test]
fn among_several_files_the_live_one_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let here = surroundings(root.path());
    let write = |name: &str, address: &str| {
        let mut file = file_at(address);
        file.host = crate::topology::host_name();
        file.write(&here.directory().unwrap().join(name)).unwrap()
    };
    let live = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let addresses = live.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();

    let _stale = [write("1.json", &dead), write("2.json", &dead)];
    let error = here.find(&Selector::Only).unwrap_err().to_string();
    assert!(error.contains("nothing answers behind") && error.contains("2.json"), "{error}");

    let _first = write("3.json", &addresses[0]);
    assert_eq!(here.find(&Selector::Only).unwrap().1.scheduler, addresses[0]);

    let _second = write("4.json", &addresses[1]);
    let error = here.find(&Selector::Only).unwrap_err().to_string();
    assert!(error.starts_with("several clusters are running; name one"), "{error}");
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn what_a_user_types_is_a_path_or_a_job() {
    assert_eq!(Selector::parse("./x"), Selector::Path("./x".into()));
    assert_eq!(Selector::parse("c.json"), Selector::Path("c.json".into()));
    assert_eq!(Selector::parse("1234.pbs"), Selector::Job("1234.pbs".to_owned()));
}
