//! Load → process → write: a month of hourly temperatures, a CSV file per day.
//!
//! Each day is a chain of its own. Days overlap, the tables never come here, and the last task of a chain returns
//! nothing but the path that it wrote. The directory must be one that all nodes see.

use std::fs::{read_to_string, write};
use std::path::PathBuf;

use dcluster::prelude::*;
use serde::{Deserialize, Serialize};

const DAYS: u32 = 30;

/// The temperatures of a day by hour, in degrees Celsius.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Day {
    date: String,
    temperatures: Vec<f64>,
}

/// Stands for an archive or an instrument.
#[dcluster::task]
fn load(day: u32) -> Day {
    let temperatures = (0..24u32).map(|hour| f64::from((day * 31 + hour * 17) % 50)).collect();
    Day { date: format!("2020-01-{day:02}"), temperatures }
}

/// To degrees Fahrenheit.
#[dcluster::task]
fn process(mut day: Day) -> Day {
    day.temperatures.iter_mut().for_each(|degrees| *degrees = *degrees * 1.8 + 32.0);
    day
}

#[dcluster::task(impure)]
fn write_csv(day: &Day, directory: PathBuf) -> std::io::Result<PathBuf> {
    let mut text = String::from("time,temperature\n");
    for (hour, degrees) in day.temperatures.iter().enumerate() {
        text += &format!("{} {hour:02}:00,{degrees:.1}\n", day.date);
    }
    let path = directory.join(format!("{}.csv", day.date));
    write(&path, text)?;
    Ok(path)
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let directory = tempfile::tempdir()?;
    let loaded = client.map(load::call, 1..=DAYS);
    let processed = client.map(process::call, &loaded);
    let written = client.map(|day| write_csv::call(day, directory.path()), &processed);
    let paths = client.gather(written).await?;

    let mut rows = 0;
    for (day, path) in (1..=DAYS).zip(&paths) {
        let expected = process(load(day));
        let text = read_to_string(path)?;
        for (line, degrees) in text.lines().skip(1).zip(&expected.temperatures) {
            assert!(line.ends_with(&format!(",{degrees:.1}")), "{}: {line}", path.display());
            rows += 1;
        }
    }
    println!("{} files with {rows} rows", paths.len());
    assert_eq!((paths.len(), rows), (30, 720));
    Ok(())
}
