//! Arrays from files and into files: a task per block, which reads or writes its part where it runs.
//!
//! Files are described and created in [`storage`](crate::collections::storage); here are the calls. Blocks are whole
//! chunks of the file and a few tens of MiB, so that a task is worth its while and a worker holds many. A file that
//! changes is another file: its stamp is among the arguments of the tasks that read it.

use std::ops::Range;
use std::path::{self, PathBuf};
use std::sync::Arc;

use super::Array;
use super::graph::grid::Grid;
use super::graph::node::{BlockPlace, Kind, Node};
use super::graph::plan::{Planner, planned};
use crate::client::call::Input;
use crate::client::future::Future;
use crate::client::{Call, Client, Error};
use crate::collections::Lazy;
use crate::collections::storage::{
    ArrayFile, Draft, Stamp, StorageError, StoredArray, WriteOptions, Writers,
};
use crate::model::block::Block;
use crate::model::numbers::{Dtype, Element, NumbersMut};

/// Blocks of files have about this many bytes.
const BLOCK_BYTES: usize = 32 << 20;

impl<T: Element> Array<T> {
    /// An array in a `.npy` file, read by the tasks that need it; see [`from_file`](Self::from_file).
    #[track_caller]
    pub fn from_npy(file: impl Into<PathBuf>) -> Self {
        Self::from_file(&ArrayFile::npy(file), None)
    }

    /// A dataset of an HDF5 file, read by the tasks that need it; see [`from_file`](Self::from_file).
    #[track_caller]
    pub fn from_hdf5(file: impl Into<PathBuf>, dataset: impl Into<String>) -> Self {
        Self::from_file(&ArrayFile::hdf5(file, dataset), None)
    }

    /// A Zarr array, read by the tasks that need it; see [`from_file`](Self::from_file).
    #[track_caller]
    pub fn from_zarr(directory: impl Into<PathBuf>) -> Self {
        Self::from_file(&ArrayFile::zarr(directory), None)
    }

    /// An array in a file, in blocks of this shape, or of whole chunks of the file and about 32 MiB.
    ///
    /// Only the description is read at once, here. The blocks are read by tasks, on the workers, so the file must have
    /// this name there as well: a path without `/` at its start is one below the directory of this program. It must
    /// stay as it is while arrays are made of it. An array that is made after a change reads what is there then; of a Zarr
    /// array each call reads anew what it needs, also if nothing has changed.
    ///
    /// ```
    /// use dcluster::collections::storage::{ArrayFile, WriteOptions};
    /// use dcluster::collections::Array;
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     # let scratch = tempfile::tempdir().unwrap();
    ///     let file = ArrayFile::npy(scratch.path().join("x.npy"));
    ///     let x = Array::<f64>::arange(0.0, 1000.0, 1.0, 100);
    ///     client.compute(&x.to_file(&file, &WriteOptions::default())).await?; // each block where it is
    ///
    ///     let x = Array::<f64>::from_file(&file, Some(&[250]));
    ///     assert_eq!(client.compute(&x.sum()).await?.item(), Some(499_500.0));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn from_file(file: &ArrayFile, chunk: Option<&[usize]>) -> Self {
        Self::try_of(opened(file, T::DTYPE, chunk).map_err(|error| error.to_string()))
    }

    /// The array in a `.npy` file; see [`to_file`](Self::to_file).
    pub fn to_npy(&self, file: impl Into<PathBuf>) -> ToFile<T> {
        self.to_file(&ArrayFile::npy(file), &WriteOptions::default())
    }

    /// The array as the only dataset of an HDF5 file; see [`to_file`](Self::to_file).
    pub fn to_hdf5(&self, file: impl Into<PathBuf>, dataset: impl Into<String>) -> ToFile<T> {
        self.to_file(&ArrayFile::hdf5(file, dataset), &WriteOptions::default())
    }

    /// The array as a Zarr array of version 3; see [`to_file`](Self::to_file).
    pub fn to_zarr(&self, directory: impl Into<PathBuf>) -> ToFile<T> {
        self.to_file(&ArrayFile::zarr(directory), &WriteOptions::default())
    }

    /// The writing of the array into a file: [`Client::compute`] starts it, and its future is there when the file is.
    ///
    /// Each block is written by a task where it is computed, and all at once, except that an HDF5 file with compression
    /// (or with chunks, if its library is older than 1.10.5) has one writer at a time. Until the file is whole it is called `NAME.part-…`, and what had the name
    /// before stays. If a block cannot be written, because the disk is full for instance, the future fails and what
    /// was written is removed; if one cannot be computed, the `NAME.part-…` stays. When a worker dies its blocks are
    /// written again by others, except in an HDF5 file with one writer, which cannot be trusted then: the future fails.
    pub fn to_file(&self, file: &ArrayFile, options: &WriteOptions) -> ToFile<T> {
        ToFile { array: self.clone(), file: absolute(file), options: options.clone() }
    }
}

