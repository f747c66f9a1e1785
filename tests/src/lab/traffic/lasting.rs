//! Connections that stay: servers that echo, clients that keep talking, and a server whose backlog is full for ever.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::listen;
use crate::lab::resident::Resident;

/// A connection that is kept open, with something said on it again and again. Dropped, it is closed.
#[derive(Debug)]
pub struct Held {
    /// The client's end.
    pub from: SocketAddr,
    /// The other end, as the client sees it.
    pub to: SocketAddr,
    echoes: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Held {
    /// How often something came back.
    pub fn echoes(&self) -> u64 {
        self.echoes.load(Ordering::Relaxed)
    }

    /// Whether the other end, or the network in its name, ended it.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

impl Resident {
    /// Listens on a TCP port for both families and sends back whatever comes, until the resident ends.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve_echo(&self, port: u16) -> Result<()> {
        self.call(Duration::from_secs(10), move || async move {
            for ip in [
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ] {
                let listener = listen(SocketAddr::new(ip, port), 4096)
                    .with_context(|| format!("listen on {ip} port {port}"))?;
                tokio::task::spawn_local(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::task::spawn_local(echo(stream));
                    }
                });
            }
            Ok(())
        })?
    }

    /// Connects to a server that echoes and says something every `interval`.
    ///
    /// # Errors
    /// When the connection cannot be made.
    pub fn hold(&self, to: SocketAddr, interval: Duration) -> Result<Held> {
        let echoes = Arc::new(AtomicU64::new(0));
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (count, flag) = (Arc::clone(&echoes), Arc::clone(&ended));
        let from = self.call(Duration::from_secs(30), move || async move {
            let mut stream = timeout(Duration::from_secs(20), TcpStream::connect(to))
                .await
                .with_context(|| format!("{to} does not answer"))?
                .with_context(|| format!("connect to {to}"))?;
            let from = stream.local_addr()?;
            tokio::task::spawn_local(async move {
                let talk = async {
                    let mut byte = [0];
                    loop {
                        stream.write_all(b"?").await?;
                        stream.read_exact(&mut byte).await?;
                        count.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(interval).await;
                    }
                };
                let talked: Result<std::io::Result<()>, _> = tokio::select! {
                    talked = talk => Ok(talked),
                    _ = stopped => Err(()),
                };
                if let Ok(Err(_)) = talked {
                    flag.store(true, Ordering::Relaxed);
                }
            });
            Ok::<_, anyhow::Error>(from)
        })??;
        Ok(Held {
            from,
            to,
            echoes,
            ended,
            stop: Some(stop),
        })
    }

    /// Listens on TCP ports for both families and accepts nothing; the backlogs are filled from inside (over `lo`, which nobody watches), so
    /// that whoever connects gets no answer.
    ///
    /// # Errors
    /// When a port is taken, or its backlog does not fill.
    pub fn serve_full(&self, ports: &[u16]) -> Result<()> {
        let ports = ports.to_vec();
        self.call(Duration::from_secs(30), move || async move {
            let mut filling = tokio::task::JoinSet::new();
            for port in ports {
                for ip in [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(Ipv6Addr::LOCALHOST),
                ] {
                    filling.spawn_local(fill(SocketAddr::new(ip, port)));
                }
            }
            while let Some(filled) = filling.join_next().await {
                filled??;
            }
            Ok(())
        })?
    }
}

async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn fill(at: SocketAddr) -> Result<()> {
    let any = match at {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let listener = listen(SocketAddr::new(any, at.port()), 0)
        .with_context(|| format!("listen on port {}", at.port()))?;
    let mut kept = Vec::new();
    // A backlog of 0 holds one connection.
    while kept.len() < 4 {
        let socket = if at.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        match timeout(Duration::from_millis(300), socket.connect(at)).await {
            Ok(stream) => kept.push(stream?),
            Err(_) => {
                tokio::task::spawn_local(async move {
                    std::future::pending::<()>().await;
                    drop((listener, kept));
                });
                return Ok(());
            }
        }
    }
    bail!("{at} took {} connections and was not full", kept.len())
}
