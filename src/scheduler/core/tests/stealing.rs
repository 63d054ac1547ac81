//! What an idle worker takes off a busy one.

use super::*;

/// The tasks that a worker of another host is given when it joins: `count` of them use a value of 1 MiB that the first
/// worker has, and each runs for so long. The value would be there in 1.15 ms.
fn taken_by_a_newcomer(count: u32, duration_us: u64) -> Vec<String> {
    let mut bench = Bench::new(0);
    bench.join_on(0, "near", None);
    bench.submit(ALICE, 0, 0, &[]);
    bench.place();
    bench.finish_after(duration_us, 0, TaskId(0), None);
    (1..=count).for_each(|future| bench.submit(ALICE, future, u128::from(future), &[0]));
    bench.place();
    bench.join_on(1, "far", None);
    let lines = bench.place();
    lines.into_iter().filter(|line| line.contains("to worker-1") || line.contains("retract")).collect()
}

#[test]
fn half_of_what_a_busy_worker_has_is_stolen() {
    let taken = taken_by_a_newcomer(20, 5_000);
    assert_eq!(taken, ["assign task-11.0 to worker-1 (task-0.0 at [WorkerId(0)])"]);
}

#[test]
fn tasks_that_are_over_before_their_input_would_be_elsewhere_stay_with_it() {
    assert!(taken_by_a_newcomer(80, 10).is_empty(), "0.8 ms of work in a backlog");
    assert!(taken_by_a_newcomer(1, 1_000).is_empty());
    assert!(taken_by_a_newcomer(5, 250).is_empty(), "1 ms in the worker's own queue, 0.25 ms behind it");
    assert!(!taken_by_a_newcomer(200, 10).is_empty(), "2 ms");
}
