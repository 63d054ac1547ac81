//! The same work without a cluster: threads of this process on the cores of the worker threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

use crate::topology::{CpuSet, pin_thread};

/// Sums side by side, which the compiler keeps in vector registers: enough that no addition waits for the one before.
const LANES: usize = 32;

/// Threads that each hold a part of a vector.
pub(super) struct Crew {
    threads: usize,
    barrier: Barrier,
    is_over: AtomicBool,
    /// Bits of the sums.
    sums: Vec<AtomicU64>,
}

/// Has `work` done with a thread per entry of `cpus`, pinned there, that hold the numbers 0 to 999, again and again.
pub(super) fn with_sum<T>(
    cpus: &[CpuSet],
    elements: usize,
    work: impl FnOnce(&Crew) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let crew = Crew {
        threads: cpus.len(),
        barrier: Barrier::new(cpus.len() + 1),
        is_over: AtomicBool::new(false),
        sums: cpus.iter().map(|_| AtomicU64::new(0)).collect(),
    };
    thread::scope(|scope| {
        for (index, cpus) in cpus.iter().enumerate() {
            let crew = &crew;
            scope.spawn(move || crew.serve(index, cpus, elements));
        }
        let done = work(&crew);
        crew.is_over.store(true, Ordering::Release);
        crew.barrier.wait();
        done
    })
}

impl Crew {
    /// Has all threads sum what they hold, and sees that it is right; the seconds.
    pub(super) fn sum_s(&self, expected: f64) -> anyhow::Result<f64> {
        let started = Instant::now();
        self.barrier.wait();
        self.barrier.wait();
        let sum: f64 = self.sums.iter().map(|sum| f64::from_bits(sum.load(Ordering::Acquire))).sum();
        let seconds = started.elapsed().as_secs_f64();
        ensure!(sum == expected, "the plain sum is {sum}, not {expected}");
        Ok(seconds)
    }

    fn serve(&self, index: usize, cpus: &CpuSet, elements: usize) {
        pin(cpus);
        let range = index * elements / self.threads..(index + 1) * elements / self.threads;
        // (Touched here first, so the memory is near this core.)
        let numbers: Vec<f64> = range.map(|index| (index % 1000) as f64).collect();
        loop {
            self.barrier.wait();
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            self.sums[index].store(sum(&numbers).to_bits(), Ordering::Release);
            self.barrier.wait();
        }
    }
}

fn sum(numbers: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane += number;
        }
    }
    lanes.iter().chain(rest).sum()
}

/// The product of two square matrices of square blocks, row by row: a thread takes the next block of the result until
/// there is none.
pub(super) fn product(
    cpus: &[CpuSet],
    a: &[Array2<f64>],
    b: &[Array2<f64>],
) -> anyhow::Result<Vec<Array2<f64>>> {
    let across = a.len().isqrt();
    let next = AtomicUsize::new(0);
    let block = |row: usize, column: usize| {
        let mut block = Array2::zeros((a[row * across].nrows(), b[column].ncols()));
        for inner in 0..across {
            let (left, right) = (&a[row * across + inner], &b[inner * across + column]);
            general_mat_mul(1.0, left, right, 1.0, &mut block);
        }
        block
    };
    let work = |cpus: &CpuSet| {
        pin(cpus);
        let mut blocks = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= a.len() {
                return blocks;
            }
            blocks.push((number, block(number / across, number % across)));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = cpus.iter().map(|cpus| scope.spawn(|| work(cpus))).collect();
        let mut blocks = Vec::new();
        for thread in threads {
            blocks.extend(thread.join().ok().context("a thread of the product ended in a panic")?);
        }
        blocks.sort_by_key(|(number, _)| *number);
        Ok(blocks.into_iter().map(|(_, block)| block).collect())
    })
}

fn pin(cpus: &CpuSet) {
    if !cpus.is_empty() {
        // A thread that the kernel does not pin measures what the workers' threads do, which it did not pin either.
        let _ = pin_thread(cpus);
    }
}
