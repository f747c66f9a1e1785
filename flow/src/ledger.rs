//! What is to be reported, aggregated by finding, and what was reported but is not judged for good.
//!
//! The attempts of one delta make one *group*, which is settled or retracted as a whole. A group is done when its
//! last attempt is no later than [`Ledger::settled_until`], which is committed with every report: so the groups
//! that are open after a crash are those deltas on disk whose last attempt is later, and no attempt is ever
//! settled twice. What is observed so late that it lies before that mark is judged for good at once, in the
//! delta that observes it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::expectation::tells_of_allowance;
use crate::finding::{
    Answer, Exposure, FindingDelta, FindingKey, FindingKind, InconclusiveReason, JudgedCounts,
    Recovery, Report, Sample,
};
use crate::record::Instant;

/// Attempts of one finding kept as examples in one delta.
const SAMPLES: usize = 3;
/// A finding that was reported within this time is known: more of it can wait for the next routine report.
const REPEAT: u64 = Instant::SECOND / 2;

/// What the witnesses at the other end said of the attempts of one group.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    /// They bear out so many.
    witnessed: u64,
    /// They refute one: then only those are believed that were borne out.
    refuted: Option<InconclusiveReason>,
    /// Some of them were not accepted: a filter in the pod may have taken or refused them.
    bare: bool,
}

impl Words {
    fn basis(self) -> Basis {
        Basis {
            refused: self.refuted.filter(|_| self.witnessed == 0),
            witnessed: self.witnessed > 0,
            bare: self.bare,
        }
    }
}

/// What the attempts of one group rest on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Basis {
    /// Why none is believed, if so.
    pub(crate) refused: Option<InconclusiveReason>,
    /// The witness at the other end has seen one, too.
    pub(crate) witnessed: bool,
    /// Some rest on nothing but that no filter in the pod can have refused or taken them.
    pub(crate) bare: bool,
}

/// Whether an attempt proves nothing if something filters in the pod.
const fn is_bare(answer: Answer) -> bool {
    matches!(answer, Answer::Refused | Answer::Delivered)
}

/// Attempts reported together.
#[derive(Debug)]
struct Group {
    key: Arc<FindingKey>,
    attempts: u64,
    first: Instant,
    words: Words,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    /// Observed since the last report. Everything in here makes one group with the next report.
    observed: HashMap<Arc<FindingKey>, (FindingDelta, Words)>,
    /// News of which nothing remains to be judged.
    done: HashMap<Arc<FindingKey>, FindingDelta>,
    /// By last attempt, then by number.
    groups: BTreeMap<(Instant, u64), Group>,
    next_group: u64,
    /// The first group of the last report.
    last_report: u64,
    inconclusive: [u64; InconclusiveReason::ALL.len()],
    judged: JudgedCounts,
    exposure: Exposure,
    /// When each finding was last reported, within [`REPEAT`].
    reported: HashMap<Arc<FindingKey>, Instant>,
    urgent: bool,
    settled_until: Instant,
    max_keys: usize,
    max_groups: usize,
}

impl Ledger {
    pub(crate) fn new(max_keys: usize, max_groups: usize) -> Self {
        Self {
            observed: HashMap::new(),
            done: HashMap::new(),
            groups: BTreeMap::new(),
            next_group: 0,
            last_report: 0,
            inconclusive: [0; InconclusiveReason::ALL.len()],
            judged: JudgedCounts::default(),
            exposure: Exposure::default(),
            reported: HashMap::new(),
            urgent: false,
            settled_until: Instant(0),
            max_keys: max_keys.max(1),
            max_groups: max_groups.max(1),
        }
    }

    pub(crate) fn judged(&mut self) -> &mut JudgedCounts {
        &mut self.judged
    }

    pub(crate) fn inconclusive(&mut self, reason: InconclusiveReason, attempts: u64) {
        if let Some(count) = self.inconclusive.get_mut(reason as usize) {
            *count += attempts;
        }
    }

    /// How late an enforcement was.
    pub(crate) fn exposure(&mut self) -> &mut Exposure {
        &mut self.exposure
    }

