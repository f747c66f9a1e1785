//! SCTP as far as the first answer, by raw sockets: kernels often lack SCTP, and what decides (INIT, INIT-ACK, ABORT) is small.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::datagrams::{self, Reply};
use super::{Attempt, Outcome};
use crate::lab::resident::{Pending, Resident};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
/// The parameter without which no INIT-ACK is one.
const STATE_COOKIE: u16 = 7;

/// An INIT that is not answered is sent again after this, as TCP's SYN.
const RETRANSMIT: Duration = Duration::from_secs(1);

impl Resident {
    /// Answers every INIT: with INIT-ACK on the ports, with ABORT on all others, until the resident ends. Once in a namespace.
    ///
    /// # Errors
    /// When a raw socket cannot be made.
    pub fn serve_sctp(&self, ports: &[u16]) -> Result<()> {
        let open: BTreeSet<u16> = ports.iter().copied().collect();
        self.call(Duration::from_secs(10), move || async move {
            for v4 in [true, false] {
                let socket = raw(v4).context("make a raw socket for SCTP")?;
                tokio::task::spawn_local(answer(socket, v4, open.clone()));
            }
            Ok(())
        })?
    }

    /// Sends an INIT, and again after a second, until something comes back: INIT-ACK is [`Outcome::Connected`], ABORT is
    /// [`Outcome::Refused`].
    ///
    /// # Errors
    /// When a raw socket cannot be made, or on an outcome that is none of [`Outcome`].
    pub fn associate(&self, to: SocketAddr, patience: Duration) -> Result<Attempt> {
        self.start_associate(to, patience)
            .wait(patience + Duration::from_secs(20))?
    }

    /// Begins [`Resident::associate`].
    pub fn start_associate(&self, to: SocketAddr, patience: Duration) -> Pending<Result<Attempt>> {
        self.start(move || associate(to, patience))
    }
}

/// A raw SCTP socket in the clothes of a UDP socket, which sends and receives alike.
fn raw(v4: bool) -> io::Result<UdpSocket> {
    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes three numbers, and gives a descriptor or -1.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_SCTP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    UdpSocket::from_std(fd.into())
}

async fn answer(socket: UdpSocket, v4: bool, open: BTreeSet<u16>) {
    let mut packet = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut packet).await else {
            continue;
        };
        let Some(init) = packet
            .get(..length)
            .and_then(|bytes| Chunk::read(bytes, v4))
            .filter(|chunk| chunk.kind == INIT)
        else {
            continue;
        };
        let reply = Chunk {
            source: init.destination,
            destination: init.source,
            verification: init.tag,
            kind: if open.contains(&init.destination) {
                INIT_ACK
            } else {
                ABORT
            },
            tag: tag(),
        };
        let _ = socket
            .send_to(&reply.packet(), SocketAddr::new(from.ip(), 0))
            .await;
    }
}

async fn associate(to: SocketAddr, patience: Duration) -> Result<Attempt> {
    let socket = raw(to.is_ipv4()).context("make a raw socket for SCTP")?;
    let init = Chunk {
        // Two attempts at a time must not share a port: conntrack would take one for the other.
        source: 32_768 + u16::try_from(tag() % 28_000).unwrap_or_default(),
        destination: to.port(),
        verification: 0,
        kind: INIT,
        tag: tag(),
    };
    let sent = SystemTime::now();
    let made = timeout(patience, exchange(&socket, to, &init)).await;
    let outcome = match made {
        Ok(Ok(INIT_ACK)) => Outcome::Connected,
        Ok(Ok(_)) => Outcome::Refused,
        Ok(Err(error)) => {
            match datagrams::classify(&error).with_context(|| format!("associate with {to}"))? {
                Reply::Refused => Outcome::Refused,
                _ => Outcome::Unreachable,
            }
        }
        Err(_) => Outcome::TimedOut,
    };
    Ok(Attempt {
        from: None,
        to,
        outcome,
        sent,
        ended: Instant::now(),
    })
}

/// The kind of the first chunk that answers the INIT.
async fn exchange(socket: &UdpSocket, to: SocketAddr, init: &Chunk) -> io::Result<u8> {
    // Connected, so that ICMP errors come back to it.
    socket.connect(SocketAddr::new(to.ip(), 0)).await?;
    let mut packet = [0; 2048];
    loop {
        socket.send(&init.packet()).await?;
        let answered = timeout(RETRANSMIT, async {
            loop {
                let length = socket.recv(&mut packet).await?;
                let answer = packet
                    .get(..length)
                    .and_then(|bytes| Chunk::read(bytes, to.is_ipv4()));
                if let Some(answer) = answer
                    && answer.verification == init.tag
                    && answer.destination == init.source
                    && answer.source == init.destination
                {
                    return Ok(answer.kind);
                }
            }
        });
        if let Ok(kind) = answered.await {
            return kind;
        }
    }
}

/// A packet with one chunk: INIT, INIT-ACK or ABORT.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    source: u16,
    destination: u16,
    verification: u32,
    kind: u8,
    /// The initiate tag of INIT and INIT-ACK.
    tag: u32,
}

impl Chunk {
    fn read(packet: &[u8], v4: bool) -> Option<Self> {
        // A raw IPv4 socket gets the IP header, too.
        let start = if v4 {
            usize::from(packet.first()? & 0xf) * 4
        } else {
            0
        };
        let bytes = packet.get(start..)?;
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let half = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
        };
        Some(Self {
            source: half(0)?,
            destination: half(2)?,
            verification: word(4)?,
            kind: *bytes.get(12)?,
            tag: word(16).unwrap_or_default(),
        })
    }

    fn packet(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.verification.to_be_bytes());
        bytes.extend([0; 4]);
        if self.kind == ABORT {
            bytes.extend([ABORT, 0, 0, 4]);
        } else {
            let cookie: &[u8] = if self.kind == INIT_ACK {
                b"cookie.."
            } else {
                &[]
            };
            let parameter = if cookie.is_empty() {
                0
            } else {
                4 + cookie.len()
            };
            let length = u16::try_from(20 + parameter).unwrap_or(u16::MAX);
            bytes.extend([self.kind, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(self.tag.to_be_bytes());
            // Window, outbound and inbound streams, initial TSN.
            bytes.extend(65_535_u32.to_be_bytes());
            bytes.extend(10_u16.to_be_bytes());
            bytes.extend(10_u16.to_be_bytes());
            bytes.extend(self.tag.to_be_bytes());
            if !cookie.is_empty() {
                bytes.extend(STATE_COOKIE.to_be_bytes());
                bytes.extend(u16::try_from(parameter).unwrap_or(u16::MAX).to_be_bytes());
                bytes.extend(cookie);
            }
        }
        let sum = crc32c(&bytes).to_le_bytes();
        if let Some(field) = bytes.get_mut(8..12) {
            field.copy_from_slice(&sum);
        }
        bytes
    }
}

/// A tag that nobody else uses; never 0.
fn tag() -> u32 {
    let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
    u32::from_be_bytes([a, b, c, d]).max(1)
}

/// Castagnoli's CRC, which SCTP has for a checksum.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_is_written_is_read() {
        let chunk = Chunk {
            source: 1,
            destination: 2,
            verification: 3,
            kind: INIT_ACK,
            tag: 4,
        };
        let read = Chunk::read(&chunk.packet(), false).unwrap();
        assert_eq!(
            (read.source, read.destination, read.verification),
            (1, 2, 3)
        );
        assert_eq!((read.kind, read.tag), (INIT_ACK, 4));
    }
}
