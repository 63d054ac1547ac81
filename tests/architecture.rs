//! Holds the architecture: imports point down the layer table, crates stay behind their fences, cores stay pure,
//! and every file opens with its purpose and can be read in one sitting.
//!
//! Sources are read as tokens, so comments and strings do not count and macro bodies do. The checker is a function
//! from a path and a text to a list of faults; the tests at the end feed it small bad files.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the top down; a module may import its own row and the rows below. The longest matching name wins.
const LAYERS: &[(&str, &[&str])] = &[
    ("surface", &["main", "cli", "launch", "collections", "prelude"]),
    ("shells", &["scheduler", "worker", "client"]),
    (
        "machine",
        &[
            "transport",
            "worker::engine",
            "worker::executor",
            "worker::spill",
            "worker::store",
            "worker::usage",
            "topology",
            "registry",
            "security",
        ],
    ),
    ("cores", &["scheduler::core", "worker::core"]),
    ("wire", &["wire"]),
    ("model", &["model"]),
];

/// Crates that only the named modules may use.
const FENCES: &[(&str, &[&str])] = &[
    ("hdf5_metno", &["collections::storage::hdf5"]),
    ("hdf5_metno_sys", &["collections::storage::hdf5"]),
    ("hwloc2", &["topology"]),
    ("mpi", &["launch", "transport::mpi"]),
    ("zarrs", &["collections::storage::zarr"]),
];

/// What a core may not touch outside its tests: it gets time as a `Tick`, randomness as a seed, and does IO by
/// returning actions.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::hash::RandomState",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
    "fastrand",
    "getrandom",
    "libc",
    "nix",
    "rand",
    "tokio",
];

/// Clippy sees types, so it holds what tokens cannot: the lists of `clippy.toml` and no loop over a hash map.
const CORE_LINTS: &[&str] = &["disallowed_methods", "disallowed_types", "iter_over_hash_type"];

const LINES_MAX: usize = 600;

