//! When what a finding tells of is over, and why.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use polproof_policy::{Protocol, Snapshot, Uid};

use crate::expectation::{Call, Judgement, tells_of_allowance};
use crate::finding::{End, FindingKey, FindingKind, RecoveryCause};
use crate::record::Instant;

/// Findings looked at in one go when the cluster has changed.
const CHECKS: usize = 64;

/// A connection between two pods without addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    pub(crate) source: Uid,
    pub(crate) destination: Uid,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl Pair {
    fn of(key: &FindingKey) -> Option<Self> {
        match (&key.source, &key.destination) {
            (End::Pod(_, source), End::Pod(_, destination)) => Some(Self {
                source: source.clone(),
                destination: destination.clone(),
                protocol: key.protocol,
                port: key.port,
            }),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Stand {
    last: Instant,
    /// Whether an attempt was judged for good.
    settled: bool,
}

/// Something that is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) key: Arc<FindingKey>,
    pub(crate) last: Instant,
    pub(crate) cause: RecoveryCause,
}

/// The findings that stand. Beyond the bound nothing is watched for: such a finding is never said to be over.
#[derive(Debug)]
pub(crate) struct Standing {
    bound: usize,
    held: HashMap<Arc<FindingKey>, Stand>,
    pairs: HashMap<Pair, Vec<Arc<FindingKey>>>,
    /// All that are held, in the order in which they are looked at.
    cycle: VecDeque<Arc<FindingKey>>,
    /// How many of them have not been looked at since the cluster changed.
    left: usize,
    version: Option<u64>,
}

impl Standing {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound: bound.max(1),
            held: HashMap::new(),
            pairs: HashMap::new(),
            cycle: VecDeque::new(),
            left: 0,
            version: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// It was observed at that time: it stands, perhaps again.
    pub(crate) fn stand(&mut self, key: &Arc<FindingKey>, at: Instant) {
        if let Some(stand) = self.held.get_mut(key) {
            stand.last = stand.last.max(at);
            return;
        }
        if self.held.len() >= self.bound {
            return;
        }
        self.held.insert(
            Arc::clone(key),
            Stand {
                last: at,
                settled: false,
            },
        );
        self.cycle.push_back(Arc::clone(key));
        if let Some(pair) = Pair::of(key) {
            self.pairs.entry(pair).or_default().push(Arc::clone(key));
        }
    }

    /// Attempts of it were judged for good, or taken back: if that was all there was, it never stood.
    pub(crate) fn settle(&mut self, key: &Arc<FindingKey>, upheld: bool) {
        match self.held.get_mut(key) {
            Some(stand) if upheld => stand.settled = true,
            Some(stand) if !stand.settled => {
                self.remove(key);
            }
            Some(_) | None => {}
        }
    }

    fn remove(&mut self, key: &Arc<FindingKey>) -> Option<Stand> {
        let stand = self.held.remove(key)?;
        if let Some(pair) = Pair::of(key)
            && let Some(keys) = self.pairs.get_mut(&pair)
        {
            keys.retain(|held| held != key);
            if keys.is_empty() {
                self.pairs.remove(&pair);
            }
        }
        Some(stand)
    }

    fn end(&mut self, key: &Arc<FindingKey>, cause: RecoveryCause) -> Option<Over> {
        let stand = self.remove(key)?;
        Some(Over {
            key: Arc::clone(key),
            last: stand.last,
            cause,
        })
    }

    /// Whether anything stands that is over if the connection was stopped at that time.
    pub(crate) fn may_end(&self, pair: &Pair, at: Instant) -> bool {
        let ends = |key: &Arc<FindingKey>| {
            key.kind != FindingKind::Survivor
                && !tells_of_allowance(key.kind)
                && self.held.get(key).is_some_and(|stand| stand.last < at)
        };
        self.pairs
            .get(pair)
            .is_some_and(|keys| keys.iter().any(ends))
    }

    /// The connection was tried at that time, and was stopped or (`through`) got through and was answered.
    pub(crate) fn tried(&mut self, pair: &Pair, at: Instant, through: bool) -> Vec<Over> {
        let Some(keys) = self.pairs.get(pair) else {
            return Vec::new();
        };
        let cause = if through {
            RecoveryCause::Delivered
        } else {
            RecoveryCause::Enforced
        };
        let over = |key: &&Arc<FindingKey>| {
            // That a new connection is stopped says nothing of an old one.
            key.kind != FindingKind::Survivor
                && tells_of_allowance(key.kind) == through
                && self.held.get(*key).is_some_and(|stand| stand.last < at)
        };
        let over: Vec<_> = keys.iter().filter(over).cloned().collect();
        let over = over.iter();
        over.filter_map(|key| self.end(key, cause)).collect()
    }

    /// The last of the connections of it has ended.
    pub(crate) fn closed(&mut self, key: &Arc<FindingKey>) -> Option<Over> {
        self.end(key, RecoveryCause::Closed)
    }

    /// Whether findings have to be looked at because the cluster has changed.
    pub(crate) fn is_behind(&self, version: u64) -> bool {
        !self.held.is_empty() && (self.left > 0 || self.version != Some(version))
    }

    /// Looks at some of those that were not looked at since the cluster changed.
    pub(crate) fn check(
        &mut self,
        snapshot: &Snapshot,
        mut judge: impl FnMut(&FindingKey) -> Option<Judgement>,
    ) -> Vec<Over> {
        if self.version != Some(snapshot.version()) {
            self.version = Some(snapshot.version());
            self.left = self.cycle.len();
        }
        let mut over = Vec::new();
        for _ in 0..self.left.min(CHECKS) {
            self.left -= 1;
            let Some(key) = self.cycle.pop_front() else {
                break;
            };
            if !self.held.contains_key(&key) {
                continue;
            }
            match cause(snapshot, &key, judge(&key)) {
                Some(cause) => over.extend(self.end(&key, cause)),
                None => self.cycle.push_back(key),
            }
        }
        self.left = self.left.min(self.cycle.len());
        // A key that ended and stands again is in the cycle twice for a while.
        if self.cycle.len() > self.bound.saturating_mul(2) {
            self.cycle = self.held.keys().cloned().collect();
            self.left = self.cycle.len();
        }
        over
    }
}

/// Why a finding is over under this view, if it is.
fn cause(
    snapshot: &Snapshot,
    key: &FindingKey,
    judgement: Option<Judgement>,
) -> Option<RecoveryCause> {
    let gone = |end: &End| match end {
        End::Pod(_, uid) => snapshot.pod(uid).is_none_or(|pod| pod.finished),
        End::Node(_) | End::External => false,
    };
    if gone(&key.source) || gone(&key.destination) {
        return Some(RecoveryCause::PodGone);
    }
    let judgement = judgement?;
    match judgement.call {
        _ if judgement.upholds(key) => None,
        Call::Allow(_) | Call::Deny(_) => Some(RecoveryCause::PolicyChanged),
        // Not known for the moment, or for good: nothing is over by that.
        Call::Exempt | Call::Undecided(_) => None,
    }
}
