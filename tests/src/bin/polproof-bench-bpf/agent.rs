//! What a real agent needs for itself: processor time while the pods of its node connect at a rate, and memory.
//!
//! Both ends of each connection are pods of the node, so that the agent has four records for each, and judges it twice.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use polproof_tests::lab::{Lab, Setup};

use super::{Effort, print};

/// Connections a second.
const RATE: u32 = 10_000;
/// Server ports, so that the client does not run out of its own.
const PORTS: u16 = 8;
const FIRST_PORT: u16 = 8_000;
/// The generator works in steps of this length.
const STEP: Duration = Duration::from_millis(1);

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: v1
kind: Pod
metadata: {namespace: bench, name: client, labels: {app: client}}
spec: {nodeName: node-1}
---
apiVersion: v1
kind: Pod
metadata: {namespace: bench, name: server, labels: {app: server}}
spec: {nodeName: node-1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: bench, name: clients-only}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: bench, name: to-servers-only}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: server}}}]
";

pub(crate) fn measure(effort: Effort) -> Result<()> {
    let mut lab = Lab::create(Setup {
        nodes: 1,
        ..Setup::default()
    })?;
    lab.apply(OBJECTS)?;
    lab.start_all()?;
    lab.wait_ready(Duration::from_secs(60))?;
    let server = lab.pod("bench/server")?;
    let address = *server
        .addresses()
        .iter()
        .find(|ip| ip.is_ipv4())
        .context("the server has no IPv4 address")?;
    let listeners =
        server.resident().call(
            Duration::from_secs(10),
            move || async move { listen(address) },
        )??;
    let limit = Duration::from_secs(effort.seconds * 4 + 60);
    let seconds = Duration::from_secs(effort.seconds);
    let client = lab.pod("bench/client")?.resident();
    // First so long that all that grows with the traffic has grown.
    let warm = seconds / 4;
    let listeners = client.call(limit, move || async move {
        generate(&listeners, warm).map(|_| listeners)
    })??;
    let records = lab.node(0)?.metric("polproof_records_total", &[])?;
    let pending = client.start(move || async move {
        let start = Instant::now();
        generate(&listeners, seconds).map(|made| f64::from(made) / start.elapsed().as_secs_f64())
    });
    let before = agent_time(&lab)?;
    let start = Instant::now();
    let rate = pending.wait(limit)??;
    let elapsed = start.elapsed().as_secs_f64();
    let time = agent_time(&lab)? - before;
    let records = lab.node(0)?.metric("polproof_records_total", &[])? - records;
    print("agent.connections", rate, "1/s");
    print("agent.records", records / elapsed, "1/s");
    print("agent.cpu", time / elapsed * 100.0, "% of a core");
    // The most there ever was, and what there is now without the binary's pages and the few of the ring that are mapped.
    print("agent.rss", memory(&lab, "VmHWM:")?, "MiB");
    print("agent.rss_anonymous", memory(&lab, "RssAnon:")?, "MiB");
    Ok(())
}

fn listen(address: IpAddr) -> Result<Vec<TcpListener>> {
    (FIRST_PORT..FIRST_PORT + PORTS)
        .map(|port| Ok(TcpListener::bind(SocketAddr::new(address, port))?))
        .collect()
}

/// Connects and closes at the rate, as far as the machine can; returns how often.
fn generate(listeners: &[TcpListener], length: Duration) -> Result<u32> {
    let start = Instant::now();
    let mut made = 0;
    while start.elapsed() < length {
        let due = start.elapsed().as_micros() * u128::from(RATE) / 1_000_000;
        let due = u32::try_from(due)?;
        for listener in listeners
            .iter()
            .cycle()
            .take((due.saturating_sub(made)) as usize)
        {
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, _) = listener.accept()?;
            drop(server);
            drop(client);
            made += 1;
        }
        std::thread::sleep(STEP);
    }
    Ok(made)
}

/// Processor time of the agent so far, in seconds.
fn agent_time(lab: &Lab) -> Result<f64> {
    let path = format!("/proc/{}/stat", agent(lab)?);
    let text = std::fs::read_to_string(&path)?;
    // After the name, which is in parentheses and may hold spaces, comes field 3; utime and stime are 14 and 15.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .context("no name in the status")?
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields
        .get(11..13)
        .context("no times in the status")?
        .iter()
        .map(|field| field.parse::<u64>())
        .sum::<Result<_, _>>()?;
    // USER_HZ is 100 on every machine that we run on.
    Ok(ticks as f64 / 100.0)
}

/// A figure of the agent's memory, in MiB.
fn memory(lab: &Lab, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", agent(lab)?))?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .with_context(|| format!("no {name} in the status"))?
        .parse()?;
    ensure!(kib > 0.0, "no memory at all");
    Ok(kib / 1024.0)
}

fn agent(lab: &Lab) -> Result<u32> {
    let agent = lab.node(0)?.agent.as_ref();
    Ok(agent.context("no agent runs on the node")?.pid())
}
