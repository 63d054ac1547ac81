//! Copies that clients ask for, and moves: who is asked, in which order, and what becomes of them when workers go.

use super::*;
use crate::model::{Copies, WorkerName};
use crate::wire::client::{Arrange, Arrangement};

impl Bench {
    /// Workers 0 to 5, two on each of three hosts.
    fn with_hosts() -> Self {
        let mut bench = Self::new(0);
        (0..6).for_each(|id| bench.join_host(id, &format!("node{}", id / 2)));
        bench
    }

    fn join_host(&mut self, id: u32, host: &str) {
        let (functions, seat) = (
            [(FUNCTION, "inc".to_owned())],
            Seat { host, rank: Some(id + 1), threads: 1, memory_bytes_max: 0 },
        );
        self.core.worker_joined(WorkerId(id), seat, functions, &mut self.effects);
    }

    fn arrange(&mut self, number: u32, futures: &[u32], how: Arrangement) {
        let futures = futures.iter().copied().map(FutureId).collect();
        self.core.arrange(ALICE, Arrange { number, futures, how }, &mut self.effects).unwrap();
    }

    fn replicate(&mut self, number: u32, futures: &[u32], copies: impl Into<Copies>) {
        self.arrange(number, futures, Arrangement::Copies(copies.into()));
    }

    /// A value of so many bytes, scattered to this worker.
    fn value_on(&mut self, future: u32, worker: u32, nbytes: u64) {
        let value = ScatterValue { future: FutureId(future), key: Key(u128::from(future)), nbytes };
        let scatter = Scatter {
            values: vec![value],
            workers: vec![WorkerId(worker).into()],
            allow_other_workers: false,
            type_name: "Vec".into(),
        };
        self.core.scatter(ALICE, &scatter, &mut self.effects).unwrap();
        self.holds(worker, future);
    }

    fn holds(&mut self, worker: u32, slot: u32) {
        self.core.holds(WorkerId(worker), TaskId::new(slot, 0), 100, &mut self.effects);
        self.core.check();
    }

    fn missed(&mut self, worker: u32, slot: u32) {
        self.core.missed(WorkerId(worker), TaskId::new(slot, 0), &mut self.effects);
        self.core.check();
    }

    fn who_has(&self, future: u32) -> Vec<u32> {
        self.core.who_has(ALICE, FutureId(future)).iter().map(|worker| worker.0).collect()
    }

    /// The workers that were asked for copies since the last look, with their sources.
    fn asked(&mut self) -> Vec<(u32, u32)> {
        let lines = self.place();
        let number = |text: &str| text.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let asked = lines.iter().filter_map(|line| line.strip_prefix("acquire ")?.split_once(" on worker-"));
        asked
            .map(|(_, on)| on.split_once(" from ").map(|(to, from)| (number(to), number(from))).unwrap())
            .collect()
    }
}

