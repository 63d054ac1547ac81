//! How fast values are packed, unpacked and measured, and what a call costs; one JSON object a line.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Instant;

use dcluster::model::pack::{pack, packed_len};
use dcluster::model::unpack::unpack;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Step {
    name: String,
    fields: Vec<Vec<f64>>,
}

/// Its elements arrive one by one, as those of most array crates do.
struct OneByOne(Vec<f64>);

impl Serialize for OneByOne {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut sequence = serializer.serialize_seq(Some(self.0.len()))?;
        for element in &self.0 {
            sequence.serialize_element(element)?;
        }
        sequence.end()
    }
}

#[derive(Serialize, Deserialize, Clone)]
struct Record {
    id: u64,
    name: String,
    position: (f64, f64, f64),
    tag: Option<u32>,
}

#[dcluster::task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

/// The median of 9 runs, in seconds.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let mut seconds: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[4]
}

fn report(name: &str, value: f64, unit: &str) {
    println!(r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}"}}"#);
}

fn main() {
    // Small enough that the allocator keeps the memory: what is measured is not the kernel's page faults.
    const NUMBERS: usize = 512 << 10;
    let bytes = (NUMBERS * 8) as f64 / 1e9;
    let numbers: Vec<f64> = (0..NUMBERS).map(|index| index as f64).collect();
    report("copy_gb_per_s", bytes / median(|| drop(black_box(numbers.clone()))), "GB/s");
    report("pack_flat_vec_gb_per_s", bytes / median(|| drop(black_box(pack(&numbers).unwrap()))), "GB/s");
    let step = Step { name: "step".into(), fields: vec![numbers[..NUMBERS / 4].to_vec(); 4] };
    report("pack_nested_gb_per_s", bytes / median(|| drop(black_box(pack(&step).unwrap()))), "GB/s");
    let packed = pack(&step).unwrap();
    let unpack_step = || drop(black_box(unpack::<Step>(&packed).unwrap()));
    report("unpack_nested_gb_per_s", bytes / median(unpack_step), "GB/s");
    let one_by_one = OneByOne(numbers.clone());
    report(
        "pack_one_by_one_gb_per_s",
        bytes / median(|| drop(black_box(pack(&one_by_one).unwrap()))),
        "GB/s",
    );
    let count_one_by_one = || {
        black_box(packed_len(&one_by_one).unwrap());
    };
    report("count_one_by_one_gb_per_s", bytes / median(count_one_by_one), "GB/s");
    let packed = pack(&numbers).unwrap();
    let unpack_flat = || drop(black_box(unpack::<Vec<f64>>(&packed).unwrap()));
    report("unpack_flat_vec_gb_per_s", bytes / median(unpack_flat), "GB/s");

    const RECORDS: usize = 200_000;
    let record = Record { id: 1, name: "some name".into(), position: (1.0, 2.0, 3.0), tag: Some(7) };
    let records = vec![record; RECORDS];
    let per_record = |seconds: f64| seconds * 1e9 / RECORDS as f64;
    report("pack_record_ns", per_record(median(|| drop(black_box(pack(&records).unwrap())))), "ns");
    let packed = pack(&records).unwrap();
    report(
        "unpack_record_ns",
        per_record(median(|| drop(black_box(unpack::<Vec<Record>>(&packed).unwrap())))),
        "ns",
    );

    const CALLS: i64 = 200_000;
    let calls = median(|| {
        for index in 0..CALLS {
            black_box(add::call(index, 1).into_parts().unwrap());
        }
    });
    report("call_ns", calls * 1e9 / CALLS as f64, "ns");
    let arguments = add::call(1_000_000, 1).into_parts().unwrap().arguments;
    let runs = median(|| {
        for _ in 0..CALLS {
            let arguments = dcluster::registry::Arguments { bytes: &arguments, inputs: &[] };
            black_box((add::DEFINITION.run)(arguments).unwrap());
        }
    });
    report("run_ns", runs * 1e9 / CALLS as f64, "ns");
}
