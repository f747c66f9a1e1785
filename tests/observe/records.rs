//! What the programs write down for which packet.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use polproof_flow::netns::Hook;
use polproof_flow::record::{Crossing, Event, Record};

use crate::world::{self, A4, A6, B4, B6, BpfDir, Pair, Routed};

pub(crate) const TESTS: [world::Test; 4] = [
    ("an_open_port_over_ipv4_and_ipv6", open_port),
    ("a_closed_port_over_ipv4_and_ipv6", closed_port),
    ("icmp_errors_that_quote_a_syn", icmp),
    ("namespaces_are_read_plainly_where_the_kernel_can", plainly),
];

fn find(records: &[Record], matches: impl Fn(&Record) -> bool) -> Option<&Record> {
    records.iter().find(|record| matches(record))
}

fn open_port() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    let a = world::attach(&mut observer, &pair.a)?;
    let b = world::attach(&mut observer, &pair.b)?;
    ensure!(a.netns != b.netns, "one cookie for two namespaces");
    ensure!(a.hook == Hook::Exclusive, "{:?}", a.hook);
    ensure!(
        a.addresses == [A4.parse()?, A6.parse::<std::net::IpAddr>()?],
        "{:?}",
        a.addresses
    );
    // Closing a listener with a connection in its backlog resets it, which is a record too.
    let mut kept = Vec::new();
    for address in [B4, B6] {
        let (listener, to) = world::listen(&pair.b, address)?;
        let stream = world::connect(&pair.a, to)?.context("connect")?;
        let from = stream.local_addr()?;
        kept.push((listener, stream));
        let (records, outcome) =
            world::read_until(&mut ring, "4 records", |records| records.len() >= 4)?;
        ensure!(outcome.lost == 0 && outcome.undecodable == 0, "{outcome:?}");
        ensure!(records.len() == 4, "{records:#?}");
        let [out, into, back_out, back_in] = records.as_slice() else {
            anyhow::bail!("{records:#?}")
        };
        let Event::Syn { isn } = out.event else {
            anyhow::bail!("{out:?}")
        };
        for (record, crossing, netns, source, destination, event) in [
            (out, Crossing::Out, a.netns, from, to, Event::Syn { isn }),
            (into, Crossing::In, b.netns, from, to, Event::Syn { isn }),
            (
                back_out,
                Crossing::Out,
                b.netns,
                to,
                from,
                Event::SynAck {
                    acknowledgement: isn.wrapping_add(1),
                },
            ),
            (
                back_in,
                Crossing::In,
                a.netns,
                to,
                from,
                Event::SynAck {
                    acknowledgement: isn.wrapping_add(1),
                },
            ),
        ] {
            let expected = Record {
                at: record.at,
                netns,
                crossing,
                protocol: polproof_policy::Protocol::Tcp,
                source,
                destination,
                event,
            };
            ensure!(*record == expected, "{record:?} is not {expected:?}");
            ensure!(record.at >= a.since && record.at <= polproof_agent::observe::now());
        }
    }
    let counters = observer.counters()?;
    ensure!(
        counters.records == 8 && counters.ring_full == 0 && counters.no_cookie == 0,
        "{counters:?}"
    );
    Ok(())
}

fn closed_port() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    let a = world::attach(&mut observer, &pair.a)?;
    let b = world::attach(&mut observer, &pair.b)?;
    for address in [B4, B6] {
        let to = SocketAddr::new(address.parse()?, 9);
        let error = world::connect(&pair.a, to)?
            .err()
            .context("port 9 is closed")?;
        ensure!(
            error.kind() == std::io::ErrorKind::ConnectionRefused,
            "{error}"
        );
        let (records, _) = world::read_until(&mut ring, "4 records", |records| records.len() >= 4)?;
        let syn = find(&records, |record| {
            record.crossing == Crossing::In && record.netns == b.netns
        })
        .context("no SYN arrived")?;
        let Event::Syn { isn } = syn.event else {
            anyhow::bail!("{syn:?}")
        };
        for (netns, crossing) in [(b.netns, Crossing::Out), (a.netns, Crossing::In)] {
            let reset = find(&records, |record| {
                record.netns == netns && record.crossing == crossing
            })
            .context("no answer")?;
            ensure!(
                matches!(reset.event, Event::Rst { acknowledgement, ack: true, ttl: 64, .. } if acknowledgement == isn.wrapping_add(1)),
                "{reset:?}"
            );
            ensure!(reset.source == to, "{reset:?}");
        }
    }
    Ok(())
}

fn icmp() -> Result<()> {
    let routed = Routed::new()?;
    let (mut observer, mut ring) = world::open(&routed.bpf)?;
    let left = world::attach(&mut observer, &routed.left)?;
    for (tool, with, to, reporter, icmp_type, code) in [
        (
            "iptables",
            "icmp-admin-prohibited",
            "10.77.2.1:80",
            "10.77.1.254",
            3,
            13,
        ),
        (
            "ip6tables",
            "icmp6-adm-prohibited",
            "[fd77:2::1]:80",
            "fd77:1::fe",
            1,
            1,
        ),
    ] {
        world::inside(
            &routed.router,
            &format!("{tool} -A FORWARD -p tcp --syn -j REJECT --reject-with {with}"),
        )?;
        let to: SocketAddr = to.parse()?;
        ensure!(world::connect(&routed.left, to)?.is_err(), "not rejected");
        let (records, _) = world::read_until(&mut ring, "SYN and ICMP", |records| {
            find(records, |record| {
                matches!(record.event, Event::Unreachable { .. })
            })
            .is_some()
        })?;
        let syn = find(&records, |record| record.crossing == Crossing::Out).context("no SYN")?;
        let Event::Syn { isn } = syn.event else {
            anyhow::bail!("{syn:?}")
        };
        let error = find(&records, |record| record.crossing == Crossing::In).context("no ICMP")?;
        ensure!(error.netns == left.netns, "{error:?}");
        ensure!(
            error.source == syn.source && error.destination == syn.destination,
            "not the quoted addresses: {error:?}"
        );
        ensure!(
            error.event
                == Event::Unreachable {
                    reporter: reporter.parse()?,
                    icmp_type,
                    code,
                    quoted_sequence: isn
                },
            "{error:?}"
        );
    }
    Ok(())
}

/// The function that it takes came with Linux 6.2. That what is read is right, both ways, is shown by all other tests,
/// here and on older kernels.
fn plainly() -> Result<()> {
    let bpf = BpfDir::new();
    let (observer, _ring) = world::open(&bpf)?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: Option<(u32, u32)> = numbers.next().zip(numbers.next());
    let version = version.with_context(|| format!("no version: {release}"))?;
    ensure!(
        observer.reads_plainly() == (version >= (6, 2)),
        "on {release}: {}",
        observer.reads_plainly()
    );
    Ok(())
}
