//! What programs of arrays get from the cluster: sums from disk and of what is resident, a shuffle, a matrix product,
//! and how much is in memory while a file is reduced.
//!
//! The cluster is `dcluster local`: a worker process per NUMA node and at least two, their threads pinned to all cores.
//! [`plain`] does the same sum and the same product in this process, with threads on the same cores, in turns with the
//! cluster; [`file`] is the array on disk. Every result is checked.

mod file;
mod plain;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ndarray::Array2;
use serde_json::Value;

use self::file::SourceFile;
use self::plain::Crew;
use super::stage::{Stage, of_workers};
use super::{Figure, Report, median};
use crate::client::blocking::{Client, Future};
use crate::client::{self, ReturnWhen};
use crate::collections::{Array, Block, s};
use crate::topology::{Binding, CpuSet, Machine};
use crate::wire::client::Query;

/// Sums of what is resident after it was loaded.
const SUMS: usize = 20;
/// Blocks that are loaded and reduced at once: few, and many.
const BLOCKS: [usize; 2] = [64, 256];
const WORKERS_MIN: usize = 2;
/// A worker tells what it uses a second after something has changed: what is the same this much later is the last word.
const METRICS: Duration = Duration::from_millis(2500);
/// How long a worker that has told of nothing is waited for.
const METRICS_MAX: Duration = Duration::from_secs(20);
const WAIT_MAX: Duration = Duration::from_secs(120);

/// How much is computed with; all numbers are `f64`.
struct Size {
    /// Of the vector in the file; a multiple of the largest number of [`BLOCKS`].
    elements: usize,
    /// Blocks of the vector when it is summed.
    block: usize,
    /// Extent of the matrices that are multiplied, and of their blocks.
    matrix: [usize; 2],
    /// Extent of the matrix whose rows become columns, and the width of those.
    shuffle: [usize; 2],
}

const FULL: Size = Size { elements: 1 << 27, block: 1 << 22, matrix: [4096, 512], shuffle: [8192, 1024] };
const QUICK: Size = Size { elements: 1 << 19, block: 1 << 16, matrix: [512, 128], shuffle: [1024, 256] };

/// All figures of the suite.
pub(super) fn run(repeat: usize, quick: bool) -> anyhow::Result<Report> {
    let size = if quick { QUICK } else { FULL };
    let cluster = Cluster::start()?;
    let mut report = Report::default();
    let source = SourceFile::write(&cluster.client, size.elements, size.block)?;
    report.notes.push(format!("{} workers, threads on {}", cluster.workers, list(&cluster.cpus)));
    from_disk_and_resident(&cluster, &source, repeat, &mut report)?;
    sum_beside_plain(&cluster, &source, repeat, &mut report)?;
    product_beside_plain(&cluster, size.matrix, repeat, &mut report)?;
    shuffle(&cluster, size.shuffle, repeat, &mut report)?;
    drop(cluster);
    peak_of_a_reduction(&source, repeat, &mut report)?;
    Ok(report)
}

/// The workers, and a client of them.
struct Cluster {
    client: Client,
    workers: usize,
    /// The CPUs of each worker thread.
    cpus: Vec<CpuSet>,
    _stage: Stage,
}

impl Cluster {
    fn start() -> anyhow::Result<Self> {
        let workers = Machine::discover()?.numa_nodes().count().max(WORKERS_MIN);
        let mut stage = Stage::with_local(workers)?;
        let client = stage.client(workers)?;
        let topology: Value = serde_json::from_str(&client.query(Query::Topology)?)?;
        let mut cpus = Vec::new();
        for worker in topology["workers"].as_array().context("a topology tells of workers")? {
            cpus.extend(serde_json::from_value::<Binding>(worker["binding"].clone())?.executors);
        }
        Ok(Self { client, workers, cpus, _stage: stage })
    }

    /// Persists an array, and waits until it is there.
    fn resident(&self, array: &Array<f64>) -> anyhow::Result<Array<f64>> {
        let array = self.client.persist(array);
        let blocks: Vec<Future<Block<f64>>> =
            array.blocks().iter().map(client::Future::as_blocking).collect();
        self.client.wait(blocks, ReturnWhen::AllCompleted, Some(WAIT_MAX))?;
        Ok(array)
    }

