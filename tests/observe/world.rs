//! Two or three namespaces with real interfaces, a bpf directory of their own, and all of it gone afterwards.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use polproof_agent::observe::{Attached, ObserveConfig, Observer, ReadOutcome, RingReader};
use polproof_flow::record::Record;
use polproof_tests::netns::Netns;

const BPFFS: &str = "/sys/fs/bpf";
/// Generous: a condition that holds at all holds within milliseconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A name and what it does.
pub(crate) type Test = (&'static str, fn() -> Result<()>);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that nothing else on the machine uses.
fn unique() -> String {
    format!(
        "polproof-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Mounts bpffs if it is absent, and removes what crashed runs left.
pub(crate) fn prepare() -> Result<()> {
    if statfs(BPFFS)?.filesystem_type() != BPF_FS_MAGIC {
        mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("mount bpffs")?;
    }
    for entry in std::fs::read_dir(BPFFS)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("polproof-test-")
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A directory on bpffs, removed when dropped: links end with their pins.
#[derive(Debug)]
pub(crate) struct BpfDir(PathBuf);

impl BpfDir {
    pub(crate) fn new() -> Self {
        Self(Path::new(BPFFS).join(unique()))
    }

    pub(crate) fn config(&self, ring_bytes: u32) -> ObserveConfig {
        ObserveConfig {
            bpf_dir: self.0.clone(),
            ring_bytes,
            host_netns: None,
            ..ObserveConfig::default()
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The one folder of this ABI below it.
    pub(crate) fn version(&self) -> Result<PathBuf> {
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            folders.push(entry?.path());
        }
        match folders.as_slice() {
            [one] => Ok(one.clone()),
            _ => bail!("not one folder: {folders:?}"),
        }
    }
}

impl Drop for BpfDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A namespace of a test.
pub(crate) fn netns(directory: &Path, name: &str) -> Result<Netns> {
    Netns::create(directory, name)
}

/// Runs a command inside a namespace; its failure is the test's.
pub(crate) fn inside(netns: &Netns, line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = netns.command(program)?.args(words).output()?;
    ensure!(
        output.status.success(),
        "{line}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Two pods on one wire.
pub(crate) struct Pair {
    pub(crate) a: Netns,
    pub(crate) b: Netns,
    pub(crate) bpf: BpfDir,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) const A4: &str = "10.77.0.1";
pub(crate) const B4: &str = "10.77.0.2";
pub(crate) const A6: &str = "fd77::1";
pub(crate) const B6: &str = "fd77::2";

impl Pair {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let a = netns(directory.path(), "a")?;
        let b = netns(directory.path(), "b")?;
        inside(
            &a,
            &format!(
                "ip link add eth0 type veth peer name eth0 netns {}",
                b.path().display()
            ),
        )?;
        for (netns, v4, v6) in [(&a, A4, A6), (&b, B4, B6)] {
            inside(netns, &format!("ip addr add {v4}/24 dev eth0"))?;
            inside(netns, &format!("ip -6 addr add {v6}/64 dev eth0 nodad"))?;
            inside(netns, "ip link set eth0 up")?;
        }
        Ok(Self {
            a,
            b,
            bpf: BpfDir::new(),
            directory,
        })
    }
}

/// Two pods with a router between them: 10.77.1.1 and fd77:1::1 on the left, 10.77.2.1 and fd77:2::1 on the right.
pub(crate) struct Routed {
    pub(crate) left: Netns,
    pub(crate) router: Netns,
    _right: Netns,
    pub(crate) bpf: BpfDir,
    _directory: tempfile::TempDir,
}

impl Routed {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let left = netns(directory.path(), "left")?;
        let router = netns(directory.path(), "router")?;
        let right = netns(directory.path(), "right")?;
        for (side, number, name) in [(&left, 1, "left"), (&right, 2, "right")] {
            inside(
                &router,
                &format!(
                    "ip link add {name} type veth peer name eth0 netns {}",
                    side.path().display()
                ),
            )?;
            inside(
                &router,
                &format!("ip addr add 10.77.{number}.254/24 dev {name}"),
            )?;
            inside(
                &router,
                &format!("ip -6 addr add fd77:{number}::fe/64 dev {name} nodad"),
            )?;
            inside(&router, &format!("ip link set {name} up"))?;
            inside(side, &format!("ip addr add 10.77.{number}.1/24 dev eth0"))?;
            inside(
                side,
                &format!("ip -6 addr add fd77:{number}::1/64 dev eth0 nodad"),
            )?;
            inside(side, "ip link set eth0 up")?;
            inside(
                side,
                &format!("ip route add default via 10.77.{number}.254"),
            )?;
            inside(
                side,
                &format!("ip -6 route add default via fd77:{number}::fe"),
            )?;
        }
        router.run(|| -> Result<()> {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            Ok(())
        })??;
        Ok(Self {
            left,
            router,
            _right: right,
            bpf: BpfDir::new(),
            _directory: directory,
        })
    }
}

/// Opens with a small ring.
pub(crate) fn open(bpf: &BpfDir) -> Result<(Observer, RingReader)> {
    open_with(bpf, 1 << 20)
}

pub(crate) fn open_with(bpf: &BpfDir, ring_bytes: u32) -> Result<(Observer, RingReader)> {
    let mut observer = Observer::open(&bpf.config(ring_bytes))?;
    let ring = observer.take_ring().context("the ring is taken once")?;
    Ok((observer, ring))
}

pub(crate) fn attach(observer: &mut Observer, netns: &Netns) -> Result<Attached> {
    Ok(observer.attach(netns.path())?)
}

/// A listener inside a namespace, on a port of the kernel's choice.
pub(crate) fn listen(netns: &Netns, ip: &str) -> Result<(TcpListener, SocketAddr)> {
    let ip: IpAddr = ip.parse()?;
    let listener = netns.run(|| TcpListener::bind((ip, 0)))??;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Connects from a namespace.
pub(crate) fn connect(netns: &Netns, to: SocketAddr) -> Result<std::io::Result<TcpStream>> {
    netns.run(|| TcpStream::connect_timeout(&to, DEADLINE))
}

/// Reads until the records satisfy the condition.
pub(crate) fn read_until(
    ring: &mut RingReader,
    what: &str,
    done: impl Fn(&[Record]) -> bool,
) -> Result<(Vec<Record>, ReadOutcome)> {
    let deadline = Instant::now() + DEADLINE;
    let mut out = Vec::new();
    let mut total = ReadOutcome::default();
    loop {
        total = total.and(ring.read(&mut out, 10_000));
        let records: Vec<_> = out.iter().map(|(_, record)| *record).collect();
        if done(&records) {
            return Ok((records, total));
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {DEADLINE:?}; read {records:#?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a condition.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !done()? {
        ensure!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
