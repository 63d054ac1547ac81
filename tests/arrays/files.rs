//! Arrays from files and into files: written by blocks on the workers, read by blocks of another shape.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dcluster::collections::storage::{ArrayFile, Compression, Existing, WriteOptions};
use dcluster::collections::{Array, Block, Complex64, s};

use super::client;
use crate::disk::small_disk;

fn files(directory: &Path) -> Vec<(ArrayFile, WriteOptions)> {
    let plain = WriteOptions::default();
    let mut files = vec![(ArrayFile::npy(directory.join("x.npy")), plain.clone())];
    if cfg!(feature = "hdf5") {
        let chunks = WriteOptions { chunks: Some(vec![4, 5]), ..plain.clone() };
        let gzip = WriteOptions { compression: Compression::Gzip(4), ..plain.clone() };
        files.push((ArrayFile::hdf5(directory.join("contiguous.h5"), "/group/x"), plain.clone()));
        files.push((ArrayFile::hdf5(directory.join("chunks.h5"), "/x"), chunks));
        files.push((ArrayFile::hdf5(directory.join("gzip.h5"), "/x"), gzip));
    }
    if cfg!(feature = "zarr") {
        let chunks =
            WriteOptions { chunks: Some(vec![4, 5]), compression: Compression::Zstd(3), ..plain.clone() };
        files.push((ArrayFile::zarr(directory.join("x.zarr")), plain));
        files.push((ArrayFile::zarr(directory.join("chunks.zarr")), chunks));
    }
    files
}

/// A file of this name, made once the draft of another is there.
#[dcluster::task]
fn appear(path: String) -> Block<f64> {
    let directory = Path::new(&path).parent().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while names(directory).is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::write(path, "mine").unwrap();
    Block::new([8], vec![0.0; 8]).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn each_format_gives_back_what_was_written_by_blocks() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let x = Array::random_uniform(5, [23, 17], [7, 6]);
    let wanted = client.compute(&x).result().unwrap();
    for (file, options) in files(scratch.path()) {
        let bytes = client.compute(&x.to_file(&file, &options)).result().unwrap();
        assert_eq!(bytes, 23 * 17 * 8, "{file}");
        for chunk in [None, Some([5, 17]), Some([4, 5])] {
            let back = Array::<f64>::from_file(&file, chunk.as_ref().map(|chunk| &chunk[..]));
            assert_eq!(client.compute(&back).result().unwrap(), wanted, "{file} {chunk:?}");
        }
    }
    assert_eq!(names(scratch.path()).len(), files(scratch.path()).len(), "no draft is left");
}

#[test]
fn numbers_of_other_types_and_of_no_axes_go_through_files() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let index = Array::<i64>::arange(0, 100, 1, 30);
    let masks = index.lt(37i64);
    let waves = Array::<Complex64>::full(Complex64::new(1.0, -2.0), [3, 3], [2, 2]);
    let one = Array::from(7i32);
    for (file, options) in files(scratch.path()) {
        let options = WriteOptions { chunks: None, existing: Existing::Replace, ..options };
        client.compute(&masks.to_file(&file, &options)).result().unwrap();
        let back = client.compute(&Array::<bool>::from_file(&file, None)).result().unwrap();
        assert_eq!(back, client.compute(&masks).result().unwrap(), "{file}");

        client.compute(&waves.to_file(&file, &options)).result().unwrap();
        let back = client.compute(&Array::<Complex64>::from_file(&file, None)).result().unwrap();
        assert_eq!(back, client.compute(&waves).result().unwrap(), "{file}");

        client.compute(&one.to_file(&file, &options)).result().unwrap();
        assert_eq!(client.compute(&Array::<i32>::from_file(&file, None)).result().unwrap().item(), Some(7));
    }
}

#[test]
fn a_file_that_changed_is_read_again() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let file = ArrayFile::npy(scratch.path().join("x.npy"));
    let replace = WriteOptions { existing: Existing::Replace, ..WriteOptions::default() };
    let mut held = Vec::new();
    for number in [1i64, 2, 3] {
        client
            .compute(&Array::full(number, [10 + number as usize], [4]).to_file(&file, &replace))
            .result()
            .unwrap();
        let x = client.persist(&Array::<i64>::from_file(&file, None)); // held, so that its tasks are known
        assert_eq!(client.compute(&x.max()).result().unwrap().item(), Some(number));
        held.push(x);
    }
}

#[test]
fn a_file_that_changed_in_place_is_read_again() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let mut held = Vec::new();
    for (file, options) in files(scratch.path()) {
        let options = WriteOptions { chunks: None, compression: Compression::None, ..options };
        client.compute(&Array::full(1.0f64, [64], [64]).to_file(&file, &options)).result().unwrap();
        let data = match &file {
            ArrayFile::Zarr { directory } => directory.join("c/0"),
            other => other.path().to_owned(),
        };
        for number in [1.0f64, 2.0] {
            // The same length, and the times of before.
            let (changed, mut bytes) =
                (fs::metadata(&data).unwrap().modified().unwrap(), fs::read(&data).unwrap());
            let start =
                bytes.windows(16).position(|pair| pair == [1.0f64.to_ne_bytes(); 2].concat()).unwrap();
            bytes[start..start + 8].copy_from_slice(&number.to_ne_bytes());
            fs::write(&data, bytes).unwrap();
            fs::File::options().write(true).open(&data).unwrap().set_modified(changed).unwrap();

            let x = client.persist(&Array::<f64>::from_file(&file, None)); // held, so that its tasks are known
            let first = client.compute(&x.slice(s![0])).result().unwrap().item();
            assert_eq!(first, Some(number), "{file}");
            held.push(x);
        }
        match &file {
            ArrayFile::Zarr { directory } => fs::remove_dir_all(directory).unwrap(),
            other => fs::remove_file(other.path()).unwrap(),
        }
    }
}