    /// The most bytes that the workers held, all together, when each has told of it.
    fn peak_bytes(&self) -> anyhow::Result<f64> {
        let deadline = Instant::now() + METRICS_MAX;
        let mut before = Vec::new();
        loop {
            let peaks = of_workers(&self.client, "managed_bytes_peak")?;
            let sum = peaks.iter().sum::<u64>();
            // (One may have had nothing to do.)
            let is_late = Instant::now() > deadline;
            if peaks == before && (is_late || peaks.iter().all(|peak| *peak > 0)) {
                ensure!(sum > 0, "the workers say that they held nothing");
                return Ok(sum as f64);
            }
            before = peaks;
            std::thread::sleep(METRICS);
        }
    }

    /// Sums an array, and sees that it is right; the seconds.
    fn sum(&self, array: &Array<f64>, expected: f64) -> anyhow::Result<f64> {
        let started = Instant::now();
        let sum = self.client.compute(&array.sum()).result()?.item();
        let seconds = started.elapsed().as_secs_f64();
        ensure!(sum == Some(expected), "the sum is {sum:?}, not {expected}");
        Ok(seconds)
    }
}

/// A sum from disk, and then twenty of what is kept.
fn from_disk_and_resident(
    cluster: &Cluster,
    source: &SourceFile,
    repeat: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let pids = of_workers(&cluster.client, "pid")?;
    let (mut speedups, mut disk, mut twenty) = (Vec::new(), Vec::new(), Vec::new());
    let mut from_storage = Some(0);
    // The first turn is the warm-up, here and below.
    for turn in 0..=repeat {
        source.forget_cached()?;
        let before = file::read_bytes(&pids);
        let from_disk = cluster.sum(&source.array(), source.sum())?;
        let read = file::read_bytes(&pids).zip(before).map(|(after, before)| after - before);
        let started = Instant::now();
        let resident = cluster.resident(&source.array())?;
        let sums: Vec<f64> =
            (0..SUMS).map(|_| cluster.sum(&resident, source.sum())).collect::<Result<_, _>>()?;
        if turn > 0 {
            twenty.push(started.elapsed().as_secs_f64());
            speedups.push(from_disk / median(sums));
            disk.push(gib(source.bytes()) / from_disk);
            from_storage = from_storage.zip(read).map(|(sum, read)| sum + read);
        }
    }
    report.figures.extend([
        Figure::of("persist_sum_speedup", "x", speedups),
        Figure::of("persist_20_sums_s", "s", twenty),
        Figure::of("disk_sum_gib_per_s", "GiB/s", disk),
    ]);
    let bytes = (source.bytes() * repeat) as f64;
    report.notes.push(match from_storage {
        Some(read) => format!(
            "sums from disk: {}, of which {:.0} % came from storage, the rest from the page cache, which was told to \
             forget the file before each",
            source.name(),
            100.0 * read as f64 / bytes
        ),
        None => format!("sums from disk: {}; how much the page cache gave is not known here", source.name()),
    });
    Ok(())
}

