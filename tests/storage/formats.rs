//! The three formats, both ways, over shapes, chunks, types, orders, codecs and parts.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;

use dcluster::collections::storage::{ArrayFile, Compression, WriteOptions, Writers};
use dcluster::model::numbers::Dtype;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::python::Python;
use crate::{blocks, check_part, part, write_blocks};

const CASES: u32 = 60;

const DTYPES: [Dtype; 7] =
    [Dtype::F32, Dtype::F64, Dtype::I32, Dtype::I64, Dtype::U8, Dtype::Bool, Dtype::Complex64];

/// Runs `$body` with `$number` as the type that `$dtype` means.
macro_rules! with_type {
    ($dtype:expr, $number:ident => $body:expr) => {
        match $dtype {
            Dtype::F32 => {
                type $number = f32;
                $body
            }
            Dtype::F64 => {
                type $number = f64;
                $body
            }
            Dtype::I32 => {
                type $number = i32;
                $body
            }
            Dtype::I64 => {
                type $number = i64;
                $body
            }
            Dtype::U8 => {
                type $number = u8;
                $body
            }
            Dtype::Bool => {
                type $number = bool;
                $body
            }
            Dtype::Complex64 => {
                type $number = num_complex::Complex64;
                $body
            }
        }
    };
}

/// An array, how it is cut, and parts of it.
#[derive(Clone, Debug)]
struct Case {
    dtype: Dtype,
    shape: Vec<usize>,
    chunks: Vec<usize>,
    parts: Vec<Vec<Range<usize>>>,
    /// Which of the ways that a format has.
    way: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let axis = (1usize..24).prop_flat_map(|length| {
        let range = (0..=length, 0..=length).prop_map(|(a, b)| a.min(b)..a.max(b));
        (Just(length), 1..=length, prop::collection::vec(range, 3))
    });
    (prop::sample::select(DTYPES.to_vec()), prop::collection::vec(axis, 1..=4), 0usize..64).prop_map(
        |(dtype, axes, way)| Case {
            dtype,
            shape: axes.iter().map(|axis| axis.0).collect(),
            chunks: axes.iter().map(|axis| axis.1).collect(),
            parts: (0..3).map(|part| axes.iter().map(|axis| axis.2[part].clone()).collect()).collect(),
            way,
        },
    )
}

/// NumPy's name of a type, in the byte order that is asked for.
fn numpy_name(dtype: Dtype, order: &str) -> String {
    let kind = match dtype {
        Dtype::F32 => "f4",
        Dtype::F64 => "f8",
        Dtype::I32 => "i4",
        Dtype::I64 => "i8",
        Dtype::U8 => return "u1".to_owned(),
        Dtype::Bool => return "?".to_owned(),
        Dtype::Complex64 => "c16",
    };
    format!("{order}{kind}")
}

/// For each case: Python writes as `options` says, and parts are read here.
fn read_what_python_writes(
    format: &str,
    file: impl Fn(&Path) -> ArrayFile,
    options: impl Fn(&Case) -> (&'static str, Value),
) {
    let python = RefCell::new(Python::start("tests/storage/files.py"));
    let scratch = tempfile::tempdir().unwrap();
    let count = Cell::new(0);
    TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() })
        .run(&case(), |case| {
            count.set(count.get() + 1);
            let file = file(&scratch.path().join(format!("{}.{format}", count.get())));
            let (order, options) = options(&case);
            python.borrow_mut().ask(&json!({
                "do": "write", "format": format, "path": file.path(), "dataset": "/group/x",
                "dtype": numpy_name(case.dtype, order), "shape": case.shape, "options": options,
            }));
            let stored = file.open().unwrap();
            prop_assert_eq!(stored.dtype(), case.dtype);
            prop_assert_eq!(stored.shape(), &case.shape[..]);
            let whole: Vec<_> = case.shape.iter().map(|&length| 0..length).collect();
            with_type!(case.dtype, T => {
                check_part::<T>(&stored, &whole);
                case.parts.iter().for_each(|part| check_part::<T>(&stored, part));
            });
            Ok(())
        })
        .unwrap();
}

/// For each case: blocks of the case's chunks are written here, by two threads if that is allowed, and Python reads.
fn python_reads_what_is_written(
    format: &str,
    file: impl Fn(&Path) -> ArrayFile,
    options: impl Fn(&Case) -> WriteOptions,
) {
    let python = RefCell::new(Python::start("tests/storage/files.py"));
    let scratch = tempfile::tempdir().unwrap();
    let count = Cell::new(0);
    TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() })
        .run(&case(), |case| {
            count.set(count.get() + 1);
            let file = file(&scratch.path().join(format!("{}.{format}", count.get())));
            let draft = file.create(case.dtype, &case.shape, &options(&case)).unwrap();
            prop_assert!(!file.path().exists(), "not before it is whole");
            with_type!(case.dtype, T => match draft.writers() {
                Writers::One => write_blocks::<T>(&draft, &case.shape, &case.chunks).unwrap(),
                Writers::Many => {
                    let all = blocks(&case.shape, &case.chunks);
                    let (some, others) = all.split_at(all.len() / 2);
                    let write = |some: &[Vec<Range<usize>>]| {
                        some.iter().for_each(|ranges| draft.write(ranges, &part::<T>(&case.shape, ranges)).unwrap())
                    };
                    std::thread::scope(|scope| {
                        scope.spawn(|| write(some));
                        scope.spawn(|| write(others));
                    });
                }
            });
            draft.finish().unwrap();
            python.borrow_mut().ask(&json!({
                "do": "check", "format": format, "path": file.path(), "dataset": "/group/x",
                "dtype": numpy_name(case.dtype, "<"), "shape": case.shape,
            }));
            Ok(())
        })
        .unwrap();
}

