//! The whole stack with real processes and a real `mpirun`: how clusters start, how they end, and what they leave.
fn main() {}
