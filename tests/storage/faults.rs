//! Damaged, missing and mistaken files: the message names the file and what to do, and nothing is left half-written.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dcluster::collections::storage::{
    ArrayFile, Compression, Draft, Existing, StorageError, WriteOptions, Writers,
};
use dcluster::model::numbers::Dtype;

use crate::disk::small_disk;
use crate::{check_part, part, write_blocks};

/// The three formats, as far as they are built in.
fn files(directory: &Path) -> Vec<ArrayFile> {
    let mut files = vec![ArrayFile::npy(directory.join("x.npy"))];
    if cfg!(feature = "hdf5") {
        files.push(ArrayFile::hdf5(directory.join("x.h5"), "/x"));
    }
    if cfg!(feature = "zarr") {
        files.push(ArrayFile::zarr(directory.join("x.zarr")));
    }
    files
}

fn write_one(file: &ArrayFile, options: &WriteOptions) {
    let draft = file.create(Dtype::F64, &[6, 4], options).unwrap();
    write_blocks::<f64>(&draft, &[6, 4], &[6, 4]).unwrap();
    draft.finish().unwrap();
}

fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn free_bytes(directory: &Path) -> u64 {
    let system = nix::sys::statvfs::statvfs(directory).unwrap();
    system.blocks_available() * system.fragment_size()
}

fn message(result: Result<impl std::fmt::Debug, StorageError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_missing_file_is_named_with_what_to_check() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()) {
        let message = message(file.open());
        assert!(message.contains(&file.path().display().to_string()), "{message}");
        assert!(message.contains("all nodes share"), "{message}");
    }
}

#[test]
fn another_type_another_length_and_a_part_outside_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()) {
        write_one(&file, &WriteOptions::default());
        let stored = file.open().unwrap();
        let mut floats = [0.0; 24];
        let mistaken = message(stored.read::<i32>(&[0..6, 0..4], &mut [0; 24]));
        assert!(mistaken.contains("holds f64, not i32"), "{mistaken}");
        let outside = message(stored.read(&[0..7, 0..4], &mut floats));
        assert!(outside.contains("[0..7, 0..4] is not a part") && outside.contains("[6, 4]"), "{outside}");
        assert!(message(stored.read(&[0..24], &mut floats)).contains("is not a part"));
        assert!(message(stored.read(&[0..6, 0..4], &mut floats[1..])).contains("24 elements, not 23"));
        check_part::<f64>(&stored, &[1..3, 2..2]); // an empty part is no mistake
    }
}

#[test]
fn a_truncated_file_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()).iter().filter(|file| !matches!(file, ArrayFile::Zarr { .. })) {
        write_one(file, &WriteOptions::default());
        let length = fs::metadata(file.path()).unwrap().len();
        fs::OpenOptions::new().write(true).open(file.path()).unwrap().set_len(length - 8).unwrap();
        assert!(message(file.open()).contains("truncated"), "{}", message(file.open()));
        fs::OpenOptions::new().write(true).open(file.path()).unwrap().set_len(7).unwrap();
        assert!(message(file.open()).contains(&file.path().display().to_string()));
    }
}

#[test]
fn what_is_no_array_file_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()) {
        match &file {
            ArrayFile::Zarr { directory } => fs::create_dir(directory).unwrap(),
            other => fs::write(other.path(), "a letter to my aunt, which is longer than any header's magic")
                .unwrap(),
        }
        let message = message(file.open());
        assert!(message.contains(&file.path().display().to_string()), "{message}");
    }
}

#[test]
fn a_file_that_is_there_stays_until_the_draft_is_whole() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()) {
        write_one(&file, &WriteOptions::default());
        let kept = message(file.create(Dtype::I32, &[3], &WriteOptions::default()));
        assert!(kept.contains("is there already") && kept.contains("Existing::Replace"), "{kept}");

        let replace = WriteOptions { existing: Existing::Replace, ..WriteOptions::default() };
        let draft = file.create(Dtype::I32, &[3], &replace).unwrap();
        assert_eq!(file.open().unwrap().dtype(), Dtype::F64);
        write_blocks::<i32>(&draft, &[3], &[1]).unwrap();
        draft.finish().unwrap();
        draft.finish().unwrap(); // as a task would that runs twice
        check_part::<i32>(&file.open().unwrap(), &[0..3]);
    }
    let names: Vec<_> =
        files(scratch.path()).iter().map(|file| file.path().file_name().unwrap().to_owned()).collect();
    assert_eq!(listing(scratch.path()).len(), names.len(), "{:?}", listing(scratch.path()));
}

