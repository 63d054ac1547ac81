struct Handle;

#[dcluster::task]
fn read(handle: &Handle) -> u64 {
    let _ = handle;
    0
}

fn main() {}
