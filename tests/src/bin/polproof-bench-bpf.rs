//! What the BPF programs cost, as JSON lines `{"name", "value", "unit"}`. Needs root and the BPF object.
//!
//! Rounds are interleaved (nothing, control, ours, ...), so that a machine that grows slower meanwhile slows all of them
//! alike; the median of the rounds is printed. The control is a program that returns at once: what the kernel's own
//! measuring costs is in both, so `net` is the difference.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::time::{ClockId, clock_gettime};
use polproof_agent::observe::{ObserveConfig, Observer, RingReader};
use polproof_tests::foreign::{self, ATTACH_TCX_EGRESS, ATTACH_TCX_INGRESS, Cost, Foreign};
use polproof_tests::netns::Netns;

const CLIENT: &str = "10.79.0.1";
const SERVER: &str = "10.79.0.2";
/// `TCX_NEXT`
const NEXT: i32 = -1;

fn main() -> Result<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, messages, connections) = if quick {
        (3, 5_000, 500)
    } else {
        (9, 40_000, 4_000)
    };
    if statfs("/sys/fs/bpf")?.filesystem_type() != BPF_FS_MAGIC {
        let none = None::<&str>;
        mount(
            Some("bpf"),
            "/sys/fs/bpf",
            Some("bpf"),
            MsFlags::empty(),
            none,
        )?;
    }
    let wire = Wire::new()?;
    per_packet(&wire, rounds, messages, connections)?;
    processor_ratio(&wire, rounds, connections)
}

/// Client and server on one wire.
struct Wire {
    client: Netns,
    server: Netns,
    pins: Pins,
    _directory: tempfile::TempDir,
}

/// Removed when dropped.
struct Pins(std::path::PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Wire {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let client = Netns::create(directory.path(), "client")?;
        let server = Netns::create(directory.path(), "server")?;
        let peer = server.path().display().to_string();
        run(
            &client,
            &[
                "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer,
            ],
        )?;
        for (netns, address) in [(&client, CLIENT), (&server, SERVER)] {
            let address = format!("{address}/24");
            run(netns, &["addr", "add", &address, "dev", "eth0"])?;
            run(netns, &["link", "set", "eth0", "up"])?;
        }
        let name = format!("polproof-bench-{}", std::process::id());
        Ok(Self {
            client,
            server,
            pins: Pins(Path::new("/sys/fs/bpf").join(name)),
            _directory: directory,
        })
    }

    fn ours(&self) -> Result<Ours> {
        let mut observer = Observer::open(&ObserveConfig {
            bpf_dir: self.pins.0.clone(),
            ring_bytes: 16 << 20,
            host_netns: None,
        })?;
        let ring = observer.take_ring().context("the ring is there once")?;
        observer.attach(self.server.path())?;
        Ok(Ours {
            observer,
            ring,
            pins: self.pins.0.clone(),
        })
    }

    fn control(&self) -> Result<[Foreign; 2]> {
        Ok([
            foreign::attach(&self.server, ATTACH_TCX_INGRESS, NEXT)?,
            foreign::attach(&self.server, ATTACH_TCX_EGRESS, NEXT)?,
        ])
    }
}

fn run(netns: &Netns, arguments: &[&str]) -> Result<()> {
    let status = netns.command("ip")?.args(arguments).status()?;
    ensure!(status.success(), "ip {}: {status}", arguments.join(" "));
    Ok(())
}

/// Our programs, attached as long as this lives.
struct Ours {
    observer: Observer,
    ring: RingReader,
    pins: std::path::PathBuf,
}

impl Ours {
    fn cost(&self) -> Result<[Cost; 2]> {
        let [ingress, egress] = self.observer.program_ids();
        Ok([foreign::cost_of(ingress)?, foreign::cost_of(egress)?])
    }