#[test]
fn columns_of_a_column_major_file_are_read_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.npy");
    let mut header = "{'descr': '<f8', 'fortran_order': True, 'shape': (4, 4194304), }".to_owned();
    header.extend(std::iter::repeat_n(' ', 117 - header.len()).chain(['\n']));
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(header.as_bytes());
    fs::write(&path, &bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(128 + (128 << 20)).unwrap();
    assert_eq!(Array::<f64>::from_npy(&path).chunks(), [vec![4], vec![1 << 20; 4]]);
}

#[test]
fn an_empty_array_in_a_file_stays_empty() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let x = Array::<f64>::zeros([3, 0, 4], [2, 1, 4]);
    for (file, options) in files(scratch.path()) {
        let options = WriteOptions { chunks: None, ..options };
        assert_eq!(client.compute(&x.to_file(&file, &options)).result().unwrap(), 0, "{file}");
        let back = client.compute(&Array::<f64>::from_file(&file, None)).result().unwrap();
        assert_eq!((back.shape(), back.numbers().len()), ([3, 0, 4].as_slice(), 0), "{file}");
        match &file {
            ArrayFile::Zarr { directory } => fs::remove_dir_all(directory).unwrap(),
            other => fs::remove_file(other.path()).unwrap(),
        }
    }
}

#[test]
fn options_that_do_not_fit_are_refused_before_anything_runs() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let x = Array::<f64>::zeros([8, 4], [3, 4]);
    for (file, options) in files(scratch.path()) {
        for chunks in [vec![2], vec![2, 0], vec![2, 2, 2]] {
            let options = WriteOptions { chunks: Some(chunks), ..options.clone() };
            let refused = client.compute(&x.to_file(&file, &options)).result().unwrap_err();
            assert!(matches!(refused, dcluster::Error::Expression(_)), "{refused}");
            assert!(refused.to_string().contains("do not divide an array of shape [8, 4]"), "{refused}");
        }
    }
    assert_eq!(names(scratch.path()), [""; 0]);
}

#[test]
fn a_file_that_appears_meanwhile_stays_and_no_draft_is_left() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let path = scratch.path().join("x.npy");
    let name = path.to_str().unwrap().to_owned();
    let x = Array::from_function([8], [8], move |_| appear::call(name.clone()));
    let kept = client.compute(&x.to_npy(&path)).result().unwrap_err().to_string();
    assert!(kept.contains("is there already"), "{kept}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!(names(scratch.path()), ["x.npy"]);
}

#[test]
fn what_cannot_be_read_is_said_by_the_expression() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let file = scratch.path().join("x.npy");
    let missing = Array::<f64>::from_npy(&file).check().unwrap_err().to_string();
    assert!(missing.contains("x.npy") && missing.contains("all nodes share"), "{missing}");

    client.compute(&Array::<f64>::zeros([4], [2]).to_npy(&file)).result().unwrap();
    let mistaken = client.compute(&Array::<i32>::from_npy(&file).sum()).result().unwrap_err().to_string();
    assert!(mistaken.contains("holds f64, not i32"), "{mistaken}");

    // Known when it is read, on a worker.
    let x = Array::<f64>::from_npy(&file);
    fs::remove_file(&file).unwrap();
    let gone = client.compute(&x.sum()).result().unwrap_err().to_string();
    assert!(gone.contains("x.npy") && gone.contains("No such file"), "{gone}");
}

#[test]
fn what_cannot_be_written_fails_and_leaves_nothing() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    let file = ArrayFile::npy(scratch.path().join("x.npy"));
    fs::write(file.path(), "mine").unwrap();
    let x = Array::<f64>::zeros([4], [2]);
    let kept = client.compute(&x.to_file(&file, &WriteOptions::default())).result().unwrap_err().to_string();
    assert!(kept.contains("is there already"), "{kept}");
    assert_eq!(fs::read(file.path()).unwrap(), b"mine");
    assert_eq!(names(scratch.path()), ["x.npy"]);
}

#[test]
fn a_disk_that_fills_up_fails_the_writing_by_its_cause_and_leaves_nothing() {
    let name = "files::a_disk_that_fills_up_fails_the_writing_by_its_cause_and_leaves_nothing";
    let Some(disk) = small_disk(name, "4m") else { return };
    let client = client();
    let x = Array::random_uniform(5, [64, 16384], [4, 16384]); // 8 MiB, and three workers write
    for (file, options) in files(&disk) {
        let chunks = options.chunks.map(|_| vec![4, 16384]);
        let options = WriteOptions { chunks, ..options };
        let full = client.compute(&x.to_file(&file, &options)).result().unwrap_err().to_string();
        let name = file.path().file_name().unwrap().to_str().unwrap();
        assert!(full.contains(name) && full.contains("free space or write elsewhere"), "{full}");
        // Who was writing meanwhile takes away what it wrote.
        let end = Instant::now() + Duration::from_secs(60);
        while !names(&disk).is_empty() {
            assert!(Instant::now() < end, "{:?}", names(&disk));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
