//! What survives what: a restart, a full ring, a namespace that ends.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use polproof_agent::observe::{ObserveError, Observer};
use polproof_flow::netns::Hook;
use polproof_flow::record::{Event, Record};
use polproof_tests::netns::Netns;

use crate::world::{self, B4, Pair};

pub(crate) const TESTS: [world::Test; 6] = [
    ("a_restart_takes_over_and_misses_nothing", restart),
    ("a_position_is_a_durable_cursor", cursor),
    ("a_waiting_reader_is_woken_or_told_to_poll", waiting),
    ("a_full_ring_is_counted_and_seen_as_loss", overflow),
    ("a_namespace_that_ends_leaves_a_dead_link", dead),
    ("two_agents_on_one_directory", two_agents),
];

fn syns(records: &[Record]) -> usize {
    records
        .iter()
        .filter(|record| matches!(record.event, Event::Syn { .. }))
        .count()
}

/// One refused attempt: 2 records at each end that is watched.
fn attempt(pair: &Pair) -> Result<()> {
    let refused = world::connect(&pair.a, SocketAddr::new(B4.parse()?, 9))?;
    ensure!(refused.is_err(), "port 9 is closed");
    Ok(())
}

fn restart() -> Result<()> {
    let pair = Pair::new()?;
    let (before, id) = {
        let (mut observer, ring) = world::open(&pair.bpf)?;
        (world::attach(&mut observer, &pair.b)?, ring.id())
    };
    // Nobody reads now.
    for _ in 0..5 {
        attempt(&pair)?;
    }
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    ensure!(ring.id() == id, "another ring");
    ensure!(
        observer.pinned() == [before.netns],
        "{:?}",
        observer.pinned()
    );
    let (records, outcome) =
        world::read_until(&mut ring, "10 records", |records| records.len() >= 10)?;
    ensure!(syns(&records) == 5 && records.len() == 10, "{records:#?}");
    ensure!(outcome.lost == 0, "{outcome:?}");
    let after = world::attach(&mut observer, &pair.b)?;
    ensure!(after == before, "{after:?} is not {before:?}");
    // Exactly one program of ours is on each hook, and it is the new one.
    ensure!(after.hook == Hook::Exclusive, "{:?}", after.hook);
    attempt(&pair)?;
    let (records, _) = world::read_until(&mut ring, "2 records", |records| records.len() >= 2)?;
    ensure!(records.len() == 2, "{records:#?}");
    Ok(())
}

fn cursor() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, mut ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.b)?;
    for _ in 0..4 {
        attempt(&pair)?;
    }
    let mut out = Vec::new();
    world::wait_until("8 records", || {
        ring.read(&mut out, 100);
        Ok(out.len() == 8)
    })?;
    let all: Vec<_> = out.iter().map(|(_, record)| *record).collect();
    let (after_third, _) = out[2];
    let (after_fifth, _) = out[4];
    ensure!(ring.position() == out[7].0);
    // Released up to the third; then the agent is killed, having committed the fifth.
    ring.release(after_third);
    ring.release(0);
    drop((observer, ring));

    let (observer, mut ring) = world::open(&pair.bpf)?;
    ensure!(ring.position() == after_third, "the kernel has forgotten");
    ensure!(!ring.seek(u64::MAX), "sought beyond the end");
    ensure!(!ring.seek(0), "sought before what was released");
    ensure!(ring.seek(after_fifth));
    let mut rest = Vec::new();
    // In two bites, to see that `max` is kept.
    ring.read(&mut rest, 2);
    ensure!(rest.len() == 2);
    let outcome = ring.read(&mut rest, 100);
    ensure!(outcome.lost == 0);
    let rest: Vec<_> = rest.iter().map(|(_, record)| *record).collect();
    ensure!(rest == all[5..], "{rest:#?}");
    ring.release(ring.position());
    drop((observer, ring));

    let (_observer, mut ring) = world::open(&pair.bpf)?;
    let mut none = Vec::new();
    ring.read(&mut none, 100);
    ensure!(none.is_empty(), "{none:#?}");
    Ok(())
}