/// The sum of what is resident, in turns with that of as many bytes in this process.
fn sum_beside_plain(
    cluster: &Cluster,
    source: &SourceFile,
    repeat: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let resident = cluster.resident(&source.array())?;
    let (mut fractions, mut warm, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    plain::with_sum(&cluster.cpus, source.elements(), |crew: &Crew| {
        for turn in 0..=SUMS.max(repeat) {
            let plain = crew.sum_s(source.sum())?;
            let seconds = cluster.sum(&resident, source.sum())?;
            if turn > 0 {
                fractions.push(plain / seconds);
                warm.push(gib(source.bytes()) / seconds);
                bare.push(gib(source.bytes()) / plain);
            }
        }
        anyhow::Ok(())
    })?;
    report.figures.extend([
        Figure::of("warm_sum_fraction_of_memory_bandwidth", "", fractions),
        Figure::of("warm_sum_gib_per_s", "GiB/s", warm),
        Figure::of("plain_sum_gib_per_s", "GiB/s", bare),
    ]);
    Ok(())
}

/// A product of matrices, in turns with that of the same matrices in this process.
fn product_beside_plain(
    cluster: &Cluster,
    [extent, block]: [usize; 2],
    repeat: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let matrix = |seed| Array::random_uniform(seed, [extent, extent], [block, block]);
    let (a, b) = (cluster.resident(&matrix(1))?, cluster.resident(&matrix(2))?);
    let here = |array: &Array<f64>| -> anyhow::Result<Vec<Array2<f64>>> {
        array.blocks().iter().map(|block| as_matrix(&cluster.client.gather(block)?)).collect()
    };
    let (a_here, b_here) = (here(&a)?, here(&b)?);
    let flop = 2.0 * (extent as f64).powi(3) / 1e9;
    let (mut fractions, mut rates, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=repeat {
        let started = Instant::now();
        let plain_product = plain::product(&cluster.cpus, &a_here, &b_here)?;
        let plain = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let product = cluster.resident(&a.matmul(&b))?;
        let seconds = started.elapsed().as_secs_f64();
        if turn == 0 {
            ensure!(here(&product)? == plain_product, "the product is another one than that of this process");
            continue;
        }
        check_product(cluster, [&a, &b, &product], extent, turn)?;
        fractions.push(plain / seconds);
        rates.push(flop / seconds);
        bare.push(flop / plain);
    }
    report.figures.extend([
        Figure::of("matmul_fraction_of_local", "", fractions),
        Figure::of("matmul_gflop_per_s", "Gflop/s", rates),
        Figure::of("local_matmul_gflop_per_s", "Gflop/s", bare),
    ]);
    Ok(())
}

/// Sees that `a b` is `product` without another product of matrices: for a random vector `v` that `product v` is
/// `a (b v)`.
fn check_product(
    cluster: &Cluster,
    [a, b, product]: [&Array<f64>; 3],
    extent: usize,
    turn: usize,
) -> anyhow::Result<()> {
    let v = Array::random_normal(turn as u64, [extent], [extent]);
    let (left, right) = (product.matmul(&v), a.matmul(&b.matmul(&v)));
    let difference = cluster.client.compute(&((&left - &right).norm() / right.norm())).result()?.item();
    ensure!(
        difference.is_some_and(|difference| difference < 1e-12),
        "turn {turn}: the product is off by {difference:?} of its length"
    );
    Ok(())
}

/// Blocks of whole rows become blocks of whole columns: every block is made of a part of every other.
fn shuffle(
    cluster: &Cluster,
    [extent, width]: [usize; 2],
    repeat: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let numbers = Array::<f64>::arange(0.0, (extent * extent) as f64, 1.0, extent * width) % 1000.0;
    let rows = cluster.resident(&numbers.reshape([extent, extent]).rechunk([width, extent]))?;
    let mut rates = Vec::new();
    for _ in 0..=repeat {
        let started = Instant::now();
        let columns = cluster.resident(&rows.rechunk([extent, width]))?;
        rates.push(gib(8 * extent * extent) / started.elapsed().as_secs_f64());
        let last = cluster.client.compute(&columns.slice(s![-1.., ..])).result()?;
        let first = extent * (extent - 1);
        let is_right = last.numbers().iter().zip(first..).all(|(x, index)| *x == (index % 1000) as f64);
        ensure!(is_right && last.numbers().len() == extent, "the last row has other numbers");
    }
    report.figures.push(Figure::of("rechunk_gib_per_s", "GiB/s", rates.split_off(1)));
    Ok(())
}

/// The most bytes that the workers of a fresh cluster held while many blocks were loaded and summed, against few.
///
/// How long it takes until a worker hears that a block is not needed any more is chance, and what is held meanwhile
/// counts. So both see the same number of blocks, as few are loaded several times, one after the other; and the ratio is
/// that of the highest peaks of all repetitions.
fn peak_of_a_reduction(source: &SourceFile, repeat: usize, report: &mut Report) -> anyhow::Result<()> {
    let block = source.elements() / BLOCKS[1];
    let peak = |blocks: usize| -> anyhow::Result<f64> {
        let cluster = Cluster::start()?;
        let elements = blocks * block;
        for _ in 0..BLOCKS[1] / blocks {
            source.forget_cached()?;
            cluster.sum(&source.first(elements, block), file::sum(elements))?;
        }
        cluster.peak_bytes()
    };
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..repeat {
        few.push(peak(BLOCKS[0])?);
        many.push(peak(BLOCKS[1])?);
    }
    let ratios = many.iter().zip(&few).map(|(many, few)| many / few).collect();
    let highest = |peaks: &[f64]| peaks.iter().copied().fold(0.0, f64::max);
    let value = highest(&many) / highest(&few);
    report.figures.extend([
        Figure { value, ..Figure::of("peak_bytes_ratio", "", ratios) },
        Figure::of(
            "load_reduce_256_peak_blocks",
            "blocks",
            many.iter().map(|peak| peak / (8 * block) as f64).collect(),
        ),
    ]);
    Ok(())
}

fn as_matrix(block: &Block<f64>) -> anyhow::Result<Array2<f64>> {
    let [rows, columns] = *block.shape() else { anyhow::bail!("a block of a matrix has two axes") };
    Ok(Array2::from_shape_vec((rows, columns), block.numbers().to_vec())?)
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn list(cpus: &[CpuSet]) -> String {
    let cpus: Vec<String> = cpus.iter().map(|cpus| format!("CPU {cpus}")).collect();
    cpus.join(", ")
}
