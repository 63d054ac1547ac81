//! The stock cluster program.
fn main() {}