/// A reader that follows `must_poll` alone notices every record.
fn waiting() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, ring) = world::open(&pair.bpf)?;
    world::attach(&mut observer, &pair.b)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let reader = runtime.spawn(async move {
        // SAFETY: the descriptor is that of the ring's map, stays the same and is closed with it.
        let ring = unsafe {
            tokio::io::unix::AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE)
        };
        let mut ring = ring.map_err(|error| error.into_parts().1)?;
        let mut seen = 0;
        let mut waits = [0_u32; 3];
        loop {
            let mut out = Vec::new();
            ring.get_mut().read(&mut out, 7);
            seen += out.len();
            if seen >= 400 {
                break;
            }
            // Released late and in part, as a judge does.
            if out.len() < 7 {
                let position = ring.get_ref().position();
                if seen % 3 != 0 || out.is_empty() {
                    ring.get_mut().release(position);
                }
                match ring.get_ref().must_poll() {
                    Some(wait) if wait.is_zero() => waits[0] += 1,
                    Some(wait) => {
                        waits[1] += 1;
                        if let Ok(guard) = tokio::time::timeout(wait, ring.readable()).await {
                            guard?.clear_ready();
                        }
                    }
                    None => {
                        waits[2] += 1;
                        ring.readable().await?.clear_ready();
                    }
                }
            }
        }
        Ok::<_, std::io::Error>(waits)
    });
    for number in 0..200 {
        attempt(&pair)?;
        if number % 20 == 0 {
            // Lets the reader fall asleep.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    let waits = runtime
        .block_on(async { tokio::time::timeout(world::DEADLINE, reader).await })
        .context("the reader was never woken")???;
    ensure!(
        waits[2] > 0,
        "the descriptor was never waited for: {waits:?}"
    );
    Ok(())
}

fn overflow() -> Result<()> {
    // The first record of a CPU shows no gap, and a CPU that gets no more records shows none either: all on one.
    let before = sched_getaffinity(Pid::from_raw(0))?;
    let mut one = CpuSet::new();
    one.set(
        (0..CpuSet::count())
            .find(|cpu| before.is_set(*cpu).unwrap_or(false))
            .unwrap(),
    )?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let result = overflow_on_one_cpu();
    sched_setaffinity(Pid::from_raw(0), &before)?;
    result
}

fn overflow_on_one_cpu() -> Result<()> {
    let pair = Pair::new()?;
    // One page: 39 records of 104 bytes.
    let (mut observer, mut ring) = world::open_with(&pair.bpf, 4096)?;
    world::attach(&mut observer, &pair.b)?;
    for _ in 0..50 {
        attempt(&pair)?;
    }
    let counters = observer.counters()?;
    ensure!(counters.records == 100, "{counters:?}");
    ensure!(counters.ring_full == 61, "{counters:?}");
    let mut out = Vec::new();
    ring.read(&mut out, 1000);
    ensure!(out.len() == 39, "{} records", out.len());
    ring.release(ring.position());
    // The gap shows with the next record of the CPU.
    let mut lost = 0;
    world::wait_until("the loss in the stream", || {
        attempt(&pair)?;
        out.clear();
        lost += ring.read(&mut out, 1000).lost;
        ring.release(ring.position());
        Ok(lost >= counters.ring_full)
    })?;
    ensure!(lost == counters.ring_full, "{lost} lost, {counters:?}");
    // The packets themselves are all there: every attempt was answered.
    ensure!(observer.counters()?.ring_full == counters.ring_full);
    Ok(())
}

fn dead() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    let a = world::attach(&mut observer, &pair.a)?;
    let b = world::attach(&mut observer, &pair.b)?;
    ensure!(observer.collect_dead().is_empty(), "both are alive");
    let Pair {
        a: keep,
        b: end,
        bpf,
        directory,
    } = pair;
    drop(end);
    let mut gone = Vec::new();
    // The other end of the veth goes with it.
    world::wait_until("two dead links", || {
        gone.extend(observer.collect_dead());
        Ok(gone.len() >= 2)
    })?;
    gone.sort_unstable();
    let mut both = vec![a.netns, b.netns];
    both.sort_unstable();
    ensure!(gone == both, "{gone:?} is not {both:?}");
    ensure!(observer.pinned().is_empty());
    let left = std::fs::read_dir(bpf.version()?.join("links"))?.count();
    ensure!(left == 0, "{left} pins left");
    // No eth0 any more: a typed error, to be tried again.
    ensure!(matches!(
        observer.attach(keep.path()),
        Err(ObserveError::NoInterface { .. })
    ));
    // A new eth0 is attached to.
    world::inside(&keep, "ip link add eth0 type veth peer name other")?;
    let again = world::attach(&mut observer, &keep)?;
    ensure!(again.netns == a.netns && again.since > a.since);
    drop(keep);
    drop(directory);
    Ok(())
}

fn two_agents() -> Result<()> {
    let pair = Pair::new()?;
    let (mut observer, _ring) = world::open(&pair.bpf)?;
    let second = Observer::open(&pair.bpf.config(4096))
        .err()
        .context("opened twice")?;
    ensure!(matches!(second, ObserveError::InUse(_)), "{second}");
    ensure!(
        second.to_string().contains("another polproof-agent"),
        "{second}"
    );
    let nowhere = tempfile::tempdir()?;
    let mut config = pair.bpf.config(4096);
    config.bpf_dir = nowhere.path().join("pins");
    let wrong = Observer::open(&config)
        .err()
        .context("opened outside bpffs")?;
    ensure!(matches!(wrong, ObserveError::NotBpffs(_)), "{wrong}");
    // The agent's own namespace is no pod's.
    let own = std::path::Path::new("/proc/self/ns/net");
    ensure!(matches!(
        observer.attach(own),
        Err(ObserveError::OwnNamespace)
    ));
    let no_file = observer.attach(&nowhere.path().join("none"));
    ensure!(matches!(no_file, Err(ObserveError::Enter { .. })));
    let empty = Netns::create(nowhere.path(), "empty")?;
    ensure!(matches!(
        observer.attach(empty.path()),
        Err(ObserveError::NoInterface { .. })
    ));
    Ok(())
}
