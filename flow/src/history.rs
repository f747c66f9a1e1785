//! Views of the cluster over time, and since when each connection's expectation has been what it is.

use std::collections::VecDeque;

use polproof_policy::{Snapshot, Uid};

use crate::expectation::{Call, Judgement, Tuple, judge};
use crate::finding::{FindingKind, InconclusiveReason};
use crate::here::Here;
use crate::memo::Memo;
use crate::record::Instant;
use crate::settings::Settings;
use crate::undone::undone;

#[derive(Debug)]
pub(crate) struct View {
    /// Grows by one with each view.
    sequence: u64,
    /// From when on it was in force.
    pub(crate) at: Instant,
    pub(crate) snapshot: Snapshot,
    /// Whether it is of the same state as the one before, in which an object that did not change is the same.
    pub(crate) follows: bool,
}

/// What an attempt is to be judged by.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) call: Call,
    /// What a delivery is, if it is denied.
    pub(crate) kind: FindingKind,
    /// Whether it has been so since before the grace time.
    pub(crate) steady: bool,
    /// Since when at least.
    pub(crate) since: Instant,
    /// Whether it was otherwise before that.
    pub(crate) begun: bool,
}

/// Why an attempt cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) reason: InconclusiveReason,
    /// When what was allowed became denied, if that is why.
    pub(crate) denied_since: Option<Instant>,
    /// Whether the address at the other end had another owner, or none, not long ago.
    pub(crate) changed_hands: bool,
}

impl From<InconclusiveReason> for Open {
    fn from(reason: InconclusiveReason) -> Self {
        Self {
            reason,
            denied_since: None,
            changed_hands: reason == InconclusiveReason::SourceAmbiguous,
        }
    }
}

/// How a run of one judgement began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    /// Older views were not looked at, or there are none.
    NotKnown,
    /// It was allowed before.
    Allowed,
    /// It was open before, between the same ends.
    Open,
    /// By other policies it was denied before, or it was exempt.
    Other,
    /// The ends were others.
    OtherEnds,
    /// It was as it is, but something else for a moment that no view shows.
    Unseen,
}

impl Beginning {
    fn of(before: &Judgement, now: &Judgement) -> Self {
        match before.call {
            _ if before.peer != now.peer => Self::OtherEnds,
            Call::Allow(_) => Self::Allowed,
            Call::Undecided(_) => Self::Open,
            Call::Deny(_) | Call::Exempt => Self::Other,
        }
    }
}

/// The judgement that holds from a view through the next one, or how that of the next one began.
fn over(
    (earlier, before): (&View, &Judgement),
    (later, after): (&View, &Judgement),
    uid: &Uid,
) -> Result<Judgement, Beginning> {
    match before.through(after) {
        None => Err(Beginning::of(before, after)),
        Some(_) if undone(earlier, later, uid, &after.peer) => Err(Beginning::Unseen),
        Some(through) => Ok(through),
    }
}

/// The time up to the newest view for which a judgement has held.
#[derive(Clone, Debug)]
struct Run {
    /// At least since then.
    since: Instant,
    /// Sequence of the newest view looked at.
    looked_at: u64,
    judgement: Judgement,
    beginning: Beginning,
    /// What an attempt within the grace time after `since` is to be told.
    because: InconclusiveReason,
}

/// Views of the last minute or so, and the memo of runs.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) views: VecDeque<View>,
    next: u64,
    /// Since when the views are up to date: views before it are from before a restart, or from a time in which the
    /// source could not be asked. `None` while they are not.
    live_from: Option<Instant>,
    memo: Memo<Tuple, Run>,
    pub(crate) evaluations: u64,
}

impl History {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            views: VecDeque::new(),
            next: 1,
            live_from: None,
            memo: Memo::new(settings.max_tuples),
            evaluations: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Since when the cluster is seen as it is; `None` while it is not.
    pub(crate) fn live_from(&self) -> Option<Instant> {
        self.live_from
    }

    /// A view from before a restart, oldest first.
    pub(crate) fn restore(&mut self, at: Instant, snapshot: Snapshot) {
        self.push(at, snapshot, false);
    }

    /// The newest view, which may be behind the cluster. Says whether the views were up to date until now.
    pub(crate) fn grow_stale(&mut self, at: Instant, snapshot: Snapshot) -> bool {
        let newest = self.views.back().map(|view| view.snapshot.version());
        if newest.is_some() && newest != Some(snapshot.version()) {
            self.push(at, snapshot, false);
        }
        self.lose_sight()
    }

    /// Nobody tells of changes any more. Says whether somebody did until now.
    pub(crate) fn lose_sight(&mut self) -> bool {
        self.live_from.take().is_some()
    }

    /// A view, in force from `at` on.
    pub(crate) fn add(&mut self, at: Instant, snapshot: Snapshot, settings: &Settings) {
        let follows = self.live_from.is_some();
        if !follows {
            self.live_from = Some(at);
        } else if let Some(newest) = self.views.back()
            && newest.snapshot.version() == snapshot.version()
        {
            return;
        }
        self.push(at, snapshot, follows);
        let keep_from = at.minus(settings.retention());
        while self.views.len() > settings.max_snapshots.max(1)
            || self
                .views
                .get(1)
                .is_some_and(|second| second.at <= keep_from)
        {
            self.views.pop_front();
        }
    }

