//! What pods do with the network, over and over, on one thread: the system calls of the sender carry the packets to the
//! other end, so that the processor time of this process is that of both ends.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

use super::Effort;
use super::wire::{Family, Wire};

const PATIENCE: Duration = Duration::from_secs(5);

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A connection that is made and closed.
    ConnectClose,
    /// 64 bytes to and fro on a connection that stays.
    RequestResponse,
    /// A datagram of 64 bytes on a socket that stays.
    UdpStream,
    /// A request of one datagram and its answer, with a socket of its own, as a resolver does it.
    UdpNewSocket,
}

impl Operation {
    pub(crate) const ALL: [Self; 4] = [
        Self::ConnectClose,
        Self::RequestResponse,
        Self::UdpStream,
        Self::UdpNewSocket,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectClose => "connect_close",
            Self::RequestResponse => "request_response",
            Self::UdpStream => "udp_stream",
            Self::UdpNewSocket => "udp_new_socket",
        }
    }

    fn count(self, effort: Effort) -> usize {
        match self {
            Self::ConnectClose => effort.connections / 4,
            Self::RequestResponse => effort.messages / 8,
            Self::UdpStream => effort.messages / 3,
            Self::UdpNewSocket => effort.messages / 10,
        }
    }

    /// Processor time of one, in microseconds.
    pub(crate) fn cost(self, wire: &Wire, family: Family, effort: Effort) -> Result<f64> {
        let count = self.count(effort);
        let time = match self {
            Self::ConnectClose => connect_and_close(wire, family, count)?,
            Self::RequestResponse => ping_pong(wire, family, count)?,
            Self::UdpStream => stream(wire, family, count)?,
            Self::UdpNewSocket => requests(wire, family, count)?,
        };
        Ok(time.as_secs_f64() * 1e6 / count as f64)
    }
}

/// Processor time of this process.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// That of what is done.
fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let before = processor_time()?;
    work()?;
    Ok(processor_time()?.saturating_sub(before))
}

fn listen(wire: &Wire, family: Family) -> Result<(TcpListener, SocketAddr)> {
    let address = SocketAddr::new(family.server()?, 0);
    let listener = wire.server.run(|| TcpListener::bind(address))??;
    let to = listener.local_addr()?;
    Ok((listener, to))
}

/// Connects and closes, the server first, so that its end keeps the TIME_WAIT.
pub(crate) fn connect_and_close(
    wire: &Wire,
    family: Family,
    connections: usize,
) -> Result<Duration> {
    let (listener, to) = listen(wire, family)?;
    wire.client.run(|| {
        time(|| {
            for _ in 0..connections {
                let client = TcpStream::connect(to)?;
                let (server, _) = listener.accept()?;
                drop(server);
                drop(client);
            }
            Ok(())
        })
    })?
}

/// Small messages to and fro on one connection: every packet but the first three is of an established one.
pub(crate) fn ping_pong(wire: &Wire, family: Family, messages: usize) -> Result<Duration> {
    let (listener, to) = listen(wire, family)?;
    let mut client = wire
        .client
        .run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let mut buffer = [7; 64];
    time(|| {
        for _ in 0..messages {
            client.write_all(&buffer)?;
            server.read_exact(&mut buffer)?;
            server.write_all(&buffer)?;
            client.read_exact(&mut buffer)?;
        }
        Ok(())
    })
}

/// Port 53 of the server: lower than every client's.
fn resolver(wire: &Wire, family: Family) -> Result<(UdpSocket, SocketAddr)> {
    let to = SocketAddr::new(family.server()?, 53);
    let server = wire.server.run(|| UdpSocket::bind(to))??;
    server.set_read_timeout(Some(PATIENCE))?;
    Ok((server, to))
}

fn unbound(family: Family) -> SocketAddr {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, 0)
}

fn stream(wire: &Wire, family: Family, datagrams: usize) -> Result<Duration> {
    let (server, to) = resolver(wire, family)?;
    let client = wire.client.run(|| UdpSocket::bind(unbound(family)))??;
    client.connect(to)?;
    let mut buffer = [7; 64];
    time(|| {
        for _ in 0..datagrams {
            client.send(&buffer)?;
            server.recv(&mut buffer).context("a datagram was lost")?;
        }
        Ok(())
    })
}

fn requests(wire: &Wire, family: Family, requests: usize) -> Result<Duration> {
    let (server, to) = resolver(wire, family)?;
    let mut buffer = [7; 64];
    wire.client.run(|| {
        time(|| {
            for _ in 0..requests {
                let client = UdpSocket::bind(unbound(family))?;
                client.connect(to)?;
                client.send(&buffer)?;
                let (_, from) = server
                    .recv_from(&mut buffer)
                    .context("a request was lost")?;
                server.send_to(&buffer, from)?;
                client.recv(&mut buffer).context("an answer was lost")?;
            }
            Ok(())
        })
    })?
}
