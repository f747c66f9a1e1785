//! What is not observed, and how much at most.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use polproof_flow::record::Event;

use crate::frames::{self, TCP, UDP, udp};
use crate::world::{self, B4, Pair, inside};

pub(crate) const TESTS: [world::Test; 3] = [
    ("a_second_interface_gives_no_records", second_interface),
    ("a_flood_of_tuples_is_bounded_and_told", flood),
    ("a_ring_is_read_part_by_part_and_over_its_end", windows),
];

/// Only the cluster network is judged, and that is eth0: what multus and its like add is none of policies' business.
fn second_interface() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.a)?;
    world::attach(&mut observer, &pair.b)?;
    inside(
        &pair.a,
        &format!(
            "ip link add eth1 type veth peer name eth1 netns {}",
            pair.b.path().display()
        ),
    )?;
    for (netns, address) in [(&pair.a, "10.78.0.1"), (&pair.b, "10.78.0.2")] {
        inside(netns, &format!("ip addr add {address}/24 dev eth1"))?;
        inside(netns, "ip link set eth1 up")?;
    }
    let (second, to) = world::listen(&pair.b, "10.78.0.2")?;
    let _kept = world::connect(&pair.a, to)?.context("connect by eth1")?;
    ensure!(second.accept()?.1.ip() == "10.78.0.1".parse::<std::net::IpAddr>()?);
    // And by eth0, which marks the end.
    let (_first, to) = world::listen(&pair.b, B4)?;
    let _kept_too = world::connect(&pair.a, to)?.context("connect by eth0")?;
    let (records, _) = world::read_until(&mut ring, "4 records", |records| records.len() >= 4)?;
    ensure!(
        records
            .iter()
            .all(|record| { record.source.ip() == to.ip() || record.destination.ip() == to.ip() }),
        "{records:#?}"
    );
    ensure!(observer.counters()?.records == 4);
    Ok(())
}

/// Datagram records of a CPU: at once, and for each second.
const BURST: u64 = 4_000;
const RATE: u64 = 2_000;

fn flood() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open_with(&pair.bpf, 16 << 20)?;
    world::attach(&mut observer, &pair.b)?;
    let cpus = std::thread::available_parallelism()?.get() as u64;
    let count = 8 * BURST * cpus;
    let sent: Vec<_> = (0..count)
        .map(|index| {
            let mut frame = frames::v4(&[], 0, UDP, &udp(40_000, 53));
            let source = Ipv4Addr::from(0x0a4d_0000 + u32::try_from(index).unwrap());
            frame[26..30].copy_from_slice(&source.octets());
            frame
        })
        .collect();
    let start = Instant::now();
    frames::send(&pair.a, &sent)?;
    let elapsed = u64::try_from(start.elapsed().as_millis())? + 1;
    let counters = observer.counters()?;
    let (records, outcome) = world::read_until(&mut ring, "what was recorded", |records| {
        records.len() as u64 + counters.datagrams_sampled >= count
    })?;
    let most = cpus * BURST + RATE * cpus * elapsed / 1000 + cpus;
    let recorded = records.len() as u64;
    ensure!(
        recorded <= most,
        "{recorded} records in {elapsed} ms, at most {most} expected"
    );
    // Both counted, with nothing in between.
    ensure!(
        recorded + counters.datagrams_sampled == count,
        "{counters:?}"
    );
    ensure!(recorded >= BURST / 2, "{recorded}");
    let span = outcome.sampled_in.context("no notice in the stream")?;
    ensure!(span.from < span.to);
    ensure!(
        outcome.lost == 0 && outcome.unparsed_in.is_none(),
        "{outcome:?}"
    );
    // What was recorded is known, and what was left out is not: it is recorded when there is room again.
    let known: HashSet<SocketAddr> = records.iter().map(|record| record.source).collect();
    let (left, again): (Vec<_>, Vec<_>) = sent.iter().cloned().partition(|frame| {
        let octets: [u8; 4] = frame[26..30].try_into().unwrap();
        !known.contains(&SocketAddr::from((octets, 40_000)))
    });
    frames::send(&pair.a, again.get(again.len() - 1000..).context("records")?)?;
    world::wait_until("a tuple that was left out is recorded", || {
        frames::send(&pair.a, left.get(..1).context("something was left out")?)?;
        let mut out = Vec::new();
        ring.read(&mut out, 100);
        ensure!(
            out.iter()
                .all(|(_, record)| record.event == Event::Datagram
                    && !known.contains(&record.source)),
            "{out:#?}"
        );
        Ok(!out.is_empty())
    })
}

/// Only some of the ring is mapped at a time.
fn windows() -> Result<()> {
    let pair = Pair::new()?;
    // 10,082 records of 104 bytes, so that they lie across the end, too.
    let (mut observer, mut ring) = world::open_with(&pair.bpf, 1 << 20)?;
    world::attach(&mut observer, &pair.b)?;
    let mut expected = 0_u32;
    for (count, at_once) in [(7_000, 10_000), (9_000, 999), (10_000, 1), (9_500, 4_096)] {
        let sent: Vec<_> = (expected..expected + count)
            .map(|isn| {
                let mut segment = frames::tcp(2);
                segment[4..8].copy_from_slice(&isn.to_be_bytes());
                frames::v4(&[], 0, TCP, &segment)
            })
            .collect();
        frames::send(&pair.a, &sent)?;
        let last = expected + count;
        world::wait_until("every SYN in its order", || {
            let mut out = Vec::new();
            loop {
                out.clear();
                let outcome = ring.read(&mut out, at_once);
                ensure!(outcome.lost == 0 && outcome.undecodable == 0, "{outcome:?}");
                for (_, record) in &out {
                    ensure!(
                        record.event == Event::Syn { isn: expected },
                        "{record:?} is not {expected}"
                    );
                    expected += 1;
                }
                if out.len() < at_once {
                    return Ok(expected == last);
                }
            }
        })?;
        // Neighbours are shown as one.
        ensure!(largest_mapping()? <= 272 << 10);
        ring.release(ring.position());
    }
    let mut none = Vec::new();
    ring.read(&mut none, 1);
    ensure!(none.is_empty() && ring.must_poll().is_none());
    ensure!(observer.counters()?.ring_full == 0);
    Ok(())
}

/// Bytes of the largest part of a BPF map in our memory.
fn largest_mapping() -> Result<u64> {
    let mut largest = 0;
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        if line.ends_with("bpf-map") {
            let range = line.split(' ').next().context("no range")?;
            let (from, to) = range.split_once('-').context("no range")?;
            largest = largest.max(u64::from_str_radix(to, 16)? - u64::from_str_radix(from, 16)?);
        }
    }
    Ok(largest)
}