#[test]
fn copies_go_to_other_hosts_first_and_the_client_is_told_when_they_are_there() {
    let mut bench = Bench::with_hosts();
    bench.value_on(0, 0, 100);
    bench.replicate(7, &[0], 3);
    assert_eq!(bench.asked(), [(2, 0), (4, 0)]);
    bench.holds(2, 0);
    assert_eq!(bench.place(), [""; 0]);
    bench.holds(4, 0);
    assert_eq!(bench.place(), [r#"client-0 7: Ok("{}")"#]);
    bench.replicate(8, &[0], 2);
    assert_eq!(bench.place(), [r#"client-0 8: Ok("{}")"#], "there are enough");
}

#[test]
fn a_broadcast_goes_down_a_tree_and_crosses_to_each_host_once() {
    let mut bench = Bench::new(0);
    (0..64).for_each(|id| bench.join_host(id, &format!("node{}", id / 8)));
    bench.value_on(0, 0, 100);
    bench.replicate(1, &[0], Copies::Everywhere);
    let (mut rounds, mut crossings) = (0, 0);
    let mut asked = bench.asked();
    while !asked.is_empty() {
        rounds += 1;
        crossings += asked.iter().filter(|(to, from)| to / 8 != from / 8).count();
        let mut handed_out = std::collections::BTreeMap::<u32, u32>::new();
        asked.iter().for_each(|(_, from)| *handed_out.entry(*from).or_default() += 1);
        assert!(handed_out.values().all(|count| *count <= 2), "{asked:?}");
        asked.iter().for_each(|(to, _)| bench.core.holds(WorkerId(*to), TaskId(0), 100, &mut bench.effects));
        bench.core.check();
        let before = bench.effects.lines.iter().filter(|line| line.contains("Ok")).count();
        asked = bench.asked();
        assert_eq!(before == 1, asked.is_empty(), "it is answered at the end");
    }
    assert_eq!(bench.who_has(0).len(), 64);
    assert_eq!(crossings, 7);
    assert!(rounds <= 6, "{rounds} rounds");
}

#[test]
fn copies_go_to_named_workers_and_what_is_missing_is_said() {
    let mut bench = Bench::with_hosts();
    bench.value_on(0, 0, 100);
    let names = vec![WorkerName::Rank(6), WorkerName::Host("node1".into()), WorkerName::Rank(77)];
    bench.replicate(1, &[0], Copies::On(names));
    assert_eq!(bench.asked(), [(2, 0), (5, 0)]);
    bench.holds(5, 0);
    bench.holds(2, 0);
    assert_eq!(bench.asked(), [(3, 2)]);
    bench.holds(3, 0);
    let told = r#"client-0 1: Err("1 of 1 values lack copies: Vec-00000000 is not on rank 77 (6 workers are there)")"#;
    let lines = bench.place();
    assert_eq!(lines, [told]);
}

#[test]
fn a_value_is_copied_when_it_is_made_and_small_ones_need_no_copies() {
    let mut bench = Bench::new(3);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[]);
    bench.replicate(1, &[0, 1], 2);
    bench.place();
    bench.finish(0, TaskId(0), None);
    assert_eq!(bench.asked(), [(1, 0)]);
    bench.finish(1, TaskId(1), Some(b"x"));
    bench.holds(1, 0);
    assert!(bench.place().contains(&r#"client-0 1: Ok("{}")"#.to_owned()));
}

#[test]
fn a_copy_that_does_not_arrive_is_asked_for_again_and_then_elsewhere() {
    let mut bench = Bench::new(3);
    bench.value_on(0, 0, 100);
    bench.replicate(1, &[0], 2);
    for _ in 0..3 {
        assert_eq!(bench.asked(), [(1, 0)]);
        bench.missed(1, 0);
    }
    assert_eq!(bench.asked(), [(2, 0)]);
    (0..3).for_each(|_| bench.missed(2, 0));
    assert!(bench.place().last().unwrap().contains("is on 1 of 2 workers (3 workers are there)"));
    assert_eq!(bench.who_has(0), [0], "the only copy is not given up");
}

#[test]
fn scattered_data_with_replicas_survives_and_the_order_goes_on_from_them() {
    let mut bench = Bench::with_hosts();
    bench.value_on(0, 0, 100);
    bench.replicate(1, &[0], Copies::Everywhere);
    assert_eq!(bench.asked(), [(2, 0), (4, 0)]);
    bench.holds(2, 0);
    bench.asked();
    bench.lose(0);
    assert_eq!(bench.who_has(0), [2]);
    bench.missed(4, 0);
    bench.holds(3, 0);
    let mut asked = bench.asked();
    while let Some((to, _)) = asked.pop() {
        bench.holds(to, 0);
        asked.extend(bench.asked());
    }
    let mut holders = bench.who_has(0);
    holders.sort_unstable();
    assert!(holders.len() >= 4 && !holders.contains(&0), "{holders:?}");
    bench.submit(ALICE, 1, 9, &[0]);
    assert!(bench.place().iter().any(|line| line.starts_with("assign")));
}

#[test]
fn a_copy_that_does_not_come_is_asked_of_the_next_holder() {
    let mut bench = Bench::with_hosts();
    bench.value_on(0, 0, 100);
    bench.replicate(1, &[0], 2);
    assert_eq!(bench.asked(), [(2, 0)]);
    bench.holds(2, 0);
    bench.place();
    // Worker 1 is beside worker 0 and gets nothing from it.
    bench.replicate(2, &[0], Copies::On(vec![WorkerId(1).into()]));
    assert_eq!(bench.asked(), [(1, 0)]);
    bench.missed(1, 0);
    assert_eq!(bench.asked(), [(1, 2)]);
    bench.missed(1, 0);
    assert_eq!(bench.asked(), [(1, 0)], "all have been asked");
    bench.missed(1, 0);
    assert!(bench.place()[0].contains("is not on worker-1"));
}

#[test]
fn the_death_of_a_target_ends_the_order_with_what_can_be_had() {
    let mut bench = Bench::new(2);
    bench.value_on(0, 0, 100);
    bench.replicate(1, &[0], Copies::Everywhere);
    assert_eq!(bench.asked(), [(1, 0)]);
    bench.lose(1);
    assert_eq!(bench.place(), [r#"client-0 1: Ok("{}")"#]);
    bench.replicate(2, &[0], 2);
    assert!(bench.place()[0].contains("is on 1 of 2 workers (1 workers are there)"));
}

#[test]
fn a_value_that_is_given_back_is_copied_no_more() {
    let mut bench = Bench::new(3);
    bench.value_on(0, 0, 100);
    bench.replicate(1, &[0], 2);
    bench.place();
    bench.release(ALICE, 0);
    let lines = bench.place();
    assert_eq!(lines[0], "free task-0.0 on worker-1");
    assert!(lines[1].contains("was given back"), "{lines:?}");
    bench.core.holds(WorkerId(1), TaskId(0), 100, &mut bench.effects);
    assert_eq!(bench.place(), ["free task-0.0 on worker-1"]);
}

#[test]
fn a_value_that_is_lost_meanwhile_is_made_again_and_then_copied() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.replicate(1, &[0], 2);
    bench.place();
    bench.lose(0);
    bench.join(2);
    bench.place();
    let (worker, again) = bench.last();
    bench.finish(worker, again, None);
    let other = 3 - worker;
    assert!(bench.place().contains(&format!("acquire {again} on worker-{other} from [WorkerId({worker})]")));
    bench.core.holds(WorkerId(other), again, 100, &mut bench.effects);
    assert_eq!(bench.place(), [r#"client-0 1: Ok("{}")"#]);
}

#[test]
fn what_failed_or_was_cancelled_has_no_copies() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[]);
    bench.replicate(1, &[0, 1], 2);
    bench.place();
    bench.fail(0, TaskId(0));
    let cancel = Cancel { number: 9, futures: vec![FutureId(1)], force: false, reason: "stop".into() };
    bench.core.cancel(ALICE, &cancel, &mut bench.effects).unwrap();
    let lines = bench.place();
    let told = lines.iter().find(|line| line.starts_with("client-0 1:")).unwrap();
    assert!(told.contains("2 of 2 values lack copies: inc-00000000 ended in an error"), "{told}");
    bench.replicate(2, &[1], 2);
    assert!(bench.place()[0].contains("one was cancelled (stop)"));
}

#[test]
fn rebalancing_moves_the_fewest_values_and_frees_a_copy_when_the_other_is_there() {
    let mut bench = Bench::new(2);
    (0..4).for_each(|future| bench.value_on(future, 0, 100));
    bench.place();
    bench.arrange(1, &[], Arrangement::Even);
    let lines = bench.place();
    assert_eq!(
        lines,
        [
            "acquire task-2.0 on worker-1 from [WorkerId(0)]",
            "acquire task-3.0 on worker-1 from [WorkerId(0)]",
        ]
    );
    bench.holds(1, 3);
    assert_eq!(bench.place(), ["free task-3.0 on worker-0"]);
    bench.holds(1, 2);
    let lines = bench.place();
    assert_eq!(lines[0], "free task-2.0 on worker-0");
    assert_eq!(lines[1], r#"client-0 1: Ok("{\"moved\":2,\"bytes\":200,\"stayed\":0}")"#);
    bench.arrange(2, &[], Arrangement::Even);
    assert_eq!(bench.place(), [r#"client-0 2: Ok("{\"moved\":0,\"bytes\":0,\"stayed\":0}")"#]);
}

#[test]
fn rebalancing_leaves_alone_what_tasks_use_and_what_was_not_named() {
    let mut bench = Bench::new(2);
    (0..4).for_each(|future| bench.value_on(future, 0, 100));
    bench.submit(ALICE, 4, 99, &[3]);
    bench.place();
    assert_eq!(bench.last().0, 0);
    bench.arrange(1, &[2, 3], Arrangement::Even);
    assert_eq!(bench.asked(), [(1, 0)]);
    bench.submit(ALICE, 5, 98, &[2]);
    bench.finish(0, TaskId(4), Some(b"x"));
    bench.place();
    assert_eq!(bench.last().0, 0);
    bench.holds(1, 2);
    let lines = bench.place();
    assert_eq!(
        lines,
        [r#"client-0 1: Ok("{\"moved\":0,\"bytes\":0,\"stayed\":1}")"#],
        "a task uses it there"
    );
    assert_eq!(bench.who_has(2), [0, 1]);
}

#[test]
fn rebalancing_never_costs_the_only_copy() {
    let mut bench = Bench::new(3);
    (0..6).for_each(|future| bench.value_on(future, 0, 100));
    bench.arrange(1, &[], Arrangement::Even);
    bench.place();
    bench.lose(1);
    bench.missed(2, 5);
    bench.missed(2, 5);
    bench.missed(2, 5);
    for future in 0..6 {
        assert!(!bench.who_has(future).is_empty());
    }
}
