//! Round trips through the packed form, and what hostile bytes do.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::model::buffer::BUFFER_ALIGNMENT_BYTES;
use crate::model::pack::{SOME_PREFIX, pack, pack_flat, pack_within, packed_len};
use crate::model::packed::take_varint;
use crate::model::value::Data;

fn round_trip<T: Data + PartialEq + Debug>(value: &T) {
    let packed = pack(value).unwrap();
    assert_eq!(&unpack::<T>(&packed).unwrap(), value);
    assert_eq!(packed_len(value).unwrap(), packed.len(), "counted length");
    assert_eq!(pack_within(value, packed.len()).unwrap().as_ref(), Some(&packed));
    if let Some(too_small) = packed.len().checked_sub(1) {
        assert_eq!(pack_within(value, too_small).unwrap(), None);
    }
    let mut flat = Vec::new();
    pack_flat(value, &mut flat).unwrap();
    let mut flat = Bytes::from(flat);
    assert_eq!(take_varint(&mut flat), Some(flat.len() as u64));
    assert_eq!(&unpack::<T>(&Packed::decode(flat).unwrap()).unwrap(), value);
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Unit;

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Newtype(u16);

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
enum Shape {
    Empty,
    Circle(f64),
    Line(i32, String),
    Mesh { points: Vec<f64>, faces: Vec<u32> },
    Group(Vec<Shape>),
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Record {
    unit: Unit,
    id: Newtype,
    flag: bool,
    letter: char,
    name: String,
    maybe: Option<Option<()>>,
    wide: (u128, i128),
    shapes: Vec<Shape>,
    by_name: BTreeMap<String, Vec<f32>>,
    #[serde(with = "serde_bytes")]
    blob: Vec<u8>,
    pair: (i8, u64, f32),
    fixed: [i16; 32],
}

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Empty),
        (-1e300..1e300f64).prop_map(Shape::Circle),
        (any::<i32>(), any::<String>()).prop_map(|(x, y)| Shape::Line(x, y)),
        (prop::collection::vec(-1e9..1e9f64, 0..40), prop::collection::vec(any::<u32>(), 0..40))
            .prop_map(|(points, faces)| Shape::Mesh { points, faces }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Shape::Group))
}

prop_compose! {
    fn record()(
        id in any::<u16>(), flag in any::<bool>(), letter in any::<char>(), name in ".{0,2000}",
        maybe in any::<Option<Option<()>>>(), wide in any::<(u128, i128)>(),
        shapes in prop::collection::vec(shape(), 0..4),
        by_name in prop::collection::btree_map(".*", prop::collection::vec(-1e9..1e9f32, 0..40), 0..4),
        blob in any::<Vec<u8>>(), pair in (any::<i8>(), any::<u64>(), -1e9..1e9f32), seed in any::<i16>(),
    ) -> Record {
        Record {
            unit: Unit, id: Newtype(id), flag, letter, name, maybe, wide, shapes, by_name, blob, pair,
            fixed: std::array::from_fn(|index| seed.wrapping_mul(index as i16)),
        }
    }
}

proptest! {
    #[test]
    fn records_round_trip(record in record()) {
        round_trip(&record);
        round_trip(&vec![record.clone(), record]);
    }

    #[test]
    fn integers_of_all_widths_round_trip(
        a in any::<Vec<u8>>(), b in any::<Vec<i16>>(), c in any::<Vec<u32>>(), d in any::<Vec<i64>>(),
        e in any::<Vec<u64>>(), f in any::<Vec<usize>>(), g in any::<Vec<i8>>(), h in any::<Vec<bool>>(),
    ) {
        round_trip(&a);
        round_trip(&(a, b, c, d, e, f, g, h));
    }

    #[test]
    fn damaged_bytes_never_panic(record in record(), flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4)) {
        let packed = pack(&record).unwrap();
        let mut head = packed.head.to_vec();
        for (index, byte) in flips {
            let at = index.index(head.len());
            head[at] = byte;
        }
        let _ = unpack::<Record>(&Packed { head: head.into(), buffers: packed.buffers });
    }

    #[test]
    fn random_bytes_never_panic(head in any::<Vec<u8>>(), buffer in any::<Vec<u8>>()) {
        let packed = Packed { head: head.into(), buffers: vec![buffer.into()] };
        let _ = unpack::<Record>(&packed);
        let _ = unpack::<Shape>(&packed);
        let _ = unpack::<Vec<Vec<f64>>>(&packed);
        let _ = unpack::<Vec<f64>>(&packed);
        let _ = unpack::<HashMap<String, Option<i64>>>(&packed);
        let _ = unpack::<serde_json::Value>(&packed);
        let _ = unpack_list::<i64>(&packed.head, &InputForms::new(&[]));
    }
}

