//! UDP and SCTP, ICMP errors about every transport, fragments, and what is only counted.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use polproof_flow::record::{Crossing, Event, NetnsCookie, Record};
use polproof_policy::Protocol;
use polproof_tests::netns::Netns;

use crate::frames::{
    self, DESTINATION, FRAGMENT, HOP_BY_HOP, ISN, SCTP, TCP, UDP, extended, init, packet, padding,
    sctp, tcp, udp,
};
use crate::world::{self, A4, A6, B4, B6, Pair};

pub(crate) const TESTS: [world::Test; 7] = [
    ("a_tuple_of_datagrams_is_recorded_once", datagrams),
    ("sctp_handshakes_and_aborts", associations),
    ("icmp_errors_about_every_transport", errors),
    (
        "an_unreachable_udp_port_answers_for_itself",
        closed_udp_port,
    ),
    ("of_fragments_the_first_counts", fragments),
    ("extension_headers_before_udp_and_sctp", extensions),
    ("other_protocols_are_counted", inventory),
];

const TAG: u32 = 0x1122_3344;

/// A client's: its port is ephemeral.
fn socket(netns: &Netns, ip: &str) -> Result<UdpSocket> {
    bound(netns, ip, 0)
}

fn bound(netns: &Netns, ip: &str, port: u16) -> Result<UdpSocket> {
    let ip: std::net::IpAddr = ip.parse()?;
    let socket = netns.run(|| UdpSocket::bind((ip, port)))??;
    socket.set_read_timeout(Some(world::DEADLINE))?;
    Ok(socket)
}

/// Sends, and waits until it has arrived.
fn deliver(from: &UdpSocket, to: &UdpSocket, data: &[u8]) -> Result<()> {
    ensure!(from.send_to(data, to.local_addr()?)? == data.len());
    let mut buffer = vec![0; 65_536];
    let (length, source) = to.recv_from(&mut buffer).context("nothing arrived")?;
    ensure!(length == data.len() && source == from.local_addr()?);
    Ok(())
}

/// What a record is compared by.
fn key(record: &Record) -> (NetnsCookie, Crossing, SocketAddr, SocketAddr, Event) {
    (
        record.netns,
        record.crossing,
        record.source,
        record.destination,
        record.event,
    )
}

fn datagrams() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    let a = world::attach(&mut observer, &pair.a)?.netns;
    let b = world::attach(&mut observer, &pair.b)?.netns;
    for (from, to) in [(A4, B4), (A6, B6)] {
        let server = bound(&pair.b, to, 5353)?;
        let client = socket(&pair.a, from)?;
        let other = socket(&pair.a, from)?;
        for _ in 0..3 {
            deliver(&client, &server, b"request")?;
            deliver(&other, &server, b"request")?;
            deliver(&server, &client, b"reply")?;
            deliver(&server, &other, b"reply")?;
        }
        let (at_client, at_server) = (client.local_addr()?, server.local_addr()?);
        let expected = [
            (a, Crossing::Out, at_client, at_server, Event::Datagram),
            (b, Crossing::In, at_client, at_server, Event::Datagram),
            (b, Crossing::Out, at_server, at_client, Event::Datagram),
            (a, Crossing::In, at_server, at_client, Event::Datagram),
        ];
        // The same tuples once more: nothing of it may be recorded before the marks, which are of tuples of their own.
        let mark = bound(&pair.b, to, 5354)?;
        deliver(&client, &mark, b"mark")?;
        let is_mark = |record: &&Record| record.destination == mark.local_addr().unwrap();
        let (records, _) = world::read_until(&mut ring, "the mark", |records| {
            records.iter().filter(is_mark).count() == 2
        })?;
        let seen: Vec<_> = records
            .iter()
            .filter(|record| !is_mark(record))
            .map(key)
            .collect();
        ensure!(seen == expected, "{seen:#?} is not {expected:#?}");
        ensure!(
            records
                .iter()
                .all(|record| record.protocol == Protocol::Udp)
        );

        // The other way round with the same lower port is another tuple, though the addresses are the same.
        let swapped = bound(&pair.a, from, 5353)?;
        let asker = socket(&pair.b, to)?;
        deliver(&swapped, &asker, b"reply of A's server")?;
        let (records, _) = world::read_until(&mut ring, "2 records", |records| records.len() >= 2)?;
        let swapped = swapped.local_addr()?;
        ensure!(
            records.iter().all(|record| record.source == swapped),
            "{records:#?}"
        );

        observer.forget_datagrams()?;
        deliver(&other, &server, b"request")?;
        let (records, _) = world::read_until(&mut ring, "2 records", |records| records.len() >= 2)?;
        ensure!(
            records
                .iter()
                .all(|record| record.source == other.local_addr().unwrap()),
            "{records:#?}"
        );
    }
    Ok(())
}

