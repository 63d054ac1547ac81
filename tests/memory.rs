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
use dcluster::wire::client::Query;
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
        self.begin_reduction(blocks).result_timeout(PATIENCE).unwrap()
    }

    fn begin_reduction(&self, blocks: &[Future<Vec<f64>>]) -> Future<f64> {
        let mut level: Vec<Future<Vec<f64>>> =
            blocks.iter().map(|block| self.client.submit(square::call(block))).collect();
        while level.len() > 1 {
            let pair = |pair: &[Future<Vec<f64>>]| match pair {
                [x, y] => self.client.submit(add::call(x, y)),
                rest => rest[0].clone(),
            };
            level = level.chunks(2).map(pair).collect();
        }
        self.client.submit(total::call(&level[0]))
    }

    /// What no block of the whole can be more than on a worker that can spill nothing: it may have been just below 95 %
    /// when one task more began, and another ended.
    fn assert_in_bounds(&self) {
        let status: Value = serde_json::from_str(&self.client.status().unwrap()).unwrap();
        for worker in status["workers"].as_array().unwrap() {
            let peak = worker["managed_bytes_peak"].as_u64().unwrap();
            assert!(peak <= LIMIT_BYTES + 4 * 8 * BLOCK_NUMBERS, "{worker}");
        }
    }

    /// A cluster that can spill little or nothing reduces what is more than its memory, if nobody holds that; what
    /// somebody holds it makes as far as there is memory, says what is missing, and goes on when some is given back.
    fn assert_that_work_goes_on_in_the_memory_that_there_is(&self) {
        let blocks = self.client.map(load::call, 0..BLOCKS);
        let sum = self.begin_reduction(&blocks);
        drop(blocks);
        assert_eq!(sum.result_timeout(PATIENCE).unwrap(), expected());
        self.assert_in_bounds();

        let mut blocks = self.client.map(load::call, BLOCKS..2 * BLOCKS);
        self.wait_until("full", |workers| workers.iter().all(|worker| worker["full"] == true));
        let last = blocks.last().unwrap();
        let why = self.client.query(Query::Explain { key: last.key() }).unwrap();
        assert!(why.contains("no room: memory of all 2 workers is full"), "{why}");
        self.assert_in_bounds();
        let sums: Vec<Future<f64>> =
            blocks.iter().map(|block| self.client.submit(total::call(block))).collect();
        blocks.truncate(2);
        let sums = self.client.gather(sums).unwrap();
        assert_eq!(sums.len(), BLOCKS as usize);
        self.assert_in_bounds();
    }

    /// Waits until the workers are as they should be.
    fn wait_until(&self, what: &str, is_right: impl Fn(&[Value]) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let status: Value = serde_json::from_str(&self.client.status().unwrap()).unwrap();
            if is_right(status["workers"].as_array().unwrap()) {
                return;
            }
            assert!(Instant::now() < until, "never {what}: {status}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the sum of a figure over the workers is as it should be.
    fn wait_for(&self, figure: &str, is_right: impl Fn(u64) -> bool) -> u64 {
        let until = Instant::now() + PATIENCE;
        loop {
            let status: Value = serde_json::from_str(&self.client.status().unwrap()).unwrap();
            let workers = status["workers"].as_array().unwrap();
            let sum = workers.iter().map(|worker| number(&worker[figure])).sum();
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

/// A figure, or whether something is so.
fn number(figure: &Value) -> u64 {
    figure.as_u64().or_else(|| figure.as_bool().map(u64::from)).unwrap()
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
    stage.assert_that_work_goes_on_in_the_memory_that_there_is();
    stage.wait_for("spill_written_bytes", |bytes| bytes == 0);
}

#[test]
fn without_a_place_to_spill_a_client_keeps_what_there_is_no_memory_for_and_is_told_why() {
    let stage = Stage::new(Some(Path::new("/proc/nowhere")));
    let values = (0..BLOCKS).map(|block| vec![block as f64; BLOCK_NUMBERS as usize]);
    let error = stage.client.scatter_all(values).unwrap_err().to_string();
    assert!(error.contains("its memory is full") && error.contains("--spill-directory"), "{error}");
    stage.assert_in_bounds();
    // What was not sent is forgotten, and what was sent is given back.
    let block = stage.client.submit(load::call(7));
    stage.client.submit(total::call(&block)).result_timeout(PATIENCE).unwrap();
}

#[test]
fn with_a_full_disk_work_goes_on() {
    let small = SmallDisk::mount();
    let stage = Stage::new(Some(small.path()));
    stage.assert_that_work_goes_on_in_the_memory_that_there_is();
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
fn a_spill_directory_that_somebody_removes_is_made_again_and_what_was_there_too() {
    let stage = Stage::new(None);
    let blocks = stage.load();
    stage.wait_for("spilled_values", |values| values > BLOCKS / 2);
    for directory in fs::read_dir(stage.directory.path().join("spill")).unwrap().flatten() {
        // At once, though values are being written there.
        fs::rename(directory.path(), stage.directory.path().join(directory.file_name())).unwrap();
    }
    assert_eq!(stage.reduce(&blocks), expected());
    stage.wait_for("spill_failing", |failing| failing == 0);
    assert!(!stage.spilled().is_empty());
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
