//! A panic inside a task becomes an error with its message, position and stack.
//!
//! A hook for the whole process records a panic while the thread is inside [`catch_task_panic`] and stays quiet
//! about it; any other panic goes to the hook that was there before. A task library has hook and thread state of
//! its own, since it has its own copy of the standard library.

use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::model::error::{ErrorKind, Location, TaskError};

thread_local! {
    /// How many tasks this thread is inside of.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
    static RECORDED: RefCell<Option<TaskError>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `body`; a panic in it is returned as a task error.
///
/// # Errors
/// `ErrorKind::Panic`.
pub fn catch_task_panic<T>(body: impl FnOnce() -> T) -> Result<T, TaskError> {
    HOOK.call_once(install_hook);
    INSIDE.set(INSIDE.get() + 1);
    // Whatever a task leaves half done is dropped with it: nothing of it is looked at after a panic.
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(INSIDE.get() - 1);
    outcome.map_err(|payload| {
        let recorded = RECORDED.take();
        // `resume_unwind` does not go through the hook.
        recorded.unwrap_or_else(|| TaskError::new(ErrorKind::Panic, message_of(&*payload)))
    })
}

fn install_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // A thread that is shutting down has no thread-locals left.
        if INSIDE.try_with(Cell::get).unwrap_or(0) == 0 {
            previous(info);
            return;
        }
        let error = record(info);
        RECORDED.with_borrow_mut(|recorded| *recorded = Some(error));
    }));
}

fn record(info: &PanicHookInfo<'_>) -> TaskError {
    let mut error = TaskError::new(ErrorKind::Panic, message_of(info.payload()));
    error.location = info.location().map(|at| Location { file: at.file().to_owned(), line: at.line() });
    error.with_backtrace(task_frames(&Backtrace::force_capture().to_string()))
}

fn message_of(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is not text".to_owned()
    }
}

/// The frames between the panic machinery and this module: those of the task.
fn task_frames(backtrace: &str) -> String {
    let mut frames: Vec<Vec<&str>> = Vec::new();
    for line in backtrace.lines() {
        let is_head = line.trim_start().split(':').next().is_some_and(|number| number.parse::<u32>().is_ok());
        match frames.last_mut() {
            Some(frame) if !is_head => frame.push(line),
            _ => frames.push(vec![line]),
        }
    }
    let machinery =
        ["rust_begin_unwind", "core::panicking::", "core::result::unwrap_failed", "core::option::"];
    let from = frames
        .iter()
        .rposition(|frame| machinery.iter().any(|name| frame[0].contains(name)))
        .map_or(0, |index| index + 1);
    let to = frames[from..]
        .iter()
        .position(|frame| {
            frame[0].contains("registry::shim::run_task") || frame[0].contains("catch_task_panic")
        })
        .map_or(frames.len(), |index| from + index);
    let task = if from < to { &frames[from..to] } else { &frames[..] };
    task.concat().join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[inline(never)]
    fn careless_task(divisor: i32) -> i32 {
        assert!(divisor != 0, "divided by {divisor}");
        1 / divisor
    }

    #[test]
    fn a_panic_is_an_error_with_message_position_and_stack() {
        assert_eq!(catch_task_panic(|| careless_task(1)), Ok(1));
        let error = catch_task_panic(|| careless_task(0)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Panic);
        assert_eq!(error.message, "divided by 0");
        assert!(error.location.as_ref().unwrap().file.ends_with("panic.rs"));
        let backtrace = error.backtrace.as_ref().unwrap();
        assert!(backtrace.contains("careless_task"), "{backtrace}");
        assert!(!backtrace.contains("core::panicking"), "{backtrace}");
        assert!(!backtrace.contains("catch_task_panic<"), "{backtrace}");
    }

    #[test]
    fn a_panic_of_a_task_inside_a_task_is_its_own() {
        let outer = catch_task_panic(|| catch_task_panic(|| careless_task(0)).unwrap_err().message.clone());
        assert_eq!(outer, Ok("divided by 0".to_owned()));
        let resumed = catch_task_panic(|| panic::resume_unwind(Box::new("again")));
        assert_eq!(resumed.unwrap_err().message, "again");
    }
}
