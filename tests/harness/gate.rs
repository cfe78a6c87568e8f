//! A gate between a process and a server: it passes bytes on until it is cut, and again once it is restored.
//!
//! Cut means what it means when a server is down: open connections end and new ones are refused at the port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::eventually::eventually;

/// A proxy on loopback in front of one server. It lives on the runtime that opened it.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    server: SocketAddr,
    connections: Arc<AtomicUsize>,
    passing: Option<JoinHandle<()>>,
}

impl Gate {
    /// Opens a gate in front of `server`, on a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(server: SocketAddr) -> anyhow::Result<Gate> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut gate = Gate {
            address: listener.local_addr()?,
            server,
            connections: Arc::default(),
            passing: None,
        };
        gate.pass(listener);
        Ok(gate)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were passed on so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Ends every connection and refuses new ones from now on.
    pub async fn cut(&mut self) {
        if let Some(passing) = self.passing.take() {
            passing.abort();
            // Gone for good only now: the listener with it, and the connections that it owned.
            let _ = passing.await;
        }
    }

    /// Lets connections through again, at the same address.
    ///
    /// # Errors
    /// When the port cannot be bound again.
    pub async fn restore(&mut self) -> anyhow::Result<()> {
        if self.passing.is_none() {
            let address = self.address;
            let bound = || async move { TcpListener::bind(address).await };
            let listener = eventually("the gate's own port", Duration::from_secs(5), bound).await?;
            self.pass(listener);
        }
        Ok(())
    }

    fn pass(&mut self, listener: TcpListener) {
        let (server, connections) = (self.server, self.connections.clone());
        self.passing = Some(tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                // A failed accept is the client's loss alone; the next one may do.
                let Ok((mut client, _)) = listener.accept().await else {
                    continue;
                };
                while open.try_join_next().is_some() {}
                connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(async move {
                    if let Ok(mut upstream) = TcpStream::connect(server).await {
                        // Both sides see the end of the connection; there is nobody else to tell.
                        let _ = copy_bidirectional(&mut client, &mut upstream).await;
                    }
                });
            }
        }));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(passing) = self.passing.take() {
            passing.abort();
        }
    }
}
