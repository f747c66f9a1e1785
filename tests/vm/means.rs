//! What is tried by every means of attaching.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use polproof_agent::Removed;
use polproof_agent::observe::{Attached, Means};
use polproof_flow::netns::Hook;
use polproof_flow::record::{Crossing, Event, Record};
use polproof_tests::netns::Netns;

use crate::bridge::{self, B, Bridge, listen, printed, uninstall};
use crate::scenarios::{Try, Way};
use crate::world::{self, BpfDir, read_until, wait_until};

/// By every means.
pub(crate) const TRIES: [(&str, Try); 5] = [
    ("open, closed and dropped ports over a bridge", outcomes),
    ("a restart takes over in place and misses nothing", restart),
    ("uninstall leaves nothing", uninstalled),
    (
        "uninstall waits for the agent to end",
        uninstall_while_running,
    ),
    ("two agents do not disturb each other", two_agents),
];

fn outcomes(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let (mut observer, mut ring) = bridge.open(way)?;
    let a = world::attach(&mut observer, &bridge.a)?;
    let b = world::attach(&mut observer, &bridge.b)?;
    ensure!(a.netns != b.netns, "one identity for two namespaces");
    ensure!(
        a.hook == Hook::Exclusive && b.hook == Hook::Exclusive,
        "{a:?} {b:?}"
    );
    let expect = |record: &Record, netns, crossing| {
        ensure!(
            record.netns == netns && record.crossing == crossing,
            "{record:?} is not {crossing:?} of {netns:?}"
        );
        Ok(())
    };
    // A listener that goes resets what is in its backlog, which is a record too.
    let mut kept = Vec::new();
    for address in B {
        let (listener, open) = listen(&bridge.b, address)?;
        kept.push((bridge.connect(open)?.context("connect")?, listener));
        let (records, _) = read_until(&mut ring, "open: 4 records", |r| r.len() >= 4)?;
        let [one, two, three, four] = records.as_slice() else {
            bail!("{records:#?}")
        };
        expect(one, a.netns, Crossing::Out)?;
        expect(two, b.netns, Crossing::In)?;
        expect(three, b.netns, Crossing::Out)?;
        expect(four, a.netns, Crossing::In)?;
        ensure!(
            one.event == two.event && three.event == four.event,
            "{records:#?}"
        );
        ensure!(
            matches!((one.event, three.event), (Event::Syn { isn }, Event::SynAck { acknowledgement, .. }) if acknowledgement == isn.wrapping_add(1)),
            "{records:#?}"
        );
        ensure!(
            records.iter().all(|record| record.at >= b.since),
            "{b:?} {records:#?}"
        );
    }
    for address in B {
        bridge.drop_all(false)?;
        let closed = std::net::SocketAddr::new(address.parse()?, 9);
        ensure!(bridge.connect(closed)?.is_err(), "port 9 is closed");
        let (records, _) = read_until(&mut ring, "closed: 4 records", |records| {
            records
                .iter()
                .filter(|r| matches!(r.event, Event::Rst { .. }) && r.source == closed)
                .count()
                >= 2
        })?;
        let records: Vec<_> = records
            .into_iter()
            .filter(|record| record.source == closed || record.destination == closed)
            .collect();
        let [one, two, three, four] = records.as_slice() else {
            bail!("{records:#?}")
        };
        expect(one, a.netns, Crossing::Out)?;
        expect(two, b.netns, Crossing::In)?;
        expect(three, b.netns, Crossing::Out)?;
        expect(four, a.netns, Crossing::In)?;

        bridge.drop_all(true)?;
        ensure!(
            bridge.connect_in_vain(closed)?.is_err(),
            "everything is dropped"
        );
        let mut out = Vec::new();
        ring.read(&mut out, 1_000);
        let of = |netns| {
            out.iter()
                .filter(|(_, record)| record.netns == netns && record.destination == closed)
                .count()
        };
        ensure!(of(a.netns) >= 1, "the attempt left A: {out:#?}");
        ensure!(of(b.netns) == 0, "what was dropped arrived: {out:#?}");
    }
    let counters = observer.counters()?;
    ensure!(
        counters.ring_full == 0 && counters.no_cookie == 0,
        "{counters:?}"
    );
    Ok(())
}

fn restart(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let (mut observer, ring) = bridge.open(way)?;
    let before = world::attach(&mut observer, &bridge.b)?;
    let id = ring.id();
    let stop = AtomicBool::new(false);
    let (attempts, mut observer, mut ring) = std::thread::scope(|scope| -> Result<_> {
        let traffic = scope.spawn(|| -> Result<usize> {
            let mut attempts = 0;
            while !stop.load(Ordering::Relaxed) {
                bridge.refused()?;
                attempts += 1;
                std::thread::sleep(Duration::from_millis(3));
            }
            Ok(attempts)
        });
        let again = || -> Result<_> {
            let mut present = (observer, ring);
            for _ in 0..3 {
                drop(present);
                present = bridge.open(way)?;
                let after = world::attach(&mut present.0, &bridge.b)?;
                ensure!(after == before, "{after:?} is not {before:?}");
            }
            Ok(present)
        };
        let present = again();
        stop.store(true, Ordering::Relaxed);
        let attempts = traffic.join().expect("the traffic panicked")?;
        let (observer, ring) = present?;
        Ok((attempts, observer, ring))
    })?;
    ensure!(ring.id() == id, "another ring");
    ensure!(
        observer.pinned() == [before.netns],
        "{:?}",
        observer.pinned()
    );
    let (records, outcome) = read_until(&mut ring, "every attempt", |records| {
        arrivals(records, &before) >= attempts
    })
    .with_context(|| format!("{attempts} attempts"))?;
    ensure!(outcome.lost == 0 && outcome.undecodable == 0, "{outcome:?}");
    let syns = arrivals(&records, &before);
    ensure!(
        attempts > 3 && syns == attempts,
        "{syns} records of {attempts} attempts"
    );
    // Seen once, not once by each program.
    bridge.refused()?;
    let (records, _) = read_until(&mut ring, "2 records", |records| records.len() >= 2)?;
    ensure!(records.len() == 2, "{records:#?}");
    let hook = observer.hook(bridge.b.path())?;
    ensure!(hook == Hook::Exclusive, "{hook:?}");
    Ok(())
}

