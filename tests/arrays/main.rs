//! Arrays against NumPy: random programs over random shapes, chunks and types, and the rules that programs do not hit.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../storage/disk.rs"]
mod disk;
mod files;
mod program;
#[path = "../storage/python.rs"]
mod python;
mod rules;
mod value;

use std::sync::{Mutex, OnceLock};

use dcluster::blocking;
use dcluster::client::Result;
use dcluster::collections::{Block, Complex64};
use dcluster::launch::ranks::Setup;
use dcluster::launch::{LocalCluster, LocalOptions};
use dcluster::model::numbers::Element;
use program::{Entry, Program};
use python::Python;
use serde_json::Value as Json;
use value::{Dice, Value};

/// The sum over the window of each element: what `map_overlap` gives to a stencil.
#[dcluster::task]
pub(crate) fn neighbours(wide: &Block<f64>, depth: Vec<usize>) -> Block<f64> {
    let view = wide.view();
    let shape: Vec<usize> =
        wide.shape().iter().zip(&depth).map(|(extent, depth)| extent - 2 * depth).collect();
    let window: Vec<usize> = depth.iter().map(|depth| 2 * depth + 1).collect();
    let sums = ndarray::ArrayD::from_shape_fn(shape, |at| {
        let mut sum = 0.0;
        for offset in ndarray::indices(window.clone()) {
            let place: Vec<usize> = (0..depth.len()).map(|axis| at[axis] + offset[axis]).collect();
            sum += view[&place[..]];
        }
        sum
    });
    Block::from(sums)
}

/// A block twice.
#[dcluster::task]
pub(crate) fn twice(block: &Block<f64>) -> Block<f64> {
    Block::new(block.shape(), block.numbers().iter().map(|x| x + x).collect::<Vec<_>>()).unwrap()
}

/// What two blocks of one shape differ by.
#[dcluster::task]
pub(crate) fn difference(a: &Block<f64>, b: &Block<f64>) -> Result<Block<f64>, String> {
    if a.shape() != b.shape() {
        return Err(format!("blocks of shapes {:?} and {:?} are a pair", a.shape(), b.shape()));
    }
    Block::new(a.shape(), a.numbers().iter().zip(b.numbers().iter()).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// A cluster of three workers in this process, shared by all tests.
pub(crate) fn client() -> blocking::Client {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| start(3)).2.clone()
}

/// A cluster, where its connection file is, and a client of it.
pub(crate) type Cluster = (Mutex<LocalCluster>, tempfile::TempDir, blocking::Client);

/// Starts so many workers in this process.
pub(crate) fn start(workers: u32) -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { connection_file: Some(directory.path().join("cluster.json")), ..Setup::default() };
    let options = LocalOptions { workers: Some(workers), threads: Some(1), ..LocalOptions::default() };
    let cluster = LocalCluster::start(&options, &setup).unwrap();
    let client = blocking::Client::connect(directory.path().join("cluster.json")).unwrap();
    client.wait_for_workers(workers as usize, None).unwrap();
    (Mutex::new(cluster), directory, client)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn random_programs_give_what_numpy_gives() {
    let client = client();
    let mut python = Python::start("tests/arrays/reference.py");
    let (first, count) = (number("ARRAYS_FIRST", 1), number("ARRAYS_SEEDS", 150));
    for seed in first..first + count {
        let mut program =
            Program { dice: Dice(seed), entries: Vec::new(), steps: Vec::new(), client: &client };
        for _ in 0..24 {
            program.step();
        }
        let answer = python.ask(&Json::Array(program.steps.clone()));
        let results = answer["results"].as_array().unwrap();
        for (at, (entry, expected)) in program.entries.iter().zip(results).enumerate() {
            if let Err(difference) = check(&client, entry, expected) {
                let steps: Vec<String> = program.steps[..=at].iter().map(ToString::to_string).collect();
                panic!("ARRAYS_FIRST={seed} ARRAYS_SEEDS=1, step {at}: {difference}\n{}", steps.join("\n"));
            }
        }
    }
}

/// Computes an entry, and compares it with NumPy's.
fn check(client: &blocking::Client, entry: &Entry, expected: &Json) -> std::result::Result<(), String> {
    let scale = if entry.exact { 0.0 } else { expected["scale"].as_f64().unwrap() };
    macro_rules! compare {
        ($array:ident, $near:expr) => {
            compare(client.compute($array).result(), expected, $near)
        };
    }
    let exactly_or = |tolerance: f64| {
        move |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * scale
    };
    match &entry.value {
        Value::Bool(array) => compare!(array, |a: bool, b| a == b),
        Value::U8(array) => compare!(array, |a: u8, b| a == b),
        Value::I32(array) => compare!(array, |a: i32, b| a == b),
        Value::I64(array) => compare!(array, |a: i64, b| a == b),
        Value::F32(array) => compare!(array, |a: f32, b: f32| exactly_or(1e-5)(a.into(), b.into())),
        Value::F64(array) => compare!(array, exactly_or(1e-11)),
        Value::Complex64(array) => compare!(array, |a: Complex64, b: Complex64| {
            exactly_or(1e-11)(a.re, b.re) && exactly_or(1e-11)(a.im, b.im)
        }),
    }
}

fn compare<T: Element>(
    found: Result<Block<T>>,
    expected: &Json,
    near: impl Fn(T, T) -> bool,
) -> std::result::Result<(), String> {
    let found = found.map_err(|error| error.to_string())?;
    let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
    if found.shape() != shape {
        return Err(format!("shape {:?}, and NumPy has {shape:?}", found.shape()));
    }
    let text = expected["bytes"].as_str().unwrap();
    let bytes: Vec<u8> =
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect();
    let numbers = dcluster::model::numbers::Numbers::<T>::from_bytes(bytes.into()).unwrap();
    let differ = found.numbers().iter().zip(numbers.iter()).position(|(a, b)| !near(*a, *b));
    match differ {
        Some(at) => Err(format!("number {at} is {:?}, and NumPy has {:?}", found.numbers()[at], numbers[at])),
        None => Ok(()),
    }
}