/// Sends frames from A; returns what was recorded of them at B, in order. A SYN marks the end.
fn recorded(frames: &[Vec<u8>]) -> Result<Vec<Record>> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.b)?;
    frames::send(&pair.a, frames)?;
    frames::send(&pair.a, &[frames::v4(&[], 0, TCP, &tcp(0x02))])?;
    let is_mark = |record: &Record| matches!(record.event, Event::Syn { .. });
    let (records, outcome) =
        world::read_until(&mut ring, "the mark", |records| records.iter().any(is_mark))?;
    ensure!(outcome == Default::default(), "{outcome:?}");
    ensure!(observer.counters()?.unparsed == 0);
    // B's own stack may answer.
    Ok(records
        .into_iter()
        .filter(|record| record.crossing == Crossing::In && !is_mark(record))
        .collect())
}

fn associations() -> Result<()> {
    let records = recorded(&[
        frames::v4(&[], 0, SCTP, &init(TAG)),
        frames::v6(SCTP, &init(TAG + 1)),
        frames::v4(&[], 0, SCTP, &sctp(TAG, 2, &[0; 16])),
        frames::v6(SCTP, &sctp(TAG, 2, &[0; 16])),
        frames::v4(&[], 0, SCTP, &sctp(TAG, 6, &[])),
        frames::v6(SCTP, &sctp(TAG, 6, &[])),
        // Data, COOKIE ECHO, HEARTBEAT: no handshake.
        frames::v4(&[], 0, SCTP, &sctp(TAG, 0, &[0; 16])),
        frames::v6(SCTP, &sctp(TAG, 10, &[0; 16])),
        frames::v4(&[], 0, SCTP, &sctp(TAG, 4, &[0; 16])),
    ])?;
    let events: Vec<_> = records.iter().map(|record| record.event).collect();
    ensure!(
        events
            == [
                Event::Init { tag: TAG },
                Event::Init { tag: TAG + 1 },
                Event::InitAck { tag: TAG },
                Event::InitAck { tag: TAG },
                Event::Abort { tag: TAG },
                Event::Abort { tag: TAG },
            ],
        "{records:#?}"
    );
    for record in &records {
        ensure!(record.protocol == Protocol::Sctp, "{record:?}");
        ensure!(
            record.source.port() == 40_000 && record.destination.port() == 80,
            "{record:?}"
        );
    }
    Ok(())
}

