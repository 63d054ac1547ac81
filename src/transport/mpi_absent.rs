//! The MPI lane of a program that is built without MPI: there is none.

use std::convert::Infallible;
use std::time::Duration;

pub use super::mpi_error::MpiError;
use crate::model::Packed;

/// A tag of a transfer; here nobody has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tag(pub u16);

/// A lane that cannot be.
#[derive(Debug, Clone)]
pub struct MpiLane(Infallible);

/// A value that does not come.
#[derive(Debug)]
pub struct UnderWay(Infallible);

/// An order that nobody gives.
#[derive(Debug)]
pub struct Order(Infallible);

/// Progress of nothing.
#[derive(Debug)]
pub struct Progress(Infallible);

/// Messages that nobody sends.
#[derive(Debug)]
pub struct Raw<'a>(Infallible, std::marker::PhantomData<&'a ()>);

#[allow(missing_docs)]
impl MpiLane {
    pub fn rank(&self) -> u32 {
        match self.0 {}
    }

    pub fn take_tag(&self, _peer: u32) -> Option<Tag> {
        match self.0 {}
    }

    pub fn put_tag(&self, _peer: u32, _tag: Tag) {
        match self.0 {}
    }

    pub fn receive(&self, _peer: u32, _tag: Tag, _bytes_max: u64) -> UnderWay {
        match self.0 {}
    }

    pub fn send(&self, _peer: u32, _tag: Tag, _packed: &Packed) -> Option<UnderWay> {
        match self.0 {}
    }

    pub fn decline(&self, _peer: u32, _tag: Tag) {
        match self.0 {}
    }
}

#[allow(missing_docs, clippy::unused_async)]
impl UnderWay {
    pub fn expect(&self) {
        match self.0 {}
    }

    pub async fn end(&mut self) -> Result<Option<Packed>, MpiError> {
        match self.0 {}
    }
}

#[allow(missing_docs)]
impl Progress {
    pub fn take(&mut self, order: Order) {
        match order.0 {}
    }

    pub fn poll(&mut self) -> Option<Duration> {
        match self.0 {}
    }

    pub fn drain(&mut self, _within: Duration, _orders: impl FnMut() -> Option<Order>) -> bool {
        match self.0 {}
    }
}

#[allow(missing_docs)]
impl Raw<'_> {
    pub fn ask(&self, _peer: u32, _incoming: &mut [u8]) {
        match self.0 {}
    }

    pub fn answer(&self, _peer: u32, _outgoing: &[u8]) {
        match self.0 {}
    }
}
