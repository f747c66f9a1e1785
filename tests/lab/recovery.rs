//! Nothing is lost and nothing counted twice: crashes, outages, floods.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use polproof_tests::lab::resident::Pending;
use polproof_tests::lab::traffic::{Burst, Tally};
use polproof_tests::lab::wiring::feed;
use polproof_tests::lab::{Lab, Setup, wait_for};

use crate::Scenario;
use crate::findings::{self, totals, wait_for_exactly};
use crate::verdicts::{PATIENCE, start};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::whole(
            "kill -9 of agents in the middle of traffic: counted exactly once",
            killed_agent,
        ),
        Scenario::whole(
            "a SYN repeated across kill -9 of the agent is one attempt",
            repeated_syn,
        ),
        Scenario::whole(
            "kill -9 of the collector for a while: counted exactly once",
            killed_collector,
        ),
        Scenario::whole(
            "a flood of violations is counted exactly, in few messages",
            flood,
        ),
        Scenario::whole(
            "a full disk under the spool: the agent goes on and recovers",
            full_disk,
        ),
        Scenario::whole(
            "a corrupt spool: the agent says so and goes on",
            corrupt_spool,
        ),
        Scenario::whole(
            "two whole labs side by side do not see each other",
            side_by_side,
        )
        .with(|| Setup {
            nodes: 1,
            ..Setup::default()
        }),
    ]
}

/// For everything to be counted and settled after the last attempt.
const SETTLED: Duration = Duration::from_secs(90);

/// Denied attempts on both families, from one pod to one server.
fn denied(lab: &Lab, to: &str, count: u64, per_second: u64) -> Result<Burst> {
    let server = lab.pod(to)?;
    Ok(Burst {
        targets: vec![server.v4(80), server.v6(80)],
        count,
        concurrency: 100,
        per_second,
        patience: PATIENCE,
    })
}

/// So many attempts at once as the machine can make, none of them denied.
pub(crate) fn flood_of(lab: &Lab, to: &str, count: u64) -> Result<Burst> {
    denied(lab, to, count, 0)
}

/// Waits until a burst is well under way, as the collector sees it.
fn under_way(lab: &Lab, count: u64) -> Result<()> {
    findings::wait_for_findings(
        lab,
        Duration::from_secs(30),
        "the burst is under way",
        |found| totals(found).0 >= count,
    )?;
    Ok(())
}

fn all_connected(burst: Pending<Result<Tally>>, count: u64) -> Result<()> {
    let tally = burst.wait(Duration::from_secs(120))??;
    ensure!(
        tally
            == Tally {
                connected: count,
                ..Tally::default()
            },
        "{tally:?}"
    );
    Ok(())
}

fn killed_agent(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let (count, per_second, kills) = (3_000, 200, 6);
    let bursts = [
        lab.pod("m/no-1")?
            .resident()
            .start_burst(denied(lab, "m/server-2", count, per_second)?)?,
        lab.pod("m/no-2")?
            .resident()
            .start_burst(denied(lab, "m/server-1", count, per_second)?)?,
    ];
    under_way(lab, 200)?;
    for kill in 0..kills {
        for node in 0..2 {
            lab.take_agent(node)?.kill()?;
        }
        // Traffic that nobody reads: the ring keeps it.
        if kill == 0 {
            let until = Instant::now() + Duration::from_millis(500);
            wait_for(PATIENCE, "half a second is over", || {
                Ok((Instant::now() > until).then_some(()))
            })?;
        }
        for node in 0..2 {
            lab.start_agent(node)?;
        }
        // The next blow falls as soon as it is up, in the middle of catching up, or when it goes on.
        let before = totals(&lab.questions()?.findings()?).0;
        let grown = [0, 1, 300].get(kill % 3).copied().unwrap_or(0);
        wait_for(Duration::from_secs(20), "an agent is up again", || {
            let Ok(found) = lab.questions()?.findings() else {
                return Ok(None);
            };
            let counted = totals(&found).0;
            let up = match grown {
                0 => lab.node(0)?.http("/healthz").is_ok(),
                // On a slow machine the traffic may be over by now.
                more => counted >= before + more || counted == 2 * count,
            };
            Ok(up.then_some(()))
        })?;
    }
    for burst in bursts {
        all_connected(burst, count)?;
    }
    wait_for_exactly(lab, 2 * count, SETTLED)?;
    Ok(())
}

