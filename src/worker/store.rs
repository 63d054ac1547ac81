//! The values a worker holds, by task; the core says which.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Resident, TaskId};

/// Values and their size.
#[derive(Debug, Default)]
pub struct Store {
    values: HashMap<TaskId, Arc<Resident>>,
    bytes: u64,
}

impl Store {
    /// Holds a value.
    pub fn insert(&mut self, task: TaskId, value: Arc<Resident>) {
        self.bytes += value.bytes() as u64;
        let former = self.values.insert(task, value);
        debug_assert!(former.is_none(), "{task} is held once");
    }

    /// Lets a value go; it lives on while others share it.
    pub fn remove(&mut self, task: TaskId) -> Option<Arc<Resident>> {
        let value = self.values.remove(&task)?;
        self.bytes -= value.bytes() as u64;
        Some(value)
    }

    /// A value, shared.
    pub fn value(&self, task: TaskId) -> Option<Arc<Resident>> {
        self.values.get(&task).cloned()
    }

    /// Whether anybody else has the value as well.
    pub fn is_shared(&self, task: TaskId) -> bool {
        self.values.get(&task).is_some_and(|value| Arc::strong_count(value) > 1)
    }

    /// How many values are held.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no value is held.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What the values are accounted as, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Value;

    #[test]
    fn bytes_follow_what_is_held() {
        let mut store = Store::default();
        store.insert(TaskId(1), Arc::new(Resident::live(Value::new(1u8), 100)));
        store.insert(TaskId(2), Arc::new(Resident::live(Value::new(2u8), 20)));
        let shared = store.value(TaskId(1)).unwrap();
        assert_eq!((store.len(), store.bytes()), (2, 120));
        store.remove(TaskId(1)).unwrap();
        assert_eq!((store.len(), store.bytes()), (1, 20));
        assert_eq!(*shared.view::<u8>().unwrap(), 1);
    }
}
