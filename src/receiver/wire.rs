//! A socket that says when bytes come, and gives up on a peer that takes none.
//!
//! A peer that sends requests and never reads the answers fills its own window and then our buffers. hyper waits for it
//! without end: its deadlines are all about reading. Here a write that makes no progress for a while is an error.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Watches `Io`. `heard` is called with the bytes that have come.
#[derive(Debug)]
pub struct Wire<Io, Heard> {
    io: Io,
    heard: Heard,
    stall: Duration,
    /// Since when nothing is taken.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<Io, Heard> Wire<Io, Heard> {
    /// Wraps a socket. A write may be without any progress for as long as `stall`.
    pub fn new(io: Io, stall: Duration, heard: Heard) -> Self {
        Wire {
            io,
            heard,
            stall,
            stuck: None,
        }
    }

    /// Lets progress through, and turns the lack of it into [`io::ErrorKind::TimedOut`].
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stuck = None;
            return poll;
        }
        let stall = self.stall;
        let stuck = self
            .stuck
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        match stuck.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<Io: AsyncRead + Unpin, Heard: Fn(&[u8]) + Unpin> AsyncRead for Wire<Io, Heard> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.io).poll_read(cx, buf);
        let came = &buf.filled()[before..];
        if !came.is_empty() {
            (self.heard)(came);
        }
        poll
    }
}

impl<Io: AsyncWrite + Unpin, Heard: Unpin> AsyncWrite for Wire<Io, Heard> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        self.progress(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.progress(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_is_given_up_only_when_nothing_at_all_is_taken() {
        let (io, mut peer) = duplex(8);
        let stall = Duration::from_secs(5);
        let mut wire = Wire::new(io, stall, |_: &[u8]| {});
        let writing = tokio::spawn(async move {
            let began = tokio::time::Instant::now();
            let error = wire.write_all(&[0; 1_000]).await.unwrap_err();
            (error.kind(), began.elapsed())
        });
        // Slow, but alive: something is taken every four seconds.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            peer.read_exact(&mut [0; 8]).await.unwrap();
        }
        let (kind, took) = writing.await.unwrap();
        assert_eq!(kind, io::ErrorKind::TimedOut);
        assert!(
            took >= Duration::from_secs(25) && took < Duration::from_secs(26),
            "{took:?}"
        );
    }
}
