//! A vector of numbers in a file: HDF5 where that is built in, else `.npy`.

use std::fs::File;

use anyhow::ensure;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::cli::bench::scratch::Scratch;
use crate::client::blocking::Client;
use crate::collections::storage::{ArrayFile, WriteOptions};
use crate::collections::{Array, s};

/// The numbers 0 to 999, again and again: their sum is exact in any order.
pub(super) struct SourceFile {
    file: ArrayFile,
    _directory: Scratch,
    elements: usize,
    block: usize,
}

impl SourceFile {
    /// Has the workers write it below the directory for temporary files.
    pub(super) fn write(client: &Client, elements: usize, block: usize) -> anyhow::Result<Self> {
        let directory = Scratch::new("file")?;
        let file = match cfg!(feature = "hdf5") {
            true => ArrayFile::hdf5(directory.path().join("numbers.h5"), "/x"),
            false => ArrayFile::npy(directory.path().join("numbers.npy")),
        };
        let source = Self { file, _directory: directory, elements, block };
        let numbers = Array::<f64>::arange(0.0, elements as f64, 1.0, block) % 1000.0;
        let written = client.compute(&numbers.to_file(&source.file, &WriteOptions::default())).result()?;
        ensure!(written == source.bytes() as u64, "{written} bytes were written");
        Ok(source)
    }

    /// All of it, read by the tasks that need it.
    pub(super) fn array(&self) -> Array<f64> {
        Array::from_file(&self.file, Some(&[self.block]))
    }

    /// The first numbers, read in blocks of so many.
    pub(super) fn first(&self, elements: usize, block: usize) -> Array<f64> {
        Array::from_file(&self.file, Some(&[block])).slice(s![..elements])
    }

    pub(super) fn sum(&self) -> f64 {
        sum(self.elements)
    }

    pub(super) fn elements(&self) -> usize {
        self.elements
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements * size_of::<f64>()
    }

    pub(super) fn name(&self) -> &'static str {
        if matches!(self.file, ArrayFile::Hdf5 { .. }) { "an HDF5 dataset" } else { "a .npy file" }
    }

    /// Has the kernel drop what it holds of it, as far as it will.
    pub(super) fn forget_cached(&self) -> anyhow::Result<()> {
        let file = File::open(self.file.path())?;
        // What is not on the disk yet cannot be dropped.
        file.sync_all()?;
        Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }
}

/// The sum of the first numbers.
pub(super) fn sum(elements: usize) -> f64 {
    (0..elements as u64).map(|index| index % 1000).sum::<u64>() as f64
}

/// How much these processes have read from storage, in bytes; None where the kernel does not say.
pub(super) fn read_bytes(pids: &[u64]) -> Option<u64> {
    let of = |pid: &u64| -> Option<u64> {
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        io.lines().find_map(|line| line.strip_prefix("read_bytes:"))?.trim().parse().ok()
    };
    pids.iter().map(of).sum()
}