    /// An attempt that contradicts, or, at `at`, the news that an old connection goes on. `witnessed` says whether both ends
    /// agree on it already.
    pub(crate) fn observe(
        &mut self,
        key: &Arc<FindingKey>,
        sample: Sample,
        at: Instant,
        witnessed: bool,
        now: Instant,
    ) {
        let witnessed = u64::from(witnessed);
        let begun = sample.syn.at;
        if let Some((delta, words)) = self.observed.get_mut(key) {
            delta.observed += 1;
            words.witnessed += witnessed;
            words.bare |= is_bare(sample.answer);
            delta.first = delta.first.min(begun);
            delta.last = delta.last.max(at);
            if delta.samples.len() < SAMPLES {
                delta.samples.push(sample);
            }
        } else if self.keys() >= self.max_keys {
            // Reports cannot be written and memory is bounded.
            self.inconclusive(InconclusiveReason::StateEvicted, 1);
            return;
        } else {
            let repeated = self
                .reported
                .get(key)
                .is_some_and(|reported| reported.plus(REPEAT) > now);
            self.urgent |= !repeated;
            let delta = FindingDelta {
                observed: 1,
                samples: vec![sample],
                ..nothing(key, begun, at)
            };
            let words = Words {
                witnessed,
                refuted: None,
                bare: is_bare(sample.answer),
            };
            self.observed.insert(Arc::clone(key), (delta, words));
        }
        if let Some(done) = self.done.get_mut(key) {
            // It stands again.
            done.recovered = done.recovered.filter(|recovery| recovery.at > at);
        }
        if !tells_of_allowance(key.kind) && key.kind != FindingKind::Survivor {
            self.judged.denied_delivered += 1;
        }
    }

    fn words(&mut self, key: &FindingKey, at: Instant) -> Option<&mut Words> {
        let unreported = self.observed.get_mut(key);
        if let Some((delta, words)) = unreported
            && delta.first <= at
        {
            return Some(words);
        }
        self.groups
            .range_mut((at, 0)..)
            .map(|(_, group)| group)
            .find(|group| *group.key == *key && group.first <= at)
            .map(|group| &mut group.words)
    }

    /// The witness at the other end has seen the attempt of that time, too.
    pub(crate) fn witnessed(&mut self, key: &FindingKey, at: Instant) {
        if let Some(words) = self.words(key, at) {
            words.witnessed += 1;
        }
    }

    /// The witness at the other end refutes the attempt of that time: it will be taken back, with those reported together with
    /// it that nobody bore out.
    pub(crate) fn refuted(&mut self, key: &FindingKey, at: Instant, reason: InconclusiveReason) {
        if let Some(words) = self.words(key, at) {
            words.refuted = Some(reason);
        }
    }

    /// What a finding tells of is over. `last` is its last attempt.
    pub(crate) fn recovered(&mut self, key: &Arc<FindingKey>, last: Instant, recovery: Recovery) {
        if !self.done.contains_key(key) && self.keys() >= self.max_keys {
            return;
        }
        let done = self
            .done
            .entry(Arc::clone(key))
            .or_insert_with(|| nothing(key, last, last));
        done.recovered = Some(recovery);
    }

    /// Findings waiting to be reported.
    pub(crate) fn keys(&self) -> usize {
        self.observed.len() + self.done.len()
    }

    /// A finding waits that was not reported within [`REPEAT`].
    pub(crate) fn urgent(&self) -> bool {
        self.urgent
    }

