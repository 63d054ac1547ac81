//! Gathering: a container of futures becomes the same container of results.
//!
//! [`Gather`] says which containers. All futures are waited for together and large results fetched at the
//! same time; then the container is built again, value by value.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::error::{Error, Result};
use super::fetch;
use super::future::{Future, Reference};
use super::group::Until;
use super::session::Session;
use crate::model::{Data, Packed};
use crate::transport::data::Brought;

/// Large results that are fetched at the same time.
const FETCHES_MAX: usize = 16;

/// What to do about futures without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The first error is the result of all.
    #[default]
    Raise,
    /// Lists and maps leave them out.
    Skip,
}

/// A future, or a container of what can be gathered.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not something to gather",
    note = "a future, a list, tuple, map or option of futures can be gathered, or a reference to one"
)]
pub trait Gather {
    /// The same with results in place of futures.
    type Output;

    /// Names each future, in order.
    #[doc(hidden)]
    fn futures(&self, wanted: &mut Wanted);

    /// Builds the output from what was gathered, in the same order.
    ///
    /// # Errors
    /// That of a future without a result.
    #[doc(hidden)]
    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output>;
}

/// The futures of a container, in order.
#[doc(hidden)]
pub struct Wanted(Vec<Arc<Reference>>);

/// Results on their way into a container.
#[doc(hidden)]
pub struct Gathered {
    results: std::vec::IntoIter<(Arc<Reference>, Result<Brought>)>,
    on_error: OnError,
}

impl Gathered {
    fn next<T: Data>(&mut self) -> Result<T> {
        let (reference, brought) = self.results.next().expect("each future was named before");
        fetch::unpacked(&reference, brought?)
    }

    /// Whether an entry belongs into its container: None if it is to be left out.
    fn kept<T>(&self, entry: Result<T>) -> Result<Option<T>> {
        match (entry, self.on_error) {
            (Ok(value), _) => Ok(Some(value)),
            (Err(_), OnError::Skip) => Ok(None),
            (Err(error), OnError::Raise) => Err(error),
        }
    }
}

/// Waits for all futures in `container` and brings their results here.
pub(super) async fn gather<G: Gather>(
    session: &Arc<Session>,
    container: &G,
    on_error: OnError,
) -> Result<G::Output> {
    let mut wanted = Wanted(Vec::new());
    container.futures(&mut wanted);
    let references = wanted.0;
    if let Some(foreign) = references.iter().find(|reference| !Arc::ptr_eq(reference.session(), session)) {
        return Err(Error::Foreign { key: foreign.key() });
    }
    let until = if on_error == OnError::Raise { Until::Exception } else { Until::All };
    session.wait(references.iter().map(|reference| reference.id()), until, None).met().await?;
    if on_error == OnError::Raise
        && let Some(error) = references.iter().find_map(|reference| reference.known()?.err())
    {
        return Err(error);
    }
    let results = bring(session, references).await.into_iter();
    container.assemble(&mut Gathered { results, on_error })
}

/// The result of one future that is done, to be unpacked.
pub(super) async fn bring_one(reference: &Arc<Reference>) -> Result<Brought> {
    let inline = fetch::inline(&mut reference.session().lock(), reference);
    if let Some(here) = inline {
        return here.map(Brought::Packed);
    }
    let bytes = fetch::far_bytes(&mut reference.session().lock(), reference);
    let bar = reference.session().bar("gather", bytes);
    fetch::bring(reference, &bar.meter()).await
}

/// The result of each future, to be unpacked; those that are not here are fetched, several at a time.
async fn bring(session: &Session, references: Vec<Arc<Reference>>) -> Vec<(Arc<Reference>, Result<Brought>)> {
    let (mut far, mut far_bytes) = (Vec::new(), 0);
    let mut results: Vec<_> = {
        let mut state = session.lock();
        let here = references.iter().enumerate().map(|(index, reference)| {
            fetch::inline(&mut state, reference).map(|here| here.map(Brought::Packed)).unwrap_or_else(|| {
                far.push(index);
                far_bytes += fetch::far_bytes(&mut state, reference);
                Ok(Brought::Packed(Packed::default()))
            })
        });
        here.collect()
    };
    if far.is_empty() {
        return references.into_iter().zip(results).collect();
    }
    let bar = session.bar("gather", far_bytes);
    let meter = bar.meter();
    let mut waiting = far.into_iter();
    let fetch = |index: usize| {
        let (reference, meter) = (references[index].clone(), meter.clone());
        async move { (index, fetch::bring(&reference, &meter).await) }
    };
    let mut fetches: FuturesUnordered<_> = waiting.by_ref().take(FETCHES_MAX).map(fetch).collect();
    while let Some((index, result)) = fetches.next().await {
        results[index] = result;
        fetches.extend(waiting.next().map(fetch));
    }
    drop(fetches);
    references.into_iter().zip(results).collect()
}

