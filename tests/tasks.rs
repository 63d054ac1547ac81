//! Tasks as a user writes and calls them, run as a worker runs them, without a cluster between.
// Calls take references and temporaries on purpose.
#![allow(clippy::unwrap_used, clippy::needless_borrows_for_generic_args, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::Arc;

use dcluster::Future;
use dcluster::client::argument::{ArgumentList, IntoArgument, nested};
use dcluster::client::call::{Call, Input};
use dcluster::model::pack::pack;
use dcluster::model::{Data, ErrorKind, FutureId, Key, Packed, Resident, TaskError, Value};
use dcluster::registry::{Arguments, Purity, Registry};
use serde::{Deserialize, Serialize};

/// A future of a value that is there already.
struct Ready<T>(Input, PhantomData<T>);

impl<T> Serialize for Ready<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T> IntoArgument<T> for Ready<T> {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_input(self.0);
    }
}

impl<T> IntoArgument<T> for &Ready<T> {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_input(self.0.clone());
    }
}

/// The values of such futures.
#[derive(Default)]
struct Results(Vec<Arc<Resident>>);

impl Results {
    fn live<T: Data>(&mut self, value: T) -> Ready<T> {
        self.add(Resident::live(Value::new(value), 0))
    }

    fn packed<T: Data>(&mut self, value: T) -> Ready<T> {
        self.add(Resident::packed_form(pack(&value).unwrap()))
    }

    fn add<T>(&mut self, resident: Resident) -> Ready<T> {
        let id = self.0.len() as u32;
        self.0.push(Arc::new(resident));
        Ready(
            Input { future: FutureId(id), key: Key(1000 + u128::from(id)), hold: Arc::new(()) },
            PhantomData,
        )
    }

    fn run<T: Data>(&self, call: Call<T>) -> Result<T, TaskError> {
        let parts = call.into_parts().unwrap();
        let inputs: Vec<_> =
            parts.inputs.iter().map(|input| self.0[input.future.0 as usize].clone()).collect();
        let task = Registry::load().unwrap().find(parts.function).unwrap();
        let value = (task.run)(Arguments { bytes: &parts.arguments, inputs: &inputs })?;
        Ok(Arc::into_inner(value.downcast::<T>().unwrap())
            .unwrap_or_else(|| dcluster::model::unpack::unpack(&value.pack().unwrap()).unwrap()))
    }
}

#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

