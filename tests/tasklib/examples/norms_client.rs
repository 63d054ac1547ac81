//! A client in an ordinary program: the cluster's workers have its tasks from the library, not from here.

use dcluster::blocking::Client;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::var_os("DCLUSTER_CONNECTION_FILE").ok_or("no cluster is named")?;
    let client = Client::connect(file)?;
    let norm = client.submit(dcluster_tasklib::norm::call(vec![3.0, 4.0])).result()?;
    let process = client.submit(dcluster_tasklib::process::call()).result()?;
    println!("norm {norm}, elsewhere {}", process != std::process::id());
    client.close();
    Ok(())
}
