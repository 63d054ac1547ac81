//! A dynamic search: each result decides what is computed next.
//!
//! The minimum of Rosenbrock's function lies at (1, 1), in a long bent valley. A fixed number of points is always under
//! way; whenever one comes back, another one is drawn round the best so far, at a distance of any order of magnitude.
//! There are no rounds, so no worker ever waits for a slower one.

use dcluster::prelude::*;

const UNDER_WAY: usize = 10;
const EVALUATIONS_MAX: usize = 20_000;
const GOAL: f64 = 1e-3;

type Point = (f64, f64);

#[dcluster::task]
fn rosenbrock(point: Point) -> (Point, f64) {
    let (x, y) = point;
    (point, (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2))
}

/// A point near `centre`, between 0.005 and 5 away in each direction. Multiples of three numbers without a common
/// measure, modulo 1, fill the unit cube evenly.
fn near(centre: Point, draw: usize) -> Point {
    let [x, y, z] =
        [0.819_172_513, 0.671_043_607, 0.549_700_478].map(|number| (number * draw as f64).fract());
    let radius = 5.0 * 0.001_f64.powf(z);
    (centre.0 + radius * (2.0 * x - 1.0), centre.1 + radius * (2.0 * y - 1.0))
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let mut best = (-3.0, -4.0);
    let mut score = f64::INFINITY;
    let mut evaluations = 0;

    let first = client.map(|draw| rosenbrock::call(near(best, draw)), 0..UNDER_WAY);
    let mut running = client.as_completed(first);
    while let Some((_, result)) = running.next_with_result().await {
        let (point, value) = result?;
        evaluations += 1;
        if value < score {
            (best, score) = (point, value);
        }
        if score < GOAL || evaluations == EVALUATIONS_MAX {
            break;
        }
        running.add(client.submit(rosenbrock::call(near(best, UNDER_WAY + evaluations))));
    }

    println!("minimum {score:.1e} at ({:.3}, {:.3}) after {evaluations} evaluations", best.0, best.1);
    assert!(score < GOAL, "the search did not converge");
    Ok(())
}
