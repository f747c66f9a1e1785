//! Attempts by sockets of pods, and what really came to their eth0: the truth that an enforcer's word is held against.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, send, socket,
};
use polproof_policy::Protocol;
use polproof_tests::netns::Netns;

/// A connection as a packet of its client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tuple {
    pub(super) protocol: u8,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

/// What came to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// A segment with these flags, a datagram, or an SCTP chunk.
    Straight { flags: u8, payload: bool },
    /// An ICMP error about a packet of the connection: type and code.
    Error(u8, u8),
}

/// `ETH_P_ALL`.
const EVERY_PROTOCOL: u16 = 3;

/// Everything that comes to one pod's eth0.
#[derive(Debug)]
pub(super) struct Witness {
    socket: OwnedFd,
    seen: BTreeMap<Tuple, Vec<Packet>>,
}

impl Witness {
    pub(super) fn attach(netns: &Netns) -> Result<Self> {
        let socket = netns.run(|| -> io::Result<OwnedFd> {
            let all = libc::c_int::from(EVERY_PROTOCOL.to_be());
            let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::socket(libc::AF_PACKET, kind, all) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: just made, and ours alone.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })?;
        let socket = socket.context("open a packet socket")?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20))?;
        Ok(Self {
            socket,
            seen: BTreeMap::new(),
        })
    }

    /// Takes in what came since.
    pub(super) fn look(&mut self) {
        let mut buffer = [0_u8; 2048];
        loop {
            let mut from = MaybeUninit::<libc::sockaddr_ll>::zeroed();
            let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
            // SAFETY: buffer and address are as long as said.
            let read = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    from.as_mut_ptr().cast(),
                    &raw mut length,
                )
            };
            let Ok(read) = usize::try_from(read) else {
                return;
            };
            // SAFETY: zeroed, which is a valid address, and filled in by the kernel.
            let from = unsafe { from.assume_init() };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            if let Some((tuple, packet)) = buffer.get(..read).and_then(parse) {
                self.seen.entry(tuple).or_default().push(packet);
            }
        }
    }

    pub(super) fn of(&self, tuple: &Tuple) -> &[Packet] {
        self.seen.get(tuple).map_or(&[], Vec::as_slice)
    }
}

/// Addresses, protocol and what follows the header.
fn network(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match bytes.first()? >> 4 {
        4 => {
            let length = usize::from(bytes.first()? & 0xf) * 4;
            let ip = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(octets).into())
            };
            Some((ip(12)?, ip(16)?, *bytes.get(9)?, bytes.get(length..)?))
        }
        6 => {
            let ip = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(octets).into())
            };
            Some((ip(8)?, ip(24)?, *bytes.get(6)?, bytes.get(40..)?))
        }
        _ => None,
    }
}

fn ports(bytes: &[u8]) -> Option<(u16, u16)> {
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    Some((port(0)?, port(2)?))
}

fn parse(bytes: &[u8]) -> Option<(Tuple, Packet)> {
    let (source, destination, protocol, rest) = network(bytes)?;
    let is_error = match protocol {
        1 => matches!(rest.first()?, 3 | 11),
        58 => *rest.first()? < 128,
        _ => false,
    };
    if is_error {
        let (source, destination, protocol, inner) = network(rest.get(8..)?)?;
        let (from, to) = ports(inner)?;
        let tuple = Tuple {
            protocol,
            from: SocketAddr::new(source, from),
            to: SocketAddr::new(destination, to),
        };
        return Some((tuple, Packet::Error(*rest.first()?, *rest.get(1)?)));
    }
    if !matches!(protocol, 6 | 17 | 132) {
        return None;
    }
    let (from, to) = ports(rest)?;
    let tuple = Tuple {
        protocol,
        from: SocketAddr::new(source, from),
        to: SocketAddr::new(destination, to),
    };
    let (flags, header) = match protocol {
        6 => (*rest.get(13)?, usize::from(rest.get(12)? >> 4) * 4),
        _ => (0, 8),
    };
    let payload = rest.len() > header;
    Some((tuple, Packet::Straight { flags, payload }))
}

/// A socket of a pod that has begun to connect.
#[derive(Debug)]
pub(super) struct Client {
    socket: Option<OwnedFd>,
    pub(super) tuple: Tuple,
}

/// Clients' ports begin here.
const FIRST_PORT: u16 = 33_000;

const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9];

/// Begins one attempt: a SYN, a datagram or an INIT. Each has a port of its own, so that none is taken for one before.
pub(super) fn begin(
    netns: &Netns,
    own: IpAddr,
    protocol: Protocol,
    to: SocketAddr,
    number: u16,
) -> Result<Client> {
    netns.run(move || -> Result<Client> {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let kind = match protocol {
            Protocol::Tcp => SockType::Stream,
            Protocol::Udp => SockType::Datagram,
            Protocol::Sctp => return init(own, to, number),
        };
        let client = socket(family, kind, flags, None)?;
        bind(
            client.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(own, FIRST_PORT + number)),
        )?;
        match connect(client.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
            Err(error) => return Err(error).context(format!("connect to {to}")),
        }
        let client = Client {
            socket: Some(client),
            tuple: Tuple {
                protocol: if protocol == Protocol::Tcp { 6 } else { 17 },
                from: SocketAddr::new(own, FIRST_PORT + number),
                to,
            },
        };
        if protocol == Protocol::Udp {
            client.say_more();
        }
        Ok(client)
    })?
}

impl Client {
    /// Sends a byte on the connection; an error is the network's answer, which the witness sees.
    pub(super) fn say_more(&self) {
        if let Some(socket) = &self.socket {
            let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
            let _ = send(socket.as_raw_fd(), b"?", flags);
        }
    }

    /// Ends the attempt: nothing of it is sent again.
    pub(super) fn hang_up(&mut self) {
        self.socket = None;
    }
}

/// An INIT by a raw socket, since not every kernel has SCTP.
fn init(own: IpAddr, to: SocketAddr, number: u16) -> Result<Client> {
    let domain = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 132) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("open a raw socket");
    }
    // SAFETY: just made, and ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let from = SocketAddr::new(own, FIRST_PORT + number);
    let mut packet = Vec::new();
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0; 8]);
    packet.extend(INIT);
    let sum = crc32c(&packet).to_le_bytes();
    packet.splice(8..12, sum);
    connect(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(to.ip(), 0)),
    )?;
    send(
        socket.as_raw_fd(),
        &packet,
        nix::sys::socket::MsgFlags::empty(),
    )?;
    Ok(Client {
        socket: Some(socket),
        tuple: Tuple {
            protocol: 132,
            from,
            to,
        },
    })
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let bit = sum & 1;
            sum = (sum >> 1) ^ (0x82f6_3b78 * bit);
        }
    }
    !sum
}

/// Sends every datagram back that came to one of a pod's ports.
#[derive(Debug)]
pub(super) struct Echo(Vec<UdpSocket>);

impl Echo {
    pub(super) fn serve(netns: &Netns, ports: &[u16]) -> Result<Self> {
        let ports = ports.to_vec();
        let sockets = netns.run(move || -> io::Result<Vec<UdpSocket>> {
            let bind = |port| {
                let socket = UdpSocket::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            ports.into_iter().map(bind).collect()
        })??;
        Ok(Self(sockets))
    }

    pub(super) fn answer(&self) {
        let mut buffer = [0; 64];
        for socket in &self.0 {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
            }
        }
    }
}