    /// Empties the ring, as an agent does; nothing may have been lost.
    fn drain(&mut self) -> Result<usize> {
        let mut records = Vec::new();
        let outcome = self.ring.read(&mut records, usize::MAX);
        self.ring.release(self.ring.position());
        ensure!(outcome.lost == 0, "{} records lost", outcome.lost);
        Ok(records.len())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

/// Small messages to and fro on one connection: every packet but the first three is of an established one.
fn ping_pong(wire: &Wire, messages: usize) -> Result<()> {
    let (client, mut server) = pair(wire)?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 64];
        while server.read_exact(&mut buffer).is_ok() {
            server.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut client = client;
    let mut buffer = [7; 64];
    for _ in 0..messages {
        client.write_all(&buffer)?;
        client.read_exact(&mut buffer)?;
    }
    drop(client);
    echo.join()
        .map_err(|_| anyhow::anyhow!("the echoing thread panicked"))??;
    Ok(())
}

fn listen(wire: &Wire) -> Result<(TcpListener, SocketAddr)> {
    let address: SocketAddr = format!("{SERVER}:0").parse()?;
    let listener = wire.server.run(|| TcpListener::bind(address))??;
    let to = listener.local_addr()?;
    Ok((listener, to))
}

fn pair(wire: &Wire) -> Result<(TcpStream, TcpStream)> {
    let (listener, to) = listen(wire)?;
    let client = wire
        .client
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    client.set_nodelay(true)?;
    let (server, _) = listener.accept()?;
    server.set_nodelay(true)?;
    Ok((client, server))
}

/// Connects and closes, the server first (so that its end keeps the TIME_WAIT); returns the processor time of this
/// process, whose system calls carry the packets to the other end.
fn connect_and_close(wire: &Wire, connections: usize) -> Result<Duration> {
    let (listener, to) = listen(wire)?;
    wire.client.run(|| -> Result<Duration> {
        let before = processor_time()?;
        for _ in 0..connections {
            let client = TcpStream::connect(to)?;
            let (server, _) = listener.accept()?;
            drop(server);
            drop(client);
        }
        Ok(processor_time()?.saturating_sub(before))
    })?
}

fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn per_packet(wire: &Wire, rounds: usize, messages: usize, connections: usize) -> Result<()> {
    let _stats = foreign::enable_stats()?;
    let mut gross = [Vec::new(), Vec::new()];
    let mut net = [Vec::new(), Vec::new()];
    let mut idle = [Vec::new(), Vec::new()];
    let mut handshakes = Vec::new();
    for _ in 0..rounds {
        let (control, control_connections) = {
            let control = wire.control()?;
            let read = || -> Result<[Cost; 2]> {
                let [ingress, egress] = &control;
                Ok([ingress.cost()?, egress.cost()?])
            };
            let start = read()?;
            ping_pong(wire, messages)?;
            let middle = read()?;
            connect_and_close(wire, connections)?;
            (differences(middle, start), differences(read()?, middle))
        };
        let (ours, ours_connections) = {
            let mut programs = wire.ours()?;
            let start = programs.cost()?;
            ping_pong(wire, messages)?;
            let middle = programs.cost()?;
            programs.drain()?;
            connect_and_close(wire, connections)?;
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

fn processor_ratio(wire: &Wire, rounds: usize, connections: usize) -> Result<()> {
    let mut ratios = Vec::new();
    let mut controls = Vec::new();
    let mut plain = Vec::new();
    connect_and_close(wire, connections)?; // warm
    for _ in 0..rounds {
        let before = connect_and_close(wire, connections)?.as_secs_f64();
        let with = {
            let mut programs = wire.ours()?;
            let with = connect_and_close(wire, connections)?.as_secs_f64();
            programs.drain()?;
            with
        };
        let after = connect_and_close(wire, connections)?.as_secs_f64();
        ratios.push(2.0 * with / (before + after));
        controls.push(after / before);
        plain.push(before * 1e6 / connections as f64);
    }
    print("bpf.connect_close.without", median(plain), "us/connection");
    print("bpf.connect_close.ratio", median(ratios), "ratio");
    print("bpf.connect_close.control", median(controls), "ratio");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(name: &str, value: f64, unit: &str) {
    println!(
        "{}",
        serde_json::json!({"name": name, "value": (value * 1000.0).round() / 1000.0, "unit": unit})
    );
}
