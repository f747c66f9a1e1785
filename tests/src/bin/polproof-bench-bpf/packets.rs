//! Run time of the programs, by the kernel's own statistics.
//!
//! The control is a program that returns at once: what the kernel's own measuring costs is in both, so `net` is the difference.

use anyhow::{Result, ensure};
use polproof_agent::observe::Means;
use polproof_tests::foreign::{self, Cost};

use super::load::{connect_and_close, ping_pong};
use super::wire::{self, Family, Wire};
use super::{Effort, median, print};

pub(crate) fn measure(effort: Effort) -> Result<()> {
    let wire = Wire::new()?;
    let rounds = effort.rounds.min(9);
    let (messages, connections) = (effort.messages, effort.connections);
    let _stats = foreign::enable_stats()?;
    let mut gross = [Vec::new(), Vec::new()];
    let mut net = [Vec::new(), Vec::new()];
    let mut idle = [Vec::new(), Vec::new()];
    let mut handshakes = Vec::new();
    for _ in 0..rounds {
        let (control, control_connections) = {
            let control = wire::empty(&wire.server)?;
            let read = || -> Result<[Cost; 2]> {
                let [ingress, egress] = &control;
                Ok([ingress.cost()?, egress.cost()?])
            };
            let start = read()?;
            ping_pong(&wire, Family::V4, messages)?;
            let middle = read()?;
            connect_and_close(&wire, Family::V4, connections)?;
            (differences(middle, start), differences(read()?, middle))
        };
        let (ours, ours_connections) = {
            let mut programs = wire.ours(Means::Tcx)?;
            programs.attach(&[&wire.server])?;
            let start = programs.cost()?;
            ping_pong(&wire, Family::V4, messages)?;
            let middle = programs.cost()?;
            programs.drain()?;
            connect_and_close(&wire, Family::V4, connections)?;
            let end = programs.cost()?;
            let records = programs.drain()?;
            ensure!(records >= 2 * connections, "{records} records");
            (differences(middle, start), differences(end, middle))
        };
        let each = ours.iter().zip(&control);
        let vectors = gross.iter_mut().zip(&mut net).zip(&mut idle);
        for ((ours, control), ((gross, net), idle)) in each.zip(vectors) {
            gross.push(per_run(*ours));
            idle.push(per_run(*control));
            net.push(per_run(*ours) - per_run(*control));
        }
        // Per connection: a SYN and a SYN-ACK that are recorded, and some ten packets that are not.
        let total =
            |costs: [Cost; 2]| -> f64 { costs.iter().map(|cost| cost.run_time_ns as f64).sum() };
        let difference = total(ours_connections) - total(control_connections);
        handshakes.push(difference / connections as f64);
    }
    for (direction, ((gross, net), idle)) in ["ingress", "egress"]
        .iter()
        .zip(gross.into_iter().zip(net).zip(idle))
    {
        print(
            &format!("bpf.established.{direction}.gross"),
            median(gross),
            "ns/packet",
        );
        print(
            &format!("bpf.established.{direction}.control"),
            median(idle),
            "ns/packet",
        );
        print(
            &format!("bpf.established.{direction}.net"),
            median(net),
            "ns/packet",
        );
    }
    print("bpf.connection.net", median(handshakes), "ns/connection");
    Ok(())
}

fn differences(now: [Cost; 2], earlier: [Cost; 2]) -> [Cost; 2] {
    let [now_in, now_out] = now;
    let [earlier_in, earlier_out] = earlier;
    [now_in.since(earlier_in), now_out.since(earlier_out)]
}

fn per_run(cost: Cost) -> f64 {
    cost.run_time_ns as f64 / cost.runs.max(1) as f64
}
