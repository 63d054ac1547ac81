struct Handle;

#[dcluster::task]
fn open(path: &str) -> Handle {
    let _ = path;
    Handle
}

fn main() {}