#[dcluster::task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[dcluster::task]
fn total(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[dcluster::task]
fn total_of_slice(numbers: &[i64]) -> i64 {
    numbers.iter().sum()
}

#[dcluster::task]
fn shout(text: &str, times: u8) -> String {
    text.to_uppercase().repeat(times.into())
}

#[test]
fn values_references_and_futures_are_arguments() {
    let mut results = Results::default();
    let (live, packed) = (results.live(10i64), results.packed(20i64));
    assert_eq!(inc(1), 2);
    assert_eq!(results.run(inc::call(10)), Ok(11));
    assert_eq!(results.run(inc::call(&10)), Ok(11));
    assert_eq!(results.run(add::call(&live, packed)), Ok(30));
    assert_eq!(results.run(add::call(1, &live)), Ok(11));
    assert_eq!(results.run(shout::call("ha", 2)), Ok("HAHA".to_owned()));
    let text = results.live("hi".to_owned());
    assert_eq!(results.run(shout::call(&text, 1)), Ok("HI".to_owned()));
    assert_eq!(results.run(shout::call(String::from("hi"), 1)), Ok("HI".to_owned()));
}

/// Only the compiler reads this: containers of futures are arguments as they are.
#[allow(dead_code)]
fn containers_of_futures_are_arguments(list: Vec<Future<i64>>, weights: BTreeMap<String, Future<f64>>) {
    let _ = total::call(&list);
    let _ = total::call(&list[1..]);
    let _ = total::call([&list[0], &list[1]]);
    let _ = total::call(list.iter().collect::<Vec<_>>());
    let _ = total_of_slice::call(&list);
    let _ = add::call(&list[0], 2);
    let _ = weigh::call(&weights, (1, "n".to_owned()), Some(&list[0]));
    let _ = weigh::call(weights, nested((1, &list[1])), None::<i64>);
    let _ = total::call(list);
}

#[test]
fn lists_take_futures_beside_values() {
    let mut results = Results::default();
    let futures = vec![results.live(1i64), results.packed(2), results.live(3)];
    assert_eq!(results.run(total::call(nested(&futures))), Ok(6));
    assert_eq!(results.run(total::call(nested(&futures[1..]))), Ok(5));
    assert_eq!(results.run(total::call(nested([&futures[0], &futures[1]]))), Ok(3));
    assert_eq!(results.run(total::call(nested(futures.iter().collect::<Vec<_>>()))), Ok(6));
    assert_eq!(results.run(total_of_slice::call(nested(&futures))), Ok(6));
    assert_eq!(results.run(total::call(vec![1, 2, 3])), Ok(6));
    assert_eq!(results.run(total::call([1, 2, 3])), Ok(6));
    assert_eq!(results.run(total_of_slice::call(&[1, 2][..])), Ok(3));
    assert_eq!(results.run(total_of_slice::call(vec![7; 1000])), Ok(7000));
    let list = results.live(vec![4i64, 5]);
    assert_eq!(results.run(total_of_slice::call(&list)), Ok(9));
    assert_eq!(results.run(total::call(list)), Ok(9));
    assert_eq!(results.run(total::call(nested((&futures[0], 10)))), Ok(11));
    assert_eq!(results.run(total::call(nested(futures))), Ok(6));
}

#[dcluster::task]
fn place(numbers: &[f64]) -> usize {
    numbers.as_ptr() as usize
}

#[test]
fn a_slice_of_packed_numbers_is_borrowed_where_they_lie() {
    let packed = pack(&vec![1.5f64; 1000]).unwrap();
    let mut results = Results::default();
    let numbers: Ready<Vec<f64>> = results.add(Resident::packed_form(packed.clone()));
    for _ in 0..2 {
        assert_eq!(results.run(place::call(&numbers)), Ok(packed.buffers[0].as_ptr() as usize));
    }
    let live = Arc::new(vec![1.5f64; 1000]);
    let held = results.add(Resident::live(Value::share(live.clone()), 8000));
    assert_eq!(results.run(place::call(&held)), Ok(live.as_ptr() as usize));
    // Numbers of another type are converted, as ever.
    let whole: Ready<Vec<i64>> = results.add(Resident::packed_form(pack(&vec![2i32; 1000]).unwrap()));
    assert_eq!(results.run(total_of_slice::call(&whole)), Ok(2000));
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Field {
    data: Vec<f64>,
}

#[dcluster::task]
fn address(field: &Field) -> usize {
    std::ptr::from_ref(field).addr()
}

#[dcluster::task]
fn addresses(fields: Vec<Arc<Field>>) -> Vec<usize> {
    fields.iter().map(|field| Arc::as_ptr(field).addr()).collect()
}

#[dcluster::task]
fn address_shared(field: Arc<Field>) -> usize {
    Arc::as_ptr(&field).addr()
}

#[dcluster::task]
fn doubled(mut field: Field) -> Field {
    field.data.iter_mut().for_each(|value| *value *= 2.0);
    field
}

#[test]
fn references_borrow_the_resident_value_and_owned_parameters_do_not_change_it() {
    let mut results = Results::default();
    let first = results.live(Field { data: vec![1.0; 100] });
    let second = results.packed(Field { data: vec![2.0; 100] });
    let of = |index: usize| Arc::as_ptr(&results.0[index].view::<Field>().unwrap()).addr();
    assert_eq!(results.run(address::call(&first)), Ok(of(0)));
    assert_eq!(results.run(address_shared::call(&second)), Ok(of(1)));
    assert_eq!(results.run(addresses::call(nested(vec![&first, &second]))), Ok(vec![of(0), of(1)]));
    assert_eq!(results.run(doubled::call(&first)), Ok(Field { data: vec![2.0; 100] }));
    assert_eq!(results.0[0].view::<Field>().unwrap().data, [1.0; 100]);
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Plan {
    weights: HashMap<String, f64>,
    best: Option<i64>,
    pair: (i64, Vec<f64>),
}

#[dcluster::task]
fn adopt(plan: Plan) -> Plan {
    plan
}

#[dcluster::task]
fn weigh(weights: BTreeMap<String, f64>, pair: (i64, String), best: Option<i64>) -> String {
    format!("{weights:?} {pair:?} {best:?}")
}

#[test]
fn futures_in_any_place_of_a_value_arrive_resolved() {
    #[derive(Serialize)]
    struct Draft<'f> {
        weights: HashMap<String, &'f Ready<f64>>,
        best: Option<&'f Ready<i64>>,
        pair: (i64, &'f Ready<Vec<f64>>),
    }
    let mut results = Results::default();
    let (weight, best, list) = (results.live(0.5), results.packed(9i64), results.live(vec![1.0; 50]));
    let draft =
        Draft { weights: HashMap::from([("a".to_owned(), &weight)]), best: Some(&best), pair: (3, &list) };
    let plan =
        Plan { weights: HashMap::from([("a".to_owned(), 0.5)]), best: Some(9), pair: (3, vec![1.0; 50]) };
    assert_eq!(results.run(adopt::call(nested(&draft))), Ok(plan.clone()));
    assert_eq!(results.run(adopt::call(&plan)), Ok(plan));
    let name = results.live("n".to_owned());
    let weights = BTreeMap::from([("w".to_owned(), weight)]);
    assert_eq!(
        results.run(weigh::call(nested(weights), nested((1, &name)), nested(Some(best)))),
        Ok(r#"{"w": 0.5} (1, "n") Some(9)"#.to_owned())
    );
}

#[test]
fn a_future_is_refused_outside_of_arguments() {
    let future = Results::default().live(1i64);
    let error = serde_json::to_string(&future).unwrap_err().to_string();
    assert!(error.contains("as a task's argument only"), "{error}");
}

#[test]
fn an_argument_that_cannot_be_packed_is_an_error_of_the_call() {
    struct Unpackable;
    impl Serialize for Unpackable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no form for this"))
        }
    }
    let error = inc::call(nested(Unpackable)).into_parts().unwrap_err().to_string();
    assert!(error.contains("Unpackable`: no form for this"), "{error}");
}

#[dcluster::task]
fn parse(text: &str) -> Result<i64, std::num::ParseIntError> {
    text.parse()
}

#[dcluster::task]
fn load(path: &str) -> anyhow::Result<String> {
    use anyhow::Context;
    std::fs::read_to_string(path).with_context(|| format!("cannot load {path}"))
}

struct Shown;

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("shown only")
    }
}

