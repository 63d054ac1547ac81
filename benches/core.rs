//! The scheduler core alone: `cargo bench --bench core`.

use dcluster::cli::bench::core::{Graph, bytes_per_task, tasks_per_second};

fn main() {
    // First, while the process is small.
    println!("scheduler bytes per task: {:.0}", bytes_per_task(1 << 20));
    for graph in [Graph::Independent, Graph::Tree, Graph::AllToAll] {
        let mut rates: Vec<f64> = (0..5).map(|_| tasks_per_second(graph, 1 << 20, 64)).collect();
        rates.sort_by(f64::total_cmp);
        println!("core {graph:?}: {:.0} tasks/s (median of 5; min {:.0})", rates[2], rates[0]);
    }
}
