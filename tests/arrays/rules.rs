//! Rules that random programs do not show: errors with their place, what is computed, random numbers, fusion.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dcluster::collections::{Array, Block, Boundary, s};
use dcluster::{Error, Future};

use crate::{client, start};

static LOADED: AtomicUsize = AtomicUsize::new(0);

/// Counts how often it runs.
#[dcluster::task]
fn load(start: Vec<usize>, shape: Vec<usize>) -> Block<f64> {
    LOADED.fetch_add(1, Ordering::Relaxed);
    Block::new(&shape, vec![start[0] as f64; shape.iter().product()]).unwrap()
}

#[dcluster::task]
fn too_small(block: &Block<f64>) -> Block<f64> {
    Block::new([1], vec![block.numbers()[0]]).unwrap()
}

#[test]
fn a_slice_loads_only_the_blocks_it_needs() {
    let x = Array::from_function([1000], [100], |place| load::call(&place.start, &place.shape));
    let y = (&x * 2.0 + 1.0).slice(s![150..250]).sum();
    assert_eq!(client().compute(&y).result().unwrap().item(), Some(50.0 * 201.0 + 50.0 * 401.0));
    assert_eq!(LOADED.load(Ordering::Relaxed), 2);
}

#[test]
fn an_expression_that_makes_no_sense_names_the_reason_and_the_line() {
    let (x, y) = (Array::<f64>::zeros([3, 4], [3, 4]), Array::<f64>::zeros([5], [5]));
    let line = line!() + 1;
    let sum = &x + &y;
    let after = (sum.mean() * 2.0).reshape([1]);
    let error = after.clone().check().unwrap_err().to_string();
    assert!(error.contains("shapes [[3, 4], [5]] do not fit together"), "{error}");
    assert!(error.ends_with(&format!("tests/arrays/rules.rs:{line})")), "{error}");
    let failed = client().compute(&after);
    assert!(matches!(failed.result(), Err(Error::Expression(reason)) if *reason == *error));
    for (array, part) in [
        (x.sum_axis(2), "axis 2 is not one of the 2 axes"),
        (x.sum_axis([0, -2]), "axis 0 is named twice"),
        (x.reshape([5]), "does not have as many elements as [5]"),
        (x.rechunk([0, 1]), "chunks of shape [0, 1] are empty"),
        (x.slice(s![.., .., 1]), "3 axes are sliced"),
        (x.permute([0, 0]), "does not order 2 axes"),
        (x.matmul(&x), "matrices of shapes [3, 4] and [3, 4] have no product: 4 is not 3"),
        (x.broadcast_to([3, 5]), "is not broadcast to [3, 5]"),
        (Array::concatenate([&x, &y], 0), "do not stand one after the other along axis 0"),
        (x.map_overlap([4, 1], Boundary::Nearest, too_small::call), "a margin of [4, 1]"),
        (x.slice(s![..0, ..]).min(), "has no minimum"),
    ] {
        let error = array.check().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_block_of_another_shape_than_was_promised_fails_who_reads_it() {
    let (client, scratch) = (client(), tempfile::tempdir().unwrap());
    for (chunk, wanted) in [(4, "[4]"), (8, "[8]")] {
        let mapped = Array::<f64>::ones([8], [chunk]).map_blocks(too_small::call);
        let called = Array::from_function([8], [chunk], |_| too_small::call(Block::scalar(1.0)));
        let held = Array::from_blocks([8], [chunk], &client.persist(&mapped).blocks());
        for x in [mapped.clone(), called, held, client.persist(&mapped), mapped.slice(s![..])] {
            for expression in [x.clone(), x.sum(), &x + 1.0, client.persist(&x)] {
                let error = client.compute(&expression).result().unwrap_err().to_string();
                let both = format!("a block of shape {wanted} is expected, and one of [1] is there");
                assert!(error.contains(&both), "{error}");
            }
            let file = scratch.path().join("x.npy");
            let error = client.compute(&x.to_npy(&file)).result().unwrap_err().to_string();
            assert!(error.contains(&format!("a block of shape {wanted} belongs into")), "{error}");
            assert!(error.contains("x.npy, and one of [1] is there"), "{error}");
        }
    }
}

#[test]
fn a_chain_of_joins_is_planned_in_no_more_tasks_than_it_has_parts() {
    let client = client();
    let roll = |x: &Array<f64>| Array::concatenate([x.slice(s![1..]), x.slice(s![..1])], 0);
    for chunk in [8, 3] {
        let mut x = Array::<f64>::arange(0.0, 8.0, 1.0, chunk);
        let mut here: Vec<f64> = (0..8).map(f64::from).collect();
        for _ in 0..30 {
            x = &x + &roll(&x);
            here = (0..8).map(|at| here[at] + here[(at + 1) % 8]).collect();
        }
        assert_eq!(client.compute(&x).result().unwrap().numbers()[..], here);
    }
}

#[test]
fn a_chain_that_is_too_long_says_to_persist_and_a_long_one_is_computed() {
    let client = client();
    let mut x = Array::<f64>::zeros([3], [3]);
    for _ in 0..4000 {
        x = x + 1.0;
    }
    assert_eq!(client.compute(&x).result().unwrap().numbers()[..], [4000.0; 3]);
    assert_eq!(client.compute(&x.sum()).result().unwrap().item(), Some(12000.0));
    let mut joined = Array::<i64>::zeros([4], [4]);
    for _ in 0..1300 {
        joined = Array::concatenate([joined.slice(s![1..]), joined.slice(s![..1]) + 1], 0);
    }
    assert_eq!(client.compute(&joined).result().unwrap().numbers()[..], [325; 4]);
    for _ in 0..100_000 {
        x = x + 1.0;
    }
    let error = client.compute(&x).result().unwrap_err().to_string();
    assert!(error.contains("operations one on the other: persist it"), "{error}");
}

#[test]
fn running_sums_go_on_over_any_number_of_blocks() {
    let client = client();
    for (rows, chunk) in [(700, 1), (700, 3), (64, 1), (9, 1)] {
        let x = Array::<i64>::arange(0, rows, 1, 50).rechunk([chunk]);
        let column = Array::stack([&x, &(&x * 2)], 1);
        let sums = client.compute(&column.cumsum(0)).result().unwrap();
        let expected: Vec<i64> = (0..rows).flat_map(|at| [at * (at + 1) / 2, at * (at + 1)]).collect();
        assert_eq!(sums.numbers()[..], expected, "{rows} rows by {chunk}");
    }
}

#[test]
fn products_with_many_inner_blocks_are_summed_up_a_tree() {
    let client = client();
    for inner in [1, 7, 8, 9, 70] {
        let x = Array::<i64>::arange(0, 3 * inner, 1, 50).reshape([3, inner as usize]).rechunk([2, 1]);
        let y = Array::<i64>::arange(0, inner * 2, 1, 50).reshape([inner as usize, 2]).rechunk([4, 1]);
        let expected: Vec<i64> = (0..3)
            .flat_map(|row| {
                (0..2).map(move |column| (0..inner).map(|k| (row * inner + k) * (k * 2 + column)).sum())
            })
            .collect();
        assert_eq!(client.compute(&x.matmul(&y)).result().unwrap().numbers()[..], expected, "{inner}");
        assert_eq!(client.compute(&x.t().t().matmul(&y)).result().unwrap().numbers()[..], expected);
    }
}

#[test]
fn random_numbers_are_the_same_in_any_chunks() {
    let client = client();
    let whole = client.compute(&Array::random_normal(11, [30, 20], [30, 20])).result().unwrap();
    let parts = client.compute(&Array::random_normal(11, [30, 20], [7, 3])).result().unwrap();
    assert_eq!(whole, parts);
    let other = client.compute(&Array::random_normal(12, [30, 20], [7, 3])).result().unwrap();
    assert_ne!(whole, other);
    let turned = Array::random_uniform(1, [30, 20], [7, 3]).t().slice(s![4, 5]);
    let straight = Array::random_uniform(1, [30, 20], [9, 9]).slice(s![5, 4]);
    assert_eq!(client.compute(&turned).result().unwrap(), client.compute(&straight).result().unwrap());
}

#[test]
fn a_persisted_array_has_its_blocks_on_the_cluster() {
    let client = client();
    let x = client.persist(&Array::<i64>::arange(0, 100, 1, 10));
    assert_eq!(x.blocks().len(), 10);
    let blocks = client.gather(x.blocks()).unwrap();
    assert_eq!(blocks[3].numbers()[..3], [30, 31, 32]);
    assert_eq!(client.compute(&x.slice(s![..;-9])).result().unwrap().numbers()[1], 90);
    assert_eq!(format!("{x:?}"), "<Array: i64, shape [100], 10 blocks>");
    let y = Array::from_blocks([100], [10], &x.blocks());
    assert_eq!(client.compute(&y.sum()).result().unwrap().item(), Some(4950));
}

#[test]
fn many_blocks_are_summed_up_a_tree() {
    let x = Array::<f64>::ones([600], [1]);
    assert_eq!(client().compute(&x.sum()).result().unwrap().item(), Some(600.0));
    let lines = client().compute(&Array::linspace(0.0, 1.0, 11, 4)).result().unwrap();
    assert_eq!((lines.numbers()[0], lines.numbers()[10]), (0.0, 1.0));
    assert!((lines.numbers()[3] - 0.3).abs() < 1e-15);
}

#[test]
fn a_number_on_an_edge_is_counted_where_numpy_counts_it() {
    // The third edge of ten is 3 × 0.1, which is a little more than 0.3.
    let numbers = ndarray::arr1(&[0.0, 0.3, 0.6, 0.7, 1.0]).into_dyn();
    let counts = Array::from_array(&numbers.view(), [5]).histogram(10, 0.0, 1.0);
    assert_eq!(client().compute(&counts).result().unwrap().numbers()[..], [1, 0, 1, 0, 0, 1, 1, 0, 0, 1]);
}

#[test]
fn ranges_of_integers_beyond_the_reach_of_floats_have_as_many_steps_as_they_say() {
    let client = client();
    let end = (1i64 << 53) + 3;
    let far = client.compute(&Array::<i64>::arange(1 << 53, end, 1, 2)).result().unwrap();
    assert_eq!(far.numbers()[..], [end - 3, end - 2, end - 1]);
    let wide = client.compute(&Array::<i64>::arange(i64::MAX, i64::MIN, i64::MIN, 2)).result().unwrap();
    assert_eq!(wide.numbers()[..], [i64::MAX, -1]);
    let back = client.compute(&Array::<i32>::arange(5, -2, -3, 2)).result().unwrap();
    assert_eq!(back.numbers()[..], [5, 2, -1]);
    assert!(Array::<u8>::arange(3, 9, 0, 2).check().unwrap_err().to_string().contains("no steps of 0"));
    assert_eq!(Array::<u8>::arange(9, 3, 1, 2).shape(), [0]);
}

#[test]
fn a_range_that_goes_beyond_the_end_keeps_the_last_element() {
    let x = Array::<i64>::arange(0, 10, 1, 4);
    let rest = client().compute(&x.slice_axis(0, 7..usize::MAX)).result().unwrap();
    assert_eq!(rest.numbers()[..], [7, 8, 9]);
    assert_eq!(x.slice_axis(-1, usize::MAX - 1..usize::MAX).shape(), [0]);
}

#[test]
fn an_array_of_the_program_goes_to_the_workers_past_the_scheduler() {
    let (client, mib) = (client(), 64);
    let numbers = ndarray::ArrayD::from_shape_fn(vec![16, mib << 13], |at| (at[0] * at[1]) as f64);
    let x = Array::from_array(&numbers.view(), [1, mib << 13]);
    let held = client.persist(&x);
    let sum = client.compute(&held.sum()).result().unwrap().item().unwrap();
    assert!((sum - numbers.sum()).abs() <= 1e-12 * sum, "{sum} is {}", numbers.sum());
    let row = client.compute(&x.slice(s![3, 5..7])).result().unwrap(); // what the cluster has does not travel again
    assert_eq!(row.numbers()[..], [15.0, 18.0]);

    let held_by: Vec<_> = client.has_what([]).unwrap().into_values().collect();
    for (at, block) in held.blocks().iter().enumerate() {
        assert!(held_by[at * held_by.len() / 16].contains_key(&block.key()), "neighbours lie together: {at}");
    }
    let status: serde_json::Value = serde_json::from_str(&client.status().unwrap()).unwrap();
    for client in status["clients"].as_array().unwrap() {
        assert!(client["received_bytes"].as_u64().unwrap() < 1 << 20, "{client}");
    }
}

#[test]
fn scattered_blocks_outlive_the_expression_until_they_have_arrived() {
    let client = client();
    let numbers = ndarray::ArrayD::from_elem(vec![1 << 20], 0.5);
    let sums: Vec<_> = (0..4)
        .map(|shift| {
            let x = Array::from_array(&(&numbers + f64::from(shift)).view(), [1 << 17]);
            client.compute(&x.sum())
        })
        .collect(); // nothing but the sums is held here
    let found: Vec<f64> = client.gather(&sums).unwrap().iter().map(|sum| sum.item().unwrap()).collect();
    assert_eq!(found, [0.5, 1.5, 2.5, 3.5].map(|number| number * f64::from(1 << 20)));
}

/// How many tasks the cluster of this test has run.
fn tasks_run() -> u64 {
    let status: serde_json::Value = serde_json::from_str(&client().status().unwrap()).unwrap();
    status["totals"]["finished"].as_u64().unwrap()
}

#[test]
fn a_chain_of_operations_is_one_task_per_block() {
    let client = client();
    let x = Array::random_uniform(3, [60, 4], [10, 4]);
    let y = ((&x * 2.0 - x.sqrt()).exp() / (&x + 1.0)).gt(1.5).choose(&x, 0.0).t();
    let before = tasks_run();
    let y = client.persist(&y);
    client.gather(y.blocks()).unwrap();
    assert_eq!(tasks_run() - before, 6);
    let before = tasks_run();
    client.compute(&(&y + &y * 3.0).sum()).result().unwrap();
    assert_eq!(tasks_run() - before, 6 + 1 + 1, "each block once, their sums, and the number in it");
}

#[test]
fn a_matrix_product_is_a_task_per_block_and_eight_of_the_inner_axis() {
    let client = client();
    let x = client.persist(&Array::random_uniform(3, [20, 160], [10, 10]));
    client.gather(x.blocks()).unwrap();
    let before = tasks_run();
    let y = client.persist(&x.matmul(&x.t()));
    client.gather(y.blocks()).unwrap();
    assert_eq!(tasks_run() - before, 4 * 3, "two halves and their sum, of each of four blocks");
}

#[test]
fn on_one_host_blocks_are_mapped_and_nothing_is_cut_out_of_them() {
    let client = client();
    for extent in [1usize << 17, 50] {
        let x = client.persist(&Array::random_uniform(3, [6 * extent], [extent]));
        client.gather(x.blocks()).unwrap();
        let before = tasks_run();
        let wide = |wide: Future<Block<f64>>| crate::neighbours::call(wide, vec![1]);
        let y = client.persist(&x.map_overlap([1], Boundary::Periodic, wide));
        client.gather(y.blocks()).unwrap();
        assert_eq!(tasks_run() - before, 6 * 2, "a block with its margins, and the task on it");
    }
}

#[test]
fn blocks_of_a_persisted_array_lie_together_and_on_all_workers() {
    let client = client();
    let x = client.persist(&Array::random_uniform(3, [12, 1 << 14], [1, 1 << 14]));
    client.gather(x.blocks()).unwrap();
    let holders = client.who_has(x.blocks().iter().map(Future::as_blocking)).unwrap();
    let first: Vec<_> = x.blocks().iter().map(|block| holders[&block.key()][0]).collect();
    let mut runs = first.clone();
    runs.dedup();
    let mut workers = runs.clone();
    workers.sort_unstable();
    workers.dedup();
    assert_eq!((workers.len(), runs.len()), (3, 3), "{first:?}");
}

#[test]
fn a_block_knows_its_place() {
    let x = Array::<u8>::zeros([5, 3], [2, 3]);
    let places = x.block_places();
    assert_eq!(places.len(), 3);
    assert_eq!((&places[2].index[..], &places[2].start[..]), ([2, 0].as_slice(), [4, 0].as_slice()));
    assert_eq!(places[2].shape, [1, 3]);
}

#[test]
fn a_slice_that_is_kept_does_not_keep_the_rest_of_its_block() {
    let client = client();
    let held_bytes = || {
        let status: serde_json::Value = serde_json::from_str(&client.status().unwrap()).unwrap();
        let workers = status["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["held_bytes"].as_u64().unwrap()).sum::<u64>()
    };
    let x = client.persist(&Array::random_uniform(3, [1 << 20], [1 << 20]));
    client.gather(x.blocks()).unwrap();
    let part = client.persist(&x.slice(s![10..20]));
    let numbers = client.compute(&part).result().unwrap();
    assert_eq!(numbers, client.compute(&x.slice(s![10..20])).result().unwrap());
    drop(x);
    let end = Instant::now() + Duration::from_secs(60);
    while held_bytes() > 1 << 20 {
        assert!(Instant::now() < end, "{} bytes are held", held_bytes());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn truth_values_have_an_order_and_margins() {
    let client = client();
    let x = Array::<i64>::arange(0, 4, 1, 3).lt(2);
    let y = Array::<i64>::arange(0, 4, 1, 2).equal((Array::<i64>::arange(0, 4, 1, 4) / 2) * 2);
    assert_eq!(client.compute(&x.lt(&y)).result().unwrap().numbers()[..], [false, false, true, false]);
    assert_eq!(client.compute(&x.maximum(&y)).result().unwrap().numbers()[..], [true, true, true, false]);
    let wide = x.map_overlap([1], Boundary::Constant(true), inner::call);
    assert_eq!(client.compute(&wide).result().unwrap(), client.compute(&x).result().unwrap());
}

/// A block without its margin of one.
#[dcluster::task]
fn inner(wide: &Block<bool>) -> Block<bool> {
    let count = wide.numbers().len();
    Block::new([count - 2], wide.numbers()[1..count - 1].to_vec()).unwrap()
}

#[test]
fn results_are_the_same_to_the_last_bit_on_any_number_of_workers() {
    let results = |workers| {
        let (_cluster, _directory, client) = start(workers);
        let x = Array::random_normal(17, [300, 40], [7, 9]);
        let product = x.matmul(&x.t()).sum();
        let whole = [x.sum(), x.var(), product].map(|x| client.compute(&x).result().unwrap().item().unwrap());
        let axes = [x.cumsum(0), x.mean_axis(0).reshape([1, 40])]
            .map(|x| client.compute(&x).result().unwrap().numbers().to_vec());
        (whole.map(f64::to_bits), axes.concat().into_iter().map(f64::to_bits).collect::<Vec<_>>())
    };
    assert_eq!(results(1), results(4));
}
