//! The sum of a column of a CSV file: `csv_sum [FILE COLUMN]`. Without arguments it makes a file of its own.
//!
//! The file is cut into parts of equal size and a task sums each part, reading only its bytes. A cut falls inside a
//! line as a rule; the line belongs to the part in which it begins.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use dcluster::prelude::*;

const PART_BYTES: u64 = 1 << 20;

/// Sums field `column` of the lines that begin in `[start, end)`, but for the header.
#[dcluster::task]
fn sum_part(path: PathBuf, column: usize, start: u64, end: u64) -> anyhow::Result<f64> {
    let mut file =
        BufReader::new(File::open(&path).with_context(|| format!("cannot open {}", path.display()))?);
    // The rest of a line that began before; from one byte earlier, so that a line which begins at `start` stays.
    file.seek(SeekFrom::Start(start.saturating_sub(1)))?;
    let mut position = start.saturating_sub(1) + file.skip_until(b'\n')? as u64;
    let mut sum = 0.0;
    for line in file.lines() {
        if position >= end {
            break;
        }
        let line = line?;
        let field = line.split(',').nth(column).with_context(|| format!("no field {column} in `{line}`"))?;
        sum += field.trim().parse::<f64>().with_context(|| format!("field {column} of `{line}`"))?;
        position += line.len() as u64 + 1;
    }
    Ok(sum)
}

#[dcluster::main]
async fn main(client: Client) -> anyhow::Result<()> {
    let made = tempfile::tempdir()?;
    let (path, name) = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => (make(made.path())?, "x".to_owned()),
        [path, column] => (PathBuf::from(path), column.clone()),
        _ => anyhow::bail!("usage: csv_sum [FILE COLUMN]"),
    };
    let mut header = String::new();
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let bytes = file.metadata()?.len();
    BufReader::new(&file).read_line(&mut header)?;
    let column = header.trim_end().split(',').position(|field| field == name);
    let column = column.with_context(|| format!("no column `{name}` in `{}`", header.trim_end()))?;

    let parts = (0..bytes).step_by(PART_BYTES as usize);
    let sums = client.map(|start| sum_part::call(&path, column, start, start + PART_BYTES), parts);
    let sum: f64 = client.gather(&sums).await?.iter().sum();
    println!("sum of `{name}` over {bytes} bytes in {} parts: {sum}", sums.len());

    let mut text = String::new();
    File::open(&path)?.read_to_string(&mut text)?;
    let fields =
        text.lines().skip(1).filter_map(|line| line.split(',').nth(column)?.trim().parse::<f64>().ok());
    let expected: f64 = fields.sum();
    anyhow::ensure!((sum - expected).abs() <= 1e-9 * expected.abs(), "one after the other it is {expected}");
    Ok(())
}

/// A table of 200,000 rows.
fn make(directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join("table.csv");
    let mut file = std::io::BufWriter::new(File::create(&path)?);
    writeln!(file, "id,x,name")?;
    for id in 0..200_000u32 {
        writeln!(file, "{id},{:.2},row {id}", f64::from(id % 1000) / 4.0)?;
    }
    file.flush()?;
    Ok(path)
}
