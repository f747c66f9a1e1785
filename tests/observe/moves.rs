//! An eth0 that is moved to another network namespace takes the programs along.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use polproof_agent::observe::{Attached, ObserveError, Observer, now};
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::{Crossing, Event, NetnsCookie};
use polproof_tests::netns::Netns;

use crate::pods::{OTHER, Running, UID, pod, pod_namespace};
use crate::world::{self, BpfDir, Pair, inside};

pub(crate) const TESTS: [world::Test; 4] = [
    ("an_eth0_that_moved_is_watched_where_it_is_now", moved),
    (
        "an_eth0_that_replaced_one_that_moved_away_is_attached_to",
        replaced,
    ),
    ("a_pod_whose_eth0_went_to_another_has_a_gap", robbed),
    ("a_device_that_outlives_its_namespace_is_released", released),
];

fn give(from: &Netns, to: &Netns) -> Result<()> {
    inside(
        from,
        &format!("ip link set eth0 netns {}", to.path().display()),
    )
}

fn address(netns: &Netns, ip: &str) -> Result<()> {
    inside(netns, &format!("ip addr add {ip}/24 dev eth0"))?;
    inside(netns, "ip link set eth0 up")
}

/// Namespaces of the pins, once for each link.
fn pins(links: &Path) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(links)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let cookie = name.split('-').next().context("a name without a part")?;
        found.push(cookie.parse()?);
    }
    found.sort_unstable();
    Ok(found)
}

fn twice(mut cookies: Vec<NetnsCookie>) -> Vec<u64> {
    cookies.sort_unstable();
    cookies.iter().flat_map(|netns| [netns.0; 2]).collect()
}

fn expect_whole(attached: &Attached) -> Result<()> {
    ensure!(attached.hook == Hook::Exclusive, "{attached:?}");
    Ok(())
}

fn moved() -> Result<()> {
    let pair = Pair::new()?;
    let other = Netns::create(pair.directory.path(), "other")?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    let a = world::attach(&mut observer, &pair.a)?;
    let b = world::attach(&mut observer, &pair.b)?;
    ensure!(observer.take_robbed().is_empty());

    give(&pair.a, &other)?;
    address(&other, world::A4)?;
    let before = now();
    let c = world::attach(&mut observer, &other)?;
    expect_whole(&c)?;
    // What was sent before is of nobody that was asked after: nothing is claimed of that time.
    ensure!(c.since >= before && c.netns != a.netns, "{c:?}");
    ensure!(observer.take_robbed() == [a.netns]);
    ensure!(observer.take_robbed().is_empty(), "told once");
    let links = pair.bpf.version()?.join("links");
    ensure!(pins(&links)? == twice(vec![b.netns, c.netns]));
    ensure!(world::attach(&mut observer, &other)? == c, "asked again");
    ensure!(matches!(
        observer.attach(pair.a.path()),
        Err(ObserveError::NoInterface { .. })
    ));

    // Records are of the namespace that the device is in now.
    let (_listener, to) = world::listen(&pair.b, world::B4)?;
    let _stream = world::connect(&other, to)??;
    let syn = |crossing, netns| {
        move |records: &[polproof_flow::record::Record]| {
            records.iter().any(|record| {
                record.crossing == crossing
                    && record.netns == netns
                    && matches!(record.event, Event::Syn { .. })
            })
        }
    };
    let (records, _) = world::read_until(&mut ring, "the SYN at both ends", |records| {
        syn(Crossing::Out, c.netns)(records) && syn(Crossing::In, b.netns)(records)
    })?;
    ensure!(
        records.iter().all(|record| record.netns != a.netns),
        "{records:#?}"
    );

    // A later agent takes over what was adopted.
    drop(ring);
    drop(observer);
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    ensure!(
        world::attach(&mut observer, &other)? == c,
        "after a restart"
    );
    // And finds what moved while there was none.
    drop(observer);
    let last = Netns::create(pair.directory.path(), "last")?;
    give(&other, &last)?;
    address(&last, world::A4)?;
    let mut observer = Observer::open(&pair.bpf.config(1 << 20))?;
    let d = world::attach(&mut observer, &last)?;
    expect_whole(&d)?;
    ensure!(d.since > c.since && observer.take_robbed() == [c.netns]);
    Ok(())
}

