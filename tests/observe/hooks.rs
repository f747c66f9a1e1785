//! Who else is on eth0, and that we change nothing there.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use polproof_agent::observe::Observer;
use polproof_flow::netns::Hook;
use polproof_tests::foreign::{self, ATTACH_TCX_EGRESS, ATTACH_TCX_INGRESS, ATTACH_XDP};
use polproof_tests::netns::Netns;

use crate::world::{self, B4, B6, BpfDir, Pair};

pub(crate) const TESTS: [world::Test; 4] = [
    ("another_program_on_eth0_is_noticed", shared),
    ("another_versions_programs_are_removed", other_version),
    ("our_own_program_missing_is_noticed_and_mended", missing),
    ("no_packet_changes_its_fate", fate),
];

fn expect_shared(observer: &mut Observer, netns: &Netns, words: &[&str]) -> Result<()> {
    match observer.hook(netns.path())? {
        Hook::Shared(text) if words.iter().all(|word| text.contains(word)) => Ok(()),
        other => bail!("{other:?} does not name {words:?}"),
    }
}

fn expect_exclusive(observer: &mut Observer, netns: &Netns) -> Result<()> {
    let hook = observer.hook(netns.path())?;
    ensure!(hook == Hook::Exclusive, "{hook:?}");
    Ok(())
}

fn shared() -> Result<()> {
    const TC_ACT_OK: i32 = 0;
    const XDP_PASS: i32 = 2;
    let pair = Pair::new()?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.b)?;
    for (attach, verdict, words) in [
        (ATTACH_TCX_INGRESS, TC_ACT_OK, ["tcx ingress program"]),
        (ATTACH_TCX_EGRESS, TC_ACT_OK, ["tcx egress program"]),
        (ATTACH_XDP, XDP_PASS, ["XDP program"]),
    ] {
        let other = foreign::attach(&pair.b, attach, verdict)?;
        expect_shared(&mut observer, &pair.b, &words)?;
        drop(other);
        // The kernel detaches a moment after the last reference.
        world::wait_until("exclusive again", || {
            Ok(expect_exclusive(&mut observer, &pair.b).is_ok())
        })?;
    }
    world::inside(&pair.b, "tc qdisc add dev eth0 clsact")?;
    // A clsact without filters does nothing.
    expect_exclusive(&mut observer, &pair.b)?;
    for direction in ["ingress", "egress"] {
        world::inside(
            &pair.b,
            &format!(
                "tc filter add dev eth0 {direction} protocol all prio 7 u32 match u32 0 0 classid 1:1"
            ),
        )?;
        expect_shared(&mut observer, &pair.b, &["tc filter u32", direction])?;
        world::inside(
            &pair.b,
            &format!("tc filter del dev eth0 {direction} prio 7"),
        )?;
        expect_exclusive(&mut observer, &pair.b)?;
    }
    // Ours are told from those of another agent, too.
    let elsewhere = BpfDir::new();
    let (mut second, _ring) = world::open(&elsewhere)?;
    let attached = world::attach(&mut second, &pair.b)?;
    ensure!(
        matches!(&attached.hook, Hook::Shared(text) if text.contains("polproof_ingres")),
        "{:?}",
        attached.hook
    );
    // The kernel keeps 15 bytes of a name.
    expect_shared(
        &mut observer,
        &pair.b,
        &["polproof_ingres", "polproof_egress"],
    )?;
    Ok(())
}

fn other_version() -> Result<()> {
    let pair = Pair::new()?;
    {
        let (mut observer, _ring) = world::open(&pair.bpf)?;
        world::attach(&mut observer, &pair.b)?;
    }
    // As if an agent of another ABI had left it.
    std::fs::rename(pair.bpf.version()?, pair.bpf.path().join("abi-0"))?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    ensure!(!pair.bpf.path().join("abi-0").exists());
    ensure!(observer.pinned().is_empty());
    let attached = world::attach(&mut observer, &pair.b)?;
    ensure!(attached.hook == Hook::Exclusive, "{:?}", attached.hook);
    Ok(())
}