/// The writing of an array into a file: made by [`Array::to_file`], started by [`Client::compute`]. It gives the bytes
/// that were written.
#[derive(Clone, Debug)]
pub struct ToFile<T: Element> {
    array: Array<T>,
    file: ArrayFile,
    options: WriteOptions,
}

impl<T: Element> Lazy for ToFile<T> {
    type Output = u64;

    fn compute_on<M>(&self, client: &Client) -> Future<u64, M> {
        let node = match self.cut() {
            Ok(node) => node,
            Err(reason) => return client.failed("array", Error::Expression(reason)),
        };
        let mut options = self.options.clone();
        if matches!(self.file, ArrayFile::Zarr { .. }) && options.chunks.is_none() {
            options.chunks = Some(chunk_of(&node.grid));
        }

        let draft = client.submit(create::call(&self.file, T::DTYPE, node.shape.to_vec(), options));
        let submit = |call| client.submit(call).input();
        let blocks = planned(&node, || Planner::new(client, &submit).spread(&node));
        let in_turn = self.file.writers(&self.options) == Writers::One;
        let mut written: Vec<Future<u64>> = Vec::with_capacity(blocks.len());
        for (block, input) in blocks.iter().enumerate() {
            let after = written.last().filter(|_| in_turn);
            let call = write_call(T::DTYPE, &draft, &node.place(block), input, after);
            written.push(client.submit(call.untyped()));
        }
        client.submit_as(finish::call(&draft, &written))
    }

    /// The array persisted, and its writing still to be started.
    fn persist_on(&self, client: &Client) -> Self {
        Self { array: self.array.persist_on(client), ..self.clone() }
    }
}

impl<T: Element> ToFile<T> {
    /// The array as it is cut to be written, or why it cannot be.
    fn cut(&self) -> Result<Arc<Node>, Arc<str>> {
        let node = self.array.node.clone()?;
        self.options.check(&self.file, &node.shape).map_err(|error| error.to_string())?;
        Ok(node.cut(self.grid(&node)?))
    }

    /// How the array is cut to be written: as it is, unless two blocks would share a chunk of the file.
    fn grid(&self, node: &Node) -> Result<Grid, String> {
        let has_chunks = !matches!(self.file, ArrayFile::Npy { .. });
        match &self.options.chunks {
            Some(chunks) if has_chunks => {
                let fits = node.grid.axes().iter().zip(chunks).all(|(bounds, chunk)| {
                    bounds[..bounds.len() - 1].iter().all(|bound| bound.is_multiple_of(*chunk))
                });
                match fits {
                    true => Ok(node.grid.clone()),
                    false => {
                        Grid::regular(&node.shape, &block_shape(&node.shape, Some(chunks), T::DTYPE.size()))
                    }
                }
            }
            None if matches!(self.file, ArrayFile::Zarr { .. }) => {
                // The chunks of a Zarr array are all alike: blocks of the shape of the largest one.
                Grid::regular(&node.shape, &chunk_of(&node.grid))
            }
            _ => Ok(node.grid.clone()),
        }
    }
}

