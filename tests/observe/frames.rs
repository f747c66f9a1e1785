//! Packets that no socket of ours would send, as Ethernet frames from A to B, and putting them on the wire.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, ensure};
use polproof_tests::netns::Netns;

use crate::world::{A4, A6, B4, B6};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ISN: u32 = 0x0102_0304;

pub(crate) fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0, 80];
    header.extend(ISN.to_be_bytes());
    header.extend(0x0506_0708_u32.to_be_bytes());
    header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// An Ethernet frame with an IPv4 packet from A to B.
pub(crate) fn v4(options: &[u8], fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend([0x08, 0x00]);
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let total = u16::try_from(20 + options.len() + payload.len()).unwrap();
    frame.extend([0x40 | words, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([61, protocol, 0, 0]);
    for address in [A4, B4] {
        frame.extend(address.parse::<std::net::Ipv4Addr>().unwrap().octets());
    }
    frame.extend(options);
    frame.extend(payload);
    frame
}

/// An Ethernet frame with an IPv6 packet from A to B.
pub(crate) fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend([next, 61]);
    for address in [A6, B6] {
        frame.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    frame.extend(payload);
    frame
}

/// Extension headers in a row before a payload; returns the first's number and the bytes.
pub(crate) fn extended(headers: &[(u8, Vec<u8>)], last: u8, payload: Vec<u8>) -> (u8, Vec<u8>) {
    let mut bytes = payload;
    let mut next = last;
    for (kind, header) in headers.iter().rev() {
        let mut header = header.clone();
        header[0] = next;
        header.extend(bytes);
        bytes = header;
        next = *kind;
    }
    (next, bytes)
}

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION: u8 = 60;

/// A datagram without data.
pub(crate) fn udp(source: u16, destination: u16) -> Vec<u8> {
    [source, destination, 8, 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect()
}

/// An SCTP packet from port 40000 to port 80 with one chunk: its type and what follows its head.
pub(crate) fn sctp(verification: u32, chunk: u8, value: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x9c, 0x40, 0, 80];
    packet.extend(verification.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0]);
    packet.extend(u16::try_from(4 + value.len()).unwrap().to_be_bytes());
    packet.extend(value);
    packet
}

/// An SCTP INIT.
pub(crate) fn init(tag: u32) -> Vec<u8> {
    let mut value = tag.to_be_bytes().to_vec();
    value.extend([0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    sctp(0, 1, &value)
}

/// The packet in a frame.
pub(crate) fn packet(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// Eight bytes: next header, length 0, padding.
pub(crate) fn padding() -> Vec<u8> {
    vec![0, 0, 1, 4, 0, 0, 0, 0]
}

/// `PACKET_VNET_HDR` of include/uapi/linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;
/// `struct virtio_net_hdr` of include/uapi/linux/virtio_net.h.
const VNET_HEADER: usize = 10;

pub(crate) fn send(netns: &Netns, frames: &[Vec<u8>]) -> Result<()> {
    netns.run(|| -> Result<()> {
        let wire = Wire::open()?;
        frames.iter().try_for_each(|frame| wire.put(frame))
    })?
}

/// Each with so many of its bytes in the linear part of the packet, and the others in pages. Only frames of more than
/// a page are parted.
pub(crate) fn send_parted(netns: &Netns, frames: &[(u16, Vec<u8>)]) -> Result<()> {
    netns.run(|| -> Result<()> {
        let wire = Wire::open()?;
        let on: libc::c_int = 1;
        // SAFETY: the option is as long as said.
        let set = unsafe {
            libc::setsockopt(
                wire.socket.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_VNET_HDR,
                (&raw const on).cast(),
                u32::try_from(size_of_val(&on))?,
            )
        };
        ensure!(set == 0, "PACKET_VNET_HDR: {}", io::Error::last_os_error());
        for (linear, frame) in frames {
            let mut bytes = vec![0; VNET_HEADER];
            bytes[2..4].copy_from_slice(&linear.to_le_bytes());
            bytes.extend(frame);
            wire.put(&bytes)?;
        }
        Ok(())
    })?
}

/// A packet socket on eth0.
struct Wire {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl Wire {
    fn open() -> Result<Self> {
        let index = nix::net::if_::if_nametoindex("eth0")?;
        let protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol)) };
        ensure!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: just made, and ours.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all of it is plain numbers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(index)?;
        Ok(Self { socket, address })
    }

    fn put(&self, bytes: &[u8]) -> Result<()> {
        // SAFETY: both ranges are as long as said.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const self.address).cast(),
                u32::try_from(size_of_val(&self.address))?,
            )
        };
        ensure!(
            usize::try_from(sent).ok() == Some(bytes.len()),
            "{}",
            io::Error::last_os_error()
        );
        Ok(())
    }
}
