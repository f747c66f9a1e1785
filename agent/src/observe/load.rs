//! Loading, pinning and taking over.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::Map;
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use polproof_agent_common::{ABI_VERSION, COUNTERS_MAP, DATAGRAM_WINDOW_SECONDS, RECORDS_MAP};
use polproof_flow::record::NetnsCookie;

use super::attach::HOOKS;
use super::btf::Offsets;
use super::bytecode::{bpf_object, with_context_cast};
use super::capabilities::capabilities;
use super::clsact::Filters;
use super::counters::CounterMap;
use super::datagrams::{Seed, jiffies_per_second};
use super::error::ObserveError;
use super::exclusive::Ours;
use super::identity::{Generations, Identity};
use super::means::Means;
use super::netns::visit;
use super::ring::RingReader;
use super::tcx::Pins;

/// Settings of the observation.
#[derive(Clone, Debug)]
pub struct ObserveConfig {
    /// A directory on a BPF file system; made if absent.
    pub bpf_dir: PathBuf,
    /// Size of the record ring in bytes, a power of two and a multiple of the page size. A ring that is already pinned
    /// keeps its size.
    pub ring_bytes: u32,
    /// The node's own network namespace, which is never observed; `None`: the one that we are in.
    pub host_netns: Option<PathBuf>,
    /// For how long the programs say nothing of a UDP tuple after they wrote it down, in seconds; at least 1 and at most
    /// [`DATAGRAM_WINDOW_SECONDS`].
    pub datagram_window: u32,
}

impl Default for ObserveConfig {
    fn default() -> Self {
        Self {
            bpf_dir: PathBuf::from("/sys/fs/bpf/polproof"),
            ring_bytes: 16 * 1024 * 1024,
            host_netns: None,
            datagram_window: DATAGRAM_WINDOW_SECONDS,
        }
    }
}

/// The loaded programs and what is pinned of them.
pub struct Observer {
    pub(super) ebpf: Ebpf,
    pub(super) means: Means,
    pub(super) pins: Pins,
    pub(super) filters: Filters,
    pub(super) identity: Identity,
    pub(super) generations: Arc<Generations>,
    pub(super) ours: Ours,
    /// The node's own: never a pod's.
    pub(super) host_namespace: NetnsCookie,
    pub(super) counters: CounterMap,
    pub(super) seed: Seed,
    reads_plainly: bool,
    ring: Option<RingReader>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Held as long as we live: two agents on one ring would each see half.
    _lock: Flock<File>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Observer")
            .field("pins", &self.pins)
            .field("ours", &self.ours)
            .finish_non_exhaustive()
    }
}

impl Observer {
    /// Loads the programs, or takes over what an earlier agent left pinned: its ring with all unread records, and every
    /// live link, whose program is replaced without a gap.
    pub fn open(config: &ObserveConfig) -> Result<Self, ObserveError> {
        let found = capabilities();
        found.log();
        if let Some(lack) = found.fatal() {
            return Err(ObserveError::Unsupported {
                kernel: found.kernel.clone(),
                lack,
            });
        }
        Self::open_by(
            config,
            Means::of_running_kernel()?,
            Identity::of_running_kernel(),
        )
    }

    /// [`Self::open`] by means that need not be the best that this kernel has: for tests of what older ones lack.
    /// [`Identity::Inode`] goes with [`Means::Clsact`], as no kernel with tcx is without cookies.
    pub fn open_by(
        config: &ObserveConfig,
        means: Means,
        identity: Identity,
    ) -> Result<Self, ObserveError> {
        if bpf_object().is_empty() {
            return Err(ObserveError::NoObject);
        }
        let directory = config.bpf_dir.join(format!("abi-{ABI_VERSION}"));
        let links = directory.join("links");
        check_bpffs(&config.bpf_dir)?;
        std::fs::create_dir_all(&links).map_err(file("make", &links))?;
        let lock = lock(&directory)?;

        let offsets = Offsets::of_running_kernel(identity)?;
        tracing::debug!(?offsets, "what is known of the running kernel");
        let (mut ebpf, reads_plainly) = load(config, &directory, &offsets)?;
        let seed = Seed::take(&mut ebpf)?;

        let mut ids = HashMap::new();
        for hook in &HOOKS {
            let program = program(&mut ebpf, hook.program)?;
            ids.insert(hook.name(), program.info()?.id());
            // For people with bpftool; the links keep the programs alive.
            let pin = directory.join(hook.program);
            match std::fs::remove_file(&pin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file("replace", &pin)(error));
                }
                _ => {}
            }
            program
                .pin(&pin)
                .map_err(|source| ObserveError::Pin { path: pin, source })?;
        }
        let id = |name| {
            ids.get(name)
                .copied()
                .ok_or(ObserveError::Missing("program for a hook"))
        };
        let ours = Ours {
            ingress: id("ingress")?,
            egress: id("egress")?,
            means,
            tcx: Means::of_running_kernel()? == Means::Tcx,
        };

        let log = match EbpfLogger::init(&mut ebpf) {
            Ok(log) => Some(log),
            Err(error) => {
                tracing::warn!(%error, "the BPF programs' own log cannot be read; the counters still tell");
                None
            }
        };
        let records = match ebpf.take_map(RECORDS_MAP) {
            Some(Map::RingBuf(data)) => data,
            _ => return Err(ObserveError::Missing("ring buffer RECORDS")),
        };
        let counters = ebpf
            .take_map(COUNTERS_MAP)
            .ok_or(ObserveError::Missing("map COUNTERS"))?;
        let generations = Arc::<Generations>::default();
        let mut ring = RingReader::new(records)?;
        if identity == Identity::Inode {
            ring.translate_by(Arc::clone(&generations));
        }
        let mut this = Self {
            ebpf,
            means,
            pins: Pins::new(links),
            filters: Filters::new(ring.id().map_id, &config.bpf_dir, identity),
            identity,
            generations,
            ours,
            host_namespace: match &config.host_netns {
                Some(path) => visit(path, || identity.here())?,
                None => identity.here()?,
            },
            counters: CounterMap::try_from(counters)?,
            seed,
            reads_plainly,
            ring: Some(ring),
            log,
            _lock: lock,
        };
        this.take_over_links()?;
        remove_other_versions(&config.bpf_dir, &directory);
        Ok(this)
    }

    /// The reader of the records. There is one: `None` at the second call.
    pub fn take_ring(&mut self) -> Option<RingReader> {
        self.ring.take()
    }

    /// The reader of the programs' own messages (aya-log), which go to the `log` crate's logger. `None` at the second call.
    pub fn take_log(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        self.log.take()
    }

    /// Whether the programs read the kernel's data by plain loads: for those who test and measure them.
    pub fn reads_plainly(&self) -> bool {
        self.reads_plainly
    }

    /// Kernel ids of the programs in use, ingress first: for those who measure them.
    pub fn program_ids(&self) -> [u32; 2] {
        [self.ours.ingress, self.ours.egress]
    }
}

