//! UDP: servers that answer or do not, questions, and datagrams that expect nothing.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket, sockopt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::lab::resident::{Pending, Resident};

/// What came back for a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    /// An answer.
    Answered,
    /// ICMP: the port is closed, or somebody says so.
    Refused,
    /// Another ICMP error, or there is no route.
    Unreachable,
    /// Nothing in time.
    Silent,
}

impl Resident {
    /// Sends back whatever comes to a UDP port of both families, `!` instead of a `?` in front, until the resident ends.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve_udp(&self, port: u16) -> Result<()> {
        self.listen_udp(port, true)
    }

    /// Takes whatever comes to a UDP port of both families and answers nothing, as servers for logs or metrics do.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn swallow_udp(&self, port: u16) -> Result<()> {
        self.listen_udp(port, false)
    }

    fn listen_udp(&self, port: u16, answers: bool) -> Result<()> {
        self.call(Duration::from_secs(10), move || async move {
            for ip in [
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ] {
                let socket = bound(SocketAddr::new(ip, port))
                    .with_context(|| format!("bind UDP {ip} port {port}"))?;
                tokio::task::spawn_local(async move {
                    let mut datagram = [0; 2048];
                    loop {
                        // An ICMP error about an earlier answer is no reason to stop serving.
                        let Ok((length, from)) = socket.recv_from(&mut datagram).await else {
                            continue;
                        };
                        if answers {
                            if let Some(first @ b'?') = datagram.first_mut() {
                                *first = b'!';
                            }
                            let _ = socket
                                .send_to(datagram.get(..length).unwrap_or_default(), from)
                                .await;
                        }
                    }
                });
            }
            Ok(())
        })?
    }

    /// Sends one datagram and waits for what comes back.
    ///
    /// # Errors
    /// When the socket cannot be made, or on an outcome that is none of [`Reply`].
    pub fn ask(&self, to: SocketAddr, payload: &[u8], patience: Duration) -> Result<Reply> {
        self.start_ask(to, 0, payload, patience)
            .wait(patience + Duration::from_secs(20))?
    }

    /// Begins to ask, from a port of the client's (0: any).
    pub fn start_ask(
        &self,
        to: SocketAddr,
        from: u16,
        payload: &[u8],
        patience: Duration,
    ) -> Pending<Result<Reply>> {
        let payload = payload.to_vec();
        self.start(move || async move { ask(to, from, &payload, 1, patience).await })
    }

    /// Sends datagrams one after the other without waiting for anything.
    ///
    /// # Errors
    /// When the socket cannot be made, or there is no route.
    pub fn send_datagrams(&self, to: SocketAddr, payload: &[u8], count: u32) -> Result<()> {
        let payload = payload.to_vec();
        self.call(Duration::from_secs(30), move || async move {
            ask(to, 0, &payload, count, Duration::ZERO).await
        })??;
        Ok(())
    }
}

/// A socket that serves one family only: the other has one of its own.
fn bound(at: SocketAddr) -> io::Result<UdpSocket> {
    let family = if at.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    if at.is_ipv6() {
        nix::sys::socket::setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrStorage::from(at),
    )?;
    UdpSocket::from_std(fd.into())
}

async fn ask(
    to: SocketAddr,
    from: u16,
    payload: &[u8],
    count: u32,
    patience: Duration,
) -> Result<Reply> {
    let any = if to.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, from))
        .await
        .context("make a UDP socket")?;
    let asked = async {
        // Connected, so that ICMP errors come back to it.
        socket.connect(to).await?;
        for _ in 0..count {
            match socket.send(payload).await {
                // About one of the datagrams before it, and patience is for that.
                Err(error) if count > 1 && error.kind() == ErrorKind::ConnectionRefused => {}
                sent => {
                    sent?;
                }
            }
        }
        let mut answer = [0; 2048];
        socket.recv(&mut answer).await
    };
    match timeout(patience, asked).await {
        Ok(Ok(_)) => Ok(Reply::Answered),
        Ok(Err(error)) => classify(&error).with_context(|| format!("ask {to}")),
        Err(_) => Ok(Reply::Silent),
    }
}

/// What an error of a connected socket says about the way or the other end.
pub(super) fn classify(error: &io::Error) -> Result<Reply> {
    let unreachable = [
        Errno::EHOSTUNREACH,
        Errno::ENETUNREACH,
        Errno::EACCES,
        Errno::EPERM,
        Errno::ENOPROTOOPT,
        Errno::EPROTO,
    ];
    let code = error.raw_os_error().map(Errno::from_raw);
    match code {
        Some(Errno::ECONNREFUSED) => Ok(Reply::Refused),
        Some(code) if unreachable.contains(&code) => Ok(Reply::Unreachable),
        _ => bail!(
            "an outcome that the lab does not know: {}: {error}",
            error.kind()
        ),
    }
}
