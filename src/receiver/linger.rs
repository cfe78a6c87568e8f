//! A connection that is closed so that the last answer arrives.
//!
//! A request that is refused before its body was read leaves bytes in the kernel's buffer. Closing the socket then
//! sends a reset, and the sender may never see the 413 or 401 that was written before it. So the writing side is
//! closed first, and what still comes is read and thrown away: a little of it, and not for long.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long we listen after our last word.
const LONGEST: Duration = Duration::from_secs(1);
/// The most that is thrown away, in bytes.
const MOST: usize = 1024 * 1024;

/// Closes `Io` in the order that lets the peer read the last answer. `heard` is called with all bytes that have come.
#[derive(Debug)]
pub struct Linger<Io, Heard> {
    io: Io,
    heard: Heard,
    closing: Option<Closing>,
}

#[derive(Debug)]
struct Closing {
    until: Pin<Box<Sleep>>,
    thrown_away: usize,
}

impl<Io, Heard> Linger<Io, Heard> {
    /// Wraps a connection.
    pub fn new(io: Io, heard: Heard) -> Self {
        Linger {
            io,
            heard,
            closing: None,
        }
    }
}

impl<Io: AsyncRead + Unpin, Heard: Fn(&[u8]) + Unpin> AsyncRead for Linger<Io, Heard> {
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

impl<Io: AsyncRead + AsyncWrite + Unpin, Heard: Fn(&[u8]) + Unpin> AsyncWrite
    for Linger<Io, Heard>
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let closing = match &mut this.closing {
            Some(closing) => closing,
            none => {
                std::task::ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                none.insert(Closing {
                    until: Box::pin(tokio::time::sleep(LONGEST)),
                    thrown_away: 0,
                })
            }
        };
        let mut scratch = [0_u8; 8192];
        while closing.thrown_away < MOST && closing.until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    closing.thrown_away += buf.filled().len();
                    (this.heard)(buf.filled());
                }
                // The peer has closed, or is gone: nothing is left to wait for.
                Poll::Ready(Ok(()) | Err(_)) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
