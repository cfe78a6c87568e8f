//! Reads the body of an answer: so much of one, so much of all, and no longer than the whole exchange may take.
//!
//! The cap of one body bounds nothing by itself: every account has its own client, and each may be sent the largest body
//! at once. So all bodies share one allowance, and each takes from it as its bytes come, not as they are announced. The first
//! [`FREE_BYTES`] of each take nothing: most answers are smaller, and a hostile server must not keep them out.

use reqwest::Response;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::fault::cause;

/// The largest body of a call that is read, in bytes: some 12,000 webhooks on one page.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// The most bytes that are read of a body without success.
pub const MAX_ERROR_BYTES: usize = 64 * 1024;
/// What each body may take without asking, in bytes.
const FREE_BYTES: usize = 64 * 1024;
/// What all bodies of the process may take together beyond that, in bytes.
const MAX_ALL_BYTES: usize = 24 * 1024 * 1024;

static ALLOWANCE: Semaphore = Semaphore::const_new(MAX_ALL_BYTES);

/// A body, and its share of the allowance, which goes back when this is dropped.
#[derive(Debug, Default)]
pub struct Bytes {
    bytes: Vec<u8>,
    share: Option<SemaphorePermit<'static>>,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is larger than it may be.
    #[error("it is larger than {} KiB", .0 / 1024)]
    TooLarge(usize),
    /// Other bodies hold the allowance.
    #[error("there are too many large answers at once")]
    NoRoom,
    /// It ended early, or did not end in time. The words may be the server's.
    #[error("it broke off: {0}")]
    Broken(String),
}

/// Reads a body of at most `most` bytes. The deadline is the client's, which counts from the first byte sent.
///
/// # Errors
/// [`ReadError`].
pub async fn read(answer: &mut Response, most: usize) -> Result<Bytes, ReadError> {
    let mut body = Bytes::default();
    loop {
        let chunk = match answer.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(body),
            Err(error) => return Err(ReadError::Broken(cause(&error))),
        };
        let length = body.bytes.len() + chunk.len();
        if length > most {
            return Err(ReadError::TooLarge(most));
        }
        if length > body.bytes.capacity() {
            // Doubled, so that it is not copied with every packet.
            let capacity = length.next_power_of_two().min(most);
            body.grow(capacity)?;
        }
        body.bytes.extend_from_slice(&chunk);
    }
}

/// Reads the beginning of a body that is only shown: at most `most` bytes. What cannot be read is left out.
pub async fn beginning(answer: &mut Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < most {
        let Ok(Some(chunk)) = answer.chunk().await else {
            break;
        };
        let room = most - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    body
}

impl Bytes {
    fn grow(&mut self, capacity: usize) -> Result<(), ReadError> {
        let held = self.share.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = capacity.saturating_sub(FREE_BYTES + held);
        // Not waited for: a server that sends slowly holds what it has taken until its deadline.
        let more = u32::try_from(missing).map_err(|_| ReadError::NoRoom)?;
        let more = ALLOWANCE
            .try_acquire_many(more)
            .map_err(|_| ReadError::NoRoom)?;
        match &mut self.share {
            Some(share) => share.merge(more),
            none => *none = Some(more),
        }
        self.bytes.reserve_exact(capacity - self.bytes.len());
        Ok(())
    }
}
