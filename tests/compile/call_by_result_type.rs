use dcluster::client::call::Call;

#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

fn main() {
    let _: Call<String> = inc::call(1);
}
