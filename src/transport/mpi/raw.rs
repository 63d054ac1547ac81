//! Plain blocking messages of MPI: what the lane is measured against.

use mpi::Rank;
use mpi::point_to_point::{Destination as _, Source as _};
use mpi::topology::{Communicator as _, Process, SimpleCommunicator};

/// The blocking calls of the main thread. No transfer of the lane may be under way meanwhile.
pub struct Raw<'a> {
    world: &'a SimpleCommunicator,
}

impl<'a> Raw<'a> {
    /// Between the ranks of `world`.
    pub fn new(world: &'a SimpleCommunicator) -> Self {
        Self { world }
    }

    /// Asks `peer`, which [`answer`](Self::answer)s, for a message of this length, and receives it.
    pub fn ask(&self, peer: u32, incoming: &mut [u8]) {
        self.process(peer).send(&0_u8);
        self.process(peer).receive_into(incoming);
    }

    /// Waits until `peer` asks, and sends it this message.
    pub fn answer(&self, peer: u32, outgoing: &[u8]) {
        let mut asked = 0_u8;
        self.process(peer).receive_into(&mut asked);
        self.process(peer).send(outgoing);
    }

    fn process(&self, rank: u32) -> Process<'_> {
        self.world.process_at_rank(rank as Rank)
    }
}

impl std::fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("rank", &self.world.rank()).finish_non_exhaustive()
    }
}
