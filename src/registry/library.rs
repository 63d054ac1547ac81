//! Task libraries: a `cdylib` that brings tasks to a running program.
//!
//! The library calls [`export_tasks!`](crate::export_tasks) once. Its first symbol is C and gives the
//! [`abi`] it was built for; only if that is this program's own is the second one called, which gives the table
//! of tasks. A library is never unloaded: values, errors and threads may hold code and data of it.

// Opening a library runs its code, and its symbols have the type that it says they have.
#![allow(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;
use thiserror::Error;

use super::TaskDefinition;
use crate::model::{Packed, TaskError, Value};

/// The symbol that gives the ABI text.
const ABI_SYMBOL: &str = "dcluster_abi";
/// The symbol that gives the tasks.
const TASKS_SYMBOL: &str = "dcluster_tasks";

/// The ABI text is not longer than this.
const ABI_BYTES_MAX: usize = 4096;

/// A file that cannot be used as a task library.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// The dynamic loader refuses it.
    #[error("cannot load task library {path}: {reason}")]
    Unloadable {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// It does not export tasks.
    #[error(
        "{path} is a library without dcluster tasks: it has no symbol `{symbol}`; call \
         `dcluster::export_tasks!()` once in its lib.rs"
    )]
    NoTasks {
        /// The file.
        path: PathBuf,
        /// What is missing.
        symbol: &'static str,
    },
    /// It was built by another compiler or for another dcluster.
    #[error(
        "task library {path} was built for another dcluster\n  library: {library}\n  program: {program}\n\
         rebuild one of them with the other's versions"
    )]
    OtherAbi {
        /// The file.
        path: PathBuf,
        /// What the library was built with.
        library: String,
        /// What this program was built with.
        program: String,
    },
}

/// A text in C's terms: valid UTF-8 that lives as long as the process.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AbiText {
    start: *const u8,
    length: usize,
}

impl AbiText {
    /// A text that lives as long as the process.
    pub const fn new(text: &'static str) -> Self {
        Self { start: text.as_ptr(), length: text.len() }
    }
}

/// What a library and a program must have in common: dcluster's version, the compiler, the target, and the layout
/// of what crosses between them.
pub fn abi() -> &'static str {
    static ABI: OnceLock<String> = OnceLock::new();
    ABI.get_or_init(|| {
        let layout = [
            size_of::<TaskDefinition>(),
            size_of::<Value>(),
            size_of::<TaskError>(),
            size_of::<Packed>(),
            size_of::<bytes::Bytes>(),
            size_of::<super::Arguments<'_>>(),
        ];
        let panics = if cfg!(panic = "unwind") { "unwind" } else { "abort" };
        format!(
            "dcluster {}, {}, {}-{}, panic {panics}, layout {layout:?}",
            env!("CARGO_PKG_VERSION"),
            dcluster_macros::compiler_version!(),
            std::env::consts::ARCH,
            std::env::consts::OS,
        )
    })
}

/// The tasks of this program or library; for [`export_tasks!`](crate::export_tasks).
pub fn tasks() -> &'static [&'static TaskDefinition] {
    static TASKS: OnceLock<Vec<&'static TaskDefinition>> = OnceLock::new();
    TASKS.get_or_init(|| inventory::iter::<TaskDefinition>().collect())
}

/// Makes a `cdylib` a task library: exports every task linked into it.
///
/// A library uses the system's allocator, like the program that loads it.
#[macro_export]
macro_rules! export_tasks {
    () => {
        #[doc(hidden)]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        pub extern "C" fn dcluster_abi() -> $crate::registry::library::AbiText {
            $crate::registry::library::AbiText::new($crate::registry::library::abi())
        }

        #[doc(hidden)]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        pub fn dcluster_tasks() -> &'static [&'static $crate::registry::TaskDefinition] {
            $crate::registry::library::tasks()
        }
    };
}

/// Opens a task library for good and returns its tasks.
pub(super) fn open(path: &Path) -> Result<&'static [&'static TaskDefinition], LibraryError> {
    // A name without a slash would be looked for in the system's library folders.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // SAFETY: loading runs the library's initialisers; the user who names a task library trusts its code.
    let library = unsafe { Library::new(&absolute) }.map_err(|error| LibraryError::Unloadable {
        path: path.to_owned(),
        reason: error.source().map_or_else(|| error.to_string(), ToString::to_string),
    })?;
    let library: &'static Library = Box::leak(Box::new(library));
    let missing = |symbol| LibraryError::NoTasks { path: path.to_owned(), symbol };
    // SAFETY: a symbol of this name is written by `export_tasks!` only, with this type.
    let abi_of = unsafe { library.get::<extern "C" fn() -> AbiText>(ABI_SYMBOL) };
    let library_abi = abi_of.map_err(|_| missing(ABI_SYMBOL))?();
    let library_abi = read(library_abi);
    if library_abi != abi() {
        let (path, program) = (path.to_owned(), abi().to_owned());
        return Err(LibraryError::OtherAbi { path, library: library_abi, program });
    }
    // SAFETY: as above; the ABI is the same, so the types are too.
    let tasks_of = unsafe { library.get::<fn() -> &'static [&'static TaskDefinition]>(TASKS_SYMBOL) };
    Ok(tasks_of.map_err(|_| missing(TASKS_SYMBOL))?())
}

fn read(text: AbiText) -> String {
    if text.start.is_null() || text.length > ABI_BYTES_MAX {
        return "unreadable".to_owned();
    }
    // SAFETY: whoever made the `AbiText` made it of a `&'static str`.
    let bytes = unsafe { std::slice::from_raw_parts(text.start, text.length) };
    String::from_utf8_lossy(bytes).into_owned()
}
