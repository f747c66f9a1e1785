//! Views of the cluster and identities of namespaces, kept on disk over a restart, so that what the ring holds
//! from the time without an agent can be judged.
//!
//! The views of the last minute are kept as a base and steps (what was applied and deleted), one step in two seconds
//! at most: a change undone within them leaves no trace, as a change undone while no agent ran leaves none. That
//! is the blind spot; a policy's generation and UID, which are compared too, bound it.
//!
//! The file is one postcard value with a checksum, replaced atomically. A damaged one is reported and ignored: then
//! attempts count as within the grace time, and nothing is accused wrongly.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use anyhow::{Context, bail, ensure};
use polproof_flow::Binding;
use polproof_flow::record::Instant;
use polproof_policy::{Key, NamespacedName, Object, Snapshot, State};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::stats::JudgeStats;

/// The file in the state directory.
const FILE: &str = "view";
/// Begins the file; the number is the version of what follows.
const MAGIC: &[u8; 8] = b"ppview04";
/// The part of it that every version has.
const FAMILY: &[u8] = b"ppview";
/// Magic, length, checksum.
const HEADER: usize = 8 + 8 + 4;
/// At most one write in this time.
const PERIOD: Duration = Duration::from_secs(2);
/// A write that took long is not repeated before so many times as long: it may cost 1 % of a CPU.
const EASE: u32 = 100;

#[derive(Debug, Serialize, Deserialize)]
struct Step {
    at: Instant,
    applied: Vec<Object>,
    deleted: Vec<Key>,
    /// The NetworkPolicies that were refused, if they are others than before.
    refused: Option<Vec<NamespacedName>>,
}

#[derive(Debug, Serialize)]
struct Writing<'a> {
    boot_id: &'a str,
    bindings: &'a [Binding],
    base_at: Instant,
    base: Vec<&'a Object>,
    refused: &'a [NamespacedName],
    steps: &'a VecDeque<Step>,
}

#[derive(Debug, Deserialize)]
struct Reading {
    boot_id: String,
    bindings: Vec<Binding>,
    base_at: Instant,
    base: Vec<Object>,
    refused: Vec<NamespacedName>,
    steps: Vec<Step>,
}

/// What was kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) views: Vec<(Instant, Snapshot)>,
    pub(super) bindings: Vec<Binding>,
}

/// Loads what a former agent kept in this boot; nothing if there is none or it cannot be used, which is logged.
pub(super) fn load(dir: &Path, boot_id: &str) -> Kept {
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Kept::default(),
        Err(error) => {
            warn!(path = %path.display(), %error, "the kept view of the cluster cannot be read: starting without it; attempts made within the grace time count as inconclusive. Check the permissions of --state-dir");
            return Kept::default();
        }
    };
    if bytes.starts_with(FAMILY) && !bytes.starts_with(MAGIC) {
        info!(path = %path.display(), "the kept view of the cluster is of another version of the agent: starting without it; attempts made within the grace time count as inconclusive. The file is replaced with the next change");
        return Kept::default();
    }
    match parse(&bytes) {
        Ok(kept) if kept.boot_id != boot_id => {
            info!("the kept view of the cluster is from before a reboot: starting without it");
            Kept::default()
        }
        Ok(kept) => rebuild(kept),
        Err(error) => {
            warn!(path = %path.display(), error = format!("{error:#}"), "the kept view of the cluster is damaged: starting without it; attempts made within the grace time count as inconclusive. The file is replaced with the next change; nothing need be done, but check the disk if this comes again");
            Kept::default()
        }
    }
}

fn parse(bytes: &[u8]) -> anyhow::Result<Reading> {
    let header = bytes.get(..HEADER).context("shorter than its header")?;
    let (magic, rest) = header.split_at(MAGIC.len());
    ensure!(magic == MAGIC, "not of this version");
    let (length, checksum) = rest.split_at(8);
    let length = usize::try_from(u64::from_le_bytes(length.try_into()?))?;
    let checksum = u32::from_le_bytes(checksum.try_into()?);
    let body = bytes.get(HEADER..).unwrap_or_default();
    ensure!(
        body.len() == length,
        "{} bytes where {length} were written",
        body.len()
    );
    if crc32fast::hash(body) != checksum {
        bail!("its checksum is wrong");
    }
    postcard::from_bytes(body).context("its content makes no sense")
}