    fn push(&mut self, at: Instant, snapshot: Snapshot, follows: bool) {
        let at = self.views.back().map_or(at, |newest| newest.at.max(at));
        self.views.push_back(View {
            sequence: self.next,
            at,
            snapshot,
            follows,
        });
        self.next += 1;
    }

    /// Forgets what is known of tuples: a namespace is another pod's, or an address another's, than it was thought to be.
    pub(crate) fn forget(&mut self) {
        self.memo.clear();
    }

    /// What an attempt that began at `at` is to be judged by.
    ///
    /// # Errors
    ///
    /// Why it cannot be judged: its expectation was not constant from the grace time before it to the
    /// aftermath (as far as that is known by now), or the reason that every view gives.
    pub(crate) fn expect(
        &mut self,
        tuple: &Tuple,
        uid: &Uid,
        at: Instant,
        here: &Here,
        settings: &Settings,
    ) -> Result<Expected, Open> {
        let expected = self.expect_known(tuple, uid, at, here, settings);
        let open = match expected {
            Ok(mut expected) => {
                if let Call::Deny(denial) = &expected.call
                    && expected.since > at.minus(settings.grace).minus(settings.late)
                    && self.began_with_a_pod(denial, expected.since)
                {
                    expected.kind = FindingKind::StartupGap;
                }
                return Ok(expected);
            }
            Err(open) => open,
        };
        let may_be_new = open.denied_since.is_none()
            && match open.reason {
                InconclusiveReason::WithinGrace
                | InconclusiveReason::SourceUnidentified
                | InconclusiveReason::DestinationUnidentified => true,
                // Only a witness can say that the new owner of an address sent it.
                InconclusiveReason::SourceAmbiguous => tuple.who.is_some(),
                _ => false,
            };
        // Looking at every view is for those alone who are known by now.
        let known_now = |history: &mut Self| {
            let run = history.run(tuple, uid, at, here);
            run.is_some_and(|run| !matches!(run.judgement.call, Call::Undecided(_)))
        };
        if may_be_new
            && known_now(self)
            && let Some(call) = self.newcomer(tuple, uid, at, here, settings)
        {
            return Ok(Expected {
                call,
                kind: FindingKind::StartupGap,
                steady: false,
                since: at.minus(settings.grace),
                begun: false,
            });
        }
        Err(open)
    }

    fn expect_known(
        &mut self,
        tuple: &Tuple,
        uid: &Uid,
        at: Instant,
        here: &Here,
        settings: &Settings,
    ) -> Result<Expected, Open> {
        let from = at.minus(settings.grace);
        let late_from = from.minus(settings.late);
        let Some(run) = self.run(tuple, uid, late_from, here) else {
            return Err(InconclusiveReason::SnapshotNotReady.into());
        };
        if run.since > at {
            return self.expect_then(tuple, uid, at, here, settings);
        }
        let expected = |kind| {
            Ok(Expected {
                call: run.judgement.call.clone(),
                kind,
                steady: run.since <= from,
                since: run.since,
                begun: !matches!(run.beginning, Beginning::NotKnown | Beginning::Unseen),
            })
        };
        match &run.judgement.call {
            // Nobody is accused, so it does not matter for how long it has been so.
            Call::Exempt | Call::Allow(_) => expected(FindingKind::Unenforced),
            Call::Undecided(reason) => Err((*reason).into()),
            Call::Deny(_) if run.since > from => match run.beginning {
                Beginning::NotKnown => self.expect_then(tuple, uid, at, here, settings),
                beginning => Err(Open {
                    reason: run.because,
                    denied_since: (beginning == Beginning::Allowed).then_some(run.since),
                    changed_hands: beginning == Beginning::OtherEnds,
                }),
            },
            Call::Deny(_) => expected(match run.beginning {
                Beginning::Allowed | Beginning::Open | Beginning::Unseen
                    if run.since > late_from =>
                {
                    FindingKind::LateEnforcement
                }
                _ => FindingKind::Unenforced,
            }),
        }
    }

