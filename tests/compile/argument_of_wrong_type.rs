#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

fn main() {
    let _ = inc::call("ten");
}
