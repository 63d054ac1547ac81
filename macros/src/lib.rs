//! The attribute macros of dcluster.
//!
//! `task` writes a module-like type beside a function (`task.rs`), `main` the entry point of a program that is
//! a cluster (`entry.rs`).

mod entry;
mod parameter;
mod task;

use proc_macro::TokenStream;

/// Makes a function a task: `inc::call(…)` describes a call of `inc` for a client to submit.
///
/// The function stays what it is. Its parameters and result are serde data; a parameter may also be a reference
/// (`&T`, `&str`, `&[T]`), which borrows what the worker holds, or an `Arc<T>` or `Vec<Arc<T>>`, which shares it.
/// A function that returns a `Result` fails with its error.
///
/// Options: `impure` (equal calls are different tasks), `name = "…"` (instead of the function's path),
/// `crate = path` (where dcluster is, if it is renamed).
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::expand(options.into(), item.into()).unwrap_or_else(|error| error.into_compile_error()).into()
}

/// Makes the program a cluster and the function its driver, which runs once, with a client.
///
/// The driver returns nothing, an `ExitCode`, or a `Result` of one of these with an error that can be shown; that
/// becomes the exit code of every rank. Without `async`, the client is a `dcluster::blocking::Client`.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = entry::expand(options.into(), item.into()).unwrap_or_else(|error| {
        let error = error.into_compile_error();
        // With some `main` in place, the compiler does not miss one as well.
        quote::quote!(#error fn main() {})
    });
    expanded.into()
}

/// The version of the compiler, as a string literal.
#[doc(hidden)]
#[proc_macro]
pub fn compiler_version(_input: TokenStream) -> TokenStream {
    let version = env!("DCLUSTER_COMPILER_VERSION");
    quote::quote!(#version).into()
}