#[dcluster::task]
fn refuse(kind: u8) -> Result<(), Shown> {
    if kind == 0 { Ok(()) } else { Err(Shown) }
}

#[dcluster::task]
fn overflow(index: usize) -> i32 {
    [1, 2, 3][index]
}

#[test]
fn returned_errors_keep_their_causes_and_name_the_task() {
    let results = Results::default();
    assert_eq!(results.run(parse::call("12")), Ok(12));
    let error = results.run(load::call("/nowhere/wind.csv")).unwrap_err();
    assert_eq!(error.message, "cannot load /nowhere/wind.csv");
    assert_eq!(error.causes, ["No such file or directory (os error 2)"]);
    assert_eq!(error.task.as_deref(), Some("tasks::load"));
    let location = error.location.as_ref().unwrap();
    assert!(location.file.ends_with("tests/tasks.rs") && location.line > 100, "{location:?}");
    assert_eq!(results.run(refuse::call(1)).unwrap_err().message, "shown only");
    assert_eq!(results.run(refuse::call(0)), Ok(()));
}

#[test]
fn a_panic_is_an_error_with_its_position_and_stack() {
    let error = Results::default().run(overflow::call(7)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Panic);
    assert_eq!(error.message, "index out of bounds: the len is 3 but the index is 7");
    assert!(error.location.as_ref().unwrap().file.ends_with("tests/tasks.rs"));
    let backtrace = error.backtrace.as_ref().unwrap();
    assert!(backtrace.contains("tasks::overflow"), "{backtrace}");
    assert!(!backtrace.contains("run_task"), "{backtrace}");
}

#[test]
fn an_argument_of_another_type_names_parameter_and_types() {
    let mut results = Results::default();
    let text = results.live("ten".to_owned());
    let error = results.run(inc::call(nested(&text))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ArgumentType);
    assert!(error.message.contains("argument `x` does not fit"), "{error}");
    assert!(error.message.contains("expected i64"), "{error}");
    let forged: Ready<i64> = Ready(text.0.clone(), PhantomData);
    let error = results.run(inc::call(&forged)).unwrap_err();
    assert!(error.message.contains("`alloc::string::String` does not serve as `i64`"), "{error}");
}

