//! A body into memory: so much of one, so much of all, and for so long.
//!
//! The cap of one body bounds nothing by itself: connections times streams times 256 KiB would be gigabytes. So all
//! bodies that are being read or written down share one allowance, and each takes from it as its bytes really come, not
//! as they are announced. The first [`FREE`] bytes of each take nothing: deliveries are a few hundred bytes, and however
//! many large bodies somebody lets lie half sent, there is room for those.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The largest body in bytes. The guide's samples have about 200.
pub const LARGEST: usize = 256 * 1024;
/// What each body may take without asking, in bytes.
const FREE: usize = 2 * 1024;
/// What all bodies may take together beyond that, in bytes: 32 of the largest kind at once.
const ALL: usize = 32 * LARGEST;
/// How long a body may take to arrive.
const LONGEST: Duration = Duration::from_secs(3);

/// How many requests may wait for a keyring at once, with their bodies in memory.
const WAITING: usize = 64;

/// The allowance that all bodies share. Clones share it too.
#[derive(Clone, Debug)]
pub struct Allowance {
    bytes: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance {
            bytes: Arc::new(Semaphore::new(ALL)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }
}

/// A body as it came, and its share of the allowance.
#[derive(Debug)]
pub struct Held {
    bytes: Vec<u8>,
    share: Share,
}

/// A share of the allowance, which goes back when this is dropped.
#[derive(Debug, Default)]
pub struct Share(Option<OwnedSemaphorePermit>);

impl Held {
    /// The bytes, and what is to be kept for as long as they are in memory.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Share) {
        (self.bytes, self.share)
    }
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is larger than [`LARGEST`].
    TooLarge,
    /// It did not arrive in time.
    TooSlow,
    /// It ended early.
    Broken,
    /// There was no room for it in time.
    NoRoom,
}

impl Allowance {
    /// A turn to wait with a body in memory, if one is left.
    #[must_use]
    pub fn wait(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire().ok()
    }

    /// Reads a body whose request began at this moment.
    ///
    /// # Errors
    /// [`Unread`] says why it cannot be had.
    pub async fn read<B>(&self, body: B, began: Instant) -> Result<Held, Unread>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let deadline = began + LONGEST;
        let mut body = std::pin::pin!(body);
        let mut bytes = Vec::new();
        let mut share = Share::default();
        loop {
            let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
                Err(_) => return Err(Unread::TooSlow),
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(Unread::Broken),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let length = bytes.len() + data.len();
            if length > LARGEST {
                return Err(Unread::TooLarge);
            }
            if length > bytes.capacity() {
                // Doubled, so that it is not copied with every packet, and never more than twice what has come.
                let capacity = length.next_power_of_two().clamp(FREE, LARGEST);
                let held = share
                    .0
                    .as_ref()
                    .map_or(0, OwnedSemaphorePermit::num_permits);
                if capacity > FREE + held {
                    let more = self.take(capacity - FREE - held, deadline).await?;
                    match &mut share.0 {
                        Some(share) => share.merge(more),
                        none => *none = Some(more),
                    }
                }
                bytes.reserve_exact(capacity - bytes.len());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Held { bytes, share })
    }

    async fn take(&self, bytes: usize, deadline: Instant) -> Result<OwnedSemaphorePermit, Unread> {
        let bytes = u32::try_from(bytes).map_err(|_| Unread::TooLarge)?;
        let taken = Arc::clone(&self.bytes).acquire_many_owned(bytes);
        match tokio::time::timeout_at(deadline, taken).await {
            Ok(Ok(permit)) => Ok(permit),
            // It is never closed; if it were, there would be no room.
            Ok(Err(_)) | Err(_) => Err(Unread::NoRoom),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    /// A body of these chunks that then ends, or never does.
    fn body(
        chunks: Vec<Vec<u8>>,
        ends: bool,
    ) -> impl Body<Data = Bytes, Error = std::convert::Infallible> {
        use futures::StreamExt;
        let sent = futures::stream::iter(chunks.into_iter().map(|c| Ok(Frame::data(c.into()))));
        let rest = futures::stream::pending().take(usize::from(!ends));
        StreamBody::new(sent.chain(rest))
    }

    #[tokio::test]
    async fn a_body_is_what_was_sent_and_its_share_goes_back() {
        let allowance = Allowance::default();
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let chunks = sent.chunks(7_001).map(<[u8]>::to_vec).collect();
        let held = allowance.read(body(chunks, true), Instant::now()).await;
        let held = held.unwrap();
        assert_eq!(held.bytes, sent);
        assert_eq!(allowance.bytes.available_permits(), ALL - (LARGEST - FREE));
        assert_eq!(held.bytes.capacity(), LARGEST);
        drop(held);
        assert_eq!(allowance.bytes.available_permits(), ALL);
    }

    #[tokio::test]
    async fn the_largest_is_read_and_one_byte_more_is_not() {
        let allowance = Allowance::default();
        let read = async |length: usize| {
            let chunks = vec![vec![b'x'; length]];
            allowance.read(body(chunks, true), Instant::now()).await
        };
        assert_eq!(read(LARGEST).await.unwrap().bytes.len(), LARGEST);
        assert_eq!(read(LARGEST + 1).await.unwrap_err(), Unread::TooLarge);
        assert!(read(0).await.unwrap().bytes.is_empty());
        assert_eq!(allowance.bytes.available_permits(), ALL);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_lie_half_sent_there_is_room_for_a_delivery() {
        let allowance = Allowance::default();
        let mut lying = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let allowance = allowance.clone();
            let half = body(vec![vec![b'x'; LARGEST / 2 + 1]], false);
            lying.spawn(async move { allowance.read(half, Instant::now()).await });
        }
        let small = async || {
            let chunks = vec![vec![b'x'; 300]];
            allowance.read(body(chunks, true), Instant::now()).await
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(
            allowance.bytes.available_permits() < LARGEST,
            "it is used up"
        );
        let began = Instant::now();
        assert_eq!(small().await.unwrap().bytes.len(), 300);
        assert_eq!(began.elapsed(), Duration::ZERO);
        // Those who wait for room are given up in time like those who have it.
        while let Some(ended) = lying.join_next().await {
            let unread = ended.unwrap().unwrap_err();
            assert!(
                matches!(unread, Unread::TooSlow | Unread::NoRoom),
                "{unread:?}"
            );
        }
        assert!(began.elapsed() <= LONGEST);
        assert_eq!(allowance.bytes.available_permits(), ALL);
    }
}