#[test]
fn an_abandoned_draft_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()) {
        let draft = file.create(Dtype::F64, &[100, 100], &WriteOptions::default()).unwrap();
        draft.write(&[0..1, 0..100], &[1.0; 100]).unwrap();
        draft.abandon();
        assert_eq!(listing(scratch.path()), [""; 0]);
    }
}

#[test]
fn who_still_writes_an_abandoned_draft_does_not_write_the_next_one() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()) {
        let abandoned = file.create(Dtype::F64, &[6, 4], &WriteOptions::default()).unwrap();
        abandoned.abandon();
        let draft = file.create(Dtype::F64, &[6, 4], &WriteOptions::default()).unwrap();
        write_blocks::<f64>(&draft, &[6, 4], &[6, 4]).unwrap();
        assert!(abandoned.is_abandoned() && !draft.is_abandoned());
        abandoned.write(&[0..6, 0..4], &[7.0; 24]).unwrap_err();
        draft.finish().unwrap();
        check_part::<f64>(&file.open().unwrap(), &[0..6, 0..4]);
    }
}

#[test]
fn a_file_larger_than_the_disk_is_refused_before_anything_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let system = nix::sys::statvfs::statvfs(scratch.path()).unwrap();
    let elements = (system.blocks() * system.fragment_size() / 8) as usize;
    for file in files(scratch.path()).iter().filter(|file| !matches!(file, ArrayFile::Zarr { .. })) {
        let full = message(file.create(Dtype::F64, &[elements * 2], &WriteOptions::default()));
        assert!(full.contains("free space or write elsewhere"), "{full}");
        assert_eq!(listing(scratch.path()), [""; 0]);
    }
}

#[test]
fn a_disk_that_fills_up_is_said_and_the_former_file_stays() {
    let Some(disk) = small_disk("faults::a_disk_that_fills_up_is_said_and_the_former_file_stays", "4m")
    else {
        return;
    };
    let shape = [64, 4096]; // 2 MiB
    let plain = WriteOptions { existing: Existing::Replace, ..WriteOptions::default() };
    let chunks = WriteOptions { chunks: Some(vec![8, 4096]), ..plain.clone() };
    let mut cases = vec![(ArrayFile::npy(disk.join("x.npy")), plain.clone())];
    if cfg!(feature = "hdf5") {
        let gzip = WriteOptions { compression: Compression::Gzip(1), ..chunks.clone() };
        cases.push((ArrayFile::hdf5(disk.join("flat.h5"), "/x"), plain));
        cases.push((ArrayFile::hdf5(disk.join("chunks.h5"), "/x"), chunks.clone()));
        cases.push((ArrayFile::hdf5(disk.join("gzip.h5"), "/x"), gzip));
    }
    if cfg!(feature = "zarr") {
        cases.push((ArrayFile::zarr(disk.join("x.zarr")), chunks));
    }
    for (file, options) in cases {
        let draft = file.create(Dtype::U8, &[6], &WriteOptions::default()).unwrap();
        write_blocks::<u8>(&draft, &[6], &[6]).unwrap();
        draft.finish().unwrap();
        let free = free_bytes(&disk);

        // Others write as well, and less is left than the array needs. What is reserved is found out before.
        let others = disk.join("others");
        let fill = || fs::write(&others, vec![1; free_bytes(&disk) as usize - (200 << 10)]).unwrap();
        let is_reserved = options.compression == Compression::None && !matches!(file, ArrayFile::Zarr { .. });
        if is_reserved {
            fill();
        }
        let result = file.create(Dtype::F64, &shape, &options).and_then(|draft| {
            if !is_reserved {
                fill();
            }
            let noise = |ranges: &[std::ops::Range<usize>]| {
                let numbers = part::<f64>(&shape, ranges);
                numbers.iter().map(|number| (number * 1.618).sin()).collect::<Vec<_>>()
            };
            let written = crate::blocks(&shape, &[8, 4096])
                .iter()
                .try_for_each(|ranges| draft.write(ranges, &noise(ranges)));
            if written.is_err() {
                draft.abandon();
                assert!(draft.is_abandoned());
            }
            written.and_then(|()| draft.finish())
        });
        fs::remove_file(&others).unwrap();
        let full = message(result);
        let name = file.path().file_name().unwrap().to_str().unwrap();
        assert!(full.contains(name) && full.contains("free space or write elsewhere"), "{full}");
        assert!(listing(&disk).iter().all(|name| !name.contains(".part")), "{:?}", listing(&disk));
        assert_eq!(free_bytes(&disk), free, "{file}: removed, and closed");
        check_part::<u8>(&file.open().unwrap(), &[0..6]);
    }
}

