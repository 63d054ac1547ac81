struct Silent;

#[dcluster::task]
fn fail() -> Result<u64, Silent> {
    Err(Silent)
}

fn main() {}
