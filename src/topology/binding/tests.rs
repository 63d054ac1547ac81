//! What ranks get on synthetic machines, and what holds on every machine.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const BIG: &str = "package:2 numa:4 core:16 pu:1";

fn machine(text: &str) -> Machine {
    Machine::synthetic(text).unwrap()
}

/// Rank 0 schedules, the others work; `cpus` is what the launcher gave each.
fn with_scheduler(cpus: &[&str]) -> Vec<RankRequest> {
    let mut ranks = workers(cpus);
    ranks[0].role = RankRole::Scheduler;
    ranks
}

fn workers(cpus: &[&str]) -> Vec<RankRequest> {
    let rank = |(local_rank, cpus): (u32, &&str)| RankRequest {
        local_rank,
        role: RankRole::Worker,
        cpus: cpus.parse().unwrap(),
    };
    (0..).zip(cpus).map(rank).collect()
}

fn cpus(bindings: &[Binding]) -> Vec<String> {
    bindings.iter().map(|binding| binding.cpus.to_string()).collect()
}

fn threads(bindings: &[Binding]) -> Vec<usize> {
    bindings.iter().map(Binding::threads).collect()
}

fn kinds(bindings: &[Binding]) -> Vec<WarningKind> {
    bindings[0].warnings.iter().map(|warning| warning.kind).collect()
}

#[test]
fn eight_workers_get_a_numa_node_each() {
    let bindings = plan(&machine(BIG), &workers(&["0-127"; 8]));
    assert_eq!(cpus(&bindings), ["0-15", "16-31", "32-47", "48-63", "64-79", "80-95", "96-111", "112-127"]);
    assert_eq!(threads(&bindings), [16; 8]);
    assert_eq!(bindings[5].memory, MemoryPolicy::Prefer(NumaId(5)));
    assert_eq!(kinds(&bindings), []);
}

#[test]
fn fewer_workers_than_nodes_get_whole_nodes_of_one_package() {
    let bindings = plan(&machine(BIG), &workers(&["0-127"; 4]));
    assert_eq!(cpus(&bindings), ["0-31", "32-63", "64-95", "96-127"]);
    assert_eq!(bindings[1].numa_nodes, [NumaId(2), NumaId(3)]);
    assert_eq!(bindings[1].memory, MemoryPolicy::Local);
    let bindings = plan(&machine(BIG), &workers(&["0-127"; 3]));
    assert_eq!(cpus(&bindings), ["0-31", "32-63", "64-127"]);
}

#[test]
fn the_scheduler_takes_one_core_and_workers_the_rest() {
    let bindings = plan(&machine(BIG), &with_scheduler(&["0-127"; 9]));
    assert_eq!(cpus(&bindings)[..3], ["0", "1-15", "16-31"]);
    assert_eq!(threads(&bindings), [0, 15, 16, 16, 16, 16, 16, 16, 16]);
}

#[test]
fn sixty_four_ranks_stay_inside_a_numa_node() {
    let big = machine(BIG);
    let bindings = plan(&big, &with_scheduler(&["0-127"; 64]));
    assert_eq!(bindings.iter().map(|binding| binding.cpus.len()).sum::<usize>(), 128);
    for binding in &bindings[1..] {
        assert_eq!(binding.numa_nodes.len(), 1);
        assert!((1..=3).contains(&binding.threads()), "{}", binding.threads());
    }
}

#[test]
fn siblings_stay_with_their_core_and_get_no_executor() {
    let bindings = plan(&machine("package:1 numa:2 core:4 pu:2"), &workers(&["0-15"; 4]));
    assert_eq!(cpus(&bindings), ["0-3", "4-7", "8-11", "12-15"]);
    assert_eq!(threads(&bindings), [2; 4]);
    assert_eq!(bindings[0].executors, ["0-1".parse().unwrap(), "2-3".parse().unwrap()]);
}

#[test]
fn more_ranks_than_cores_split_siblings_before_they_share() {
    let bindings = plan(&machine("core:2 pu:2"), &workers(&["0-3"; 4]));
    assert_eq!(cpus(&bindings), ["0", "1", "2", "3"]);
    assert_eq!(kinds(&bindings), [WarningKind::Oversubscribed]);
    let bindings = plan(&machine("core:2 pu:1"), &with_scheduler(&["0-1"; 5]));
    assert_eq!(cpus(&bindings), ["0-1", "0", "0", "1", "1"]);
    assert_eq!(bindings[4].sharing, Sharing::Shared);
    assert!(bindings[0].warnings[0].text.contains("5 ranks share 2 cores"), "{:?}", bindings[0].warnings);
}

#[test]
fn asymmetric_nodes_give_ranks_in_proportion() {
    // Package 0 has nodes of 4 and 1 cores, package 1 one node of 3.
    let uneven = machine("package:2 numa:2 core:4").restricted_to(&"0-4,8-10".parse().unwrap());
    let bindings = plan(&uneven, &workers(&["0-15"; 4]));
    assert_eq!(cpus(&bindings), ["0-1", "2-3", "4", "8-10"]);
    let bindings = plan(&uneven, &workers(&["0-15"; 8]));
    assert_eq!(threads(&bindings), [1; 8]);
}

