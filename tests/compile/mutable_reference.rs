#[dcluster::task]
fn clear(list: &mut Vec<f64>) {
    list.clear();
}

fn main() {}