#[test]
fn options_keep_every_level_of_nothing() {
    let levels: [Option<Option<Option<()>>>; 4] = [None, Some(None), Some(Some(None)), Some(Some(Some(())))];
    for level in &levels {
        round_trip(level);
    }
    round_trip(&levels.to_vec());
    round_trip(&vec![(Some(Some(5u8)), Some(None::<u8>), None::<Option<u8>>)]);
}

#[test]
fn sequences_of_numbers_leave_the_head_wherever_they_are() {
    let value =
        (BTreeMap::from([("a".to_owned(), vec![1.0f64; 1000])]), Some(vec![vec![7u16; 500]; 2]), [1i64; 20]);
    let packed = pack(&value).unwrap();
    assert_eq!(packed.buffers.iter().map(Bytes::len).collect::<Vec<_>>(), [8000, 1000, 1000, 160]);
    assert!(packed.head.len() < 100, "{} bytes", packed.head.len());
    for buffer in &packed.buffers {
        assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGNMENT_BYTES, 0);
    }
    round_trip(&value);
}

#[test]
fn sequences_that_are_no_slices_leave_the_head_too() {
    let deque: VecDeque<f64> = (0..100).map(f64::from).collect();
    assert_eq!(pack(&deque).unwrap().buffers.len(), 1);
    round_trip(&deque);
    let set: std::collections::BTreeSet<u32> = (0..100).collect();
    assert_eq!(pack(&set).unwrap().buffers.len(), 1);
    round_trip(&set);
    #[derive(Serialize)]
    struct Unannounced(#[serde(serialize_with = "unannounced")] u32);
    fn unannounced<S: serde::Serializer>(count: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..*count).filter(|number| number % 2 == 0))
    }
    for count in [0, 10, 200] {
        let even: Vec<u32> = (0..count).filter(|number| number % 2 == 0).collect();
        let packed = pack(&Unannounced(count)).unwrap();
        assert_eq!(packed.buffers.len(), usize::from(count == 200));
        assert_eq!(unpack::<Vec<u32>>(&packed).unwrap(), even);
        assert_eq!(packed_len(&Unannounced(count)).unwrap(), packed.len());
    }
}

#[test]
fn a_tuple_of_mixed_types_stays_in_the_head() {
    let tuple = (1u64, 2u64, 3u64, 4u64, 5u64, 6u64, 7u64, 8u64, "nine".to_owned(), -10i8);
    assert!(pack(&tuple).unwrap().buffers.is_empty());
    round_trip(&tuple);
}