fn missing() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    let first = world::attach(&mut observer, &pair.b)?;
    for entry in std::fs::read_dir(pair.bpf.version()?.join("links"))? {
        std::fs::remove_file(entry?.path())?;
    }
    // The kernel detaches a moment after the last reference.
    world::wait_until("the missing programs are noticed", || {
        Ok(expect_shared(
            &mut observer,
            &pair.b,
            &[
                "own program is missing on tcx ingress",
                "own program is missing on tcx egress",
            ],
        )
        .is_ok())
    })?;
    let again = world::attach(&mut observer, &pair.b)?;
    ensure!(again.hook == Hook::Exclusive && again.since > first.since);
    Ok(())
}

/// The same traffic, byte for byte and error for error, with and without the programs.
fn fate() -> Result<()> {
    let pair = Pair::new()?;
    let without = traffic(&pair)?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.a)?;
    world::attach(&mut observer, &pair.b)?;
    let with = traffic(&pair)?;
    ensure!(without == with, "{without:?} became {with:?}");
    let counters = observer.counters()?;
    // Large datagrams leave in fragments.
    ensure!(counters.fragments > 0, "{counters:?}");
    ensure!(counters.unparsed == 0, "{counters:?}");
    Ok(())
}

fn traffic(pair: &Pair) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for address in [B4, B6] {
        // A stream with large segments, both ways.
        let (listener, to) = world::listen(&pair.b, address)?;
        let server = std::thread::spawn(move || -> std::io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let mut sum = 0;
            let mut buffer = vec![0; 65_536];
            loop {
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                sum += buffer[..count]
                    .iter()
                    .map(|byte| u64::from(*byte))
                    .sum::<u64>();
            }
            stream.write_all(&sum.to_be_bytes())?;
            Ok(sum)
        });
        let mut stream = world::connect(&pair.a, to)?.context("connect")?;
        stream.write_all(&vec![7; 4 << 20])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        let sum = server.join().expect("the server panicked")?;
        seen.push(format!("{address} stream {sum} {answer:?}"));
        // Refused.
        let closed = SocketAddr::new(address.parse()?, 9);
        let error = world::connect(&pair.a, closed)?
            .err()
            .map(|error| error.kind());
        seen.push(format!("{address} closed {error:?}"));
        // Datagrams, tiny and fragmented.
        for size in [0, 1, 4, 500, 9_000] {
            let socket = |netns: &Netns, bind: &str| -> Result<std::net::UdpSocket> {
                let bind = SocketAddr::new(bind.parse()?, 0);
                Ok(netns.run(|| std::net::UdpSocket::bind(bind))??)
            };
            let receiver = socket(&pair.b, address)?;
            receiver.set_read_timeout(Some(world::DEADLINE))?;
            let sender = socket(&pair.a, if address == B4 { world::A4 } else { world::A6 })?;
            sender.send_to(&vec![9; size], receiver.local_addr()?)?;
            let mut buffer = vec![0; 20_000];
            let (count, _) = receiver.recv_from(&mut buffer)?;
            seen.push(format!("{address} datagram {count}"));
        }
    }
    // ICMP errors reach the sender.
    for (from, to) in [(world::A4, B4), (world::A6, B6)] {
        let from = SocketAddr::new(from.parse()?, 0);
        let to = SocketAddr::new(to.parse()?, 9);
        let socket = pair.a.run(|| std::net::UdpSocket::bind(from))??;
        socket.connect(to)?;
        socket.set_read_timeout(Some(world::DEADLINE))?;
        socket.send(b"x")?;
        let error = socket.recv(&mut [0; 1]).err().map(|error| error.kind());
        seen.push(format!("{to} unreachable {error:?}"));
    }
    Ok(seen)
}
