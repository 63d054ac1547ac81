//! A spilled value in a file: a header, the packed form, and a checksum of both.
//!
//! ```text
//! magic (8) │ version (4) │ parts (4) │ bytes of each part (8 × parts) │ head, buffers… │ xxh3 of all before (16)
//! ```
//!
//! All numbers are little-endian. The file is scratch of one process: it is not flushed to the medium, and a copy that
//! does not pass is treated as lost. One that cannot be read for lack of something else is not.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use thiserror::Error;
use tracing::debug;
use xxhash_rust::xxh3::Xxh3;

use super::Order;
use crate::model::Packed;
use crate::model::buffer::AlignedBuffer;
use crate::model::error::with_causes;
use crate::model::resident::Spilled;

const MAGIC: &[u8; 8] = b"dcspill\0";
const VERSION: u32 = 1;
/// Magic, version and number of parts.
const PREFIX_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 16;
/// Between attempts to read a file.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(320),
    Duration::from_millis(1280),
];

/// A file that has a value; it is removed when this is dropped.
pub(super) struct SpillFile {
    path: PathBuf,
    is_lost: AtomicBool,
    /// Who removes it: that may take a while.
    remover: Sender<Order>,
}

/// Why a file does not give back what was written.
#[derive(Debug, Error)]
pub(super) enum SpillFileError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a spilled value of this version", path.display())]
    Foreign { path: PathBuf },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

impl SpillFile {
    /// Writes a value into a file that does not exist. What was written of it is removed if that fails.
    pub(super) fn write(path: PathBuf, packed: &Packed, remover: Sender<Order>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        // From here on the file goes with this.
        let written = Self { path, is_lost: AtomicBool::new(false), remover };
        write_value(file, packed)?;
        Ok(written)
    }

    /// Reads the value. What fails for reasons that may pass is tried again a few times.
    fn read_value(&self) -> Result<Packed, SpillFileError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            match (read_file(&self.path), pauses.next()) {
                (Err(error), Some(pause)) if error.may_pass() => {
                    debug!(%error, "a spilled value is read again");
                    thread::sleep(pause);
                }
                (read, _) => return read,
            }
        }
    }
}

impl Spilled for SpillFile {
    fn read(&self) -> Result<Packed, String> {
        let read = self.read_value();
        if read.as_ref().is_err_and(|error| !error.is_local()) {
            self.is_lost.store(true, Ordering::Relaxed);
        }
        read.map_err(|error| with_causes(&error))
    }

    fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }
}

impl SpillFileError {
    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Read { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Foreign { .. } | Self::Damaged { .. } => None,
        }
    }

    /// Whether it may go well a moment later.
    fn may_pass(&self) -> bool {
        self.is_local() || self.errno() == Some(Errno::EIO)
    }

    /// Whether this process or host lacks something, and nothing is known of the file.
    fn is_local(&self) -> bool {
        let lacks = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN];
        self.errno().is_some_and(|errno| lacks.contains(&errno))
    }
}

impl fmt::Debug for SpillFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spilled to {}", self.path.display())
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        if self.remover.send(Order::Remove(self.path.clone())).is_err() {
            remove(&self.path);
        }
    }
}

/// Removes a file of a value that is not needed any more.
pub(super) fn remove(path: &Path) {
    // With its whole directory it may be gone already.
    let _ = fs::remove_file(path);
}