fn rebuild(kept: Reading) -> Kept {
    let mut state = State::of(kept.base, kept.refused);
    let mut views = vec![(kept.base_at, state.snapshot())];
    for step in kept.steps {
        for key in &step.deleted {
            state.delete(key);
        }
        for object in step.applied {
            state.apply(object);
        }
        if let Some(refused) = step.refused {
            state.set_refused_policies(refused);
        }
        views.push((step.at, state.snapshot()));
    }
    Kept {
        views,
        bindings: kept.bindings,
    }
}

/// What is to be kept from now on.
struct Job {
    view: Option<(Instant, Snapshot)>,
    bindings: Vec<Binding>,
}

/// The judge's side of the thread that keeps.
pub(super) struct Keeper {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Not to be written before then.
    next: Arc<RwLock<Option<Clock>>>,
    view: Option<(Instant, Snapshot)>,
    changed: bool,
}

impl Keeper {
    /// Starts the thread. It goes on with the views that were loaded: they may matter after the next restart too.
    pub(super) fn start(
        dir: &Path,
        boot_id: String,
        retention: u64,
        loaded: &[(Instant, Snapshot)],
        stats: Arc<JudgeStats>,
    ) -> anyhow::Result<Self> {
        let (jobs, received) = sync_channel(1);
        let next = Arc::new(RwLock::new(None));
        let mut file = File {
            path: dir.join(FILE),
            boot_id,
            retention,
            current: Contents::default(),
            base: Contents::default(),
            base_at: None,
            steps: VecDeque::new(),
        };
        for (at, snapshot) in loaded {
            file.step(*at, snapshot);
        }
        let told = Arc::clone(&next);
        let thread = std::thread::Builder::new()
            .name("judge-keep".into())
            .spawn(move || file.keep(&received, &told, &stats))
            .context("start the thread that keeps the view of the cluster")?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            next,
            view: None,
            changed: false,
        })
    }

    /// The view has changed.
    pub(super) fn view(&mut self, at: Instant, snapshot: Snapshot) {
        // The older one, if it was not sent yet, is skipped: see the module.
        self.view = Some((at, snapshot));
        self.changed = true;
    }

    /// An identity has changed.
    pub(super) fn bindings_changed(&mut self) {
        self.changed = true;
    }

    /// Writes in the background if it is time to. Until there was a view there is nothing to keep.
    pub(super) fn poll(&mut self, bindings: impl FnOnce() -> Vec<Binding>) {
        if !self.changed {
            return;
        }
        let next = *self.next.read().unwrap_or_else(PoisonError::into_inner);
        if next.is_some_and(|next| next > Clock::now()) {
            return;
        }
        let Some(jobs) = &self.jobs else { return };
        let job = Job {
            view: self.view.take(),
            bindings: bindings(),
        };
        match jobs.try_send(job) {
            Ok(()) => self.changed = false,
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => self.view = job.view,
        }
    }

    /// Writes what is left, and ends the thread.
    pub(super) fn finish(mut self, bindings: Vec<Binding>) {
        if self.changed
            && let Some(jobs) = &self.jobs
        {
            let _ = jobs.send(Job {
                view: self.view.take(),
                bindings,
            });
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!(
                "the thread that keeps the view of the cluster panicked; the next start may have an older view"
            );
        }
    }
}

/// The thread's side.
struct File {
    path: PathBuf,
    boot_id: String,
    /// Nanoseconds.
    retention: u64,
    current: Contents,
    base: Contents,
    base_at: Option<Instant>,
    steps: VecDeque<Step>,
}

