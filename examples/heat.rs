//! Heat in a plate: a 2-D stencil over blocks that stay on the workers and exchange their margins.
//!
//! Each step is a task per block, which reads its own block and a margin of one element of its neighbours. Nothing comes
//! back to this program until the end, when the plate is compared with the same steps done here.

use dcluster::collections::{Array, Block, Boundary};
use dcluster::prelude::*;
use ndarray::{Array2, s};

const EXTENT: usize = 240;
const BLOCK: usize = 80;
const STEPS: usize = 40;

/// One step of explicit Euler; the margin says what is around.
#[dcluster::task]
fn diffuse(wide: &Block<f64>) -> Block<f64> {
    let view = wide.view();
    let (rows, columns) = (wide.shape()[0], wide.shape()[1]);
    let middle = view.slice(s![1..rows - 1, 1..columns - 1]);
    let around = &view.slice(s![..rows - 2, 1..columns - 1])
        + &view.slice(s![2.., 1..columns - 1])
        + view.slice(s![1..rows - 1, ..columns - 2])
        + view.slice(s![1..rows - 1, 2..]);
    Block::from((&middle + &((around - &middle * 4.0) * 0.2)).into_dyn())
}

/// The plate at the beginning: a hot corner, and a warm stripe.
fn plate() -> Array<f64> {
    let index = |axis: isize| Array::<f64>::arange(0.0, EXTENT as f64, 1.0, BLOCK).insert_axis(axis);
    let (row, column) = (index(1), index(0));
    let corner = (row.lt(60.0) & column.lt(60.0)).choose(100.0, 0.0);
    let stripe = (row.gt(150.0) & row.lt(170.0)).choose(40.0, 0.0);
    corner + stripe
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let start = client.compute(&plate()).await?;
    let mut heat = client.persist(&plate());
    for _ in 0..STEPS {
        // The plate of the step before is dropped here; its blocks go when the tasks that need them have run.
        heat = client.persist(&heat.map_overlap([1, 1], Boundary::Nearest, diffuse::call));
    }
    let total = client.compute(&heat.sum());
    let end = client.compute(&heat).await?;

    let mut here =
        Array2::from_shape_vec((EXTENT, EXTENT), start.numbers().to_vec()).expect("a square plate");
    for _ in 0..STEPS {
        here = step(&here);
    }
    let difference = end.numbers().iter().zip(&here).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 1e-9, "{difference}");
    assert!(
        total.await?.item().is_some_and(|total| (total - start.numbers().iter().sum::<f64>()).abs() < 1e-6)
    );
    println!("{STEPS} steps on {} blocks, as one process does them", heat.blocks().len());
    Ok(())
}

/// The same step on the whole plate, place by place.
fn step(plate: &Array2<f64>) -> Array2<f64> {
    let at = |row: isize, column: isize| {
        let inside = |place: isize| place.clamp(0, EXTENT as isize - 1) as usize;
        plate[[inside(row), inside(column)]]
    };
    Array2::from_shape_fn((EXTENT, EXTENT), |(row, column)| {
        let (row, column) = (row as isize, column as isize);
        let around = at(row - 1, column) + at(row + 1, column) + at(row, column - 1) + at(row, column + 1);
        at(row, column) + (around - at(row, column) * 4.0) * 0.2
    })
}
