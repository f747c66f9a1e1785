//! What only filters go through: others can take them away, and kernels that need them have no cookies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use polproof_flow::netns::Hook;
use polproof_tests::netns::Netns;

use crate::bridge::{self, Bridge, uninstall};
use crate::means::{arrivals, shown};
use crate::scenarios::{Try, Way};
use crate::world::{self, BpfDir, read_until};

/// What only filters go through.
pub(crate) const TRIES: [(&str, Try); 5] = [
    (
        "a qdisc that others remove is a gap and is put back",
        removed_by_others,
    ),
    ("filters of others are foreign and stay", foreign),
    ("somebody's ingress qdisc is named", ingress_qdisc),
    ("a namespace that ends is forgotten", dead),
    ("filters of a lost ring are replaced with a gap", lost_ring),
];

pub(crate) const OF_INODES: [(&str, Try); 1] =
    [("an inode used again is another namespace", inode_again)];

fn removed_by_others(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let (mut observer, mut ring) = bridge.open(way)?;
    let mut before = world::attach(&mut observer, &bridge.b)?;
    for (line, words) in [
        (
            "tc qdisc del dev eth0 clsact",
            &["clsact ingress", "clsact egress"][..],
        ),
        ("tc filter del dev eth0 ingress", &["clsact ingress"]),
        ("tc filter del dev eth0 egress", &["clsact egress"]),
    ] {
        world::inside(&bridge.b, line)?;
        match observer.hook(bridge.b.path())? {
            Hook::Shared(text) if words.iter().all(|word| text.contains(word)) => {}
            other => bail!("{line}: {other:?} does not name {words:?}"),
        }
        bridge.refused()?;
        let at = polproof_agent::observe::now();
        let again = world::attach(&mut observer, &bridge.b)?;
        ensure!(again.hook == Hook::Exclusive, "{again:?}");
        ensure!(again.since > at, "the gap is not told: {again:?}, {at:?}");
        before = again;
    }
    bridge.refused()?;
    read_until(&mut ring, "a record after the gap", |records| {
        let after: Vec<_> = records
            .iter()
            .filter(|r| r.at >= before.since)
            .copied()
            .collect();
        arrivals(&after, &before) == 1
    })?;
    Ok(())
}

fn foreign(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let (mut observer, _ring) = bridge.open(way)?;
    world::attach(&mut observer, &bridge.b)?;
    for direction in ["ingress", "egress"] {
        let filter = "protocol all prio 7 u32 match u32 0 0 classid 1:1";
        world::inside(
            &bridge.b,
            &format!("tc filter add dev eth0 {direction} {filter}"),
        )?;
        let attached = world::attach(&mut observer, &bridge.b)?;
        ensure!(
            matches!(&attached.hook, Hook::Shared(text) if text == &format!("tc filter u32 on {direction}")),
            "{attached:?}"
        );
        world::inside(
            &bridge.b,
            &format!("tc filter del dev eth0 {direction} prio 7"),
        )?;
        let hook = observer.hook(bridge.b.path())?;
        ensure!(hook == Hook::Exclusive, "{hook:?}");
    }
    // A filter that came after us keeps the qdisc that we made.
    let filter = "protocol ip prio 9 u32 match u32 0 0 classid 1:1";
    world::inside(
        &bridge.b,
        &format!("tc filter add dev eth0 egress {filter}"),
    )?;
    drop(observer);
    let removed = uninstall(&bridge.bpf, bridge.directory.path())?;
    ensure!(removed.filters == 2 && removed.qdiscs == 0, "{removed:?}");
    let left = shown(&bridge.b)?;
    ensure!(left.contains("u32") && !left.contains("polproof"), "{left}");
    Ok(())
}

fn ingress_qdisc(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    world::inside(&bridge.b, "tc qdisc add dev eth0 ingress")?;
    let (mut observer, _ring) = bridge.open(way)?;
    let error = observer.attach(bridge.b.path()).err().context("attached")?;
    ensure!(
        error.to_string().contains("tc qdisc del dev eth0 ingress"),
        "{error}"
    );
    world::inside(&bridge.b, "tc qdisc del dev eth0 ingress")?;
    world::attach(&mut observer, &bridge.b)?;
    Ok(())
}

fn dead(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let (mut observer, _ring) = bridge.open(way)?;
    let a = world::attach(&mut observer, &bridge.a)?;
    let b = world::attach(&mut observer, &bridge.b)?;
    ensure!(observer.collect_dead().is_empty(), "both are alive");
    // A loses its device, B all of it.
    world::inside(&bridge.a, "ip link del eth0")?;
    let Bridge { b: end, .. } = bridge;
    drop(end);
    let mut gone = observer.collect_dead();
    gone.sort_unstable();
    let mut both = vec![a.netns, b.netns];
    both.sort_unstable();
    ensure!(gone == both, "{gone:?} is not {both:?}");
    ensure!(observer.pinned().is_empty(), "{:?}", observer.pinned());
    Ok(())
}

fn lost_ring(way: Way) -> Result<()> {
    let bridge = Bridge::new()?;
    let before = {
        let (mut observer, _ring) = bridge.open(way)?;
        world::attach(&mut observer, &bridge.b)?
    };
    // As if somebody had emptied the directory: the filter goes on writing where nobody reads.
    std::fs::remove_dir_all(bridge.bpf.path())?;
    let (mut observer, mut ring) = bridge.open(way)?;
    let after = world::attach(&mut observer, &bridge.b)?;
    ensure!(after.since > before.since, "the gap is not told: {after:?}");
    ensure!(after.hook == Hook::Exclusive, "{after:?}");
    bridge.refused()?;
    read_until(&mut ring, "2 records", |records| records.len() == 2)?;
    Ok(())
}

/// A namespace that has ended gives its inode back some time later.
const PATIENCE: Duration = Duration::from_secs(60);

fn inode_again(way: Way) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let bpf = BpfDir::new();
    let (mut observer, _ring) = bridge::open(way, &bpf)?;
    let directory = tempfile::tempdir()?;
    let mut seen = std::collections::BTreeMap::new();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let pod = Netns::create(directory.path(), "pod")?;
        world::inside(&pod, "ip link add eth0 type veth peer name other")?;
        let inode = std::fs::metadata(pod.path())?.ino();
        let attached = world::attach(&mut observer, &pod)?;
        let same = world::attach(&mut observer, &pod)?;
        ensure!(attached == same, "{attached:?} became {same:?}");
        if let Some(earlier) = seen.insert(inode, attached.netns) {
            ensure!(earlier != attached.netns, "two namespaces are {earlier:?}");
            return Ok(());
        }
    }
    bail!("no inode was used again among {}", seen.len())
}