/// Names a draft to the process that writes it until it is killed.
const KILLED_WRITER: &str = "DCLUSTER_TEST_DRAFT";

#[test]
fn what_a_killed_writer_leaves_is_written_again_or_refused() {
    let shape = [60, 500];
    let chunks = || WriteOptions { chunks: Some(vec![7, 500]), ..WriteOptions::default() };
    if let Ok(draft) = std::env::var(KILLED_WRITER) {
        let draft: Draft = serde_json::from_str(&draft).unwrap();
        fs::write(draft.target().path().with_extension("writing"), "").unwrap();
        loop {
            write_blocks::<f64>(&draft, &shape, &[7, 500]).unwrap();
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut drafts = vec![(ArrayFile::npy(scratch.path().join("x.npy")), WriteOptions::default())];
    if cfg!(feature = "hdf5") {
        drafts.push((ArrayFile::hdf5(scratch.path().join("chunks.h5"), "/x"), chunks()));
        let gzip = WriteOptions { compression: Compression::Gzip(1), ..chunks() };
        drafts.push((ArrayFile::hdf5(scratch.path().join("gzip.h5"), "/x"), gzip));
    }
    if cfg!(feature = "zarr") {
        drafts.push((ArrayFile::zarr(scratch.path().join("x.zarr")), chunks()));
    }
    for (round, (file, options)) in (0..4).flat_map(|round| drafts.iter().map(move |draft| (round, draft))) {
        let draft = file.create(Dtype::F64, &shape, options).unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["faults::what_a_killed_writer_leaves_is_written_again_or_refused", "--exact"])
            .env(KILLED_WRITER, serde_json::to_string(&draft).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = file.path().with_extension("writing");
        while !begun.exists() {
            assert!(writer.try_wait().unwrap().is_none(), "it writes until it is killed");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(1700 * round));
        writer.kill().unwrap();
        writer.wait().unwrap();
        fs::remove_file(begun).unwrap();

        assert!(!file.path().exists(), "not before it is whole");
        match write_blocks::<f64>(&draft, &shape, &[7, 500]) {
            Ok(()) => {
                draft.finish().unwrap();
                check_part::<f64>(&file.open().unwrap(), &[0..60, 0..500]);
                match file {
                    ArrayFile::Zarr { directory } => fs::remove_dir_all(directory).unwrap(),
                    file => fs::remove_file(file.path()).unwrap(),
                }
            }
            Err(error) => {
                assert_eq!(draft.writers(), Writers::One, "{error}");
                assert!(error.to_string().contains("its draft is of no use: write it again"), "{error}");
                draft.abandon();
            }
        }
        assert_eq!(listing(scratch.path()), [""; 0]);
    }
}

#[cfg(feature = "zarr")]
#[test]
fn a_zarr_array_with_uneven_chunks_is_refused_by_the_name_of_its_grid() {
    let scratch = tempfile::tempdir().unwrap();
    let file = ArrayFile::zarr(scratch.path().join("x.zarr"));
    for (grid, chunks) in [
        ("rectangular", r#"{"chunk_shape":[[2,3,1],4]}"#),
        ("rectilinear", r#"{"kind":"inline","chunk_shapes":[[2,3,1],4]}"#),
    ] {
        let replace = WriteOptions { existing: Existing::Replace, ..WriteOptions::default() };
        write_one(&file, &replace);
        let path = file.path().join("zarr.json");
        let mut metadata: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let configuration: serde_json::Value = serde_json::from_str(chunks).unwrap();
        metadata["chunk_grid"] = serde_json::json!({ "name": grid, "configuration": configuration });
        fs::write(&path, metadata.to_string()).unwrap();
        let uneven = message(file.open());
        assert!(uneven.contains("x.zarr has the chunk grid") && uneven.contains(grid), "{uneven}");
    }
}

#[test]
fn a_file_that_appears_while_a_draft_is_written_stays() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(scratch.path()) {
        let draft = file.create(Dtype::F64, &[6, 4], &WriteOptions::default()).unwrap();
        write_blocks::<f64>(&draft, &[6, 4], &[6, 4]).unwrap();
        fs::write(file.path(), "mine").unwrap();
        assert!(message(draft.finish()).contains("is there already"));
        draft.abandon();
        assert_eq!(fs::read(file.path()).unwrap(), b"mine");
        fs::remove_file(file.path()).unwrap();
        assert_eq!(listing(scratch.path()), [""; 0]);
    }
}

#[test]
fn a_directory_is_not_replaced_by_a_file() {
    let scratch = tempfile::tempdir().unwrap();
    let replace = WriteOptions { existing: Existing::Replace, ..WriteOptions::default() };
    for file in files(scratch.path()).iter().filter(|file| !matches!(file, ArrayFile::Zarr { .. })) {
        fs::create_dir(file.path()).unwrap();
        let refused = message(file.create(Dtype::F64, &[6, 4], &replace));
        assert!(refused.contains("name a file, not a directory"), "{refused}");
        fs::remove_dir(file.path()).unwrap();
        assert_eq!(listing(scratch.path()), [""; 0]);
    }
}

#[cfg(feature = "zarr")]
#[test]
fn half_a_chunk_that_a_killed_writer_left_is_not_read() {
    let scratch = tempfile::tempdir().unwrap();
    let file = ArrayFile::zarr(scratch.path().join("x.zarr"));
    let options = WriteOptions { chunks: Some(vec![4, 3]), ..WriteOptions::default() };
    let draft = file.create(Dtype::F64, &[6, 4], &options).unwrap();
    write_blocks::<f64>(&draft, &[6, 4], &[4, 3]).unwrap();
    for chunk in ["c/0/0", "c/0/1", "c/1/0", "c/1/1"] {
        let chunk = scratch.path().join(&listing(scratch.path())[0]).join(chunk);
        fs::OpenOptions::new().write(true).open(chunk).unwrap().set_len(5).unwrap();
    }
    write_blocks::<f64>(&draft, &[6, 4], &[4, 3]).unwrap();
    draft.finish().unwrap();
    check_part::<f64>(&file.open().unwrap(), &[0..6, 0..4]);
}

#[test]
fn a_directory_that_is_not_there_and_options_that_do_not_fit_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    for file in files(&scratch.path().join("nowhere")) {
        assert!(message(file.create(Dtype::U8, &[3], &WriteOptions::default())).contains("nowhere"));
    }
    for file in files(scratch.path()) {
        let chunks = WriteOptions { chunks: Some(vec![2, 2]), ..WriteOptions::default() };
        assert!(message(file.create(Dtype::U8, &[3], &chunks)).contains("one length, not 0, for each axis"));
        let level = WriteOptions { compression: Compression::Gzip(11), ..WriteOptions::default() };
        file.create(Dtype::U8, &[3], &level).unwrap_err();
    }
    assert_eq!(listing(scratch.path()), [""; 0]);
}

#[cfg(feature = "hdf5")]
#[test]
fn a_dataset_that_is_not_there_is_answered_with_those_that_are() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("x.h5");
    write_one(&ArrayFile::hdf5(&file, "/x"), &WriteOptions::default());
    let missing = message(ArrayFile::hdf5(&file, "/y").open());
    assert!(missing.contains("no dataset /y in") && missing.contains("there is /x"), "{missing}");
}

#[cfg(feature = "zarr")]
#[test]
fn a_damaged_chunk_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = ArrayFile::zarr(scratch.path().join("x.zarr"));
    let options = WriteOptions {
        chunks: Some(vec![3, 4]),
        compression: Compression::Gzip(1),
        ..WriteOptions::default()
    };
    write_one(&file, &options);
    let chunk = file.path().join("c/1/0");
    let mut bytes = fs::read(&chunk).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&chunk, bytes).unwrap();

    let stored = file.open().unwrap();
    check_part::<f64>(&stored, &[0..3, 0..4]); // the other chunk is whole
    let damaged = message(stored.read(&[0..6, 0..4], &mut [0.0; 24]));
    assert!(damaged.contains("x.zarr/c/1/0"), "{damaged}");
}

#[cfg(feature = "hdf5")]
#[test]
fn a_damaged_hdf5_chunk_names_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = ArrayFile::hdf5(scratch.path().join("x.h5"), "/x");
    let options = WriteOptions { compression: Compression::Gzip(1), ..WriteOptions::default() };
    write_one(&file, &options);
    let mut bytes = fs::read(file.path()).unwrap();
    // The one chunk is the deflate stream, which starts so.
    let start = bytes.windows(2).position(|pair| pair == [0x78, 0x01]).unwrap();
    bytes[start..start + 16].fill(0xff);
    fs::write(file.path(), bytes).unwrap();
    let damaged = message(file.open().unwrap().read(&[0..6, 0..4], &mut [0.0; 24]));
    assert!(damaged.contains("cannot read") && damaged.contains("x.h5"), "{damaged}");
}

#[cfg(not(feature = "hdf5"))]
#[test]
fn without_hdf5_the_message_says_what_to_build() {
    let message = message(ArrayFile::hdf5("x.h5", "/x").open());
    assert!(message.contains("the feature `hdf5`") && message.contains("libhdf5-dev"), "{message}");
}