/// Has the tasks linked into a program that does not read files itself, as the stock workers do.
pub(super) fn link_tasks() {
    std::hint::black_box(finish as fn(&Draft, Vec<u64>) -> Result<u64, StorageError>);
}

/// The node whose blocks are read from a file.
fn opened(file: &ArrayFile, dtype: Dtype, chunk: Option<&[usize]>) -> Result<Arc<Node>, String> {
    let file = absolute(file);
    let stored = file.open().map_err(|error| error.to_string())?;
    if stored.dtype() != dtype {
        let (file, there) = (file.path().to_owned(), stored.dtype());
        return Err(StorageError::WrongDtype { file, there, asked: dtype }.to_string());
    }
    let shape = stored.shape();
    let chunk = match (chunk, stored.is_column_major()) {
        (Some(chunk), _) => chunk.to_vec(),
        (None, false) => block_shape(shape, stored.chunks(), dtype.size()),
        (None, true) => reversed(&block_shape(&reversed(shape), None, dtype.size())),
    };
    let grid = Grid::regular(shape, &chunk)?;
    let stamp = stored.stamp().map_err(|error| error.to_string())?;
    let call = move |place: &BlockPlace| read_call(dtype, &file, &stamp, place);
    Ok(Node::new(dtype, grid, Kind::Called(Arc::new(call))))
}

/// The shape of blocks of about [`BLOCK_BYTES`]: whole chunks, the last axes first, because they lie together.
fn block_shape(shape: &[usize], chunks: Option<&[usize]>, element_bytes: usize) -> Vec<usize> {
    let unit = |axis: usize| chunks.map_or(1, |chunks| chunks[axis].max(1));
    let mut block: Vec<usize> = (0..shape.len()).map(|axis| unit(axis).min(shape[axis].max(1))).collect();
    for axis in (0..shape.len()).rev() {
        let others: usize = block.iter().product::<usize>() / block[axis] * element_bytes;
        let length = (BLOCK_BYTES / others.max(1)) / unit(axis) * unit(axis);
        block[axis] = length.max(block[axis]).min(shape[axis].max(1));
        if block[axis] < shape[axis] {
            break;
        }
    }
    block
}

fn reversed(lengths: &[usize]) -> Vec<usize> {
    lengths.iter().rev().copied().collect()
}

/// The largest extent of a chunk along each axis.
fn chunk_of(grid: &Grid) -> Vec<usize> {
    let largest =
        |bounds: &[usize]| bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(1).max(1);
    grid.axes().iter().map(|bounds| largest(bounds)).collect()
}

/// The same file, whatever directory a worker is in.
fn absolute(file: &ArrayFile) -> ArrayFile {
    let path = path::absolute(file.path()).unwrap_or_else(|_| file.path().to_owned());
    match file {
        ArrayFile::Npy { .. } => ArrayFile::npy(path),
        ArrayFile::Hdf5 { dataset, .. } => ArrayFile::hdf5(path, dataset),
        ArrayFile::Zarr { .. } => ArrayFile::zarr(path),
    }
}

/// Makes the draft, on a worker: it is there that the file system must have it.
#[dcluster::task(impure)]
fn create(
    file: ArrayFile,
    dtype: Dtype,
    shape: Vec<usize>,
    options: WriteOptions,
) -> Result<Draft, StorageError> {
    file.create(dtype, &shape, &options)
}

/// Gives the file its name; the bytes of all elements.
#[dcluster::task(impure)]
fn finish(draft: &Draft, written: Vec<u64>) -> Result<u64, StorageError> {
    let (bytes_expected, bytes) = (draft.nbytes(), written.iter().sum());
    if bytes != bytes_expected {
        draft.abandon();
        let file = draft.target().path().to_owned();
        return Err(StorageError::Incomplete { file, bytes_expected, bytes });
    }
    draft.finish().inspect_err(|_| draft.abandon())?;
    Ok(bytes)
}