#[test]
fn imports_point_down_and_cores_stay_pure() {
    let src = root().join("src");
    let mut faults = Vec::new();
    for file in rust_files(&src) {
        let text = read(&file);
        let relative = file.strip_prefix(&src).expect("listed below src");
        faults.extend(check_modules(relative, &text));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_file_states_its_purpose_and_is_readable_in_one_sitting() {
    let mut faults = Vec::new();
    for folder in ["src", "macros/src", "tests", "examples", "benches"] {
        // (Programs that must not compile are a test's input: their names say why.)
        let inputs = root().join("tests/compile");
        for file in rust_files(&root().join(folder)).into_iter().filter(|file| !file.starts_with(&inputs)) {
            let relative = file.strip_prefix(root()).expect("listed below the root").to_owned();
            faults.extend(check_shape(&relative, &read(&file)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Faults of one file of `src` (`relative` to it): layers, fences, purity of cores.
fn check_modules(relative: &Path, text: &str) -> Vec<String> {
    let module = module_of(relative);
    if module.is_empty() {
        return Vec::new(); // lib.rs ties all layers together
    }
    let place = |line: usize| format!("src/{}:{line}", relative.display());
    let Ok(tokens) = text.parse::<TokenStream>() else {
        return vec![format!("{}: is not Rust", place(1))];
    };
    let Some(own) = layer_of(&module) else {
        return vec![format!("{}: module {} has no row in LAYERS", place(1), module.join("::"))];
    };

    let mut paths = Vec::new();
    collect_paths(tokens, &module, is_test_file(&module), &mut paths);
    let mut faults = Vec::new();
    for path in &paths {
        let name = path.segments.join("::");
        if let Some(fault) = layer_fault(own, path).or_else(|| fence_fault(&module, path)) {
            faults.push(format!("{}: {name}: {fault}", place(path.line)));
        }
        if is_core(own) && !path.in_test && IMPURE.iter().any(|impure| starts_with(&path.segments, impure)) {
            faults.push(format!(
                "{}: {name}: a core has no IO, clock, threads or randomness",
                place(path.line)
            ));
        }
    }
    if is_core(own)
        && module.len() == 2
        && !CORE_LINTS.iter().all(|lint| text.contains(&format!("clippy::{lint}")))
    {
        faults.push(format!(
            "{}: a core switches its lints on: #![warn(clippy::{})]",
            place(1),
            CORE_LINTS.join(", clippy::")
        ));
    }
    faults
}

/// Faults that any source file can have: no purpose, too long.
fn check_shape(relative: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let purpose = text.lines().next().and_then(|line| line.strip_prefix("//!")).unwrap_or("");
    if purpose.split_whitespace().count() < 2 {
        faults.push(format!("{}: the first line is not `//!` and the file's purpose", relative.display()));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!(
            "{}: {lines} lines, at most {LINES_MAX}: move a type with its functions and tests to a file of its own",
            relative.display()
        ));
    }
    faults
}

/// A path as written, `crate`, `self` and `super` made absolute (`crate::…`).
struct NamedPath {
    segments: Vec<String>,
    line: usize,
    in_test: bool,
}

fn layer_fault(own: usize, path: &NamedPath) -> Option<String> {
    let [first, rest @ ..] = &path.segments[..] else { return None };
    if first != "crate" || rest.is_empty() {
        return None;
    }
    let Some(other) = layer_of(rest) else {
        return Some("is no module of LAYERS: name the module that defines it".into());
    };
    (other < own).then(|| format!("{} may not import {}: imports point down", LAYERS[own].0, LAYERS[other].0))
}

fn fence_fault(module: &[String], path: &NamedPath) -> Option<String> {
    // A word alone may be a field of that name; a crate is of no use without a path into it.
    let crate_name = path.segments.first().filter(|_| path.segments.len() > 1)?;
    let (name, allowed) = FENCES.iter().find(|(name, _)| crate_name == name)?;
    let inside = allowed.iter().any(|fenced| starts_with(module, fenced));
    (!inside).then(|| format!("{name} is used only in {}", allowed.join(" and ")))
}

/// The row of a module; rows are numbered from the top.
fn layer_of(module: &[String]) -> Option<usize> {
    LAYERS
        .iter()
        .enumerate()
        .flat_map(|(row, (_, names))| names.iter().map(move |name| (row, *name)))
        .filter(|(_, name)| starts_with(module, name))
        .max_by_key(|(_, name)| name.len())
        .map(|(row, _)| row)
}

fn is_core(row: usize) -> bool {
    LAYERS[row].0 == "cores"
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut segments = path.iter();
    prefix.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
}

/// `scheduler/core/mod.rs` and `scheduler/core.rs` are both `scheduler::core`; `lib.rs` is the empty path.
fn module_of(relative: &Path) -> Vec<String> {
    let stem = relative.with_extension("");
    let mut module: Vec<String> = stem.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || (last == "lib" && module.len() == 1)) {
        module.pop();
    }
    module
}

/// `core/tests.rs` and what is below `core/tests/`: modules behind `#[cfg(test)] mod tests;`.
fn is_test_file(module: &[String]) -> bool {
    module.iter().any(|part| part == "tests")
}

/// All paths in `tokens`, which stand in `module`.
fn collect_paths(tokens: TokenStream, module: &[String], in_test: bool, found: &mut Vec<NamedPath>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut inline_module: Option<String> = None;
    let mut cfg_test = false;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word)
                if word == "mod" && matches!(tokens.get(at + 1), Some(TokenTree::Ident(_))) =>
            {
                inline_module = tokens.get(at + 1).map(ToString::to_string);
                at += 2;
                continue;
            }
            TokenTree::Ident(_) => {
                let mut paths = Vec::new();
                at = read_path(&tokens, at, &mut Vec::new(), &mut paths);
                let is_macro =
                    matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                found.extend(
                    paths
                        .into_iter()
                        .filter(|(path, _)| !(is_macro && path.len() == 2)) // crate::a_macro!(…)
                        .map(|(path, line)| NamedPath { segments: absolute(path, module), line, in_test }),
                );
                continue;
            }
            TokenTree::Group(group) => {
                let inside: Vec<String> = module.iter().cloned().chain(inline_module.take()).collect();
                let text = group.stream().to_string();
                if group.delimiter() == Delimiter::Bracket && text.starts_with("cfg") {
                    cfg_test |=
                        text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "test");
                } else if !text.starts_with("in ") {
                    // (`pub(in path)` is no import)
                    collect_paths(group.stream(), &inside, in_test || cfg_test, found);
                    cfg_test &= group.delimiter() != Delimiter::Brace;
                }
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => {
                cfg_test = false;
                inline_module = None;
            }
            _ => {}
        }
        at += 1;
    }
}

/// Reads the path or use tree at `at` and returns the index behind it. `prefix` holds the segments so far.
fn read_path(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &mut Vec<String>,
    out: &mut Vec<(Vec<String>, usize)>,
) -> usize {
    let line = tokens[at].span().start().line;
    loop {
        match &tokens[at] {
            TokenTree::Group(tree) if tree.delimiter() == Delimiter::Brace => {
                let branches: Vec<TokenTree> = tree.stream().into_iter().collect();
                for branch in
                    branches.split(|token| token.to_string() == ",").filter(|branch| !branch.is_empty())
                {
                    read_path(branch, 0, &mut prefix.clone(), out);
                }
                return at + 1;
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => prefix.push(tokens[at].to_string()),
            _ => break,
        }
        let colons = |index: usize| tokens.get(index).is_some_and(|token| token.to_string() == ":");
        let goes_on = colons(at + 1) && colons(at + 2) && at + 3 < tokens.len();
        at += 1;
        if !goes_on || tokens[at + 2].to_string() == "<" {
            break;
        }
        at += 2;
    }
    out.push((prefix.clone(), line));
    at
}

fn absolute(path: Vec<String>, module: &[String]) -> Vec<String> {
    let supers = path.iter().take_while(|segment| *segment == "super" || *segment == "self").count();
    if supers == 0 || path.len() == supers {
        return path;
    }
    let up = path[..supers].iter().filter(|segment| *segment == "super").count();
    let kept = &module[..module.len().saturating_sub(up)];
    std::iter::once("crate".to_owned())
        .chain(kept.iter().cloned())
        .chain(path[supers..].iter().cloned())
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All `.rs` files below `folder`, sorted; none where it does not exist.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

mod the_checker {
    use super::*;

    #[track_caller]
    fn faults(file: &str, text: &str, expected: &[&str]) {
        let found = check_modules(Path::new(file), text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (fault, part) in found.iter().zip(expected) {
            assert!(fault.contains(part), "{fault}");
        }
    }

    #[test]
    fn accepts_imports_of_the_same_row_and_below() {
        faults(
            "worker/io.rs",
            "use crate::{model::TaskId, wire::Frame, worker::{core::WorkerCore, store}};",
            &[],
        );
        faults(
            "transport/tcp.rs",
            "use super::Lane; use crate::security::Identity; use std::net::TcpStream;",
            &[],
        );
        faults("lib.rs", "pub use crate::client::Client;", &[]);
    }

    #[test]
    fn rejects_an_import_that_points_up() {
        faults(
            "model/task.rs",
            "use crate::wire::Frame;",
            &["src/model/task.rs:1: crate::wire::Frame: model"],
        );
        faults("wire.rs", "fn f(c: &crate::client::Client) {}", &["wire may not import shells"]);
        faults(
            "worker/store.rs",
            "\nuse crate::{model::Key, cli::{status, top}};",
            &["cli::status", "cli::top"],
        );
        faults(
            "scheduler/core/place.rs",
            "use super::super::io::Peer;\nuse super::graph::Graph;",
            &["io::Peer"],
        );
        faults("registry.rs", "macro_rules! m { () => { $crate::launch::start() } }", &["launch::start"]);
    }

    #[test]
    fn counts_inline_modules_for_super() {
        faults("topology/mod.rs", "mod tests { use super::*; use super::share::split; }", &[]);
        faults("topology/mod.rs", "mod tests { use super::super::cli::Args; }", &["crate::cli::Args"]);
    }

    #[test]
    fn rejects_names_that_hide_their_layer() {
        faults("client/mod.rs", "use crate::Error;", &["name the module that defines it"]);
        faults("client/mod.rs", "crate::trace_frame!(1);", &[]);
        faults("utils.rs", "", &["has no row in LAYERS"]);
    }

    #[test]
    fn keeps_crates_behind_their_fences() {
        faults("launch.rs", "use mpi::traits::*;", &[]);
        faults("transport/mpi.rs", "use mpi::ffi;", &[]);
        faults("topology/hwloc.rs", "use hwloc2::Topology;", &[]);
        faults("worker/io.rs", "use mpi::traits::*;", &["mpi is used only in launch and transport::mpi"]);
        faults("wire/worker.rs", "struct Received { mpi: u64 }", &[]);
        faults("cli/topo.rs", "fn f() { hwloc2::Topology::new(); }", &["hwloc2 is used only in topology"]);
    }

    #[test]
    fn rejects_impure_cores_but_not_their_tests() {
        faults(
            "scheduler/core/place.rs",
            "use std::{collections::BTreeMap, time::Instant};",
            &["std::time::Instant"],
        );
        faults(
            "worker/core/x.rs",
            "fn f() { tokio::spawn(g()); rand::random() }",
            &["tokio::spawn", "rand::random"],
        );
        faults("worker/core/x.rs", "#[cfg(test)] mod tests { use std::time::Instant; }", &[]);
        faults("worker/core/x.rs", "#[cfg(test)] mod tests { } use std::net::TcpStream;", &["std::net"]);
        faults("worker/core/tests.rs", "use std::time::Instant;", &[]);
        faults("worker/io.rs", "use std::time::Instant;", &[]);
        faults("worker/core/x.rs", "// std::time::Instant\nconst A: &str = \"tokio::spawn\";", &[]);
    }

    #[test]
    fn wants_the_lints_of_a_core_switched_on() {
        faults("scheduler/core/mod.rs", "", &["switches its lints on"]);
        let lints =
            "#![warn(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]";
        faults("scheduler/core/mod.rs", lints, &[]);
        faults("worker/core.rs", lints, &[]);
    }

    #[test]
    fn rejects_files_without_purpose_or_end() {
        let shape = |text: &str| check_shape(Path::new("src/x.rs"), text).len();
        assert_eq!(shape("//! Keeps the books.\n"), 0);
        assert_eq!(shape("//! Books.\n"), 1);
        assert_eq!(shape("use std::fmt;\n//! Keeps the books.\n"), 1);
        assert_eq!(shape(""), 1);
        assert_eq!(shape(&("//! Keeps the books.\n".to_owned() + &"\n".repeat(LINES_MAX))), 1);
    }
}