#[test]
fn one_pu_serves_any_number_of_ranks() {
    let bindings = plan(&machine("pu:1"), &with_scheduler(&["0", "0", "0"]));
    assert_eq!(cpus(&bindings), ["0"; 3]);
    assert_eq!(threads(&bindings), [0, 1, 1]);
    let alone = RankRequest { local_rank: 0, role: RankRole::Both, cpus: "0".parse().unwrap() };
    let bindings = plan(&machine("pu:1"), &[alone]);
    assert_eq!((threads(&bindings), kinds(&bindings)), (vec![1], vec![]));
}

#[test]
fn only_the_jobs_cpuset_is_shared_out() {
    let job = machine(BIG).restricted_to(&"8-23,64-71".parse().unwrap());
    let bindings = plan(&job, &workers(&["8-23,64-71"; 3]));
    assert_eq!(cpus(&bindings), ["8-15", "16-23", "64-71"]);
    assert_eq!(kinds(&bindings), []);
}

#[test]
fn a_sane_launcher_binding_is_kept() {
    let given = ["0-31", "32-63", "64-95", "96-127"];
    let bindings = plan(&machine(BIG), &workers(&given));
    assert_eq!(cpus(&bindings), given);
    assert!(bindings.iter().all(|binding| binding.decided_by == DecidedBy::Launcher));
    assert_eq!(kinds(&bindings), []);
}

#[test]
fn ranks_bound_to_the_same_node_divide_it() {
    let given = ["0-15", "0-15", "16-31", "16-31"];
    let bindings = plan(&machine("package:1 numa:2 core:16"), &workers(&given));
    assert_eq!(cpus(&bindings), ["0-7", "8-15", "16-23", "24-31"]);
    assert_eq!(kinds(&bindings), []);
}

#[test]
fn ranks_stacked_on_one_core_are_rebound_with_a_warning() {
    let bindings = plan(&machine(BIG), &workers(&["0"; 8]));
    assert_eq!(threads(&bindings), [16; 8]);
    assert_eq!(kinds(&bindings), [WarningKind::Stacked]);
    let text = &bindings[7].warnings[0].text;
    assert!(text.contains("8 ranks on 1 of 128") && text.contains("--bind-to none"), "{text}");
    // Siblings of one core are one core.
    let bindings = plan(&machine("core:4 pu:2"), &workers(&["0", "1"]));
    assert_eq!(cpus(&bindings), ["0-3", "4-7"]);
    assert_eq!(kinds(&bindings), [WarningKind::Stacked]);
}

#[test]
fn overlapping_ranks_are_rebound_inside_what_the_launcher_used() {
    let bindings = plan(&machine(BIG), &workers(&["0-3", "2-5", "6-7"]));
    assert_eq!(kinds(&bindings), [WarningKind::Overlapping]);
    let text = &bindings[0].warnings[0].text;
    assert!(text.contains("local rank 0 CPUs 0-3 and local rank 1 CPUs 2-5"), "{text}");
    assert_eq!(cpus(&bindings), ["0-1", "2-4", "5-7"]);
}

#[test]
fn ranks_allocated_by_pu_keep_their_siblings() {
    let bindings = plan(&machine("core:4 pu:2"), &workers(&["0", "1", "2", "3"]));
    assert_eq!(cpus(&bindings), ["0", "1", "2", "3"]);
    assert_eq!(kinds(&bindings), [WarningKind::Oversubscribed]);
    // With a core for each they get one.
    let bindings = plan(&machine("core:4 pu:2"), &workers(&["0", "1,4-7"]));
    assert_eq!(kinds(&bindings), [WarningKind::Overlapping]);
    assert_eq!(cpus(&bindings), ["0-1", "4-7"]);
}

#[test]
fn ranks_spread_over_packages_are_brought_together() {
    let two = machine("package:2 numa:1 core:4");
    let bindings = plan(&two, &workers(&["0-1,4-5", "2-3,6-7"]));
    assert_eq!(cpus(&bindings), ["0-3", "4-7"]);
    assert_eq!(kinds(&bindings), [WarningKind::AcrossPackages]);
    assert!(bindings[0].warnings[0].text.contains("local rank 0 over packages 0-1"));
    // Three equal ranks cannot avoid it without giving one of them less.
    let three = plan(&machine("package:2 numa:1 core:6"), &workers(&["0-3", "4-7", "8-11"]));
    assert_eq!(cpus(&three), ["0-3", "4-7", "8-11"]);
    assert_eq!(kinds(&three), []);
}

#[test]
fn idle_cores_beside_a_narrow_binding_are_pointed_out() {
    let bindings = plan(&machine(BIG), &with_scheduler(&["0", "1"]));
    assert_eq!(cpus(&bindings), ["0", "1"]);
    assert_eq!(kinds(&bindings), [WarningKind::CoresUnused]);
    assert!(bindings[0].warnings[0].text.contains("2 ranks to 2 of 128 cores"));
}

