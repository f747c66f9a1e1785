//! A TCP relay that can be cut: a network that fails and comes back, or a way from one network namespace to another.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::netns::Netns;

/// Relays to one address. Dropped, it ends with all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Proxy {
    /// Starts to relay from a free port of loopback.
    pub async fn start(to: SocketAddr) -> Result<Self> {
        Self::relay(TcpListener::bind("127.0.0.1:0").await?, to)
    }

    /// Starts to relay from `at` inside a namespace to an address outside of it. Must be called inside a runtime.
    pub fn out_of(netns: &Netns, at: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = netns.run(|| std::net::TcpListener::bind(at))??;
        listener.set_nonblocking(true)?;
        // A socket stays in the namespace that it was made in.
        Self::relay(TcpListener::from_std(listener)?, to)
    }

    fn relay(listener: TcpListener, to: SocketAddr) -> Result<Self> {
        let address = listener.local_addr()?;
        let (open, state) = watch::channel(true);
        tokio::spawn(async move {
            let mut ended = state.clone();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = dropped(&mut ended) => return,
                };
                let Ok((client, _)) = accepted else { continue };
                if *state.borrow() {
                    tokio::spawn(relay(client, to, state.clone()));
                }
            }
        });
        Ok(Self { address, open })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and lets no new one through.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn heal(&self) {
        self.open.send_replace(true);
    }
}

async fn relay(mut client: TcpStream, to: SocketAddr, mut open: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(to).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        // Cut, or the proxy was dropped.
        _ = open.wait_for(|open| !open) => {}
    }
}

async fn dropped(open: &mut watch::Receiver<bool>) {
    while open.changed().await.is_ok() {}
}