#[test]
fn npy_of_numpy_is_read_by_parts() {
    let file = |path: &Path| ArrayFile::npy(path);
    read_what_python_writes("npy", file, |case| {
        let order = if case.way & 1 == 0 { "C" } else { "F" };
        let version = [[1, 0], [2, 0], [3, 0], [1, 0]][case.way >> 2 & 3];
        (if case.way & 2 == 0 { "<" } else { ">" }, json!({ "order": order, "version": version }))
    });
}

#[test]
fn npy_written_by_blocks_is_read_by_numpy() {
    python_reads_what_is_written("npy", |path| ArrayFile::npy(path), |_| WriteOptions::default());
}

#[test]
fn hdf5_of_h5py_is_read_by_parts() {
    let file = |path: &Path| ArrayFile::hdf5(path, "/group/x");
    read_what_python_writes("hdf5", file, |case| {
        let options = match case.way & 7 {
            0 => json!({}),
            1 => json!({ "chunks": case.chunks }),
            2 => json!({ "chunks": case.chunks, "shuffle": true }),
            3 => json!({ "chunks": case.chunks, "shuffle": true, "fletcher32": true }),
            4 => json!({ "chunks": case.chunks, "compression": "gzip", "shuffle": true, "fletcher32": true }),
            5 => json!({ "chunks": case.chunks, "compression": "gzip" }),
            _ => json!({ "chunks": case.chunks, "compression": "gzip", "shuffle": true }),
        };
        (if case.way & 24 == 0 { ">" } else { "<" }, options)
    });
}

#[test]
fn chunks_that_an_hdf5_file_lacks_are_its_fill_value() {
    let scratch = tempfile::tempdir().unwrap();
    let file = ArrayFile::hdf5(scratch.path().join("x.h5"), "/x");
    for filters in [json!({}), json!({ "compression": "gzip", "shuffle": true })] {
        let mut options = json!({ "chunks": [4, 3], "fillvalue": 7, "rows": 4 });
        options.as_object_mut().unwrap().extend(filters.as_object().unwrap().clone());
        Python::start("tests/storage/files.py").ask(&json!({
            "do": "write", "format": "hdf5", "path": file.path(), "dataset": "/x", "dtype": "<i4", "shape": [10, 7],
            "options": options,
        }));
        let mut found = vec![0; 5 * 6];
        file.open().unwrap().read(&[2..7, 1..7], &mut found).unwrap();
        let mut wanted = part::<i32>(&[10, 7], &[2..4, 1..7]);
        wanted.resize(found.len(), 7);
        assert_eq!(found, wanted, "{filters}");
    }
}

#[test]
fn a_dataset_that_is_linked_from_another_file_is_read_from_there() {
    let scratch = tempfile::tempdir().unwrap();
    let mut python = Python::start("tests/storage/files.py");
    for options in
        [json!({}), json!({ "chunks": [4, 3] }), json!({ "chunks": [4, 3], "compression": "gzip" })]
    {
        python.ask(&json!({
            "do": "write", "format": "hdf5", "path": scratch.path().join("x.h5"), "dataset": "/x", "dtype": "<f8",
            "shape": [10, 7], "options": options,
        }));
        let links = scratch.path().join("links.h5");
        python.ask(&json!({ "do": "link", "path": links, "to": "x.h5", "dataset": "/x" }));
        check_part::<f64>(&ArrayFile::hdf5(&links, "/link").open().unwrap(), &[2..9, 1..7]);
    }
}

#[test]
fn hdf5_written_by_blocks_is_read_by_h5py() {
    let file = |path: &Path| ArrayFile::hdf5(path, "/group/x");
    python_reads_what_is_written("hdf5", file, |case| match case.way & 3 {
        0 => WriteOptions { chunks: Some(case.chunks.clone()), ..WriteOptions::default() },
        1 => WriteOptions { compression: Compression::Gzip(4), ..WriteOptions::default() },
        _ => WriteOptions::default(),
    });
}

#[test]
fn zarr_of_zarr_python_is_read_by_parts() {
    let file = |path: &Path| ArrayFile::zarr(path);
    read_what_python_writes("zarr", file, |case| {
        let version = if case.way & 8 == 0 { 2 } else { 3 };
        let mut options = json!({ "zarr_format": version, "chunks": case.chunks });
        match case.way & 7 {
            0 => options["compressors"] = Value::Null,
            1 => options["blosc"] = json!("lz4"),
            2 => options["blosc"] = json!("zstd"),
            3 if version == 3 => options["gzip"] = json!(5),
            4 if version == 3 => {
                let twice: Vec<_> = case.chunks.iter().map(|length| length * 2).collect();
                options["shards"] = json!(twice);
            }
            5 if version == 2 => options["order"] = json!("F"),
            _ => {} // its default, which is Zstandard
        }
        (if version == 2 && case.way & 16 != 0 { ">" } else { "<" }, options)
    });
}

#[test]
fn zarr_written_by_blocks_is_read_by_zarr_python() {
    python_reads_what_is_written(
        "zarr",
        |path| ArrayFile::zarr(path),
        |case| WriteOptions {
            chunks: Some(case.chunks.clone()),
            compression: [Compression::None, Compression::Gzip(5), Compression::Zstd(3)][case.way % 3],
            ..WriteOptions::default()
        },
    );
}
