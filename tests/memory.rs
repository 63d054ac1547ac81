//! Datasets larger than the workers' memory, with good disks and bad ones: what comes out is right.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use dcluster::client::blocking::{Client, Future};
use dcluster::client::{ReturnWhen, ScatterOptions};
use dcluster::launch::ranks::Setup;
use dcluster::launch::{LocalCluster, LocalOptions};
use dcluster::model::WorkerId;
use serde_json::Value;
use tempfile::TempDir;

/// Long enough for a busy machine; only a hang takes this long.
const PATIENCE: Duration = Duration::from_secs(120);
const WORKERS: u32 = 2;
const LIMIT_BYTES: u64 = 32 << 20;
const BLOCK_NUMBERS: u64 = 1 << 18;
/// Three times the memory of both workers.
const BLOCKS: u64 = 3 * WORKERS as u64 * LIMIT_BYTES / (8 * BLOCK_NUMBERS);

#[dcluster::task]
fn load(block: u64) -> Vec<f64> {
    (0..BLOCK_NUMBERS).map(|index| ((index + block) % 7) as f64).collect()
}

#[dcluster::task]
fn square(numbers: &[f64]) -> Vec<f64> {
    numbers.iter().map(|number| number * number).collect()
}

#[dcluster::task]
fn add(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

#[dcluster::task]
fn total(numbers: &[f64]) -> f64 {
    numbers.iter().sum()
}

/// Takes what has to be unpacked.
#[dcluster::task]
#[allow(clippy::ptr_arg)]
fn unpacked(numbers: &Vec<f64>) -> f64 {
    numbers.iter().sum()
}

/// What all blocks, squared and added up, come to.
fn expected() -> f64 {
    let block = |block: u64| (0..BLOCK_NUMBERS).map(move |index| ((index + block) % 7).pow(2)).sum::<u64>();
    (0..BLOCKS).map(block).sum::<u64>() as f64
}

struct Stage {
    directory: TempDir,
    cluster: LocalCluster,
    client: Client,
}

impl Stage {
    /// A cluster that spills below `spill`, or below a directory of its own.
    fn new(spill: Option<&Path>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("spill");
        fs::create_dir(&own).unwrap();
        let setup = Setup {
            connection_file: Some(directory.path().join("cluster.json")),
            memory_limit: Some(LIMIT_BYTES),
            spill_directory: Some(spill.map_or(own, Path::to_owned)),
            ..Setup::default()
        };
        let options = LocalOptions { workers: Some(WORKERS), threads: Some(1), ..LocalOptions::default() };
        let cluster = LocalCluster::start(&options, &setup).unwrap();
        let client = Client::connect(cluster.connection_file()).unwrap();
        client.wait_for_workers(WORKERS as usize, Some(PATIENCE)).unwrap();
        Self { directory, cluster, client }
    }

    /// Loads the blocks, and waits for them.
    fn load(&self) -> Vec<Future<Vec<f64>>> {
        let blocks = self.client.map(load::call, 0..BLOCKS);
        self.client.wait(&blocks, ReturnWhen::AllCompleted, Some(PATIENCE)).unwrap();
        blocks
    }

    /// The sum of the squares of all blocks, along a tree.
    fn reduce(&self, blocks: &[Future<Vec<f64>>]) -> f64 {
        let mut level: Vec<Future<Vec<f64>>> =
            blocks.iter().map(|block| self.client.submit(square::call(block))).collect();
        while level.len() > 1 {
            let pair = |pair: &[Future<Vec<f64>>]| match pair {
                [x, y] => self.client.submit(add::call(x, y)),
                rest => rest[0].clone(),
            };
            level = level.chunks(2).map(pair).collect();
        }
        self.client.submit(total::call(&level[0])).result_timeout(PATIENCE).unwrap()
    }

    /// Waits until the sum of a figure over the workers is as it should be.
    fn wait_for(&self, figure: &str, is_right: impl Fn(u64) -> bool) -> u64 {
        let until = Instant::now() + PATIENCE;
        loop {
            let status: Value = serde_json::from_str(&self.client.status().unwrap()).unwrap();
            let workers = status["workers"].as_array().unwrap();
            let sum = workers.iter().map(|worker| worker[figure].as_u64().unwrap()).sum();
            if is_right(sum) {
                return sum;
            }
            assert!(Instant::now() < until, "{figure} stays at {sum}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Files of spilled values.
    fn spilled(&self) -> Vec<PathBuf> {
        files_below(&self.directory.path().join("spill"))
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    entries.flat_map(below).filter(|path| path.file_name().is_some_and(|name| name != "lock")).collect()
}

#[test]
fn a_dataset_three_times_the_memory_comes_out_right() {
    let stage = Stage::new(None);
    let blocks = stage.load();
    stage.wait_for("spilled_bytes", |bytes| bytes > WORKERS as u64 * LIMIT_BYTES);
    assert_eq!(stage.reduce(&blocks), expected());
    assert!(stage.wait_for("spill_read_bytes", |bytes| bytes > 0) > 0);
    drop(blocks);
    stage.wait_for("spilled_bytes", |bytes| bytes == 0);
    let Stage { directory, cluster, client } = stage;
    client.close();
    drop(cluster);
    let until = Instant::now() + PATIENCE;
    let spill = directory.path().join("spill");
    while fs::read_dir(&spill).unwrap().next().is_some() {
        assert!(
            Instant::now() < until,
            "left on disk: {:?}",
            fs::read_dir(&spill).unwrap().collect::<Vec<_>>()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn scattered_data_is_spilled_and_comes_back() {
    let stage = Stage::new(None);
    let values: Vec<Vec<f64>> = (0..BLOCKS).map(|block| vec![block as f64; BLOCK_NUMBERS as usize]).collect();
    let blocks = stage.client.scatter_all(values).unwrap();
    stage.wait_for("spilled_bytes", |bytes| bytes > WORKERS as u64 * LIMIT_BYTES);
    let totals: Vec<Future<f64>> = blocks.iter().map(|b| stage.client.submit(total::call(b))).collect();
    let sums = stage.client.gather(totals).unwrap();
    assert_eq!(sums, (0..BLOCKS).map(|block| (block * BLOCK_NUMBERS) as f64).collect::<Vec<_>>());
    // A client gets what is on disk only, too.
    assert_eq!(blocks[0].result().unwrap(), vec![0.0; BLOCK_NUMBERS as usize]);
}

#[test]
fn without_a_place_to_spill_work_goes_on() {
    let stage = Stage::new(Some(Path::new("/proc/nowhere")));
    let blocks = stage.load();
    stage.wait_for("spill_written_bytes", |bytes| bytes == 0);
    assert_eq!(stage.reduce(&blocks), expected());
}

#[test]
fn with_a_full_disk_work_goes_on() {
    let small = SmallDisk::mount();
    let stage = Stage::new(Some(small.path()));
    let blocks = stage.load();
    assert_eq!(stage.reduce(&blocks), expected());
}

#[test]
fn a_damaged_file_is_a_lost_copy_that_is_made_again() {
    let stage = Stage::new(None);
    let blocks = stage.load();
    stage.wait_for("spilled_values", |values| values > BLOCKS / 2);
    let damaged = damage(&stage.spilled());
    assert!(damaged > 0);
    assert_eq!(stage.reduce(&blocks), expected());
    let status: Value = serde_json::from_str(&stage.client.status().unwrap()).unwrap();
    assert!(status["totals"]["recomputed"].as_u64().unwrap() > 0, "{}", status["totals"]);
}

#[test]
fn a_damaged_file_of_scattered_data_is_reported() {
    let stage = Stage::new(None);
    let first = stage.client.scatter(vec![1.0f64; BLOCK_NUMBERS as usize]).unwrap();
    let _blocks = stage.load();
    stage.wait_for("spilled_values", |values| values > BLOCKS / 2);
    damage(&stage.spilled());
    let error = stage.client.submit(total::call(&first)).result_timeout(PATIENCE).unwrap_err().to_string();
    assert!(error.contains("lost"), "{error}");
}

#[test]
fn what_a_task_unpacks_of_a_lent_value_is_the_reader_s() {
    let stage = Stage::new(None);
    let options = ScatterOptions { workers: vec![WorkerId(1).into()], ..ScatterOptions::default() };
    let values = [1.0, 2.0].map(|number| vec![number; BLOCK_NUMBERS as usize]);
    let [one, two] = values.map(|value| stage.client.scatter_with(value, &options).unwrap());
    let read = |block: &Future<Vec<f64>>| stage.client.submit(total::call(block).workers([WorkerId(0)]));
    let sums = stage.client.gather([read(&one), read(&two)]).unwrap();
    assert_eq!(sums, [BLOCK_NUMBERS as f64, 2.0 * BLOCK_NUMBERS as f64]);
    let block_bytes = 8 * BLOCK_NUMBERS;
    let are_about = |blocks: u64| move |bytes: u64| bytes / block_bytes == blocks;
    stage.wait_for("lent_bytes", are_about(2));
    stage.wait_for("managed_bytes", are_about(2));

    let unpacked = stage.client.submit(unpacked::call(&one).workers([WorkerId(0)]));
    assert_eq!(unpacked.result_timeout(PATIENCE).unwrap(), BLOCK_NUMBERS as f64);
    stage.wait_for("lent_bytes", are_about(1));
    stage.wait_for("managed_bytes", are_about(3));
    drop((one, two));
    stage.wait_for("lent_bytes", |bytes| bytes == 0);
}

/// Flips bits of every file; how many.
fn damage(files: &[PathBuf]) -> usize {
    let flip = |path: &&PathBuf| {
        let Ok(mut bytes) = fs::read(path) else { return false };
        let middle = bytes.len() / 2;
        let Some(byte) = bytes.get_mut(middle) else { return false };
        *byte ^= 0x40;
        // In place: a file that is removed meanwhile does not come back.
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| {
                use std::io::Write as _;
                file.write_all(&bytes)
            })
            .is_ok()
    };
    files.iter().filter(flip).count()
}

/// A disk of four blocks; without the rights to mount one, a place where nothing can be written.
struct SmallDisk {
    directory: TempDir,
    is_mounted: bool,
}

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={}", 4 * 8 * BLOCK_NUMBERS + (1 << 20));
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "dcluster-test"]).arg(directory.path());
        let is_mounted = mount.status().is_ok_and(|status| status.success());
        Self { directory, is_mounted }
    }

    fn path(&self) -> &Path {
        if self.is_mounted { self.directory.path() } else { Path::new("/proc/nowhere") }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
        }
    }
}