    /// Whether there is anything to report.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys() == 0
            && self.judged == JudgedCounts::default()
            && self.exposure == Exposure::default()
            && self.inconclusive.iter().all(|count| *count == 0)
    }

    /// Up to when everything reported is judged for good.
    pub(crate) fn settled_until(&self) -> Instant {
        self.settled_until
    }

    /// The last attempt of the group that is next to be judged for good.
    pub(crate) fn next_group(&self) -> Option<Instant> {
        self.groups.keys().next().map(|(last, _)| *last)
    }

    /// Groups that are not judged for good.
    pub(crate) fn unsettled(&self) -> usize {
        self.groups.len()
    }

    /// Takes over groups and mark from before a restart.
    pub(crate) fn restore(&mut self, unsettled: Vec<FindingDelta>, settled_until: Instant) {
        self.settled_until = self.settled_until.max(settled_until);
        for delta in unsettled {
            if delta.observed > 0 && delta.last > self.settled_until {
                let words = Words {
                    bare: delta.samples.iter().any(|sample| is_bare(sample.answer)),
                    ..Words::default()
                };
                self.group(&delta, words);
            }
        }
        self.last_report = self.next_group;
    }

    /// Takes back attempts of which no later view can tell anything: they are from before a reboot.
    pub(crate) fn retract(&mut self, unsettled: Vec<FindingDelta>) {
        for delta in unsettled {
            if delta.observed > 0 {
                let reason = InconclusiveReason::ExpectationChanged;
                self.finish(&delta, Err(reason), Words::default());
            }
        }
    }

    fn group(&mut self, delta: &FindingDelta, words: Words) {
        self.groups.insert(
            (delta.last, self.next_group),
            Group {
                key: Arc::clone(&delta.key),
                attempts: delta.observed,
                first: delta.first,
                words,
            },
        );
        self.next_group += 1;
    }

    /// The attempts of a delta are judged for good.
    fn finish(&mut self, of: &FindingDelta, upheld: Result<(), InconclusiveReason>, words: Words) {
        let done = self
            .done
            .entry(Arc::clone(&of.key))
            .or_insert_with(|| nothing(&of.key, of.first, of.last));
        done.first = done.first.min(of.first);
        done.last = done.last.max(of.last);
        let witnessed = words.witnessed.min(of.observed);
        let (settled, back) = match (upheld, words.refuted) {
            (Ok(()), None) => (of.observed, None),
            (Ok(()), Some(reason)) => (witnessed, Some(reason)),
            (Err(reason), _) => (0, Some(reason)),
        };
        let retracted = of.observed - settled;
        done.settled += settled;
        done.witnessed += witnessed.min(settled);
        done.retracted += retracted;
        if let Some(reason) = back
            && retracted > 0
        {
            self.inconclusive(reason, retracted);
        }
    }

    /// Everything since the last report. `settled_until` is how far attempts can be judged for good by now, and
    /// `upheld` judges those of one finding between two times.
    pub(crate) fn report(
        &mut self,
        now: Instant,
        settled_until: Instant,
        mut upheld: impl FnMut(
            &Arc<FindingKey>,
            Instant,
            Instant,
            Basis,
        ) -> Result<(), InconclusiveReason>,
    ) -> Report {
        self.settled_until = self.settled_until.max(settled_until);
        while let Some(group) = self.groups.first_entry()
            && group.key().0 <= self.settled_until
        {
            let ((last, _), group) = group.remove_entry();
            let words = group.words;
            let verdict = upheld(&group.key, group.first, last, words.basis());
            self.finish(&group.delta(last), verdict, words);
        }
        self.last_report = self.next_group;
        self.reported
            .retain(|_, reported| reported.plus(REPEAT) > now);

        let mut findings = Vec::with_capacity(self.keys());
        let mut observed: Vec<_> = std::mem::take(&mut self.observed).into_values().collect();
        observed.sort_unstable_by(|(a, _), (b, _)| a.key.cmp(&b.key));
        for (mut delta, words) in observed {
            self.reported.insert(Arc::clone(&delta.key), now);
            if delta.last <= self.settled_until {
                let verdict = upheld(&delta.key, delta.first, delta.last, words.basis());
                self.finish(&delta, verdict, words);
                if let Some(done) = self.done.get_mut(&delta.key) {
                    done.observed += delta.observed;
                    done.samples.append(&mut delta.samples);
                    done.samples.truncate(SAMPLES);
                }
                continue;
            }
            self.group(&delta, words);
            // Counts of older attempts go along, unless others in them were observed and done at once: those
            // must not be taken for part of the group.
            if self
                .done
                .get(&delta.key)
                .is_some_and(|done| done.observed == 0)
                && let Some(done) = self.done.remove(&delta.key)
            {
                delta.settled += done.settled;
                delta.retracted += done.retracted;
                delta.witnessed += done.witnessed;
                delta.recovered = done.recovered;
            }
            findings.push(delta);
        }
        // Beyond the bound the oldest are taken back: rather a violation less than one never judged.
        while let Some(next) = self.next_group()
            && (self.groups.len() > self.max_groups || next <= self.settled_until)
            && let Some(((last, _), group)) = self.groups.pop_first()
        {
            self.settled_until = self.settled_until.max(last);
            let reason = InconclusiveReason::StateEvicted;
            self.finish(&group.delta(last), Err(reason), group.words);
        }
        findings.extend(std::mem::take(&mut self.done).into_values());
        findings.sort_by(|a, b| a.key.cmp(&b.key).then(b.observed.cmp(&a.observed)));

        self.urgent = false;
        let counts = std::mem::take(&mut self.inconclusive);
        Report {
            findings,
            inconclusive: InconclusiveReason::ALL
                .into_iter()
                .zip(counts)
                .filter(|(_, count)| *count > 0)
                .collect(),
            judged: std::mem::take(&mut self.judged),
            exposure: std::mem::take(&mut self.exposure),
        }
    }

    /// Takes back the last report, which could not be written.
    pub(crate) fn put_back(&mut self, report: Report) {
        let mut grouped: HashMap<Arc<FindingKey>, (Instant, u64, Words)> = HashMap::new();
        let last_report = self.last_report;
        self.groups.retain(|(last, number), group| {
            let old = *number < last_report;
            if !old {
                let held = (*last, group.attempts, group.words);
                grouped.insert(Arc::clone(&group.key), held);
            }
            old
        });
        for mut delta in report.findings {
            match grouped.get(&delta.key) {
                Some(&(last, attempts, words))
                    if (last, attempts) == (delta.last, delta.observed) =>
                {
                    grouped.remove(&delta.key);
                    let done = FindingDelta {
                        observed: 0,
                        samples: Vec::new(),
                        ..delta.clone()
                    };
                    if done.settled + done.retracted + done.witnessed > 0
                        || done.recovered.is_some()
                    {
                        self.take_done(done);
                        (delta.settled, delta.retracted, delta.witnessed) = (0, 0, 0);
                        delta.recovered = None;
                    }
                    self.take_observed(delta, words);
                }
                _ => self.take_done(delta),
            }
        }
        for (reason, count) in report.inconclusive {
            self.inconclusive(reason, count);
        }
        let JudgedCounts {
            allowed_delivered,
            denied_delivered,
            denied_unanswered,
            denied_answered,
            allowed_answered,
            denied_stopped,
            denied_in_grace,
        } = report.judged;
        self.judged.allowed_delivered += allowed_delivered;
        self.judged.denied_delivered += denied_delivered;
        self.judged.denied_unanswered += denied_unanswered;
        self.judged.denied_answered += denied_answered;
        self.judged.allowed_answered += allowed_answered;
        self.judged.denied_stopped += denied_stopped;
        self.judged.denied_in_grace += denied_in_grace;
        for (count, more) in self.exposure.counts.iter_mut().zip(report.exposure.counts) {
            *count += more;
        }
        self.exposure.sum_ms += report.exposure.sum_ms;
    }

    fn take_observed(&mut self, delta: FindingDelta, words: Words) {
        match self.observed.get_mut(&delta.key) {
            None => {
                self.observed.insert(Arc::clone(&delta.key), (delta, words));
            }
            Some((held, of)) => {
                merge(held, delta);
                of.witnessed += words.witnessed;
                of.refuted = of.refuted.or(words.refuted);
                of.bare |= words.bare;
            }
        }
    }

    fn take_done(&mut self, mut delta: FindingDelta) {
        // What was observed since then says that it stands again.
        if let Some((since, _)) = self.observed.get(&delta.key) {
            delta.recovered = delta.recovered.filter(|recovery| recovery.at > since.last);
        }
        match self.done.get_mut(&delta.key) {
            None => {
                self.done.insert(Arc::clone(&delta.key), delta);
            }
            Some(held) => merge(held, delta),
        }
    }
}

impl Group {
    fn delta(&self, last: Instant) -> FindingDelta {
        FindingDelta {
            observed: self.attempts,
            ..nothing(&self.key, self.first, last)
        }
    }
}

fn nothing(key: &Arc<FindingKey>, first: Instant, last: Instant) -> FindingDelta {
    FindingDelta {
        key: Arc::clone(key),
        observed: 0,
        settled: 0,
        retracted: 0,
        witnessed: 0,
        recovered: None,
        first,
        last,
        samples: Vec::new(),
    }
}

fn merge(held: &mut FindingDelta, delta: FindingDelta) {
    held.observed += delta.observed;
    held.settled += delta.settled;
    held.retracted += delta.retracted;
    held.witnessed += delta.witnessed;
    held.recovered = held.recovered.or(delta.recovered);
    held.first = held.first.min(delta.first);
    held.last = held.last.max(delta.last);
    held.samples.extend(delta.samples);
    held.samples.sort_by_key(|sample| sample.syn.at);
    held.samples.truncate(SAMPLES);
}
