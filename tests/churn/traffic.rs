//! Every pod connects to every other, without end; each attempt is noted with its times and its outcome.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use polproof_tests::lab::resident::Resident;
use polproof_tests::lab::traffic::{self, Outcome};

use crate::random::Random;

/// How long an attempt waits. Less than a second, so that no SYN is sent twice: what the client knows is then what
/// became of the packet.
pub(crate) const PATIENCE: Duration = Duration::from_millis(700);
/// Attempts that one pod may have under way.
const MOST_UNDER_WAY: u64 = 100;

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) source: IpAddr,
    pub(crate) to: SocketAddr,
    /// Before the SYN left.
    pub(crate) began: Instant,
    /// After its fate was known.
    pub(crate) ended: Instant,
    /// `None`: its pod went before it was known.
    pub(crate) outcome: Option<Outcome>,
}

impl Attempt {
    /// Whether the SYN surely got to the other pod: the enforcer of this lab answers nothing itself.
    pub(crate) const fn delivered(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Connected | Outcome::Refused))
    }
}

/// An attempt under way: it is noted when it ends, or is ended with its pod.
struct Begun {
    shared: Arc<Traffic>,
    source: IpAddr,
    to: SocketAddr,
    began: Instant,
    made: Option<(Instant, Outcome)>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let (ended, outcome) = match self.made.take() {
            Some((ended, outcome)) => (ended, Some(outcome)),
            None => (Instant::now(), None),
        };
        self.shared.note(Attempt {
            source: self.source,
            to: self.to,
            began: self.began,
            ended,
            outcome,
        });
    }
}

/// What all pods share.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Addresses that are a pod's now, IPv4 and IPv6 of each.
    targets: RwLock<Vec<[IpAddr; 2]>>,
    attempts: Mutex<Vec<Attempt>>,
    /// Attempts that were not begun, because so many were under way.
    left_out: AtomicU64,
    stop: AtomicBool,
}

impl Traffic {
    /// Connects from a pod until the pod is gone or all traffic stops.
    pub(crate) fn begin(
        self: &Arc<Self>,
        pod: &Resident,
        own: [IpAddr; 2],
        every: Duration,
        seed: u64,
    ) {
        let shared = Arc::clone(self);
        // Nobody waits for its end.
        drop(pod.start(move || async move {
            let mut random = Random::new(seed);
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            let under_way = Arc::new(AtomicU64::new(0));
            while !shared.stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let Some((source, to)) = shared.choose(&mut random, own) else {
                    continue;
                };
                if under_way.load(Ordering::Relaxed) >= MOST_UNDER_WAY {
                    shared.left_out.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                under_way.fetch_add(1, Ordering::Relaxed);
                let (shared, under_way) = (Arc::clone(&shared), Arc::clone(&under_way));
                tokio::task::spawn_local(async move {
                    let mut begun = Begun {
                        shared,
                        source,
                        to,
                        began: Instant::now(),
                        made: None,
                    };
                    if let Ok(made) = traffic::connect(to, PATIENCE).await {
                        begun.made = Some((made.ended, made.outcome));
                    }
                    drop(begun);
                    under_way.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }));
    }

    fn choose(&self, random: &mut Random, own: [IpAddr; 2]) -> Option<(IpAddr, SocketAddr)> {
        let family = random.below(2);
        let port = if random.chance(75) { 80 } else { 81 };
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        let to = *targets.get(random.below(targets.len()))?.get(family)?;
        let source = *own.get(family)?;
        (to != source).then(|| (source, SocketAddr::new(to, port)))
    }

    fn note(&self, attempt: Attempt) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(attempt);
    }

    /// Whom to connect to from now on.
    pub(crate) fn aim(&self, targets: Vec<[IpAddr; 2]>) {
        *self.targets.write().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// Ends it; what was under way has ended when [`PATIENCE`] is over.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What was tried so far, and what was left out.
    pub(crate) fn attempts(&self) -> (Vec<Attempt>, u64) {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        (attempts.clone(), self.left_out.load(Ordering::Relaxed))
    }
}
