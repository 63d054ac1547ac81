//! The tasks of arrays: one function that does what its first argument, a [`Work`], says.
//!
//! Task functions have no type parameters, and arrays have seven element types and any chain of operations. So the
//! types are data too: a [`program`] names them, and [`run`] picks the code. The same function stands in the registry
//! under several names, so that people can tell a matrix product from a sum.

pub(crate) mod best;
pub(crate) mod evaluate;
pub(crate) mod fold;
pub(crate) mod kernels;
pub(crate) mod ops;
pub(crate) mod program;
pub(crate) mod random;
pub(crate) mod run;

use crate::model::{TaskError, Value};
use crate::registry::arguments::ArgumentReader;
use crate::registry::shim::run_task;
use crate::registry::{Arguments, Purity, TaskDefinition, function_id, inventory};

macro_rules! definitions {
    ($($(#[$doc:meta])* $constant:ident $run:ident $name:literal;)*) => {
        $(
            fn $run(arguments: Arguments<'_>) -> Result<Value, TaskError> {
                run_task(&$constant, arguments, body)
            }

            $(#[$doc])*
            pub(crate) const $constant: TaskDefinition = TaskDefinition {
                name: concat!("dcluster::array::", $name),
                signature: SIGNATURE,
                file: file!(),
                line: line!(),
                purity: Purity::Pure,
                run: $run,
                id: function_id(concat!("dcluster::array::", $name, "\0(Work, ...) -> Block")),
            };

            inventory::submit! { $constant }
        )*

        #[cfg(test)]
        const DEFINITIONS: &[TaskDefinition] = &[$($constant),*];
    };
}

const SIGNATURE: &str = "(Work, ...) -> Block";

definitions! {
    /// A block of an expression.
    BLOCK run_block "block";
    /// A block of a reduction, before or after others are put to it.
    REDUCE run_reduce "reduce";
    /// Parts of a reduction put together.
    COMBINE run_combine "combine";
    /// A block of running sums or products.
    ACCUMULATE run_accumulate "accumulate";
    /// A block of a matrix product.
    MULTIPLY run_multiply "multiply";
    /// A whole array in one piece.
    ASSEMBLE run_assemble "assemble";
}

fn body(reader: &mut ArgumentReader<'_>) -> Result<Value, TaskError> {
    run::run(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_of_name_and_signature() {
        for task in DEFINITIONS {
            assert_eq!(task.id, function_id(&format!("{}\0{}", task.name, task.signature)));
        }
    }
}
