//! Builds the sample library, and the programs that use it, with the features of the tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the library with this feature, and copies it to `folder`.
pub(crate) fn library(folder: &Path, feature: Option<&str>) -> PathBuf {
    // Each feature is built to the same file.
    let lock = File::create(target().join("tasklib.lock")).expect("a lock");
    lock.lock().expect("a lock");
    cargo_build(&["--lib"], feature);
    let built = format!("{}dcluster_tasklib{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let copy = folder.join(format!("lib{}.so", feature.unwrap_or("good")));
    fs::copy(profile().join(built), &copy).expect("the library was built");
    copy
}

/// Builds a program of the library's `examples/`.
#[allow(dead_code, reason = "not every test starts programs")]
pub(crate) fn program(name: &str) -> PathBuf {
    cargo_build(&["--example", name], None);
    profile().join("examples").join(name)
}

fn cargo_build(what: &[&str], feature: Option<&str>) {
    let mut features: Vec<&str> = feature.into_iter().collect();
    if cfg!(feature = "mpi") {
        features.push("dcluster/mpi");
    }
    if cfg!(feature = "hwloc") {
        features.push("dcluster/hwloc");
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "dcluster-tasklib", "--features", &features.join(",")]);
    build.args(what).arg("--target-dir").arg(target()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile().ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo starts").success(), "the sample library does not build");
}

/// The folder of the profile that this test was built with: TARGET/debug of TARGET/debug/deps/this-test.
fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    test.ancestors().nth(2).expect("below target").to_owned()
}

fn target() -> PathBuf {
    profile().parent().expect("below target").to_owned()
}
