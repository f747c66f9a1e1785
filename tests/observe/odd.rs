//! Packets that no socket of ours would send, put on the wire as frames.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use polproof_flow::record::{Crossing, Event};
use polproof_tests::netns::Netns;

use crate::world::{self, A4, A6, B4, B6, Pair};

pub(crate) const TESTS: [world::Test; 2] = [
    ("headers_are_walked_whatever_lies_between", walked),
    ("what_cannot_be_walked_is_counted", counted),
];

const TCP: u8 = 6;
const ISN: u32 = 0x0102_0304;

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0, 80];
    header.extend(ISN.to_be_bytes());
    header.extend(0x0506_0708_u32.to_be_bytes());
    header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// An Ethernet frame with an IPv4 packet from A to B.
fn v4(options: &[u8], fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
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
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
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
fn extended(headers: &[(u8, Vec<u8>)], last: u8, payload: Vec<u8>) -> (u8, Vec<u8>) {
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

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Eight bytes: next header, length 0, padding.
fn padding() -> Vec<u8> {
    vec![0, 0, 1, 4, 0, 0, 0, 0]
}

fn send(netns: &Netns, frames: &[Vec<u8>]) -> Result<()> {
    netns.run(|| -> Result<()> {
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
        let length = u32::try_from(size_of::<libc::sockaddr_ll>())?;
        for frame in frames {
            // SAFETY: both ranges are as long as said.
            let sent = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const address).cast(),
                    length,
                )
            };
            ensure!(
                usize::try_from(sent).ok() == Some(frame.len()),
                "{}",
                io::Error::last_os_error()
            );
        }
        Ok(())
    })?
}

fn walked() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    let b = world::attach(&mut observer, &pair.b)?;
    let ah = vec![0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let long = {
        let mut header = vec![0; 32];
        header[1] = 3;
        header
    };
    let first_fragment = vec![0, 0, 0, 1, 0, 0, 0, 9];
    let mut frames = vec![
        v4(&[], 0, TCP, &tcp(0x02)),
        v4(&[1, 1, 1, 0], 0, TCP, &tcp(0x02)),
        v4(&[1; 40], 0, TCP, &tcp(0x02)),
        // The first of several fragments.
        v4(&[], 0x2000, TCP, &tcp(0x02)),
        // With ECN bits, and with data.
        v4(&[], 0, TCP, &tcp(0xc2)),
        v4(&[], 0x4000, TCP, &[tcp(0x02), vec![0; 500]].concat()),
        v6(TCP, &tcp(0x02)),
    ];
    for headers in [
        vec![(HOP_BY_HOP, padding())],
        vec![(DESTINATION, long), (ROUTING, padding())],
        vec![(FRAGMENT, first_fragment)],
        vec![(AUTHENTICATION, ah)],
        vec![(DESTINATION, padding()); 7],
    ] {
        let (next, payload) = extended(&headers, TCP, tcp(0x02));
        frames.push(v6(next, &payload));
    }
    send(&pair.a, &frames)?;
    let is_ours = |record: &polproof_flow::record::Record| {
        record.crossing == Crossing::In
            && record.netns == b.netns
            && record.event == (Event::Syn { isn: ISN })
            && record.source.port() == 40_000
            && record.destination.port() == 80
    };
    let (records, _) = world::read_until(&mut ring, "every SYN", |records| {
        records.iter().filter(|record| is_ours(record)).count() == frames.len()
    })?;
    ensure!(
        records
            .iter()
            .filter(|record| record.crossing == Crossing::In)
            .all(is_ours),
        "{records:#?}"
    );
    ensure!(observer.counters()?.unparsed == 0);
    Ok(())
}

fn counted() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.b)?;
    let many = vec![(DESTINATION, padding()); 9];
    let (many_next, many_payload) = extended(&many, TCP, tcp(0x02));
    let later = vec![(FRAGMENT, vec![0, 0, 1, 0, 0, 0, 0, 9])];
    let (later_next, later_payload) = extended(&later, TCP, tcp(0x02));
    let mut liar = v4(&[], 0, TCP, &tcp(0x02));
    liar[14] = 0x44;
    let unparsed = [
        // TCP that ends in its header, an IP header that does, an impossible header length, too many extensions,
        // an extension that points beyond the end.
        v4(&[], 0, TCP, &tcp(0x02)[..13]),
        v4(&[], 0, TCP, &[])[..30].to_vec(),
        liar,
        v6(many_next, &many_payload),
        v6(HOP_BY_HOP, &[TCP, 200, 0, 0, 0, 0, 0, 0]),
        v6(TCP, &tcp(0x02)[..10]),
    ];
    let fragments = [
        v4(&[], 0x2001, TCP, &tcp(0x02)),
        v4(&[], 0x0001, TCP, &tcp(0x02)),
        v4(&[], 0x00ff, TCP, &tcp(0x10)),
        v6(later_next, &later_payload),
    ];
    // Neither: established, UDP, an echo request, nothing at all.
    let boring = [
        v4(&[], 0, TCP, &tcp(0x10)),
        v6(TCP, &tcp(0x18)),
        v4(&[], 0, 17, &[0, 1, 0, 2, 0, 8, 0, 0]),
        v4(&[], 0, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        v6(58, &[128, 0, 0, 0, 0, 0, 0, 0]),
        v6(59, &[]),
    ];
    let before = observer.counters()?;
    send(&pair.a, &boring)?;
    send(&pair.a, &unparsed)?;
    send(&pair.a, &fragments)?;
    // Marks the end: what was sent before has been seen when this has.
    send(&pair.a, &[v4(&[], 0, TCP, &tcp(0x02))])?;
    let (records, _) = world::read_until(&mut ring, "the mark", |records| {
        records
            .iter()
            .any(|record| matches!(record.event, Event::Syn { .. }))
    })?;
    let syns = records
        .iter()
        .filter(|record| record.crossing == Crossing::In)
        .count();
    ensure!(syns == 1, "{records:#?}");
    let after = observer.counters()?;
    ensure!(
        after.unparsed - before.unparsed == unparsed.len() as u64,
        "{after:?}"
    );
    ensure!(
        after.fragments - before.fragments == fragments.len() as u64,
        "{after:?}"
    );
    // The programs' own words about it can be read (they go to the `log` crate).
    observer
        .take_log()
        .context("the log is there once")?
        .flush();
    Ok(())
}
