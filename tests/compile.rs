//! What the compiler says about a task or a call that is wrong; the texts are in `tests/compile/`.
#![allow(missing_docs)]

#[test]
fn wrong_tasks_and_calls_are_explained() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile/*.rs");
}
