struct Model;

impl Model {
    #[dcluster::task]
    fn step(&self) -> u64 {
        0
    }
}

fn main() {}
