#[dcluster::main]
async fn main() {}
