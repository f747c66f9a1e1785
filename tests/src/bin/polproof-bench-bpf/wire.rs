//! Client and server on one wire, and what is attached to it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use polproof_agent::observe::{Identity, Means, ObserveConfig, Observer, RingReader};
use polproof_tests::foreign::{self, ATTACH_TCX_EGRESS, ATTACH_TCX_INGRESS, Cost, Foreign};
use polproof_tests::netns::Netns;

const CLIENT: [&str; 2] = ["10.79.0.1", "fd79::1"];
const SERVER: [&str; 2] = ["10.79.0.2", "fd79::2"];
/// `TCX_NEXT`
const NEXT: i32 = -1;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    /// The server's address.
    pub(crate) fn server(self) -> Result<IpAddr> {
        let [v4, v6] = SERVER;
        Ok(match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
        .parse()?)
    }
}

/// Two pods.
pub(crate) struct Wire {
    pub(crate) client: Netns,
    pub(crate) server: Netns,
    _directory: tempfile::TempDir,
}

impl Wire {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let client = Netns::create(directory.path(), "client")?;
        let server = Netns::create(directory.path(), "server")?;
        let peer = server.path().display().to_string();
        run(
            &client,
            "ip",
            &format!("link add eth0 type veth peer name eth0 netns {peer}"),
        )?;
        for (netns, [v4, v6]) in [(&client, CLIENT), (&server, SERVER)] {
            run(netns, "ip", &format!("addr add {v4}/24 dev eth0"))?;
            run(netns, "ip", &format!("-6 addr add {v6}/64 dev eth0 nodad"))?;
            run(netns, "ip", "link set eth0 up")?;
        }
        Ok(Self {
            client,
            server,
            _directory: directory,
        })
    }

    fn ends(&self) -> [&Netns; 2] {
        [&self.client, &self.server]
    }

    /// Our programs, loaded and attached to nothing.
    pub(crate) fn ours(&self, means: Means) -> Result<Ours> {
        let name = format!("polproof-bench-{}-{means:?}", std::process::id());
        let pins = Pins(Path::new("/sys/fs/bpf").join(name));
        let config = ObserveConfig {
            bpf_dir: pins.0.clone(),
            ring_bytes: 16 << 20,
            host_netns: None,
            ..ObserveConfig::default()
        };
        let mut observer = Observer::open_by(&config, means, Identity::Cookie)?;
        let ring = observer.take_ring().context("the ring is there once")?;
        Ok(Ours {
            observer,
            ring,
            means,
            pins,
        })
    }

    /// Programs that return at once, at both ends, as long as the result lives.
    pub(crate) fn empty(&self) -> Result<Vec<[Foreign; 2]>> {
        self.ends().into_iter().map(empty).collect()
    }
}

/// Ingress and egress of one end.
pub(crate) fn empty(netns: &Netns) -> Result<[Foreign; 2]> {
    Ok([
        foreign::attach(netns, ATTACH_TCX_INGRESS, NEXT)?,
        foreign::attach(netns, ATTACH_TCX_EGRESS, NEXT)?,
    ])
}

fn run(netns: &Netns, program: &str, arguments: &str) -> Result<()> {
    let status = netns
        .command(program)?
        .args(arguments.split_whitespace())
        .status()?;
    ensure!(status.success(), "{program} {arguments}: {status}");
    Ok(())
}

/// Removed when dropped, and the links with it.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Our programs.
pub(crate) struct Ours {
    observer: Observer,
    ring: RingReader,
    means: Means,
    pins: Pins,
}

impl Ours {
    pub(crate) fn attach(&mut self, ends: &[&Netns]) -> Result<()> {
        for netns in ends {
            self.observer.attach(netns.path())?;
        }
        Ok(())
    }

    /// Attaches to both ends.
    pub(crate) fn attach_to(&mut self, wire: &Wire) -> Result<()> {
        self.attach(&wire.ends())
    }

    /// Takes them off again, and empties the ring.
    pub(crate) fn detach_from(&mut self, wire: &Wire) -> Result<()> {
        match self.means {
            Means::Tcx => {
                for version in std::fs::read_dir(&self.pins.0)? {
                    for link in std::fs::read_dir(version?.path().join("links"))? {
                        std::fs::remove_file(link?.path())?;
                    }
                }
            }
            Means::Clsact => {
                for netns in wire.ends() {
                    run(netns, "tc", "qdisc del dev eth0 clsact")?;
                }
            }
        }
        self.drain()?;
        Ok(())
    }

    /// What they cost so far, ingress first.
    pub(crate) fn cost(&self) -> Result<[Cost; 2]> {
        let [ingress, egress] = self.observer.program_ids();
        Ok([foreign::cost_of(ingress)?, foreign::cost_of(egress)?])
    }

    /// Empties the ring, as an agent does; nothing may have been lost.
    pub(crate) fn drain(&mut self) -> Result<usize> {
        let mut records = Vec::new();
        let outcome = self.ring.read(&mut records, usize::MAX);
        self.ring.release(self.ring.position());
        ensure!(outcome.lost == 0, "{} records lost", outcome.lost);
        Ok(records.len())
    }
}