/// SYNs that arrived in that namespace.
pub(crate) fn arrivals(records: &[Record], attached: &Attached) -> usize {
    records
        .iter()
        .filter(|record| {
            record.netns == attached.netns
                && record.crossing == Crossing::In
                && matches!(record.event, Event::Syn { .. })
        })
        .count()
}

/// What tc shows of the namespace's eth0.
pub(crate) fn shown(netns: &Netns) -> Result<String> {
    let mut text = printed(netns, "tc qdisc show dev eth0")?;
    for direction in ["ingress", "egress"] {
        if text.contains("clsact") {
            text.push_str(&printed(
                netns,
                &format!("tc filter show dev eth0 {direction}"),
            )?);
        }
    }
    Ok(text)
}

fn uninstalled(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    // In A somebody has added clsact and a filter before.
    world::inside(&bridge.a, "tc qdisc add dev eth0 clsact")?;
    let others = "protocol all prio 7 u32 match u32 0 0 classid 1:1";
    world::inside(
        &bridge.a,
        &format!("tc filter add dev eth0 egress {others}"),
    )?;
    let before = [shown(&bridge.a)?, shown(&bridge.b)?];
    {
        let (mut observer, _ring) = bridge.open(way)?;
        world::attach(&mut observer, &bridge.a)?;
        world::attach(&mut observer, &bridge.b)?;
    }
    ensure!(bridge.bpf.path().is_dir(), "no pins");
    if way.means() == Means::Clsact {
        ensure!(
            shown(&bridge.b)?.contains("polproof"),
            "{}",
            shown(&bridge.b)?
        );
    }
    let removed = uninstall(&bridge.bpf, bridge.directory.path())?;
    let filters = if way.means() == Means::Clsact { 4 } else { 0 };
    ensure!(
        removed
            == Removed {
                folders: 1,
                namespaces: 3,
                filters,
                qdiscs: filters / 4,
                others: 0
            },
        "{removed:?}"
    );
    ensure!(!bridge.bpf.path().exists(), "pins are left");
    let after = [shown(&bridge.a)?, shown(&bridge.b)?];
    ensure!(before == after, "{before:?} became {after:?}");
    // Nobody is on the hooks: another agent has B for itself.
    let fresh = BpfDir::new();
    let (mut observer, _ring) = bridge::open(way, &fresh)?;
    wait_until("B's hooks are free", || {
        Ok(world::attach(&mut observer, &bridge.b)?.hook == Hook::Exclusive)
    })?;
    drop(observer);
    let again = uninstall(&bridge.bpf, bridge.directory.path())?;
    let left = Removed {
        namespaces: 3,
        others: filters / 2,
        ..Removed::default()
    };
    ensure!(again == left, "{again:?}");
    uninstall(&fresh, bridge.directory.path())?;
    ensure!(shown(&bridge.b)? == before[1], "{}", shown(&bridge.b)?);
    Ok(())
}

fn uninstall_while_running(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let (mut observer, _ring) = bridge.open(way)?;
    world::attach(&mut observer, &bridge.b)?;
    let error = uninstall(&bridge.bpf, bridge.directory.path())
        .err()
        .context("it removed what is in use")?;
    ensure!(error.to_string().contains("stop it first"), "{error:#}");
    let hook = observer.hook(bridge.b.path())?;
    ensure!(hook == Hook::Exclusive, "{hook:?}");
    Ok(())
}

fn two_agents(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let (mut first, mut first_ring) = bridge.open(way)?;
    world::attach(&mut first, &bridge.b)?;
    let elsewhere = BpfDir::new();
    let (mut second, mut second_ring) = bridge::open(way, &elsewhere)?;
    let attached = world::attach(&mut second, &bridge.b)?;
    for hook in [first.hook(bridge.b.path())?, attached.hook] {
        ensure!(
            matches!(&hook, Hook::Shared(text) if text.contains("polproof") && !text.contains("missing")),
            "{hook:?}"
        );
    }
    bridge.refused()?;
    for ring in [&mut first_ring, &mut second_ring] {
        let (records, _) = read_until(ring, "2 records", |records| records.len() >= 2)?;
        ensure!(records.len() == 2, "{records:#?}");
    }
    drop(second);
    uninstall(&elsewhere, bridge.directory.path())?;
    wait_until("alone again", || {
        Ok(first.hook(bridge.b.path())? == Hook::Exclusive)
    })
}