#[test]
fn a_scheduler_with_a_whole_node_is_pointed_out() {
    let bindings = plan(&machine("numa:2 core:4"), &with_scheduler(&["0-3", "4-7"]));
    assert_eq!(cpus(&bindings), ["0-3", "4-7"]);
    assert_eq!(kinds(&bindings), [WarningKind::SchedulerOversized]);
}

#[test]
fn ranks_bound_outside_the_machine_count_as_unbound() {
    let bindings = plan(&machine("core:4"), &workers(&["100", ""]));
    assert_eq!(cpus(&bindings), ["0-1", "2-3"]);
}

/// Machines of up to 3 × 3 × 4 cores × 2 PUs with holes, at least one CPU left.
fn any_machine() -> impl Strategy<Value = Machine> {
    (1u32..=3, 1u32..=3, 1u32..=4, 1u32..=2)
        .prop_flat_map(|(packages, nodes, cores, pus)| {
            let total = packages * nodes * cores * pus;
            let whole = format!("package:{packages} numa:{nodes} core:{cores} pu:{pus}");
            (Just(whole), proptest::collection::btree_set(0..total, 1..=total as usize))
        })
        .prop_map(|(whole, allowed)| machine(&whole).restricted_to(&allowed.into_iter().collect()))
}

/// Up to 12 ranks, each unbound, on a few CPUs, on a run of CPUs or outside the machine.
fn any_ranks() -> impl Strategy<Value = Vec<RankRequest>> {
    let given = prop_oneof![
        Just((0..72).collect::<CpuSet>()),
        proptest::collection::vec(0u32..72, 1..6).prop_map(|cpus| cpus.into_iter().collect()),
        (0u32..12, 1u32..13).prop_map(|(at, size)| (at * size..(at + 1) * size).collect()),
        Just(CpuSet::default()),
    ];
    (proptest::collection::vec(given, 1..=12), any::<bool>(), any::<bool>()).prop_map(
        |(given, alike, schedules)| {
            let rank = |at: usize| RankRequest {
                local_rank: at as u32,
                role: if at == 0 && schedules { RankRole::Scheduler } else { RankRole::Worker },
                cpus: given[if alike { 0 } else { at }].clone(),
            };
            (0..given.len()).map(rank).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_plan_holds(machine in any_machine(), ranks in any_ranks()) {
        let bindings = plan(&machine, &ranks);
        prop_assert_eq!(bindings.len(), ranks.len());
        let (all, cores) = (machine.cpus(), machine.cores().count());
        for (rank, binding) in ranks.iter().zip(&bindings) {
            prop_assert!(!binding.cpus.is_empty());
            prop_assert!(binding.cpus.is_subset(&all));
            prop_assert_eq!(binding.threads() == 0, rank.role == RankRole::Scheduler);
            prop_assert!(binding.threads() <= machine.core_count_of(&binding.cpus));
            for (at, executor) in binding.executors.iter().enumerate() {
                prop_assert!(!executor.is_empty() && executor.is_subset(&binding.cpus));
                prop_assert!(binding.executors[at + 1..].iter().all(|other| other.is_disjoint(executor)));
            }
        }
        for (at, binding) in bindings.iter().enumerate() {
            let clash = bindings[at + 1..].iter().any(|other| !other.cpus.is_disjoint(&binding.cpus));
            prop_assert!(!(clash && cores >= ranks.len()), "{:?}", cpus(&bindings));
            prop_assert!(!(clash && binding.sharing == Sharing::Exclusive), "{:?}", cpus(&bindings));
        }
        // Cores are shared only if the launcher allocated fewer than one to each rank.
        let warned = bindings[0].warnings.iter().any(|warning| warning.kind == WarningKind::Oversubscribed);
        let touched = |core: &Core| bindings.iter().filter(|b| !b.cpus.is_disjoint(&core.pus)).count();
        prop_assert_eq!(warned, machine.cores().any(|core| touched(core) > 1));
        let given: CpuSet = ranks.iter().flat_map(|rank| rank.cpus.iter()).collect();
        prop_assert!(!warned || cores < ranks.len() || machine.core_count_of(&given) < ranks.len());
        prop_assert!(warned || cores >= ranks.len());
    }

    #[test]
    fn unbound_ranks_use_every_core(machine in any_machine(), count in 1usize..12) {
        let all = machine.cpus().to_string();
        let bindings = plan(&machine, &workers(&vec![all.as_str(); count]));
        let used: usize = bindings.iter().map(|binding| binding.cpus.len()).sum();
        if machine.cores().count() >= count {
            prop_assert_eq!(used, machine.cpus().len());
        }
    }

    #[test]
    fn the_order_of_requests_does_not_matter(machine in any_machine(), ranks in any_ranks()) {
        let mut reversed = ranks.clone();
        reversed.reverse();
        let mut bindings = plan(&machine, &reversed);
        bindings.reverse();
        prop_assert_eq!(bindings, plan(&machine, &ranks));
    }
}