/// An ICMP or ICMPv6 error that quotes a packet.
fn error(icmp_type: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![icmp_type, code, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    message
}

fn errors() -> Result<()> {
    let (v4_init, v6_init) = (
        frames::v4(&[], 0, SCTP, &init(TAG)),
        frames::v6(SCTP, &init(TAG)),
    );
    let v4 =
        |icmp_type, code, quoted: &[u8]| frames::v4(&[], 0, 1, &error(icmp_type, code, quoted));
    let v6 = |icmp_type, code, quoted: &[u8]| frames::v6(58, &error(icmp_type, code, quoted));
    let records = recorded(&[
        v4(3, 13, packet(&frames::v4(&[], 0, TCP, &tcp(0x02)))),
        v4(3, 3, packet(&frames::v4(&[], 0, UDP, &udp(40_000, 80)))),
        v4(3, 2, packet(&v4_init)),
        // Eight bytes of the transport header: an INIT has no verification tag, and its initiate tag is not quoted.
        v4(3, 2, &packet(&v4_init)[..28]),
        v4(
            3,
            2,
            packet(&frames::v4(&[1, 1, 1, 0], 0, SCTP, &init(TAG))),
        ),
        v6(1, 1, packet(&frames::v6(TCP, &tcp(0x02)))),
        v6(1, 4, packet(&frames::v6(UDP, &udp(40_000, 80)))),
        v6(1, 4, packet(&v6_init)),
        // No errors about an attempt: time exceeded, and one that quotes an echo request.
        v4(11, 0, packet(&frames::v4(&[], 0, UDP, &udp(40_000, 80)))),
        v4(
            3,
            1,
            packet(&frames::v4(&[], 0, 1, &[8, 0, 0, 0, 0, 0, 0, 0])),
        ),
    ])?;
    let expected = [
        (Protocol::Tcp, 3, 13, ISN, A4),
        (Protocol::Udp, 3, 3, 0, A4),
        (Protocol::Sctp, 3, 2, TAG, A4),
        (Protocol::Sctp, 3, 2, 0, A4),
        (Protocol::Sctp, 3, 2, TAG, A4),
        (Protocol::Tcp, 1, 1, ISN, A6),
        (Protocol::Udp, 1, 4, 0, A6),
        (Protocol::Sctp, 1, 4, TAG, A6),
    ];
    ensure!(records.len() == expected.len(), "{records:#?}");
    for (record, (protocol, icmp_type, code, quoted_sequence, reporter)) in
        records.iter().zip(expected)
    {
        let event = Event::Unreachable {
            reporter: reporter.parse()?,
            icmp_type,
            code,
            quoted_sequence,
        };
        ensure!(
            record.protocol == protocol && record.event == event,
            "{record:?} is not {protocol:?} {event:?}"
        );
        ensure!(
            record.source.port() == 40_000 && record.destination.port() == 80,
            "{record:?}"
        );
    }
    Ok(())
}

fn closed_udp_port() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    let b = world::attach(&mut observer, &pair.b)?.netns;
    for (from, to, icmp_type, code) in [(A4, B4, 3, 3), (A6, B6, 1, 4)] {
        let client = socket(&pair.a, from)?;
        let nobody = SocketAddr::new(to.parse()?, 9);
        client.send_to(b"anybody?", nobody)?;
        let (records, _) = world::read_until(&mut ring, "datagram and error", |records| {
            records.len() >= 2
        })?;
        let event = Event::Unreachable {
            reporter: nobody.ip(),
            icmp_type,
            code,
            quoted_sequence: 0,
        };
        let seen: Vec<_> = records.iter().map(key).collect();
        let client = client.local_addr()?;
        ensure!(
            seen == [
                (b, Crossing::In, client, nobody, Event::Datagram),
                (b, Crossing::Out, client, nobody, event),
            ],
            "{seen:#?}"
        );
    }
    Ok(())
}

fn fragments() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    let b = world::attach(&mut observer, &pair.b)?.netns;
    for (from, to) in [(A4, B4), (A6, B6)] {
        let before = observer.counters()?;
        let server = socket(&pair.b, to)?;
        let client = socket(&pair.a, from)?;
        // Three fragments at an MTU of 1500.
        deliver(&client, &server, &[7; 4000])?;
        let (records, _) = world::read_until(&mut ring, "1 record", |records| !records.is_empty())?;
        let seen: Vec<_> = records.iter().map(key).collect();
        let (client, server) = (client.local_addr()?, server.local_addr()?);
        ensure!(
            seen == [(b, Crossing::In, client, server, Event::Datagram)],
            "{seen:#?}"
        );
        let after = observer.counters()?;
        ensure!(
            after.fragments - before.fragments == 2 && after.unparsed == before.unparsed,
            "{before:?} {after:?}"
        );
    }
    Ok(())
}

