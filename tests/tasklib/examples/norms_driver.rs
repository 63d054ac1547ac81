//! A driver that links the tasks of the library and is started with the library as well.

use dcluster::prelude::*;

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let norm = client.submit(dcluster_tasklib::norm::call(vec![3.0, 4.0])).result().await?;
    let process = client.submit(dcluster_tasklib::process::call()).result().await?;
    println!("norm {norm}, elsewhere {}", process != std::process::id());
    Ok(())
}
