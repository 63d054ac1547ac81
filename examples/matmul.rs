//! A blocked matrix product on the cluster: both factors stay on the workers, a block of the result is one task.
//!
//! The product is checked as Freivalds does: `(A B) v` must be `A (B v)` for a random vector, which takes two products
//! of a matrix and a vector instead of another one of matrices. A small one is checked number by number against the
//! same kernel in this process. The argument is the extent of the matrices, 512 without one.

use dcluster::collections::{Array, Block, s};
use dcluster::prelude::*;

const BLOCK: usize = 128;

#[dcluster::main]
async fn main(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    let extent: usize = match std::env::args().nth(1) {
        None => 512,
        Some(text) => match text.parse() {
            Ok(extent) if extent > 0 => extent,
            _ => return Err(format!("the extent of the matrices is a number from 1 on, not {text:?}").into()),
        },
    };
    let a = client.persist(&Array::random_uniform(1, [extent, extent], [BLOCK, BLOCK]));
    let b = client.persist(&Array::random_uniform(2, [extent, extent], [BLOCK, BLOCK]));
    client.wait(a.blocks().iter().chain(&b.blocks()), ReturnWhen::AllCompleted, None).await?;

    let started = std::time::Instant::now();
    let c = client.persist(&a.matmul(&b));
    client.wait(c.blocks(), ReturnWhen::AllCompleted, None).await?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{extent} x {extent}: {:.2} Gflop/s", 2.0 * (extent as f64).powi(3) / seconds / 1e9);

    let v = Array::random_normal(3, [extent], [BLOCK]);
    let (left, right) = (c.matmul(&v), a.matmul(&b.matmul(&v)));
    let difference = client.compute(&((&left - &right).norm() / right.norm())).await?;
    assert!(difference.item().is_some_and(|difference| difference < 1e-12), "{difference:?}");

    let small = extent.min(100);
    let corner = |x: &Array<f64>| x.slice(s![..small, ..small]);
    let (small_a, small_b) = (client.compute(&corner(&a)).await?, client.compute(&corner(&b)).await?);
    let product = client.compute(&corner(&a).matmul(&corner(&b))).await?;
    let matrix = |block: &Block<f64>| {
        ndarray::Array2::from_shape_vec((small, small), block.numbers().to_vec()).expect("as many numbers")
    };
    let here = matrix(&small_a).dot(&matrix(&small_b));
    assert!((matrix(&product) - here).iter().all(|difference| difference.abs() < 1e-10));
    println!("the product is right");
    Ok(())
}
