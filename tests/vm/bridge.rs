//! A small node: two pods on a bridge, with IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use polproof_agent::observe::{ObserveConfig, Observer, RingReader};
use polproof_tests::netns::Netns;

use crate::scenarios::Way;
use crate::world::{self, BpfDir};

pub(crate) const A: [&str; 2] = ["10.78.0.1", "fd78::1"];
pub(crate) const B: [&str; 2] = ["10.78.0.2", "fd78::2"];

/// Everything is gone when it is dropped.
pub(crate) struct Bridge {
    pub(crate) a: Netns,
    pub(crate) b: Netns,
    node: Netns,
    pub(crate) bpf: BpfDir,
    pub(crate) directory: tempfile::TempDir,
}

impl Bridge {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let node = Netns::create(directory.path(), "node")?;
        let this = Self {
            a: Netns::create(directory.path(), "a")?,
            b: Netns::create(directory.path(), "b")?,
            node,
            bpf: BpfDir::new(),
            directory,
        };
        world::inside(&this.node, "ip link add br0 type bridge")?;
        world::inside(&this.node, "ip link set br0 up")?;
        for (pod, port, [v4, v6]) in [(&this.a, "to-a", A), (&this.b, "to-b", B)] {
            let path = pod.path().display();
            for line in [
                format!("ip link add {port} type veth peer name eth0 netns {path}"),
                format!("ip link set {port} master br0 up"),
            ] {
                world::inside(&this.node, &line)?;
            }
            for line in [
                format!("ip addr add {v4}/24 dev eth0"),
                format!("ip -6 addr add {v6}/64 dev eth0 nodad"),
                "ip link set eth0 up".to_owned(),
            ] {
                world::inside(pod, &line)?;
            }
        }
        Ok(this)
    }

    /// Whether the node drops everything between the two pods.
    pub(crate) fn drop_all(&self, drop: bool) -> Result<()> {
        let isolated = if drop { "on" } else { "off" };
        for port in ["to-a", "to-b"] {
            let line = format!("ip link set {port} type bridge_slave isolated {isolated}");
            world::inside(&self.node, &line)?;
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> ObserveConfig {
        config(&self.bpf)
    }

    pub(crate) fn open(&self, way: Way) -> Result<(Observer, RingReader)> {
        open(way, &self.bpf)
    }

    /// Connects from A to B.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<std::io::Result<TcpStream>> {
        world::connect(&self.a, to)
    }

    /// The same where nothing will answer: a SYN, and a second one.
    pub(crate) fn connect_in_vain(&self, to: SocketAddr) -> Result<std::io::Result<TcpStream>> {
        self.a
            .run(|| TcpStream::connect_timeout(&to, Duration::from_millis(1_200)))
    }

    /// One attempt from A to a port of B on which nobody listens.
    pub(crate) fn refused(&self) -> Result<()> {
        let refused = self.connect(SocketAddr::new(B[0].parse()?, 9))?;
        let kind = refused.err().map(|error| error.kind());
        ensure!(
            kind == Some(std::io::ErrorKind::ConnectionRefused),
            "port 9 is closed, yet {kind:?}"
        );
        Ok(())
    }
}

pub(crate) fn config(bpf: &BpfDir) -> ObserveConfig {
    ObserveConfig {
        bpf_dir: bpf.path().to_owned(),
        ring_bytes: 1 << 20,
        ..ObserveConfig::default()
    }
}

pub(crate) fn open(way: Way, bpf: &BpfDir) -> Result<(Observer, RingReader)> {
    let mut observer = Observer::open_by(&config(bpf), way.means(), way.identity())?;
    let ring = observer.take_ring().context("the ring is taken once")?;
    Ok((observer, ring))
}

pub(crate) fn listen(netns: &Netns, ip: &str) -> Result<(TcpListener, SocketAddr)> {
    let ip: IpAddr = ip.parse()?;
    let listener = netns.run(|| TcpListener::bind((ip, 0)))??;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// What a command inside a namespace prints.
pub(crate) fn printed(netns: &Netns, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = netns.command(program)?.args(words).output()?;
    ensure!(output.status.success(), "{line}: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes everything of the agent with these pins, as `polproof-agent uninstall` does.
pub(crate) fn uninstall(bpf: &BpfDir, namespaces: &Path) -> Result<polproof_agent::Removed> {
    // Only this test's namespaces are looked into: there are no processes in an empty folder.
    let nobody = tempfile::tempdir()?;
    polproof_agent::uninstall(bpf.path(), namespaces, nobody.path())
}
