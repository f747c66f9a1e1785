//! What really crossed a pod's eth0, seen by a packet socket: what the lab knows, whatever the programs under test say.
//!
//! An opening is known by a number that every address translation leaves alone (TCP's initial sequence number, SCTP's initiate
//! tag, and for UDP what the lab writes into its datagrams), so what left one pod is found again where it arrived.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use polproof_policy::Protocol;

use crate::netns::Netns;

/// Room for packets that wait to be read.
const ROOM: usize = 32 << 20;
/// Packets that the host itself sends.
const PACKET_OUTGOING: u8 = 4;

/// What a packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// SYN, INIT, or a datagram that asks.
    Open,
    /// SYN-ACK, INIT-ACK, or a datagram that answers.
    Accepted,
    /// RST or ABORT.
    Refused,
    /// An ICMP error about an opening: type and code.
    Icmp(u8, u8),
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Accepted => f.write_str("accepted"),
            Self::Refused => f.write_str("refused"),
            Self::Icmp(kind, code) => write!(f, "icmp-{kind}/{code}"),
        }
    }
}

/// A packet that opens, or answers what opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event {
    /// Into the pod.
    pub incoming: bool,
    /// The protocol; of an ICMP error, that of the packet it quotes.
    pub protocol: Protocol,
    /// Who sent it; of an ICMP error, who sent the packet it quotes.
    pub source: SocketAddr,
    /// Whom to; likewise.
    pub destination: SocketAddr,
    /// Which opening it is or answers.
    pub id: u32,
    /// What it does.
    pub what: What,
}

/// A packet socket in a pod.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    eth0: usize,
    events: Mutex<Vec<Event>>,
}

impl Tap {
    /// Begins to listen at the namespace's eth0.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(netns: &Netns) -> Result<Self> {
        let (socket, eth0) = netns.run(|| -> Result<_> {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let protocol = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, protocol)
                .context("make a packet socket")?;
            setsockopt(&socket, sockopt::RcvBufForce, &ROOM).context("give it room")?;
            let eth0 = if_nametoindex("eth0").context("find eth0")?;
            Ok((socket, usize::try_from(eth0)?))
        })??;
        Ok(Self {
            socket,
            eth0,
            events: Mutex::default(),
        })
    }

    /// Everything since it was opened.
    ///
    /// # Errors
    /// When packets were lost, and the truth is not known.
    pub fn events(&self) -> Result<Vec<Event>> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packet = [0; 2048];
        loop {
            let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut packet) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                Err(error) => return Err(error).context("read a packet socket"),
            };
            let from = from.ok_or_else(|| anyhow!("a packet from nowhere"))?;
            if from.ifindex() != self.eth0 {
                continue;
            }
            let incoming = from.pkttype() != PACKET_OUTGOING;
            let seen = packet.get(..length).and_then(|bytes| read(bytes, incoming));
            events.extend(seen);
        }
        ensure!(
            self.lost()? == 0,
            "the lab itself lost packets at an eth0: what is true is not known"
        );
        Ok(events.clone())
    }

    fn lost(&self) -> Result<u32> {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>())?;
        // SAFETY: the pointers are to a structure that lives, and to its length.
        let done = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        ensure!(done == 0, "ask a packet socket for its losses");
        Ok(stats.tp_drops)
    }
}

/// The payload that makes a datagram an opening with this number.
pub fn question(id: u32) -> [u8; 5] {
    let [a, b, c, d] = id.to_be_bytes();
    [b'?', a, b, c, d]
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The ends, the transport's number and its bytes.
fn network(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let ip = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            let header = usize::from(packet.first()? & 0xf) * 4;
            Some((ip(12)?, ip(16)?, *packet.get(9)?, packet.get(header..)?))
        }
        6 => {
            let ip = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            Some((ip(8)?, ip(24)?, *packet.get(6)?, packet.get(40..)?))
        }
        _ => None,
    }
}

fn read(packet: &[u8], incoming: bool) -> Option<Event> {
    let (_, _, number, transport) = network(packet)?;
    match (number, *transport.first()?) {
        (1, 3) | (58, 1) => {
            let quoted = event(transport.get(8..)?, incoming)?;
            Some(Event {
                what: What::Icmp(*transport.first()?, *transport.get(1)?),
                ..quoted
            })
        }
        _ => event(packet, incoming),
    }
}

fn event(packet: &[u8], incoming: bool) -> Option<Event> {
    let (source, destination, number, transport) = network(packet)?;
    let (protocol, what, id) = match number {
        6 => {
            let flags = transport.get(13)?;
            let answered = || word(transport, 8).map(|ack| ack.wrapping_sub(1));
            let (what, id) = match flags & 0b1_0110 {
                0b0_0010 => (What::Open, word(transport, 4)?),
                0b1_0010 => (What::Accepted, answered()?),
                0b1_0100 => (What::Refused, answered()?),
                _ => return None,
            };
            (Protocol::Tcp, what, id)
        }
        17 => {
            let what = match transport.get(8)? {
                b'?' => What::Open,
                b'!' => What::Accepted,
                _ => return None,
            };
            let id = word(transport, 9).unwrap_or_default();
            (Protocol::Udp, what, id)
        }
        132 => {
            let (what, at) = match transport.get(12)? {
                1 => (What::Open, 16),
                2 => (What::Accepted, 4),
                6 => (What::Refused, 4),
                _ => return None,
            };
            (Protocol::Sctp, what, word(transport, at)?)
        }
        _ => return None,
    };
    Some(Event {
        incoming,
        protocol,
        source: SocketAddr::new(source, half(transport, 0)?),
        destination: SocketAddr::new(destination, half(transport, 2)?),
        id,
        what,
    })
}
