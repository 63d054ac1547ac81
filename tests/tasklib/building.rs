//! Builds the sample library, the programs that use it and examples, all as these tests were built: what the run of the
//! tests has built already is not built again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the library with this feature, and copies it to `folder`.
pub(crate) fn library(folder: &Path, feature: Option<&str>) -> PathBuf {
    // Each feature is built to the same file.
    let lock = File::create(target().join("tasklib.lock")).expect("a lock");
    lock.lock().expect("a lock");
    cargo_build(&["--package", "dcluster-tasklib", "--lib"], feature);
    let built = format!("{}dcluster_tasklib{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let copy = folder.join(format!("lib{}.so", feature.unwrap_or("good")));
    fs::copy(profile().join(built), &copy).expect("the library was built");
    copy
}

/// Builds a program of the library's `examples/`.
#[allow(dead_code, reason = "not every test starts programs")]
pub(crate) fn program(name: &str) -> PathBuf {
    cargo_build(&["--package", "dcluster-tasklib", "--example", name], None);
    profile().join("examples").join(name)
}

/// Builds a program of dcluster's own `examples/`.
#[allow(dead_code, reason = "not every test starts examples")]
pub(crate) fn example(name: &str) -> PathBuf {
    cargo_build(&["--package", "dcluster", "--example", name], None);
    profile().join("examples").join(name)
}

fn cargo_build(what: &[&str], feature: Option<&str>) {
    let features: Vec<&str> = feature.into_iter().chain(features_of_tests()).collect();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--no-default-features", "--features", &features.join(",")]);
    build.args(what).arg("--target-dir").arg(target()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile().ends_with("release") {
        build.arg("--release");
    }
    // What cargo tells a test is not for another cargo: build scripts that look at it would run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "OUT_DIR" {
            build.env_remove(&name);
        }
    }
    assert!(build.status().expect("cargo starts").success(), "{what:?} does not build");
}

/// The features of these tests. (All together they are called default, and built apart under any other name.)
fn features_of_tests() -> Vec<&'static str> {
    if cfg!(feature = "default") {
        return vec!["dcluster/default"];
    }
    let features = [
        ("dcluster/mpi", cfg!(feature = "mpi")),
        ("dcluster/hwloc", cfg!(feature = "hwloc")),
        ("dcluster/hdf5", cfg!(feature = "hdf5")),
        ("dcluster/zarr", cfg!(feature = "zarr")),
    ];
    features.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name).collect()
}

/// The folder of the profile that this test was built with: TARGET/debug of TARGET/debug/deps/this-test.
fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    test.ancestors().nth(2).expect("below target").to_owned()
}

fn target() -> PathBuf {
    profile().parent().expect("below target").to_owned()
}
