//! One piece of memory behind a file descriptor: made here, or another process's, mapped read-only.

// A descriptor that was moved comes back as a number.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use thiserror::Error;

use crate::wire::peer::FileName;

/// Maps begin at multiples of this, in bytes, whatever the size of a page is.
const MAP_ALIGNMENT_BYTES: u64 = 64 << 10;
/// From this size on, in bytes, huge pages are asked for.
const HUGE_BYTES_MIN: usize = 2 << 20;

/// Descriptors of segments begin here, if the process may have so many: low numbers are left to libraries that use
/// `select`, which knows no others.
const DESCRIPTOR_MIN: i32 = 1024;

/// A file and where it is mapped.
#[derive(Debug)]
pub(super) struct Segment {
    /// Open for as long as others may look for it.
    pub(super) file: Arc<File>,
    pub(super) memory: MmapRaw,
    /// By which this process names the file.
    pub(super) name: FileName,
    /// Where in the file the map begins.
    pub(super) offset: u64,
    /// The size of the file, all of which stays while any of it is mapped.
    pub(super) file_bytes: u64,
}

/// Another process's segment cannot be mapped.
#[derive(Debug, Error)]
pub enum MapError {
    /// The system says no.
    #[error("cannot map {path}")]
    Io {
        /// The descriptor in question.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is something else.
    #[error("{path} is not what process {pid} said: {found}")]
    Other {
        /// The descriptor in question.
        path: String,
        /// Whose it is.
        pid: u32,
        /// What is wrong with it.
        found: &'static str,
    },
    /// This process has as many segments as it may.
    #[error(
        "this process has {segments} segments, as many as it may; raise its limits of open files and of maps"
    )]
    Full {
        /// How many.
        segments: usize,
    },
}

impl MapError {
    /// Whether this process lacks something at the moment, and nothing is wrong with the other one.
    pub fn may_pass(&self) -> bool {
        let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN];
        match self {
            Self::Io { source, .. } => source.raw_os_error().is_some_and(|errno| lacks.contains(&errno)),
            Self::Full { .. } => true,
            Self::Other { .. } => false,
        }
    }
}

impl Segment {
    /// New memory, all zero.
    pub(super) fn create(bytes: usize) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = out_of_the_way(memfd_create("dcluster", flags)?.into());
        file.set_len(bytes as u64)?;
        // Nobody who has mapped it can have the ground taken away.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        let memory = MmapOptions::new().len(bytes).map_raw(&file)?;
        advise(&memory);
        let metadata = file.metadata()?;
        let (fd, device, inode) = (file.as_raw_fd(), metadata.dev(), metadata.ino());
        let (file, name) = (Arc::new(file), FileName { fd, device, inode });
        let segment = Self { file, memory, name, offset: 0, file_bytes: bytes as u64 };
        segment.claim();
        Ok(segment)
    }

    /// Maps these bytes of what another process has exported, and some before them.
    pub(super) fn open(pid: u32, file: FileName, from: u64, to: u64) -> Result<Self, MapError> {
        let path = format!("/proc/{pid}/fd/{}", file.fd);
        let failed = |source| MapError::Io { path: path.clone(), source };
        let other = |found| Err(MapError::Other { path: path.clone(), pid, found });
        // (What is there instead might be a pipe.)
        let opened =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).map_err(failed)?;
        let metadata = opened.metadata().map_err(failed)?;
        if (metadata.dev(), metadata.ino()) != (file.device, file.inode) {
            return other("another file");
        }
        let opened = out_of_the_way(opened);
        if to > metadata.len() || from >= to {
            return other("it is shorter");
        }
        let seals = fcntl(&opened, FcntlArg::F_GET_SEALS).map_err(|errno| failed(errno.into()))?;
        if seals & SealFlag::F_SEAL_SHRINK.bits() == 0 {
            return other("it can shrink");
        }
        let offset = from - from % MAP_ALIGNMENT_BYTES;
        let length = (to - offset) as usize;
        let memory =
            MmapOptions::new().offset(offset).len(length).map_raw_read_only(&opened).map_err(failed)?;
        advise(&memory);
        let name = FileName { fd: opened.as_raw_fd(), ..file };
        Ok(Self { file: Arc::new(opened), memory, name, offset, file_bytes: metadata.len() })
    }

    /// Says that this process accounts for it.
    pub(super) fn claim(&self) {
        // Nobody else has it. If the system knows no locks, whoever maps it accounts for it as well.
        let _ = self.file.try_lock();
    }

    pub(super) fn start(&self) -> usize {
        self.memory.as_ptr() as usize
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.len()
    }
}

/// Asks for huge pages; whether there are any for such memory is the system's setting.
fn advise(memory: &MmapRaw) {
    if memory.len() >= HUGE_BYTES_MIN
        && let Err(error) = memory.advise(Advice::HugePage)
    {
        tracing::trace!(%error, "small pages");
    }
}

/// The same file with a high descriptor.
fn out_of_the_way(file: File) -> File {
    match fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(DESCRIPTOR_MIN)) {
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        Ok(high) => unsafe { File::from_raw_fd(high) },
        Err(_) => file,
    }
}