fn index(netns: &Netns) -> Result<String> {
    let output = netns
        .command("ip")?
        .args(["-o", "link", "show", "eth0"])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let (index, _) = text.split_once(':').context("no index")?;
    Ok(index.trim().to_owned())
}

fn replaced() -> Result<()> {
    let pair = Pair::new()?;
    let other = Netns::create(pair.directory.path(), "other")?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    let a = world::attach(&mut observer, &pair.a)?;
    let number = index(&pair.a)?;
    give(&pair.a, &other)?;
    ensure!(index(&other)? == number, "it keeps its number");
    // The number says nothing: it is that of the one that moved away, and of the one that took its place.
    inside(
        &pair.a,
        &format!("ip link add eth0 index {number} type veth peer name wire"),
    )?;
    let again = world::attach(&mut observer, &pair.a)?;
    expect_whole(&again)?;
    ensure!(again.netns == a.netns && again.since > a.since, "{again:?}");
    // The other one is watched, too, as soon as its former link has ended.
    world::wait_until("the other one is attached to", || {
        Ok(match observer.attach(other.path()) {
            Ok(attached) => expect_whole(&attached).is_ok(),
            Err(ObserveError::Program(_)) => false,
            Err(error) => return Err(error.into()),
        })
    })?;
    expect_whole(&world::attach(&mut observer, &pair.a)?)
}

fn robbed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    let first = pod_namespace(&run, &node, "cni-1", "10.78.9.1")?;
    let second = Netns::create(&run, "cni-2")?;
    let pods = vec![pod(UID, "web", "10.78.9.1"), pod(OTHER, "db", "10.78.9.2")];
    let mut running = Running::start(&bpf, &run, pods)?;
    let one = match running.next()? {
        NetnsEvent::Attached { netns, .. } => netns,
        event => anyhow::bail!("{event:?}"),
    };
    running.next_but_attached()?;

    let before = now();
    give(&first, &second)?;
    address(&second, "10.78.9.2")?;
    let (mut two, mut gap) = (None, None);
    while two.is_none() || gap.is_none() {
        match running.next()? {
            NetnsEvent::Attached {
                netns, since, hook, ..
            } if netns != one => {
                ensure!(hook == Hook::Exclusive && since >= before, "{hook:?}");
                two = Some(netns);
            }
            NetnsEvent::Gap { netns, from, to } if netns == one => {
                ensure!(from <= before && to >= before);
                gap = Some(());
            }
            NetnsEvent::Attached { .. } | NetnsEvent::Identified { .. } => {}
            event => anyhow::bail!("{event:?}"),
        }
    }
    world::wait_until("it counts as watched", || {
        Ok(running
            .stats
            .coverage()
            .iter()
            .all(|uncovered| !uncovered.reason.contains("cni-2")))
    })?;
    running.stop()
}

fn released() -> Result<()> {
    let pair = Pair::new()?;
    let node = Netns::create(pair.directory.path(), "node")?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    let a = world::attach(&mut observer, &pair.a)?;
    let b = world::attach(&mut observer, &pair.b)?;
    give(&pair.a, &node)?;
    ensure!(observer.collect_dead().is_empty(), "the device lives");
    ensure!(observer.release(&[a.netns]) == 2);
    ensure!(observer.release(&[a.netns]) == 0);
    ensure!(observer.pinned() == [b.netns]);
    ensure!(pins(&pair.bpf.version()?.join("links"))? == twice(vec![b.netns]));
    Ok(())
}