impl<T: Data, M> Gather for Future<T, M> {
    type Output = T;

    fn futures(&self, wanted: &mut Wanted) {
        wanted.0.push(self.reference().clone());
    }

    fn assemble(&self, gathered: &mut Gathered) -> Result<T> {
        gathered.next()
    }
}

impl<G: Gather + ?Sized> Gather for &G {
    type Output = G::Output;

    fn futures(&self, wanted: &mut Wanted) {
        (**self).futures(wanted);
    }

    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
        (**self).assemble(gathered)
    }
}

impl<G: Gather> Gather for [G] {
    type Output = Vec<G::Output>;

    fn futures(&self, wanted: &mut Wanted) {
        self.iter().for_each(|entry| entry.futures(wanted));
    }

    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
        let mut values = Vec::with_capacity(self.len());
        for entry in self {
            let value = entry.assemble(gathered);
            values.extend(gathered.kept(value)?);
        }
        Ok(values)
    }
}

impl<G: Gather> Gather for Vec<G> {
    type Output = Vec<G::Output>;

    fn futures(&self, wanted: &mut Wanted) {
        self.as_slice().futures(wanted);
    }

    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
        self.as_slice().assemble(gathered)
    }
}

impl<G: Gather, const N: usize> Gather for [G; N] {
    type Output = [G::Output; N];

    fn futures(&self, wanted: &mut Wanted) {
        self.as_slice().futures(wanted);
    }

    /// An array has as many results as futures: an error is never left out.
    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
        let values = self.iter().map(|entry| entry.assemble(gathered)).collect::<Result<Vec<_>>>()?;
        Ok(values.try_into().ok().expect("as many values as entries"))
    }
}

impl<G: Gather> Gather for Option<G> {
    type Output = Option<G::Output>;

    fn futures(&self, wanted: &mut Wanted) {
        self.iter().for_each(|entry| entry.futures(wanted));
    }

    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
        let Some(entry) = self else { return Ok(None) };
        let value = entry.assemble(gathered);
        gathered.kept(value)
    }
}

impl<K: Clone + Eq + Hash, G: Gather, S: BuildHasher + Default> Gather for HashMap<K, G, S> {
    type Output = HashMap<K, G::Output, S>;

    fn futures(&self, wanted: &mut Wanted) {
        self.values().for_each(|entry| entry.futures(wanted));
    }

    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
        let mut values = HashMap::with_capacity_and_hasher(self.len(), S::default());
        for (key, entry) in self {
            let value = entry.assemble(gathered);
            values.extend(gathered.kept(value)?.map(|value| (key.clone(), value)));
        }
        Ok(values)
    }
}

impl<K: Clone + Ord, G: Gather> Gather for BTreeMap<K, G> {
    type Output = BTreeMap<K, G::Output>;

    fn futures(&self, wanted: &mut Wanted) {
        self.values().for_each(|entry| entry.futures(wanted));
    }

    fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
        let mut values = BTreeMap::new();
        for (key, entry) in self {
            let value = entry.assemble(gathered);
            values.extend(gathered.kept(value)?.map(|value| (key.clone(), value)));
        }
        Ok(values)
    }
}

macro_rules! gather_tuples {
    ($(($($name:ident . $index:tt),+))+) => {
        $(
            impl<$($name: Gather),+> Gather for ($($name,)+) {
                type Output = ($($name::Output,)+);

                fn futures(&self, wanted: &mut Wanted) {
                    $(self.$index.futures(wanted);)+
                }

                /// A tuple has a place for each result: an error is never left out.
                fn assemble(&self, gathered: &mut Gathered) -> Result<Self::Output> {
                    Ok(($(self.$index.assemble(gathered)?,)+))
                }
            }
        )+
    };
}

gather_tuples! {
    (A.0)
    (A.0, B.1)
    (A.0, B.1, C.2)
    (A.0, B.1, C.2, D.3)
    (A.0, B.1, C.2, D.3, E.4)
    (A.0, B.1, C.2, D.3, E.4, F.5)
}
