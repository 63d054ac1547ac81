use dcluster::Future;

#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

fn call(text: &Future<String>) {
    let _ = inc::call(text);
}

fn main() {}