fn extensions() -> Result<()> {
    let first_fragment = vec![0, 0, 0, 1, 0, 0, 0, 9];
    let mut sent = Vec::new();
    for (port, headers) in (1000_u16..).zip([
        vec![(HOP_BY_HOP, padding())],
        vec![(FRAGMENT, first_fragment)],
        vec![(DESTINATION, padding()); 7],
    ]) {
        let (next, payload) = extended(&headers, UDP, udp(40_000, port));
        // Twice: the second is hidden by the first, read by the same way.
        sent.push(frames::v6(next, &payload));
        sent.push(frames::v6(next, &payload));
        let (next, payload) = extended(&headers, SCTP, init(TAG));
        sent.push(frames::v6(next, &payload));
    }
    // With IPv4 options; and the same tuple without, which is then known.
    sent.push(frames::v4(&[1, 1, 1, 0], 0, UDP, &udp(40_000, 2000)));
    sent.push(frames::v4(&[], 0, UDP, &udp(40_001, 2000)));
    sent.push(frames::v6(UDP, &udp(40_001, 1000)));
    let events: Vec<_> = recorded(&sent)?
        .iter()
        .map(|record| (record.event, record.destination.port()))
        .collect();
    let tag = (Event::Init { tag: TAG }, 80);
    ensure!(
        events
            == [
                (Event::Datagram, 1000),
                tag,
                (Event::Datagram, 1001),
                tag,
                (Event::Datagram, 1002),
                tag,
                (Event::Datagram, 2000),
            ],
        "{events:#?}"
    );
    Ok(())
}

fn inventory() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.b)?;
    let mut vlan = frames::v4(&[], 0, TCP, &tcp(0x02));
    vlan[12..14].copy_from_slice(&[0x88, 0xcc]);
    let mut arp = vlan.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut elsewhere = frames::v4(&[], 0, UDP, &udp(40_000, 53));
    elsewhere[..6].copy_from_slice(&[0x02, 0, 0, 0, 0, 0x99]);
    let before = observer.counters()?;
    frames::send(
        &pair.a,
        &[
            frames::v4(&[], 0, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
            frames::v6(58, &[128, 0, 0, 0, 0, 0, 0, 0]),
            // Housekeeping of the link.
            frames::v6(58, &[135, 0, 0, 0, 0, 0, 0, 0]),
            frames::v4(&[], 0, 47, &[0; 8]),
            frames::v6(41, &[0; 40]),
            frames::v4(&[], 0, 50, &[0; 8]),
            frames::v4(&[], 0, 2, &[0; 8]),
            frames::v6(59, &[]),
            vlan,
            arp,
            // A bridge floods it: B's stack drops it, and it must not hide what is B's.
            elsewhere,
            frames::v4(&[], 0, UDP, &udp(40_000, 53)),
        ],
    )?;
    let (records, _) = world::read_until(&mut ring, "the datagram", |records| {
        records.iter().any(|record| record.event == Event::Datagram)
    })?;
    ensure!(
        records
            .iter()
            .filter(|r| r.crossing == Crossing::In)
            .count()
            == 1,
        "{records:#?}"
    );
    let after = observer.counters()?;
    // B's own stack may answer and may have words with its link.
    ensure!(after.icmp - before.icmp >= 2, "{after:?}");
    for (name, one, other, difference) in [
        ("tunnel", before.tunnel, after.tunnel, 2),
        ("ipsec", before.ipsec, after.ipsec, 1),
        ("other_ip", before.other_ip, after.other_ip, 2),
        ("other_frames", before.other_frames, after.other_frames, 1),
        ("other_host", before.other_host, after.other_host, 1),
        ("unparsed", before.unparsed, after.unparsed, 0),
    ] {
        ensure!(other - one == difference, "{name}: {before:?} {after:?}");
    }
    Ok(())
}
