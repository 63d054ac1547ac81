//! The tasks that this process can run.
//!
//! `#[dcluster::task]` submits a [`TaskDefinition`] for each function of the program at link time, a task
//! library brings its own ([`library`]); [`Registry`] finds one by its id when a worker is told to run it.
//! How a call's arguments look in bytes is in [`arguments`], what the macro's code calls in [`shim`], and how a
//! panic becomes a task error in [`mod@panic`].

pub mod arguments;
mod difference;
pub mod library;
pub mod panic;
#[doc(hidden)]
pub mod shim;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use thiserror::Error;
use xxhash_rust::const_xxh3::xxh3_64;

pub use self::arguments::Arguments;
pub use self::difference::difference;
use self::library::LibraryError;
use crate::model::{FunctionId, TaskError, Value};

#[doc(hidden)]
pub use inventory;

/// A task function, as the macro describes it.
#[derive(Debug, Clone, Copy)]
pub struct TaskDefinition {
    /// The function's path, `module::function`, or the name it was given.
    pub name: &'static str,
    /// Its parameter and result types as they are written.
    pub signature: &'static str,
    /// The file that defines it.
    pub file: &'static str,
    /// The line that defines it.
    pub line: u32,
    /// Whether equal calls have equal results.
    pub purity: Purity,
    /// Runs it; a panic comes back as an error.
    pub run: fn(Arguments<'_>) -> Result<Value, TaskError>,
    /// The hash of name and signature.
    pub id: FunctionId,
}

/// Whether equal calls have equal results, so that one run serves them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purity {
    /// They have.
    Pure,
    /// Each call is run.
    Impure,
}

inventory::collect!(TaskDefinition);

impl TaskDefinition {
    /// The last part of the name, `inc` of `analysis::inc`: what a key begins with.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit("::").next().unwrap_or(self.name)
    }
}

/// The id of a function: the hash of `name`, a zero byte and `signature`, given joined.
pub const fn function_id(name_and_signature: &str) -> FunctionId {
    FunctionId(xxh3_64(name_and_signature.as_bytes()))
}

/// Every task that this process can run, by id.
#[derive(Debug, Default)]
pub struct Registry {
    /// Sorted by name.
    tasks: Vec<&'static TaskDefinition>,
    by_id: HashMap<FunctionId, &'static TaskDefinition>,
    libraries: Vec<PathBuf>,
}

/// Tasks that cannot be told apart, or a library that cannot be used.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// Two functions have the same name.
    #[error(
        "two tasks are named `{name}`: {first} and {second}; give one of them another name with \
         #[dcluster::task(name = \"…\")]"
    )]
    DuplicateName {
        /// The name.
        name: &'static str,
        /// Where one is defined.
        first: String,
        /// Where the other is defined.
        second: String,
    },
    /// Two functions have the same id by an accident of hashing.
    #[error("tasks `{first}` and `{second}` have the same id; give one of them another name")]
    DuplicateId {
        /// The name of one.
        first: &'static str,
        /// The name of the other.
        second: &'static str,
    },
    /// A task library cannot be used.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

impl Registry {
    /// Every task that is linked into this program.
    ///
    /// # Errors
    /// `RegistryError` if two have the same name.
    pub fn load() -> Result<Self, RegistryError> {
        Self::of(inventory::iter::<TaskDefinition>)
    }

    /// These tasks and no others.
    ///
    /// # Errors
    /// As [`Registry::load`].
    pub fn of(tasks: impl IntoIterator<Item = &'static TaskDefinition>) -> Result<Self, RegistryError> {
        let mut registry = Self::default();
        registry.add(tasks)?;
        Ok(registry)
    }

    /// Adds the tasks of a library (a `cdylib` with `dcluster::export_tasks!()`), which stays loaded for good;
    /// returns how many there are that were not known.
    ///
    /// # Errors
    /// `RegistryError` if it is no task library, was built for another dcluster, or brings a name that is taken.
    pub fn add_library(&mut self, path: &Path) -> Result<usize, RegistryError> {
        let tasks = library::open(path)?;
        // Built-in tasks are linked into every library as well, and a library may be named twice.
        // A driver may link the crate of the library too: the same function in another binary is no other task.
        let place = |task: &TaskDefinition| (task.id, task.file, task.line);
        let is_known = |task: &TaskDefinition| self.tasks.iter().any(|known| place(known) == place(task));
        let is_own = |task: &&TaskDefinition| !task.name.starts_with("dcluster::") && !is_known(task);
        let own: Vec<_> = tasks.iter().copied().filter(is_own).collect();
        let count = own.len();
        self.add(own)?;
        if count > 0 {
            self.libraries.push(path.to_owned());
        }
        Ok(count)
    }

