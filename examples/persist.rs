//! Sums a dataset of an HDF5 file twice: from the disk, and resident on the workers.
//!
//! The file is made first, by the workers, block by block: 100 million numbers in `/x`, 800 MB. The first sum reads each
//! block where it is summed and keeps nothing. `persist` reads the blocks once more and leaves them on the workers; the
//! second sum then moves nothing but partial sums.
//!
//! `persist [--elements N] [--directory DIR] [--keep]`: on several nodes DIR is on a file system that all of them have.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcluster::collections::Array;
use dcluster::prelude::*;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tokio::signal::unix::{SignalKind, signal};

const BLOCK: usize = 1 << 22;

struct Options {
    elements: usize,
    directory: PathBuf,
    keep: bool,
}

impl Options {
    fn from_arguments() -> Result<Self, String> {
        let mut options = Self { elements: 100_000_000, directory: std::env::temp_dir(), keep: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--elements" => {
                    options.elements = value()?.parse().map_err(|error| format!("--elements: {error}"))?
                }
                "--directory" => options.directory = value()?.into(),
                "--keep" => options.keep = true,
                other => return Err(format!("{other}: known are --elements N, --directory DIR and --keep")),
            }
        }
        Ok(options)
    }
}

#[dcluster::main]
async fn main(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::from_arguments()?;
    let path = options.directory.join(format!("dcluster-persist-{}.h5", std::process::id()));
    let file = DataFile { path, keep: options.keep };
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        outcome = run(&client, &file.path, options.elements) => outcome,
        _ = terminate.recv() => Err("ended by a signal".into()),
        _ = tokio::signal::ctrl_c() => Err("ended by Ctrl-C".into()),
    };
    if options.keep {
        println!("{} is kept", file.path.display());
    }
    outcome
}

/// The file, which goes however the program ends, unless it is to be kept.
struct DataFile {
    path: PathBuf,
    keep: bool,
}

impl Drop for DataFile {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path); // (there is none if it could not be made)
        }
    }
}

async fn run(client: &Client, file: &Path, elements: usize) -> Result<(), Box<dyn std::error::Error>> {
    // Whole numbers, whose sum is exact in any order.
    let expected = (0..elements as u64).map(|index| index % 1000).sum::<u64>() as f64;
    let numbers = Array::<f64>::arange(0.0, elements as f64, 1.0, BLOCK) % 1000.0;
    let (making, bytes) = timed(client.compute(&numbers.to_hdf5(file, "/x"))).await;
    println!("{} MB in {}:/x, written by the workers in {making:.2?}", bytes? / 1_000_000, file.display());
    let forgotten = forget_cached(file);

    let x = Array::<f64>::from_hdf5(file, "/x").check()?;
    let (from_disk, cold) = timed(client.compute(&x.sum())).await;
    let from = if forgotten { "from disk" } else { "from disk or the page cache" };
    println!("sum {from:<26} {from_disk:>10.2?}   each block is read, summed and dropped");

    let started = Instant::now();
    let x = client.persist(&x);
    client.wait(x.blocks(), ReturnWhen::AllCompleted, None).await?;
    let persisted = started.elapsed();
    println!(
        "persist, {:>3} blocks            {persisted:>10.2?}   each is read again, and stays in memory",
        x.blocks().len()
    );

    let (resident, warm) = timed(client.compute(&x.sum())).await;
    println!("sum of what is resident        {resident:>10.2?}   nothing is read, only partial sums move");

    let (cold, warm) = (cold?.item(), warm?.item());
    assert_eq!((cold, warm), (Some(expected), Some(expected)), "both sums are exact");
    println!(
        "both sums are {expected}; resident it is {:.1} x as fast",
        from_disk.as_secs_f64() / resident.as_secs_f64()
    );
    Ok(())
}

async fn timed<F: IntoFuture>(future: F) -> (Duration, F::Output) {
    let started = Instant::now();
    let output = future.await;
    (started.elapsed(), output)
}

/// Has the kernel of this node drop what it still holds of the file, so that it is read from the disk.
fn forget_cached(file: &Path) -> bool {
    File::open(file)
        .is_ok_and(|file| posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).is_ok())
}
