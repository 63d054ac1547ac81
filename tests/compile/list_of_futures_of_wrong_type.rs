use dcluster::Future;

#[dcluster::task]
fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

fn call(texts: Vec<Future<String>>) {
    let _ = total::call(texts);
}

fn main() {}