/// Loads maps and programs, by plain loads if the kernel takes that; returns whether it did.
fn load(
    config: &ObserveConfig,
    directory: &Path,
    offsets: &Offsets,
) -> Result<(Ebpf, bool), ObserveError> {
    let object = bpf_object();
    if let Some(changed) = offsets
        .context_cast
        .and_then(|id| with_context_cast(object, id))
    {
        match load_object(config, directory, offsets, &changed, true) {
            Ok(ebpf) => return Ok((ebpf, true)),
            // What is wrong beside it is told by the second try.
            Err(error) => tracing::info!(
                error = &error as &dyn std::error::Error,
                "the kernel refuses plain loads of its data; the programs use helper calls, which cost some more"
            ),
        }
    }
    let ebpf = load_object(config, directory, offsets, object, false)?;
    Ok((ebpf, false))
}

fn load_object(
    config: &ObserveConfig,
    directory: &Path,
    offsets: &Offsets,
    object: &[u8],
    plainly: bool,
) -> Result<Ebpf, ObserveError> {
    let mut ebpf = EbpfLoader::new()
        .override_global("SK_BUFF_DEV", &offsets.sk_buff_dev, true)
        .override_global("NET_DEVICE_NET", &offsets.net_device_net, true)
        .override_global("NET_COOKIE", &offsets.net_cookie, true)
        .override_global("CONTEXT_CAST", &u32::from(plainly), true)
        .override_global("JIFFIES_PER_SECOND", &jiffies_per_second()?, true)
        .override_global(
            "DATAGRAM_WINDOW",
            &config.datagram_window.clamp(1, DATAGRAM_WINDOW_SECONDS),
            true,
        )
        .map_max_entries(RECORDS_MAP, config.ring_bytes)
        .map_pin_path(RECORDS_MAP, directory.join(RECORDS_MAP))
        .map_pin_path(COUNTERS_MAP, directory.join(COUNTERS_MAP))
        .load(object)?;
    for hook in &HOOKS {
        program(&mut ebpf, hook.program)?.load()?;
    }
    Ok(ebpf)
}

/// One of our programs.
pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ObserveError> {
    let program = ebpf.program_mut(name).ok_or(ObserveError::Missing(name))?;
    Ok(program.try_into()?)
}

/// For `map_err` on file operations.
pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ObserveError {
    let path = path.to_owned();
    move |source| ObserveError::File { what, path, source }
}

/// Refuses a directory whose nearest existing ancestor is not on bpffs.
fn check_bpffs(directory: &Path) -> Result<(), ObserveError> {
    let existing = directory.ancestors().find(|path| path.exists());
    let on_bpffs = existing
        .and_then(|path| statfs(path).ok())
        .is_some_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    if on_bpffs {
        Ok(())
    } else {
        Err(ObserveError::NotBpffs(directory.to_owned()))
    }
}

fn lock(directory: &Path) -> Result<Flock<File>, ObserveError> {
    let opened = File::open(directory).map_err(file("open", directory))?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            ObserveError::InUse(directory.to_owned())
        } else {
            file("lock", directory)(errno.into())
        }
    })
}

/// Removes what agents of another ABI left: their programs would count as foreign on every pod. Their unread records
/// cannot be understood.
fn remove_other_versions(bpf_dir: &Path, ours: &Path) {
    let Ok(entries) = std::fs::read_dir(bpf_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let other = path != ours && entry.file_name().to_string_lossy().starts_with("abi-");
        if !other {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(
                path = %path.display(),
                "removed the programs of an agent of another version, with the records that nobody had read"
            ),
            Err(error) => tracing::warn!(
                path = %path.display(), %error,
                "cannot remove the programs of an agent of another version: no pod's eth0 will count as exclusive until it is removed"
            ),
        }
    }
}
