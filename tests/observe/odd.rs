//! Headers in packets that no socket of ours would send.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use polproof_flow::record::{Crossing, Event, Record};

use crate::frames::{
    AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ISN, ROUTING, SCTP, TCP, UDP, extended,
    init, padding, sctp, send, send_parted, tcp, udp, v4, v6,
};
use crate::world::{self, A4, A6, B4, B6, Pair, inside};

pub(crate) const TESTS: [world::Test; 3] = [
    ("headers_are_walked_whatever_lies_between", walked),
    ("headers_are_read_in_whichever_part_they_lie", parted),
    ("what_cannot_be_walked_is_counted", counted),
];

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
    let is_ours = |record: &Record| {
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

/// How often what was seen.
type Counts = HashMap<(SocketAddr, IpAddr, Event), usize>;

fn counting(mut counts: Counts, one: (SocketAddr, IpAddr, Event)) -> Counts {
    *counts.entry(one).or_default() += 1;
    counts
}

/// From the linear part, from pages, and from where one ends and the other begins.
fn parted() -> Result<()> {
    const JUMBO: usize = 6000;
    /// Than every source port, so that each of those is a new tuple of datagrams.
    const HIGHER: u16 = 50_000;
    let pair = Pair::new()?;
    for netns in [&pair.a, &pair.b] {
        inside(netns, "ip link set eth0 mtu 9000")?;
    }
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.a)?;
    world::attach(&mut observer, &pair.b)?;
    let long = |mut header: Vec<u8>| {
        header.resize(JUMBO, 0);
        header
    };
    let mut frames = Vec::new();
    let mut expected = Vec::new();
    // From the Ethernet header alone to all headers and more.
    for linear in 14..=100 {
        let port = 40_000 + linear;
        let kinds = [
            (TCP, tcp(0x02), Event::Syn { isn: ISN }),
            (SCTP, init(7), Event::Init { tag: 7 }),
            (UDP, udp(port, HIGHER), Event::Datagram),
        ];
        for (protocol, mut header, event) in kinds {
            header[..2].copy_from_slice(&port.to_be_bytes());
            let (next, extended) = extended(&[(DESTINATION, padding())], protocol, header.clone());
            let mut variants = vec![
                v4(&[], 0, protocol, &long(header.clone())),
                v6(protocol, &long(header.clone())),
            ];
            // A tuple is recorded once, so of datagrams there is one of each family.
            if protocol != UDP {
                variants.push(v4(&[1; 20], 0, protocol, &long(header)));
                variants.push(v6(next, &long(extended)));
            }
            for (index, frame) in variants.into_iter().enumerate() {
                frames.push((linear, frame));
                let [from, to] = if index % 2 == 0 { [A4, B4] } else { [A6, B6] };
                expected.push((SocketAddr::new(from.parse()?, port), to.parse()?, event));
            }
        }
    }
    let wanted: Counts = expected.iter().copied().fold(Counts::new(), counting);
    send_parted(&pair.a, &frames)?;
    // Without what the stacks answer.
    let is_ours = |record: &&Record| matches!(record.destination.port(), 80 | HIGHER);
    let (records, outcome) = world::read_until(&mut ring, "every packet twice", |records| {
        records.iter().filter(is_ours).count() >= 2 * expected.len()
    })?;
    ensure!(outcome.lost == 0, "{outcome:?}");
    for crossing in [Crossing::Out, Crossing::In] {
        let found = records.iter().filter(is_ours);
        let found: Counts = found
            .filter(|record| record.crossing == crossing)
            .map(|record| (record.source, record.destination.ip(), record.event))
            .fold(Counts::new(), counting);
        ensure!(found == wanted, "{crossing:?}: {found:#?}");
    }
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
    // Neither: established, an echo request, nothing at all.
    let boring = [
        v4(&[], 0, TCP, &tcp(0x10)),
        v6(TCP, &tcp(0x18)),
        v4(&[], 0, SCTP, &sctp(7, 0, &[0; 12])),
        v6(SCTP, &sctp(7, 3, &[0; 12])),
        v4(&[], 0, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        v6(58, &[128, 0, 0, 0, 0, 0, 0, 0]),
        v6(59, &[]),
    ];
    let before = observer.counters()?;
    let start = polproof_agent::observe::now();
    send(&pair.a, &boring)?;
    send(&pair.a, &unparsed)?;
    send(&pair.a, &fragments)?;
    // Marks the end: what was sent before has been seen when this has.
    send(&pair.a, &[v4(&[], 0, TCP, &tcp(0x02))])?;
    let (records, outcome) = world::read_until(&mut ring, "the mark", |records| {
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
    // And the stream says when: a notice for each CPU that met one, at most ten a second.
    let span = outcome.unparsed_in.context("no notice in the stream")?;
    ensure!(
        span.from >= start && span.from <= polproof_agent::observe::now() && span.to > span.from,
        "{span:?} does not cover what was sent from {start:?} on"
    );
    ensure!(outcome.lost == 0 && outcome.undecodable == 0 && outcome.sampled_in.is_none());
    ensure!(ring.must_poll().is_some(), "the mark is not released yet");
    ring.release(ring.position());
    send(&pair.a, &unparsed)?;
    world::wait_until("notices alone leave nothing to release", || {
        let mut none = Vec::new();
        ring.read(&mut none, 10);
        Ok(none.is_empty() && ring.must_poll().is_none())
    })?;
    // The programs' own words about it can be read (they go to the `log` crate).
    observer
        .take_log()
        .context("the log is there once")?
        .flush();
    Ok(())
}
