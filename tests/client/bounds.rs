//! How much memory is taken for what a worker sends.

use dcluster::client::blocking;
use dcluster::launch::ranks::Setup;
use dcluster::launch::{LocalCluster, LocalOptions};
use dcluster::model::TaskId;
use dcluster::transport::data::{DataError, DataPool, Meter};

use crate::HANG;

#[test]
fn a_value_that_is_larger_than_was_said_is_refused_and_the_connection_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { connection_file: Some(directory.path().join("cluster.json")), ..Setup::default() };
    let options = LocalOptions { workers: Some(1), threads: Some(1), ..LocalOptions::default() };
    let cluster = LocalCluster::start(&options, &setup).unwrap();
    let client = blocking::Client::connect_with(cluster.connection().clone()).unwrap();
    client.wait_for_workers(1, Some(HANG)).unwrap();
    let _value = client.scatter(vec![1.0_f64; 1 << 16]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&client.status().unwrap()).unwrap();
    let address = status["workers"][0]["address"].as_str().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = DataPool::new(&cluster.connection().credentials, None, u64::MAX).unwrap();
        let bring = |bytes_max| pool.bring(address, TaskId(0), Meter::default(), bytes_max);
        let error = bring(1000).await.unwrap_err();
        assert!(matches!(error, DataError::TooLarge { bytes_max: 1000, .. }), "{error}");
        assert!(bring(1 << 20).await.is_ok());
    });
}