fn read_part<T: Element>(file: &ArrayFile, place: &BlockPlace) -> Result<Block<T>, String> {
    let stored: StoredArray = file.open().map_err(|error| error.to_string())?;
    let mut numbers = NumbersMut::for_overwrite(place.shape.iter().product());
    stored.read(&ranges(&place.start, &place.shape), &mut numbers).map_err(|error| error.to_string())?;
    Block::new(&place.shape, numbers.freeze())
}

/// The bytes that were written. A part that cannot be written is the end of the draft; those that find it gone say
/// nothing, so that the error is the first one's.
fn write_part<T: Element>(draft: &Draft, place: &BlockPlace, block: &Block<T>) -> Result<u64, StorageError> {
    let written = match block.shape() == place.shape {
        true => draft.write(&ranges(&place.start, &place.shape), block.numbers()),
        false => Err(StorageError::WrongBlock {
            file: draft.target().path().to_owned(),
            expected: place.shape.clone(),
            there: block.shape().to_vec(),
        }),
    };
    if draft.is_abandoned() {
        draft.abandon(); // what was written meanwhile
        return Ok(0);
    }
    written.inspect_err(|error| {
        tracing::warn!(file = %draft.target(), %error, "an array cannot be written: its draft is removed");
        draft.abandon();
    })?;
    Ok(size_of_val::<[T]>(block.numbers()) as u64)
}

fn ranges(start: &[usize], shape: &[usize]) -> Vec<Range<usize>> {
    start.iter().zip(shape).map(|(start, length)| *start..start + length).collect()
}

/// Tasks have no type parameters: a pair for each element type.
macro_rules! tasks {
    ($($module:ident $element:ty, $dtype:ident;)*) => {
        $(
            mod $module {
                use super::*;

                #[dcluster::task]
                pub(super) fn read(
                    file: ArrayFile, _stamp: Stamp, place: BlockPlace,
                ) -> Result<Block<$element>, String> {
                    read_part(&file, &place)
                }

                #[dcluster::task(impure)]
                pub(super) fn write(
                    draft: &Draft, place: BlockPlace, block: &Block<$element>,
                ) -> Result<u64, StorageError> {
                    write_part(draft, &place, block)
                }

                #[dcluster::task(impure)]
                pub(super) fn write_after(
                    draft: &Draft, place: BlockPlace, block: &Block<$element>, _before: u64,
                ) -> Result<u64, StorageError> {
                    write_part(draft, &place, block)
                }
            }
        )*

        fn read_call(dtype: Dtype, file: &ArrayFile, stamp: &Stamp, place: &BlockPlace) -> Call<()> {
            match dtype {
                $(Dtype::$dtype => $module::read::call(file, stamp, place).untyped(),)*
            }
        }

        /// `after`: what must be written before.
        fn write_call(
            dtype: Dtype, draft: &Future<Draft>, place: &BlockPlace, block: &Input, after: Option<&Future<u64>>,
        ) -> Call<()> {
            match dtype {
                $(Dtype::$dtype => {
                    let Some(block) = Future::<Block<$element>>::from_input(block) else {
                        unreachable!("inputs of a plan are futures of its client")
                    };
                    match after {
                        Some(after) => $module::write_after::call(draft, place, &block, after).untyped(),
                        None => $module::write::call(draft, place, &block).untyped(),
                    }
                })*
            }
        }
    };
}

tasks! {
    of_bool bool, Bool;
    of_u8 u8, U8;
    of_i32 i32, I32;
    of_i64 i64, I64;
    of_f32 f32, F32;
    of_f64 f64, F64;
    of_complex num_complex::Complex64, Complex64;
}
