#[dcluster::task]
fn first<T>(list: Vec<T>) -> T {
    list.into_iter().next().unwrap()
}

fn main() {}
