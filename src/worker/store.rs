//! The values a worker holds, by task; the core says which.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Resident, TaskId};

/// Values.
#[derive(Debug, Default)]
pub struct Store {
    values: HashMap<TaskId, Arc<Resident>>,
}

impl Store {
    /// Holds a value.
    pub fn insert(&mut self, task: TaskId, value: Arc<Resident>) {
        let former = self.values.insert(task, value);
        debug_assert!(former.is_none(), "{task} is held once");
    }

    /// Lets a value go; it lives on while others share it.
    pub fn remove(&mut self, task: TaskId) -> Option<Arc<Resident>> {
        self.values.remove(&task)
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Value;

    #[test]
    fn a_value_lives_on_while_others_share_it() {
        let mut store = Store::default();
        store.insert(TaskId(1), Arc::new(Resident::live(Value::new(1u8), 100)));
        store.insert(TaskId(2), Arc::new(Resident::live(Value::new(2u8), 20)));
        let shared = store.value(TaskId(1)).unwrap();
        assert_eq!((store.len(), store.is_shared(TaskId(1)), store.is_shared(TaskId(2))), (2, true, false));
        store.remove(TaskId(1)).unwrap();
        assert_eq!(store.len(), 1);
        assert_eq!(*shared.view::<u8>().unwrap(), 1);
    }
}