    /// The run up to the newest view, which costs one evaluation for each view since it was last asked for.
    fn run(&mut self, tuple: &Tuple, uid: &Uid, from: Instant, here: &Here) -> Option<&Run> {
        let newest = self.views.back()?.sequence;
        let oldest = self.views.front()?.sequence;
        let held = self.memo.take(tuple).filter(|run| run.looked_at >= oldest);
        let run = match held {
            Some(mut run) => {
                let skip = usize::try_from(run.looked_at - oldest).unwrap_or(usize::MAX);
                let earlier = self.views.iter().skip(skip);
                for (earlier, view) in earlier.clone().zip(earlier.skip(1)) {
                    self.evaluations += 1;
                    let now = judge(&view.snapshot, here, tuple, uid);
                    match over((earlier, &run.judgement), (view, &now), uid) {
                        Ok(through) => run.judgement = through,
                        Err(beginning) => {
                            run.because = now.because(&run.judgement);
                            run.since = view.at;
                            run.beginning = beginning;
                            run.judgement = now;
                        }
                    }
                }
                run.looked_at = newest;
                run
            }
            None => {
                let mut views = self.views.iter().rev();
                let mut view = views.next()?;
                self.evaluations += 1;
                let mut run = Run {
                    since: view.at,
                    looked_at: newest,
                    judgement: judge(&view.snapshot, here, tuple, uid),
                    beginning: Beginning::NotKnown,
                    because: InconclusiveReason::WithinGrace,
                };
                for earlier in views {
                    // Who is to be accused must be known for the whole grace time, and a change somewhat longer; more
                    // is not needed.
                    if run.since <= from {
                        break;
                    }
                    self.evaluations += 1;
                    let before = judge(&earlier.snapshot, here, tuple, uid);
                    match over((earlier, &before), (view, &run.judgement), uid) {
                        Ok(through) => run.judgement = through,
                        Err(beginning) => {
                            run.because = run.judgement.because(&before);
                            run.beginning = beginning;
                            break;
                        }
                    }
                    run.since = earlier.at;
                    view = earlier;
                }
                run
            }
        };
        Some(self.memo.put(tuple.clone(), run))
    }

    /// The slow way, for an attempt older than the run: look at every view from the grace time before it to the
    /// aftermath.
    fn expect_then(
        &mut self,
        tuple: &Tuple,
        uid: &Uid,
        at: Instant,
        here: &Here,
        settings: &Settings,
    ) -> Result<Expected, Open> {
        let until = at.plus(settings.after());
        let from = at.minus(settings.grace);
        let late_from = from.minus(settings.late);
        let then = self.views.partition_point(|view| view.at <= at);
        let Some(mut view) = then.checked_sub(1).and_then(|index| self.views.get(index)) else {
            // Before everything that is known.
            return Err(InconclusiveReason::WithinGrace.into());
        };
        self.evaluations += 1;
        let mut judgement = judge(&view.snapshot, here, tuple, uid);
        if let Call::Undecided(reason) = judgement.call {
            return Err(reason.into());
        }
        let denied = matches!(judgement.call, Call::Deny(_));
        let mut since = view.at;
        let mut kind = FindingKind::Unenforced;
        let mut constant = true;
        for earlier in self.views.iter().take(then.saturating_sub(1)).rev() {
            if since <= late_from {
                break;
            }
            self.evaluations += 1;
            let before = judge(&earlier.snapshot, here, tuple, uid);
            match over((earlier, &before), (view, &judgement), uid) {
                Ok(through) => judgement = through,
                Err(beginning) if denied && since > from => {
                    return Err(Open {
                        reason: judgement.because(&before),
                        denied_since: (beginning == Beginning::Allowed).then_some(since),
                        changed_hands: beginning == Beginning::OtherEnds,
                    });
                }
                Err(beginning) => {
                    if let Beginning::Allowed | Beginning::Open | Beginning::Unseen = beginning {
                        kind = FindingKind::LateEnforcement;
                    }
                    break;
                }
            }
            since = earlier.at;
            view = earlier;
        }
        if denied && since > from {
            return Err(InconclusiveReason::WithinGrace.into());
        }
        let earlier = self.views.iter().skip(then.saturating_sub(1));
        for (earlier, view) in earlier.zip(self.views.iter().skip(then)) {
            if view.at > until {
                break;
            }
            self.evaluations += 1;
            let after = judge(&view.snapshot, here, tuple, uid);
            match over((earlier, &judgement), (view, &after), uid) {
                Ok(through) => judgement = through,
                Err(_) if denied => return Err(InconclusiveReason::ExpectationChanged.into()),
                Err(_) => {
                    constant = false;
                    break;
                }
            }
        }
        Ok(Expected {
            call: judgement.call,
            kind,
            steady: constant && since <= from,
            since,
            begun: false,
        })
    }

    /// The view that was in force at a moment; the first one, if it came later.
    pub(crate) fn in_force(&self, at: Instant) -> Option<&Snapshot> {
        self.since(at).next()
    }

    /// The views from the one that was in force at a moment on.
    pub(crate) fn since(&self, at: Instant) -> impl Iterator<Item = &Snapshot> {
        let then = self.views.partition_point(|view| view.at <= at);
        let views = self.views.iter().skip(then.saturating_sub(1));
        views.map(|view| &view.snapshot)
    }

    /// The newest view.
    pub(crate) fn newest(&self) -> Option<&Snapshot> {
        self.views.back().map(|view| &view.snapshot)
    }

    /// The judgement of the newest view.
    pub(crate) fn present(&mut self, tuple: &Tuple, uid: &Uid, here: &Here) -> Option<Judgement> {
        let view = self.views.back()?;
        self.evaluations += 1;
        Some(judge(&view.snapshot, here, tuple, uid))
    }
}
