#[dcluster::task]
async fn wait(seconds: u64) {
    let _ = seconds;
}

fn main() {}
