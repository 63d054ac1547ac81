//! Names of workers, placements and arrangements of every kind.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::client::Arrangement;
use crate::model::{Copies, Others, Placement, WorkerId, WorkerName};

pub(super) fn worker_name() -> impl Strategy<Value = WorkerName> {
    prop_oneof![
        any::<u32>().prop_map(|id| WorkerName::Id(WorkerId(id))),
        any::<u32>().prop_map(WorkerName::Rank),
        ".{0,9}".prop_map(WorkerName::Host),
    ]
}

pub(super) fn placement() -> impl Strategy<Value = Arc<Placement>> {
    let others = prop::sample::select(vec![Others::Refused, Others::Allowed]);
    let placement = prop_oneof![
        (vec(worker_name(), 0..3), others).prop_map(|(workers, others)| Placement::On { workers, others }),
        any::<(u32, u32)>().prop_map(|(index, of)| Placement::Share { index, of }),
    ];
    placement.prop_map(Arc::new)
}

pub(super) fn arrangement() -> impl Strategy<Value = Arrangement> {
    prop_oneof![
        any::<u32>().prop_map(|number| Arrangement::Copies(Copies::Number(number))),
        vec(worker_name(), 0..3).prop_map(|names| Arrangement::Copies(Copies::On(names))),
        Just(Arrangement::Copies(Copies::Everywhere)),
        Just(Arrangement::Even),
    ]
}