/// Clients that get no answer repeat their SYN, after 1, 2, 4 s: still the same attempt, though an agent
/// that did not count it before sees it again.
fn repeated_syn(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let count = 40;
    let answers = "-p tcp --sport 80 --tcp-flags SYN,ACK SYN,ACK -j DROP";
    let rule = |lab: &Lab, verb: &str| -> Result<()> {
        for program in ["iptables-restore", "ip6tables-restore"] {
            let script = format!("*filter\n{verb} FORWARD {answers}\nCOMMIT\n");
            feed(lab.node(0)?.netns(), program, &["--noflush"], &script)?;
        }
        Ok(())
    };
    rule(lab, "-A")?;
    let burst = Burst {
        patience: Duration::from_secs(40),
        ..denied(lab, "m/server-1", count, 0)?
    };
    let burst = lab.pod("m/no-2")?.resident().start_burst(burst)?;
    under_way(lab, count)?;
    lab.take_agent(0)?.kill()?;
    let syns = |lab: &Lab| lab.node(0)?.metric("polproof_kernel_records_total", &[]);
    lab.start_agent(0)?;
    let first = wait_for(Duration::from_secs(20), "the agent is up again", || {
        Ok(syns(lab).ok())
    })?;
    // Each repeated SYN, and the pod's answer to it.
    let repeated = first + 2.0 * f64::from(u32::try_from(count)?);
    wait_for(Duration::from_secs(20), "the SYNs are repeated", || {
        Ok(syns(lab).is_ok_and(|now| now >= repeated).then_some(()))
    })?;
    rule(lab, "-D")?;
    all_connected(burst, count)?;
    wait_for_exactly(lab, count, SETTLED)?;
    Ok(())
}

/// How long the collector is away: 30 s, or what POLPROOF_LAB_OUTAGE says, in seconds.
fn outage() -> Result<Duration> {
    let seconds = match std::env::var("POLPROOF_LAB_OUTAGE") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("POLPROOF_LAB_OUTAGE={text}"))?,
        Err(_) => 30,
    };
    Ok(Duration::from_secs(seconds))
}

fn killed_collector(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let away = outage()?;
    let per_second = 100;
    let count = per_second * (away.as_secs() + 6);
    let burst =
        lab.pod("m/no-1")?
            .resident()
            .start_burst(denied(lab, "m/server-2", count, per_second)?)?;
    under_way(lab, 100)?;
    lab.kill_collector()?;
    let back = Instant::now() + away;
    wait_for(away * 2, "the outage is over", || {
        Ok((Instant::now() > back).then_some(()))
    })?;
    lab.start_collector()?;
    under_way(lab, 200)?;
    // Once more, at once: receipts may be on their way.
    lab.kill_collector()?;
    lab.start_collector()?;
    all_connected(burst, count)?;
    wait_for_exactly(lab, count, SETTLED)?;
    let missing: u64 = lab
        .questions()?
        .status()?
        .nodes
        .iter()
        .map(|node| node.batches_missing)
        .sum();
    ensure!(missing == 0, "{missing} batches are missing");
    Ok(())
}

fn flood(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let count = 10_000;
    let began = Instant::now();
    let bursts = [
        lab.pod("m/no-1")?
            .resident()
            .start_burst(denied(lab, "m/server-1", count, 0)?)?,
        lab.pod("m/no-2")?
            .resident()
            .start_burst(denied(lab, "m/server-1", count, 0)?)?,
    ];
    for burst in bursts {
        all_connected(burst, count)?;
    }
    let lasted = began.elapsed();
    let found = wait_for_exactly(lab, 2 * count, SETTLED)?;
    ensure!(found.len() == 4, "{}", findings::lines(&found));
    let seconds = (began.elapsed().as_secs_f64()).ceil();
    let batches = lab
        .node(0)?
        .metric("polproof_stream_batches_sent_total", &[])?;
    eprintln!(
        "{} violations in {lasted:?}, {batches} messages in {seconds} s",
        2 * count
    );
    ensure!(
        batches <= 10.0 * seconds,
        "{batches} messages in {seconds} s"
    );
    Ok(())
}

/// Mounts a file system of 1 MiB on the state folder of a node; the lab unmounts it with the rest.
fn tiny_disk(lab: &Lab, node: usize) -> Result<std::path::PathBuf> {
    let state = lab.node(node)?.dir().join("state");
    nix::mount::mount(
        Some("tmpfs"),
        &state,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=1m"),
    )
    .with_context(|| format!("mount a tmpfs on {}", state.display()))?;
    Ok(state)
}

