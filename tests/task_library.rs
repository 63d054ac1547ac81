//! Task libraries, built by cargo and loaded as `--tasks` does.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "tasklib/building.rs"]
mod building;

use std::sync::Arc;

use dcluster::model::{ErrorKind, Resident, Value};
use dcluster::registry::arguments::{put_input, put_value};
use dcluster::registry::{Arguments, Registry, TaskDefinition, library};

fn task(registry: &Registry, name: &str) -> &'static TaskDefinition {
    registry.describe().iter().find(|task| task.name == name).unwrap()
}

#[test]
fn a_library_brings_its_tasks_and_a_wrong_one_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut registry = Registry::load().unwrap();
    let before = registry.table_hash();

    let unbuilt = registry.add_library(&folder.path().join("none.so")).unwrap_err().to_string();
    assert!(unbuilt.starts_with("cannot load task library"), "{unbuilt}");
    assert!(unbuilt.contains("No such file"), "{unbuilt}");
    let text = folder.path().join("text.so");
    std::fs::write(&text, "not a library").unwrap();
    let error = registry.add_library(&text).unwrap_err().to_string();
    assert!(error.starts_with("cannot load task library"), "{error}");

    let error =
        registry.add_library(&building::library(folder.path(), Some("no-tasks"))).unwrap_err().to_string();
    assert!(error.contains("is a library without dcluster tasks"), "{error}");

    let error =
        registry.add_library(&building::library(folder.path(), Some("other-abi"))).unwrap_err().to_string();
    assert!(error.contains("library: dcluster 0.0.9, rustc 1.60.0\n"), "{error}");
    assert!(error.contains(&format!("program: {}\n", library::abi())), "{error}");
    assert!(library::abi().contains("rustc 1."), "{}", library::abi());
    assert_eq!(registry.table_hash(), before);

    let good = building::library(folder.path(), None);
    assert_eq!(registry.add_library(&good).unwrap(), 3);
    assert_ne!(registry.table_hash(), before);
    assert_eq!(registry.libraries(), std::slice::from_ref(&good));
    assert_eq!(registry.add_library(&good).unwrap(), 0, "the same library again changes nothing");

    let input = [Arc::new(Resident::live(Value::new(vec![3.0f64, 4.0]), 16))];
    let mut bytes = Vec::new();
    put_input(&mut bytes, 0);
    let norm = task(&registry, "dcluster_tasklib::norm");
    let result = (norm.run)(Arguments { bytes: &bytes, inputs: &input }).unwrap();
    assert_eq!(*Resident::live(result, 8).view::<f64>().unwrap(), 5.0);

    let mut bytes = Vec::new();
    put_value(&mut bytes, &Vec::<f64>::new()).unwrap();
    let largest = task(&registry, "dcluster_tasklib::largest");
    let error = (largest.run)(Arguments { bytes: &bytes, inputs: &[] }).map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Panic);
    assert!(error.message.contains("an empty list has no largest value"), "{error}");
}
