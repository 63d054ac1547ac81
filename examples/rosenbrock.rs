//! A dynamic search: each result decides what is computed next.
//!
//! The minimum of Rosenbrock's function lies at (1, 1), at the end of a long bent valley. A fixed number of points is
//! always under way; whenever one comes back, a new one is drawn round the best so far, from a circle that grows after
//! a success and shrinks after a failure. There are no rounds, so no worker ever waits for a slower one.

use dcluster::prelude::*;

const UNDER_WAY: usize = 10;
const EVALUATIONS_MAX: usize = 20_000;
const GOAL: f64 = 1e-6;

type Point = (f64, f64);

#[dcluster::task]
fn rosenbrock(point: Point) -> (Point, f64) {
    let (x, y) = point;
    (point, (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2))
}

/// Steps that fill the square from -1 to 1 evenly: the multiples, modulo 1, of two numbers without a common measure.
fn steps() -> impl Iterator<Item = Point> {
    let in_square = |multiple: f64| 2.0 * multiple.fract() - 1.0;
    (1..)
        .map(f64::from)
        .map(move |n| (in_square(n * 0.754_877_666_246_693), in_square(n * 0.569_840_290_998_053)))
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let mut steps = steps();
    let (mut best, mut score) = ((-3.0, -4.0), f64::INFINITY);
    let mut radius: f64 = 5.0;
    let mut evaluations = 0;

    let first = steps.by_ref().take(UNDER_WAY).map(|(x, y)| (x * radius, y * radius));
    let mut running = client.as_completed(client.map(rosenbrock::call, first));
    while let Some((_, result)) = running.next_with_result().await {
        let (point, value) = result?;
        evaluations += 1;
        if value < score {
            (best, score) = (point, value);
            radius = (radius * 2.0).min(5.0);
        } else {
            radius = (radius * 0.9).max(1e-4);
        }
        if score < GOAL || evaluations == EVALUATIONS_MAX {
            break;
        }
        let (x, y) = steps.next().expect("the steps have no end");
        running.add(client.submit(rosenbrock::call((best.0 + radius * x, best.1 + radius * y))));
    }

    println!("minimum {score:.1e} at ({:.3}, {:.3}) after {evaluations} evaluations", best.0, best.1);
    assert!(score < GOAL, "the search did not converge");
    Ok(())
}
