//! Time as the cores see it: handed in, never read.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Microseconds since the process that hands it in was started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Tick(pub u64);

impl Add<u64> for Tick {
    type Output = Tick;

    fn add(self, micros: u64) -> Tick {
        Tick(self.0.saturating_add(micros))
    }
}

impl Sub for Tick {
    type Output = u64;

    fn sub(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