    /// The task with this id.
    pub fn find(&self, id: FunctionId) -> Option<&'static TaskDefinition> {
        self.by_id.get(&id).copied()
    }

    /// A hash of all names and signatures: equal in processes that can run the same tasks.
    pub fn table_hash(&self) -> u64 {
        let ids: Vec<u8> = self.tasks.iter().flat_map(|task| task.id.0.to_le_bytes()).collect();
        xxhash_rust::xxh3::xxh3_64(&ids)
    }

    /// All tasks, sorted by name.
    pub fn describe(&self) -> &[&'static TaskDefinition] {
        &self.tasks
    }

    /// The libraries that were added.
    pub fn libraries(&self) -> &[PathBuf] {
        &self.libraries
    }

    /// All or none.
    fn add(&mut self, tasks: impl IntoIterator<Item = &'static TaskDefinition>) -> Result<(), RegistryError> {
        let mut sorted = self.tasks.clone();
        sorted.extend(tasks);
        sorted.sort_by_key(|task| (task.name, task.file, task.line));
        for pair in sorted.windows(2) {
            let [first, second] = pair else { continue };
            if first.name == second.name {
                return Err(RegistryError::DuplicateName {
                    name: first.name,
                    first: format!("{}:{}", first.file, first.line),
                    second: format!("{}:{}", second.file, second.line),
                });
            }
        }
        let mut by_id = HashMap::with_capacity(sorted.len());
        for task in &sorted {
            if let Some(other) = by_id.insert(task.id, *task) {
                return Err(RegistryError::DuplicateId { first: other.name, second: task.name });
            }
        }
        self.tasks = sorted;
        self.by_id = by_id;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn unused(_: Arguments<'_>) -> Result<Value, TaskError> {
        Ok(Value::new(()))
    }

    fn task(name: &'static str, signature: &str, line: u32) -> &'static TaskDefinition {
        let id = function_id(&format!("{name}\0{signature}"));
        let signature = String::leak(signature.to_owned());
        let purity = Purity::Pure;
        Box::leak(Box::new(TaskDefinition { name, signature, file: "a.rs", line, purity, run: unused, id }))
    }

    #[test]
    fn tasks_are_found_by_id_and_described_by_name() {
        let registry = Registry::of([task("b", "()", 1), task("a", "()", 2)]).unwrap();
        let names: Vec<_> = registry.describe().iter().map(|task| task.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(registry.find(function_id("b\0()")).unwrap().line, 1);
        assert!(registry.find(FunctionId(0)).is_none());
        assert_eq!(task("x::y::z", "", 0).short_name(), "z");
    }

    #[test]
    fn the_table_hash_tells_names_and_signatures_apart_and_not_their_order() {
        let hash = |tasks: &[&'static TaskDefinition]| Registry::of(tasks.to_vec()).unwrap().table_hash();
        let (a, b) = (task("a", "()", 1), task("b", "()", 1));
        assert_eq!(hash(&[a, b]), hash(&[b, a]));
        assert_ne!(hash(&[a, b]), hash(&[a]));
        assert_ne!(hash(&[a]), hash(&[task("a", "(i64)", 1)]));
        assert_eq!(hash(&[a]), hash(&[task("a", "()", 99)]));
    }

    #[test]
    fn two_tasks_of_one_name_are_refused_with_both_places() {
        let error = Registry::of([task("a", "()", 7), task("a", "(i64)", 9)]).unwrap_err().to_string();
        assert!(error.starts_with("two tasks are named `a`: a.rs:7 and a.rs:9"), "{error}");
    }

    #[test]
    fn every_linked_task_is_loaded() {
        assert!(Registry::load().is_ok());
    }
}