#[test]
fn numbers_widen_and_never_lose_precision() {
    let packed = pack(&vec![1i32; 100]).unwrap();
    assert_eq!(unpack::<Vec<i64>>(&packed).unwrap(), [1; 100]);
    assert_eq!(unpack::<Vec<f64>>(&packed).unwrap(), [1.0; 100]);
    assert_eq!(unpack::<Vec<Option<u8>>>(&packed).unwrap(), [Some(1); 100]);
    let negative = pack(&vec![-1i32; 100]).unwrap();
    let error = unpack::<Vec<u8>>(&negative).unwrap_err().to_string();
    assert!(error.contains("invalid value: integer `-1`, expected u8"), "{error}");
    for doubles in [vec![0.1f64; 3], vec![0.1f64; 100]] {
        let error = unpack::<Vec<f32>>(&pack(&doubles).unwrap()).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot unpack a value of type `alloc::vec::Vec<f32>`: an f64 arrived where an f32 is expected"
        );
    }
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(untagged)]
enum Untagged {
    Numbers(Vec<f64>),
    Named(Inner),
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(tag = "kind")]
enum Tagged {
    Square { side: f64 },
    Named(Inner),
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Default)]
struct Inner {
    x: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    list: Vec<Option<u8>>,
    #[serde(skip)]
    cache: u8,
    last: String,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Flattened {
    id: u8,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    rest: BTreeMap<String, i64>,
}

#[test]
fn types_that_ask_what_they_are_given_round_trip() {
    round_trip(&vec![
        Untagged::Numbers(vec![1.0; 50]),
        Untagged::Numbers(vec![1.0]),
        Untagged::Named(Inner { x: Some(1), ..Inner::default() }),
        Untagged::Named(Inner { list: vec![Some(1), None], ..Inner::default() }),
    ]);
    round_trip(&vec![Tagged::Square { side: 2.0 }, Tagged::Named(Inner { x: Some(1), ..Inner::default() })]);
    round_trip(&Flattened {
        id: 1,
        inner: Inner { x: Some(-3), list: vec![Some(1), None], cache: 0, last: "z".into() },
        rest: BTreeMap::from([("more".into(), 5)]),
    });
    round_trip(&vec![Inner { list: vec![None], ..Inner::default() }, Inner::default()]);
    round_trip(&serde_json::json!({"a": [1, 2.5, null, {"b": "c"}], "d": vec![0u8; 100]}));
}

#[test]
fn a_struct_with_other_fields_is_named() {
    #[derive(Serialize)]
    struct Sent(u8, u8, u8);
    #[derive(Deserialize, Debug)]
    #[allow(dead_code)]
    struct Point {
        x: u8,
        y: u8,
    }
    let error = unpack::<Point>(&pack(&Sent(1, 2, 3)).unwrap()).unwrap_err().to_string();
    assert!(error.contains("struct `Point` arrived with 3 fields and has 2 here (x, y)"), "{error}");
    let error = unpack::<Point>(&pack(&(1u8,)).unwrap()).unwrap_err().to_string();
    assert!(error.contains("invalid length 1, expected struct Point with 2 elements"), "{error}");
}

#[test]
fn the_wrong_type_is_named() {
    let error = unpack::<String>(&pack(&vec![1.0f64; 100]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("`alloc::string::String`: invalid type: sequence, expected a string"), "{error}");
    let error = unpack::<Vec<f64>>(&pack(&5u8).unwrap()).unwrap_err().to_string();
    assert!(error.contains("invalid type: an integer, expected a sequence"), "{error}");
    let error = unpack::<f64>(&pack(&"x").unwrap()).unwrap_err().to_string();
    assert!(error.contains("text"), "{error}");
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Link(Option<Box<Link>>);

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Tree {
    children: Vec<Tree>,
}

#[test]
fn deep_nesting_is_refused_and_moderate_nesting_is_not() {
    let tree =
        |depth: u32| (0..depth).fold(Tree { children: Vec::new() }, |tree, _| Tree { children: vec![tree] });
    round_trip(&tree(90));
    assert!(pack(&tree(110)).unwrap_err().to_string().contains("it nests deeper than 200 levels"));
    round_trip(&(0..90).fold(Link(None), |link, _| Link(Some(Box::new(link)))));
    let arrays = Packed { head: vec![0x91; 100_000].into(), buffers: Vec::new() };
    assert!(unpack::<Tree>(&arrays).unwrap_err().to_string().contains("deeper"));
    assert!(unpack::<serde_json::Value>(&arrays).unwrap_err().to_string().contains("deeper"));
    let somes = Packed { head: vec![SOME_PREFIX; 100_000].into(), buffers: Vec::new() };
    assert!(unpack::<Link>(&somes).unwrap_err().to_string().contains("deeper"));
}

#[test]
fn claims_beyond_what_is_there_are_refused() {
    let claim = |head: &[u8]| Packed { head: Bytes::copy_from_slice(head), buffers: Vec::new() };
    let huge_array = claim(&[0xdd, 0xff, 0xff, 0xff, 0xff, 1]);
    assert!(unpack::<Vec<u64>>(&huge_array).unwrap_err().reason.contains("4294967295 items are announced"));
    let huge_text = claim(&[0xdb, 0xff, 0xff, 0xff, 0xff, 1]);
    assert!(unpack::<String>(&huge_text).unwrap_err().reason.contains("end too early"));
    let mut wrong_length = pack(&vec![1.0f64; 100]).unwrap();
    wrong_length.buffers[0].truncate(799);
    let error = unpack::<Vec<f64>>(&wrong_length).unwrap_err().reason;
    assert_eq!(error, "100 elements of type f64 are announced in a buffer of 799 bytes");
    let mut spare = pack(&5u8).unwrap();
    spare.buffers.push(Bytes::from_static(b"x"));
    assert!(unpack::<u8>(&spare).unwrap_err().reason.contains("1 buffers are left over"));
    let twice = pack(&vec![vec![0u8; 100]; 2]).unwrap();
    let mut head = twice.head.to_vec();
    let marker = head.len() - 12;
    head[marker] = 0;
    let error =
        unpack::<Vec<Vec<u8>>>(&Packed { head: head.into(), buffers: twice.buffers }).unwrap_err().reason;
    assert!(error.contains("buffer 0 is named where buffer 1 is due"), "{error}");
}
