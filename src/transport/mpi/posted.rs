//! Chunks that MPI has been given, and which of them it is done with.

// MPI's C interface is used because the safe one borrows the memory of a request.
#![allow(unsafe_code)]

use std::ffi::c_int;

use mpi::ffi;

use super::in_flight::TransferId;

/// Posted chunks of all transfers, but for the first of each; and how many MPI is asked about in one call.
pub(super) const REQUESTS_MAX: usize = 64;

/// Posted requests, the oldest first, in the form in which MPI wants them.
#[derive(Default)]
pub(super) struct Posted {
    requests: Vec<ffi::MPI_Request>,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) transfer: TransferId,
    pub(super) bytes: usize,
}

/// A chunk that MPI is done with.
pub(super) struct Completed {
    pub(super) chunk: Chunk,
    pub(super) status: Result<ffi::MPI_Status, c_int>,
}

impl Posted {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn push(&mut self, request: ffi::MPI_Request, chunk: Chunk) {
        self.requests.push(request);
        self.chunks.push(chunk);
    }

    /// Asks MPI which have ended, and takes those out.
    pub(super) fn test(&mut self) -> Vec<Completed> {
        let mut ended = Vec::new();
        for first in (0..self.requests.len()).step_by(REQUESTS_MAX) {
            let last = self.requests.len().min(first + REQUESTS_MAX);
            test_some(&mut self.requests[first..last], |index, status| ended.push((first + index, status)));
        }
        // From the back, so that the places of the others stay.
        ended.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        ended
            .into_iter()
            .map(|(index, status)| {
                self.requests.remove(index);
                Completed { chunk: self.chunks.remove(index), status }
            })
            .collect()
    }

    /// Has MPI cancel the chunks of these transfers; it tells which were in time when they are [tested](Self::test).
    pub(super) fn cancel(&mut self, of_transfer: impl Fn(TransferId) -> bool) {
        for (request, chunk) in self.requests.iter_mut().zip(&self.chunks) {
            if of_transfer(chunk.transfer) {
                // SAFETY: the request is ours, and live until it is tested.
                unsafe { ffi::MPI_Cancel(request) };
            }
        }
    }

    /// Hands the chunks of a transfer to another list.
    pub(super) fn move_into(&mut self, other: &mut Self, transfer: TransferId) {
        let mut index = 0;
        while index < self.chunks.len() {
            if self.chunks[index].transfer == transfer {
                other.push(self.requests.remove(index), self.chunks.remove(index));
            } else {
                index += 1;
            }
        }
    }
}

/// Calls `MPI_Testsome` for at most [`REQUESTS_MAX`] requests, and `ended` with the place and the status of each that has,
/// or the code of its error.
fn test_some(
    requests: &mut [ffi::MPI_Request],
    mut ended: impl FnMut(usize, Result<ffi::MPI_Status, c_int>),
) {
    let mut count: c_int = 0;
    let mut indices = [0 as c_int; REQUESTS_MAX];
    // SAFETY: a status is plain numbers.
    let mut statuses: [ffi::MPI_Status; REQUESTS_MAX] = unsafe { std::mem::zeroed() };
    // SAFETY: the arrays have room for as many entries as there are requests, and the requests are ours and live.
    let code = unsafe {
        ffi::MPI_Testsome(
            requests.len() as c_int,
            requests.as_mut_ptr(),
            &mut count,
            indices.as_mut_ptr(),
            statuses.as_mut_ptr(),
        )
    };
    let in_status = error_class(code) == ffi::MPI_ERR_IN_STATUS as c_int;
    // (It is `MPI_UNDEFINED`, which is negative, if there were only null requests.)
    let count = usize::try_from(count).unwrap_or(0).min(requests.len());
    for (index, status) in indices[..count].iter().zip(&statuses) {
        let of_chunk = if in_status { status.MPI_ERROR } else { code };
        let is_good = of_chunk == ffi::MPI_SUCCESS as c_int;
        ended(*index as usize, if is_good { Ok(*status) } else { Err(of_chunk) });
    }
}

/// Whether MPI has cancelled what has ended with this status.
pub(super) fn is_cancelled(status: &ffi::MPI_Status) -> bool {
    let mut flag: c_int = 0;
    // SAFETY: the status was written when the request ended.
    unsafe { ffi::MPI_Test_cancelled(status, &mut flag) };
    flag != 0
}

/// What kind of error a code means: libraries put more into a code than that.
fn error_class(code: c_int) -> c_int {
    let mut class = code;
    // SAFETY: the class is ours to write; a code that the library does not know leaves it as it is.
    unsafe { ffi::MPI_Error_class(code, &mut class) };
    class
}

/// What the library says of an error.
pub(super) fn error_text(code: c_int) -> String {
    let mut text = [0 as std::ffi::c_char; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length: c_int = 0;
    // SAFETY: the array is as long as the longest text, and one more.
    let known = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut length) };
    if known != ffi::MPI_SUCCESS as c_int {
        return format!("error {code}");
    }
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    String::from_utf8_lossy(&text[..length].iter().map(|byte| *byte as u8).collect::<Vec<u8>>()).into_owned()
}
