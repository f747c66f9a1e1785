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
use polproof_policy::{Key, Kind, Object, Snapshot, State};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::stats::JudgeStats;

/// The file in the state directory.
const FILE: &str = "view";
/// Begins the file; the number is the version of what follows.
const MAGIC: &[u8; 8] = b"ppview01";
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
}

#[derive(Debug, Serialize)]
struct Writing<'a> {
    boot_id: &'a str,
    bindings: &'a [Binding],
    base_at: Instant,
    base: Vec<&'a Object>,
    steps: &'a VecDeque<Step>,
}

#[derive(Debug, Deserialize)]
struct Reading {
    boot_id: String,
    bindings: Vec<Binding>,
    base_at: Instant,
    base: Vec<Object>,
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
    let mut state = State::new();
    let mut by_kind: HashMap<Kind, Vec<Object>> = HashMap::new();
    for object in kept.base {
        by_kind.entry(object.key().kind).or_default().push(object);
    }
    for kind in Kind::ALL {
        state.reset(kind, by_kind.remove(&kind).unwrap_or_default());
    }
    let mut views = vec![(kept.base_at, state.snapshot())];
    for step in kept.steps {
        for key in &step.deleted {
            state.delete(key);
        }
        for object in step.applied {
            state.apply(object);
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
            current: HashMap::new(),
            base: HashMap::new(),
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
    current: HashMap<Key, Object>,
    base: HashMap<Key, Object>,
    base_at: Option<Instant>,
    steps: VecDeque<Step>,
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
        let new: HashMap<Key, Object> = snapshot
            .objects()
            .map(|object| (object.key(), object))
            .collect();
        if self.base_at.is_none() {
            self.base_at = Some(at);
            self.base.clone_from(&new);
            self.current = new;
            return;
        }
        let step = Step {
            at,
            applied: new
                .iter()
                .filter(|(key, object)| self.current.get(key) != Some(object))
                .map(|(_, object)| object.clone())
                .collect(),
            deleted: self
                .current
                .keys()
                .filter(|key| !new.contains_key(*key))
                .cloned()
                .collect(),
        };
        self.current = new;
        if !step.applied.is_empty() || !step.deleted.is_empty() {
            self.steps.push_back(step);
        }
        // The base becomes what was in force at the beginning of the time that matters.
        let from = at.minus(self.retention);
        while let Some(first) = self.steps.front()
            && first.at <= from
            && let Some(first) = self.steps.pop_front()
        {
            for key in &first.deleted {
                self.base.remove(key);
            }
            for object in first.applied {
                self.base.insert(object.key(), object);
            }
            self.base_at = Some(first.at);
        }
    }

    fn write(&self, base_at: Instant, bindings: &[Binding]) -> anyhow::Result<()> {
        let body = postcard::to_stdvec(&Writing {
            boot_id: &self.boot_id,
            bindings,
            base_at,
            base: self.base.values().collect(),
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::collections::BTreeMap;

    use polproof_flow::netns::Hook;
    use polproof_flow::record::NetnsCookie;
    use polproof_policy::model::{Namespace, Pod};
    use polproof_policy::{NamespacedName, Uid};

    use super::*;

    fn pod(name: &str, address: &str) -> Object {
        Object::Pod(Arc::new(Pod {
            id: NamespacedName::new("shop", name),
            uid: Uid(name.into()),
            labels: BTreeMap::new(),
            ips: vec![address.parse().unwrap()],
            node: None,
            host_network: false,
            finished: false,
            ports: Vec::new(),
            owner: None,
        }))
    }

    fn file(dir: &Path) -> File {
        File {
            path: dir.join(FILE),
            boot_id: "boot".into(),
            retention: 60 * Instant::SECOND,
            current: HashMap::new(),
            base: HashMap::new(),
            base_at: None,
            steps: VecDeque::new(),
        }
    }

    fn names(snapshot: &Snapshot) -> Vec<String> {
        let mut names: Vec<_> = snapshot.pods().map(|pod| pod.id.name.to_string()).collect();
        names.sort();
        names
    }

    fn at(seconds: u64) -> Instant {
        Instant(seconds * Instant::SECOND)
    }

    #[test]
    fn views_come_back_with_their_times_and_old_ones_fold_into_the_base() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = file(dir.path());
        let mut state = State::new();
        state.apply(Object::Namespace(Arc::new(Namespace {
            name: "shop".into(),
            uid: Uid("shop".into()),
            labels: BTreeMap::new(),
        })));
        state.apply(pod("a", "10.0.0.1"));
        file.step(at(1), &state.snapshot());
        state.apply(pod("b", "10.0.0.2"));
        file.step(at(10), &state.snapshot());
        state.delete(&pod("a", "10.0.0.1").key());
        file.step(at(50), &state.snapshot());
        file.step(at(51), &state.snapshot());
        let bindings = vec![Binding {
            netns: NetnsCookie(7),
            pod: Uid("b".into()),
            addresses: Vec::new(),
            since: at(2),
            hook: Hook::Exclusive,
        }];
        file.write(file.base_at.unwrap(), &bindings).unwrap();

        let kept = load(dir.path(), "boot");
        assert_eq!(kept.bindings, bindings);
        let seen: Vec<_> = kept
            .views
            .iter()
            .map(|(at, snapshot)| (*at, names(snapshot)))
            .collect();
        let expected: Vec<(Instant, Vec<String>)> = vec![
            (at(1), vec!["a".into()]),
            (at(10), vec!["a".into(), "b".into()]),
            (at(50), vec!["b".into()]),
        ];
        assert_eq!(seen, expected);
        assert!(load(dir.path(), "another boot").views.is_empty());

        state.apply(pod("c", "10.0.0.3"));
        file.step(at(112), &state.snapshot());
        file.write(file.base_at.unwrap(), &[]).unwrap();
        let kept = load(dir.path(), "boot");
        assert_eq!(
            kept.views[0].0,
            at(50),
            "in force when the last minute began"
        );
        assert_eq!(names(&kept.views[0].1), ["b"]);
        assert_eq!(kept.views.len(), 2);
    }

    #[test]
    fn every_damage_means_a_fresh_start_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = file(dir.path());
        let mut state = State::new();
        state.apply(pod("a", "10.0.0.1"));
        file.step(at(1), &state.snapshot());
        file.write(at(1), &[]).unwrap();
        let whole = fs::read(dir.path().join(FILE)).unwrap();
        assert_eq!(load(dir.path(), "boot").views.len(), 1);
        for cut in 0..whole.len() {
            fs::write(dir.path().join(FILE), &whole[..cut]).unwrap();
            assert!(load(dir.path(), "boot").views.is_empty(), "cut at {cut}");
        }
        for flip in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[flip] ^= 0x20;
            fs::write(dir.path().join(FILE), &bytes).unwrap();
            assert!(load(dir.path(), "boot").views.is_empty(), "flipped {flip}");
        }
    }
}