fn full_disk(lab: &mut Lab) -> Result<()> {
    let state = tiny_disk(lab, 0)?;
    start(lab)?;
    let filler = state.join("filler");
    // Whatever is free is taken; the agent's next write fails.
    let written = std::fs::write(&filler, vec![0; 1 << 20]);
    ensure!(written.is_err(), "the disk was not that small");
    let burst = denied(lab, "m/server-1", 200, 100)?;
    let tally = lab
        .pod("m/no-2")?
        .resident()
        .burst(burst, Duration::from_secs(60))?;
    ensure!(tally.connected == 200, "{tally:?}");
    wait_for(
        Duration::from_secs(30),
        "the agent says that its disk is full",
        || {
            let node = lab.node(0)?;
            let agent = node.agent.as_ref().context("no agent")?;
            let output = agent.output();
            Ok((output.contains("No space left") || output.contains("disk is full")).then_some(()))
        },
    )?;
    std::fs::remove_file(&filler)?;
    wait_for_exactly(lab, 200, SETTLED)?;
    if let Some(agent) = &lab.node(0)?.agent {
        ensure!(
            !agent.output().contains("panicked"),
            "it panicked on the way"
        );
    }
    Ok(())
}

fn corrupt_spool(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let burst = denied(lab, "m/server-1", 50, 0)?;
    lab.pod("m/no-2")?
        .resident()
        .burst(burst, Duration::from_secs(60))?;
    wait_for_exactly(lab, 50, SETTLED)?;
    lab.take_agent(0)?.kill()?;
    let mut spoiled = 0;
    let mut folders = vec![lab.node(0)?.dir().join("state")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path)?;
            // The middle half of every file, and a tail that is no frame.
            let quarter = bytes.len() / 4;
            for byte in bytes.iter_mut().skip(quarter).take(quarter * 2) {
                *byte ^= 0x5a;
            }
            bytes.extend_from_slice(&[0xff; 7]);
            std::fs::write(&path, bytes)?;
            spoiled += 1;
        }
    }
    ensure!(spoiled > 0, "the agent left no state at all");
    lab.start_agent(0)?;
    lab.wait_ready(crate::verdicts::UP)?;
    let agent = lab.node(0)?.agent.as_ref().context("no agent")?;
    let output = agent.output();
    ensure!(
        output.contains("corrupt") || output.contains("damaged"),
        "it does not say so"
    );
    ensure!(!output.contains("panicked"), "it panicked on the way");
    let before = totals(&lab.questions()?.findings()?).0;
    let burst = denied(lab, "m/server-1", 50, 0)?;
    lab.pod("m/no-2")?
        .resident()
        .burst(burst, Duration::from_secs(60))?;
    findings::wait_for_findings(lab, SETTLED, "new violations are counted again", |found| {
        totals(found).0 == before + 50
    })?;
    Ok(())
}

const ONE_NODE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: m, name: server}
spec: {podSelector: {matchLabels: {app: server}}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: m, name: server, labels: {app: server}}
spec: {nodeName: node-1, containers: [{name: main, image: lab, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: m, name: client}
spec: {nodeName: node-1, containers: [{name: main, image: lab}]}
";

fn side_by_side(lab: &mut Lab) -> Result<()> {
    let mut other = Lab::create(lab.setup().clone())?;
    for lab in [&mut *lab, &mut other] {
        lab.add_namespace("m", &[])?;
        lab.apply(ONE_NODE)?;
        lab.start_all()?;
    }
    lab.wait_ready(crate::verdicts::UP)?;
    other.wait_ready(crate::verdicts::UP)?;
    for (lab, count) in [(&*lab, 20), (&other, 10)] {
        let burst = denied(lab, "m/server", count, 0)?;
        lab.pod("m/client")?
            .resident()
            .burst(burst, Duration::from_secs(60))?;
    }
    wait_for_exactly(lab, 20, SETTLED)?;
    wait_for_exactly(&other, 10, SETTLED)?;
    drop(other);
    let burst = denied(lab, "m/server", 5, 0)?;
    lab.pod("m/client")?
        .resident()
        .burst(burst, Duration::from_secs(60))?;
    wait_for_exactly(lab, 25, SETTLED)?;
    Ok(())
}