#[test]
fn hostile_argument_bytes_are_an_error() {
    let task = Registry::load().unwrap().find(add::DEFINITION.id).unwrap();
    let good = add::call(1, 2).into_parts().unwrap().arguments;
    for length in 0..good.len() {
        let outcome = (task.run)(Arguments { bytes: &good[..length], inputs: &[] });
        assert_eq!(outcome.map(|_| ()).unwrap_err().kind, ErrorKind::ArgumentType);
    }
    for byte in 0..=255 {
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let _ = (task.run)(Arguments { bytes: &bytes, inputs: &[] });
        }
    }
    let longer = [&good[..], &[0]].concat();
    let error = (task.run)(Arguments { bytes: &longer, inputs: &[] }).map(|_| ()).unwrap_err();
    assert!(error.message.contains("more arguments"), "{error}");
}

#[dcluster::task(impure)]
fn now() -> u64 {
    0
}

#[dcluster::task(name = "renamed", crate = ::dcluster)]
fn nothing(reader: i64, arguments: i64) -> i64 {
    reader - arguments
}

#[dcluster::task]
fn run(run: i64) -> i64 {
    run
}

#[test]
fn equal_pure_calls_have_equal_keys() {
    let mut results = Results::default();
    let (a, b) = (results.live(1i64), results.live(2i64));
    let key = |call: Call<i64>| call.into_parts().unwrap().key;
    assert_eq!(key(add::call(1, 2)), key(add::call(&1, 2)));
    assert_ne!(key(add::call(1, 2)), key(add::call(2, 1)));
    assert_eq!(key(add::call(&a, &b)), key(add::call(&a, &b)));
    assert_ne!(key(add::call(&a, &b)), key(add::call(&b, &a)));
    assert_ne!(key(add::call(&a, 1)), key(add::call(&b, 1)));
    assert_ne!(key(add::call(&a, &a)), key(add::call(&a, &b)));
    assert_ne!(key(inc::call(1)), key(run::call(1)));
    assert_eq!(key(inc::call(1).key("one")), key(inc::call(2).key("one")));
    assert_eq!(key(inc::call(1).impure()), None);
    assert_eq!(now::call().into_parts().unwrap().key, None);
    assert!(now::call().pure().into_parts().unwrap().key.is_some());
}

#[test]
fn options_and_names_are_what_was_written() {
    let parts = inc::call(1).key("first").retries(2).priority(-1).into_parts().unwrap();
    assert_eq!(parts.options.key.as_deref(), Some("first"));
    assert_eq!((parts.options.retries, parts.options.priority), (2, -1));
    assert_eq!((add::DEFINITION.name, add::DEFINITION.signature), ("tasks::add", "(i64, i64) -> i64"));
    assert_eq!(weigh::DEFINITION.signature, "(BTreeMap<String, f64>, (i64, String), Option<i64>) -> String");
    assert_eq!(addresses::DEFINITION.signature, "(Vec<Field>) -> Vec<usize>");
    assert_eq!(nothing::DEFINITION.name, "renamed");
    assert_eq!(now::DEFINITION.purity, Purity::Impure);
    let results = Results::default();
    assert_eq!(results.run(nothing::call(5, 3)), Ok(2));
    assert_eq!(results.run(run::call(5)), Ok(5));
}

#[test]
fn a_task_can_be_defined_inside_a_function() {
    #[dcluster::task]
    fn local(x: i64) -> i64 {
        x * 3
    }
    assert_eq!(Results::default().run(local::call(2)), Ok(6));
}

#[test]
fn a_call_of_small_numbers_takes_few_bytes() {
    assert_eq!(add::call(1, 2).into_parts().unwrap().arguments.len(), 8);
}

#[test]
fn small_results_are_packed_within_a_limit() {
    assert_eq!(
        Value::new(5i64).pack_within(100).unwrap(),
        Some(Packed { head: vec![5].into(), buffers: vec![] })
    );
    assert_eq!(Value::new(vec![0u8; 101]).pack_within(100).unwrap(), None);
}