/// What a view is made of.
#[derive(Clone, Debug, Default)]
struct Contents {
    objects: HashMap<Key, Object>,
    refused: Vec<NamespacedName>,
}

impl Contents {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            objects: snapshot
                .objects()
                .map(|object| (object.key(), object))
                .collect(),
            refused: snapshot.refused_policies().collect(),
        }
    }

    /// What leads from here to there.
    fn step(&self, at: Instant, new: &Self) -> Step {
        Step {
            at,
            applied: new
                .objects
                .iter()
                .filter(|(key, object)| self.objects.get(key) != Some(object))
                .map(|(_, object)| object.clone())
                .collect(),
            deleted: self
                .objects
                .keys()
                .filter(|key| !new.objects.contains_key(*key))
                .cloned()
                .collect(),
            refused: (self.refused != new.refused).then(|| new.refused.clone()),
        }
    }

    fn take(&mut self, step: Step) {
        for key in &step.deleted {
            self.objects.remove(key);
        }
        for object in step.applied {
            self.objects.insert(object.key(), object);
        }
        if let Some(refused) = step.refused {
            self.refused = refused;
        }
    }
}

impl Step {
    fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.deleted.is_empty() && self.refused.is_none()
    }
}

impl File {
    fn keep(mut self, jobs: &Receiver<Job>, next: &RwLock<Option<Clock>>, stats: &JudgeStats) {
        let mut failing = false;
        while let Ok(job) = jobs.recv() {
            let begun = Clock::now();
            if let Some((at, snapshot)) = job.view {
                self.step(at, &snapshot);
            }
            let result = match self.base_at {
                Some(base_at) => self.write(base_at, &job.bindings),
                None => Ok(()),
            };
            match result {
                Ok(()) if failing => {
                    failing = false;
                    info!(path = %self.path.display(), "the view of the cluster is kept again");
                }
                Ok(()) => {}
                Err(error) => {
                    stats.keep_failures.fetch_add(1, Relaxed);
                    if !failing {
                        warn!(path = %self.path.display(), error = format!("{error:#}"), "the view of the cluster cannot be kept: after a restart attempts made meanwhile count as inconclusive. Free space in --state-dir or correct its permissions; it is tried again with every change");
                    }
                    failing = true;
                }
            }
            let pause = PERIOD.max(begun.elapsed().saturating_mul(EASE));
            *next.write().unwrap_or_else(PoisonError::into_inner) = Some(begun + pause);
        }
    }

    fn step(&mut self, at: Instant, snapshot: &Snapshot) {
        let new = Contents::of(snapshot);
        if self.base_at.is_none() {
            self.base_at = Some(at);
            self.base.clone_from(&new);
            self.current = new;
            return;
        }
        let step = self.current.step(at, &new);
        self.current = new;
        if !step.is_empty() {
            self.steps.push_back(step);
        }
        // The base becomes what was in force at the beginning of the time that matters.
        let from = at.minus(self.retention);
        while let Some(first) = self.steps.front()
            && first.at <= from
            && let Some(first) = self.steps.pop_front()
        {
            self.base_at = Some(first.at);
            self.base.take(first);
        }
    }

    fn write(&self, base_at: Instant, bindings: &[Binding]) -> anyhow::Result<()> {
        let body = postcard::to_stdvec(&Writing {
            boot_id: &self.boot_id,
            bindings,
            base_at,
            base: self.base.objects.values().collect(),
            refused: &self.base.refused,
            steps: &self.steps,
        })
        .context("encode it")?;
        let fresh = self.path.with_extension("new");
        let mut file =
            fs::File::create(&fresh).with_context(|| format!("create {}", fresh.display()))?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&u64::try_from(body.len())?.to_le_bytes());
        header.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        file.write_all(&header)
            .and_then(|()| file.write_all(&body))
            .with_context(|| format!("write {}", fresh.display()))?;
        drop(file);
        fs::rename(&fresh, &self.path)
            .with_context(|| format!("rename {} into place", fresh.display()))
    }
}

#[cfg(test)]
mod tests;