fn write_value(mut file: File, packed: &Packed) -> io::Result<()> {
    let parts = || std::iter::once(&packed.head).chain(&packed.buffers);
    let mut header = Vec::with_capacity(PREFIX_BYTES + 8 * (packed.buffers.len() + 1));
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(packed.buffers.len() as u32 + 1).to_le_bytes());
    parts().for_each(|part| header.extend_from_slice(&(part.len() as u64).to_le_bytes()));
    let mut hash = Xxh3::new();
    hash.update(&header);
    parts().for_each(|part| hash.update(part));
    let checksum = hash.digest128().to_le_bytes();
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(packed.buffers.len() + 3);
    slices.push(IoSlice::new(&header));
    slices.extend(parts().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
    slices.push(IoSlice::new(&checksum));
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Packed, SpillFileError> {
    let failed = |source| SpillFileError::Read { path: path.to_owned(), source };
    let damaged = |what| SpillFileError::Damaged { path: path.to_owned(), what };
    let mut file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    let mut hash = Xxh3::new();
    let mut take = |bytes: &mut [u8]| match file.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged("it is too short")),
        read => read.map_err(failed),
    };
    let mut prefix = [0; PREFIX_BYTES];
    take(&mut prefix)?;
    hash.update(&prefix);
    let parts = parts_len(&prefix).ok_or_else(|| SpillFileError::Foreign { path: path.to_owned() })?;
    let header_bytes = PREFIX_BYTES as u64 + 8 * u64::from(parts);
    if header_bytes > file_bytes {
        return Err(damaged("it is too short"));
    }
    let mut lengths = vec![0; 8 * parts as usize];
    take(&mut lengths)?;
    hash.update(&lengths);
    let (lengths, _) = lengths.as_chunks::<8>();
    let lengths = lengths.iter().map(|length| u64::from_le_bytes(*length));
    let promised = lengths.clone().try_fold(header_bytes + CHECKSUM_BYTES as u64, u64::checked_add);
    if promised != Some(file_bytes) {
        return Err(damaged("its length is not what its header says"));
    }
    let mut buffers = Vec::with_capacity(parts as usize);
    for length in lengths {
        let mut memory = AlignedBuffer::for_overwrite(length as usize);
        take(memory.as_mut_slice())?;
        hash.update(memory.as_slice());
        buffers.push(memory.freeze());
    }
    let mut checksum = [0; CHECKSUM_BYTES];
    take(&mut checksum)?;
    if u128::from_le_bytes(checksum) != hash.digest128() {
        return Err(damaged("its checksum is wrong"));
    }
    let mut parts = buffers.into_iter();
    let head = parts.next().unwrap_or_else(Bytes::new);
    Ok(Packed { head, buffers: parts.collect() })
}

/// How many parts follow, if this is the beginning of a spilled value.
fn parts_len(prefix: &[u8; PREFIX_BYTES]) -> Option<u32> {
    let number = |at: usize| Some(u32::from_le_bytes(*prefix.get(at..)?.first_chunk()?));
    let is_ours = prefix.starts_with(MAGIC) && number(8) == Some(VERSION);
    number(12).filter(|parts| is_ours && *parts > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use proptest::prelude::*;

    use super::*;

    fn packed() -> impl Strategy<Value = Packed> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        (bytes(), prop::collection::vec(bytes(), 0..4)).prop_map(|(head, buffers)| Packed { head, buffers })
    }

    fn write(directory: &Path, packed: &Packed) -> SpillFile {
        SpillFile::write(directory.join("value"), packed, channel().0).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(packed in packed()) {
            let directory = tempfile::tempdir().unwrap();
            prop_assert_eq!(write(directory.path(), &packed).read_value().unwrap(), packed);
        }

        #[test]
        fn any_flipped_bit_is_noticed(packed in packed(), place in any::<prop::sample::Index>(), bit in 0..8u32) {
            let directory = tempfile::tempdir().unwrap();
            let file = write(directory.path(), &packed);
            let mut bytes = fs::read(&file.path).unwrap();
            let place = place.index(bytes.len());
            bytes[place] ^= 1u8 << bit;
            fs::write(&file.path, bytes).unwrap();
            prop_assert!(file.read_value().is_err());
        }

        #[test]
        fn a_file_that_is_cut_off_is_noticed(packed in packed(), place in any::<prop::sample::Index>()) {
            let directory = tempfile::tempdir().unwrap();
            let file = write(directory.path(), &packed);
            let mut bytes = fs::read(&file.path).unwrap();
            bytes.truncate(place.index(bytes.len()));
            fs::write(&file.path, bytes).unwrap();
            prop_assert!(file.read_value().is_err());
        }
    }

    /// Has this process open no files beyond so many; how many they were.
    fn limit_open_files(limit: u64) -> u64 {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        soft
    }

    #[test]
    fn a_file_that_cannot_be_opened_at_the_moment_is_read_later_and_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let packed = Packed { head: Bytes::from_static(b"head"), buffers: Vec::new() };
        let file = write(directory.path(), &packed);
        let limit = limit_open_files(0);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| file.read());
            std::thread::sleep(PAUSES[0]);
            assert!(!reading.is_finished(), "it is tried again");
            limit_open_files(limit);
            assert_eq!(reading.join().unwrap(), Ok(packed.clone()));
        });
        limit_open_files(0);
        assert!(file.read().is_err() && !file.is_lost());
        limit_open_files(limit);
        assert_eq!(file.read(), Ok(packed));
        fs::remove_file(&file.path).unwrap();
        assert!(file.read().is_err() && file.is_lost());
    }

    #[test]
    fn a_value_takes_its_file_along() {
        let directory = tempfile::tempdir().unwrap();
        drop(write(directory.path(), &Packed::default()));
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        fs::write(&path, "of another").unwrap();
        assert!(SpillFile::write(path.clone(), &Packed::default(), channel().0).is_err());
        assert_eq!(fs::read(path).unwrap(), b"of another");
    }
}
