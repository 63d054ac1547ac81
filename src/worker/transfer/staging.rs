//! Values that lie where no other process can map them, copied once for all that ask from this host.
//!
//! A result of a task lives on the heap. The first peer of the host that wants it has it packed into a segment; those
//! that ask within a moment are told of the same one. Without this each would be sent a copy of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::model::buffer::{AlignedBuffer, BUFFER_ALIGNMENT_BYTES, BULK_BYTES_MIN};
use crate::model::{Packed, Resident, TaskId};
use crate::transport::shm;

/// How long a copy is kept for others that ask, if the value is held as long.
const KEEP: Duration = Duration::from_secs(2);
/// Time between looks at what can go.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// As little as this, in bytes, goes with the answer.
const REST_BYTES_MAX: usize = 32 * 1024;

/// The copies of a data port.
#[derive(Debug, Default)]
pub(super) struct Staging {
    copies: Mutex<HashMap<TaskId, Copy>>,
}

#[derive(Debug)]
struct Copy {
    /// And since when it is there.
    packed: Arc<OnceCell<(Result<Packed, String>, Instant)>>,
    of: Weak<Resident>,
}

impl Staging {
    /// The packed form of a value, in segments if it is large and the pool has room.
    pub(super) async fn packed(
        self: &Arc<Self>,
        task: TaskId,
        value: Arc<Resident>,
    ) -> Result<Packed, String> {
        if value.bytes() < BULK_BYTES_MIN {
            return super::packed(value).await;
        }
        let cell = self.copy_of(task, &value);
        let (packed, _) = cell.get_or_init(async || (staged(value).await, Instant::now())).await;
        packed.clone()
    }

    fn copy_of(
        self: &Arc<Self>,
        task: TaskId,
        value: &Arc<Resident>,
    ) -> Arc<OnceCell<(Result<Packed, String>, Instant)>> {
        let mut copies = self.copies();
        if copies.is_empty() {
            tokio::spawn(let_go(Arc::clone(self)));
        }
        let fresh = || Copy { packed: Arc::default(), of: Arc::downgrade(value) };
        Arc::clone(&copies.entry(task).or_insert_with(fresh).packed)
    }

    fn copies(&self) -> MutexGuard<'_, HashMap<TaskId, Copy>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops copies whose time is over, or whose values are gone, until there are none.
async fn let_go(staging: Arc<Staging>) {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let mut copies = staging.copies();
        let is_kept =
            |(packed, since): &(Result<Packed, String>, Instant)| packed.is_ok() && since.elapsed() < KEEP;
        copies.retain(|_, copy| copy.of.strong_count() > 0 && copy.packed.get().is_none_or(is_kept));
        if copies.is_empty() {
            return;
        }
    }
}

/// The packed form of a value if others can map it where it lies.
pub(super) async fn lendable(value: Arc<Resident>) -> Option<Packed> {
    let in_place = tokio::task::spawn_blocking(move || value.packed_in_place(REST_BYTES_MAX)).await;
    in_place.ok().flatten().filter(can_be_mapped)
}

/// Whether others can map a value where it lies, but for a small part.
pub(super) fn can_be_mapped(packed: &Packed) -> bool {
    bytes_elsewhere(packed) <= REST_BYTES_MAX
}

/// Packs a value, and gives what is copied for that to whoever maps it.
async fn staged(value: Arc<Resident>) -> Result<Packed, String> {
    let before = shm::pool().age();
    let packed = super::packed_elsewhere(value, in_segments).await?;
    shm::pool().give_away(&packed.buffers, before);
    Ok(packed)
}

/// Copies what lies in no segment into one, unless that is little.
fn in_segments(packed: Packed) -> Packed {
    let total = bytes_elsewhere(&packed);
    if total <= REST_BYTES_MAX || !shm::pool().has_room() {
        return packed;
    }
    let mut copy = AlignedBuffer::with_capacity(total.max(BULK_BYTES_MIN));
    let mut places = Vec::with_capacity(packed.buffers.len());
    for buffer in &packed.buffers {
        places.push(is_elsewhere(buffer).then_some(copy.len()));
        if is_elsewhere(buffer) {
            copy.extend(buffer);
            copy.extend(&[0; BUFFER_ALIGNMENT_BYTES][..room(buffer) - buffer.len()]);
        }
    }
    let copy = copy.freeze();
    let buffers = places.into_iter().zip(packed.buffers);
    let buffers = buffers.map(|(place, buffer)| match place {
        Some(at) => copy.slice(at..at + buffer.len()),
        None => buffer,
    });
    Packed { head: packed.head, buffers: buffers.collect() }
}

/// How much of a value lies in no segment, each buffer rounded up.
fn bytes_elsewhere(packed: &Packed) -> usize {
    packed.buffers.iter().filter(|buffer| is_elsewhere(buffer)).map(room).sum()
}

fn is_elsewhere(buffer: &Bytes) -> bool {
    !buffer.is_empty() && shm::pool().locate(buffer).is_none()
}

fn room(buffer: &Bytes) -> usize {
    buffer.len().next_multiple_of(BUFFER_ALIGNMENT_BYTES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;
    use crate::model::Value;
    use crate::model::numbers::Numbers;

    #[test]
    fn what_is_copied_together_is_the_same_and_aligned() {
        shm::use_pool(0);
        let buffers: Vec<Bytes> = (1..50u8).map(|byte| vec![byte; 50_000 + byte as usize].into()).collect();
        let packed = Packed { head: Bytes::from_static(b"head"), buffers };
        let copied = in_segments(packed.clone());
        assert_eq!(copied, packed);
        assert!(copied.buffers.iter().all(|buffer| shm::pool().locate(buffer).is_some()));
        assert!(copied.buffers.iter().all(|buffer| (buffer.as_ptr() as usize).is_multiple_of(64)));
        let again = in_segments(copied.clone());
        assert_eq!(again.buffers[7].as_ptr(), copied.buffers[7].as_ptr());
    }

    #[tokio::test]
    async fn what_lies_in_segments_can_be_lent_and_nothing_is_copied_for_that() {
        shm::use_pool(0);
        let numbers: Numbers<f64> = (0..400_000).map(f64::from).collect();
        let start = numbers.as_ptr().cast();
        let live = Arc::new(Resident::live(Value::new(("name".to_owned(), numbers)), 3_200_000));
        let lent = lendable(live).await.unwrap();
        assert_eq!(lent.buffers[0].as_ptr(), start);
        let packed = Arc::new(Resident::packed_form(lent));
        assert_eq!(lendable(packed).await.unwrap().buffers[0].as_ptr(), start);
        for heap in [Value::new(vec![1.5f64; 400_000]), Value::new(vec![vec![1u8; 400_000]; 9])] {
            assert!(lendable(Arc::new(Resident::live(heap, 3_200_000))).await.is_none());
        }
    }

    #[tokio::test]
    async fn all_that_ask_are_given_one_copy_and_it_goes_with_the_value() {
        shm::use_pool(0);
        let staging = Arc::new(Staging::default());
        let numbers = vec![1.5f64; 400_000];
        let value = Arc::new(Resident::live(Value::new(numbers), 3_200_000));
        let ask = || staging.packed(TaskId(1), Arc::clone(&value));
        let (first, second) = tokio::join!(ask(), ask());
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.buffers[0].as_ptr(), second.buffers[0].as_ptr());
        assert_eq!(first, value.packed().unwrap());
        assert!(shm::pool().locate(&first.buffers[0]).is_some());
        drop(value);
        while !staging.copies().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
