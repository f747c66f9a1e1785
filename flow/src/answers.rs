//! Answering the questions of other witnesses.
//!
//! "Seen" is said as soon as it is known. "Not seen" is said late and seldom: when everything up to two seconds after the asked time has been
//! read, and the witness can show that nothing went past it. Whatever is in doubt is said to be.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;

use polproof_policy::{NamespacedName, Protocol, Uid};

use crate::early::SKEW;
use crate::recent::{Match, Recent, Remembered, SLACK};
use crate::record::{Instant, NetnsCookie};
use crate::witness::{Absence, Control, Gap, Question, Seen, Side, Sighting, Testimony};

/// How long before an attempt a witness must have been complete.
const BEFORE: u64 = Instant::SECOND;
/// And after it.
const AFTER: u64 = 2 * Instant::SECOND;
/// How far from an attempt another one may be that shows that the way was open.
const CONTROL: u64 = 10 * Instant::SECOND;
/// How often memory is looked at again for a question.
const AGAIN: u64 = Instant::SECOND / 4;

/// What a witness has to know beside the attempts.
pub(crate) trait Knowledge {
    /// The pod of a namespace, if it is identified without contradiction.
    fn pod(&self, netns: NetnsCookie) -> Option<(NamespacedName, Uid)>;

    /// Calls `each` with every namespace of a pod that was there at any time between two moments (of every pod of the node for `None`).
    /// `false` if there may be more: a pod of this node without a namespace that is known to be its, or a pod of another node.
    fn namespaces(
        &self,
        pod: Option<&Uid>,
        from: Instant,
        to: Instant,
        each: &mut dyn FnMut(NetnsCookie),
    ) -> bool;

    /// Why not every packet in that namespace was seen between two moments, if so: something shares the hook or did, the programs were not
    /// attached, packets could not be read.
    fn gap(&self, netns: NetnsCookie, from: Instant, to: Instant) -> Option<Gap>;

    /// Why something of this protocol may have gone unseen on this node between two moments: records were lost, packets unread, datagrams left
    /// out.
    fn lost(&self, protocol: Protocol, from: Instant, to: Instant) -> Option<Gap>;

    /// Whether an address was that of a pod of the asker's node (or of the asker itself) at that time, and is now.
    fn same_node(&self, client: IpAddr, asker: &Uid, at: Instant) -> bool;

    /// Whether an address may stand for somebody behind it: a node's, a Service's, an unknown one; any but that of a pod.
    fn stands_for_others(&self, ip: IpAddr) -> bool;

    /// Whether an address is known to be this node's own, or that of a pod of it.
    fn is_ours(&self, ip: IpAddr) -> bool;
}

/// The memories of the two sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memories<'a> {
    pub(crate) destination: &'a Recent,
    pub(crate) source: &'a Recent,
}

impl<'a> Memories<'a> {
    fn of(&self, side: Side) -> &'a Recent {
        match side {
            Side::Destination => self.destination,
            Side::Source => self.source,
        }
    }
}

#[derive(Debug)]
struct Pending {
    question: Question,
    asked: Instant,
}

/// Questions that wait for their answers.
#[derive(Debug)]
pub(crate) struct Answers {
    bound: usize,
    patience: u64,
    pending: BTreeMap<u64, Pending>,
    looks: BinaryHeap<Reverse<(Instant, u64)>>,
    refused: u64,
}

impl Answers {
    /// At most so many at a time, for at most so long.
    pub(crate) fn new(bound: usize, patience: u64) -> Self {
        Self {
            bound,
            patience,
            pending: BTreeMap::new(),
            looks: BinaryHeap::new(),
            refused: 0,
        }
    }

    /// Questions that wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Questions that were one too many, ever.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// A question; its answer comes with one of the next ticks.
    pub(crate) fn ask(
        &mut self,
        id: u64,
        mut question: Question,
        now: Instant,
        out: &mut Vec<(u64, Testimony)>,
    ) {
        if question.last < question.first {
            std::mem::swap(&mut question.first, &mut question.last);
        }
        if self.pending.len() >= self.bound && !self.pending.contains_key(&id) {
            self.refused += 1;
            out.push((id, Testimony::Incomplete(Gap::Overloaded)));
            return;
        }
        let asked = Pending {
            question,
            asked: now,
        };
        if self.pending.insert(id, asked).is_none() {
            self.looks.push(Reverse((Instant(0), id)));
        }
    }

    /// When a question has to be looked at again.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.looks.peek().map(|Reverse((look, _))| *look)
    }

    /// Answers what can be answered. All records up to `horizon` have been read.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        horizon: Instant,
        memories: Memories<'_>,
        knowledge: &dyn Knowledge,
        out: &mut Vec<(u64, Testimony)>,
    ) {
        while let Some(&Reverse((look, id))) = self.looks.peek()
            && look <= now
        {
            self.looks.pop();
            let Some(pending) = self.pending.get(&id) else {
                continue;
            };
            let memory = memories.of(pending.question.side);
            match answer(&pending.question, horizon, memory, knowledge) {
                Some(testimony) => out.push((id, testimony)),
                // Records lag behind, or the question is of a time to come.
                None if pending.asked.plus(self.patience) <= now => {
                    out.push((id, Testimony::Incomplete(Gap::TimedOut)));
                }
                None => {
                    self.looks.push(Reverse((now.plus(AGAIN), id)));
                    continue;
                }
            }
            self.pending.remove(&id);
        }
    }
}

/// The answer, if it can be given yet.
fn answer(
    question: &Question,
    horizon: Instant,
    memory: &Recent,
    knowledge: &dyn Knowledge,
) -> Option<Testimony> {
    let stands = |ip| knowledge.stands_for_others(ip);
    // Another CPU's record may be read later.
    let over = question.last.plus(AFTER).plus(SKEW) < horizon;
    match memory.look(question, &stands) {
        // An answer that was given is read with the attempt, or very soon after it.
        Match::Seen(found)
            if found.outcome() == Seen::Unanswered && found.last().plus(2 * SKEW) > horizon =>
        {
            None
        }
        Match::Seen(found) => Some(Testimony::Seen(sighting(&found, knowledge))),
        _ if !over => None,
        Match::Unclear(gap) => Some(Testimony::Incomplete(gap)),
        Match::Nothing => Some(match absence(question, memory, knowledge) {
            Ok(absence) => Testimony::NotSeen(absence),
            Err(gap) => Testimony::Incomplete(gap),
        }),
    }
}

fn sighting(found: &Remembered, knowledge: &dyn Knowledge) -> Sighting {
    Sighting {
        pod: knowledge.pod(found.netns()),
        client: found.client(),
        server: found.server(),
        first: found.first(),
        outcome: found.outcome(),
    }
}

/// That nothing was seen, if nothing can have been missed.
fn absence(
    question: &Question,
    memory: &Recent,
    knowledge: &dyn Knowledge,
) -> Result<Absence, Gap> {
    // First of all: whoever asks us because an address points at this node must not take it for ours.
    if question.side == Side::Source
        && question.pod.is_none()
        && !knowledge.is_ours(question.client.ip())
    {
        return Err(Gap::PodUnknown);
    }
    let udp = question.protocol == Protocol::Udp;
    let (from, to) = (question.first.minus(BEFORE), question.last.plus(AFTER));
    // A datagram may be hidden behind an earlier one of its tuple, which must not have been missed either.
    let back = if udp { memory.udp_held() } else { SLACK };
    if question.first.minus(back) < memory.complete_from() {
        return Err(Gap::TooOld);
    }
    if let Some(gap) = knowledge.lost(question.protocol, question.first.minus(back), to) {
        return Err(gap);
    }
    // Translated, a UDP flow cannot be recognised.
    if udp && question.side == Side::Source && knowledge.stands_for_others(question.client.ip()) {
        return Err(Gap::NotSampled);
    }
    if udp && question.pod.is_none() {
        return Err(Gap::PodUnknown);
    }
    let stands = |ip| knowledge.stands_for_others(ip);
    let mut any = false;
    let mut gap = None;
    let mut control: Option<(Distance, Control)> = None;
    let whole = knowledge.namespaces(question.pod.as_ref(), from, to, &mut |netns| {
        any = true;
        gap = gap.or_else(|| knowledge.gap(netns, from, to));
        if udp {
            gap = gap.or_else(|| memory.may_hide(netns, question, &stands));
        }
        if gap.is_none() && question.pod.is_some() && question.side == Side::Destination {
            nearest(question, netns, memory, knowledge, &mut control);
        }
    });
    match gap {
        Some(gap) => Err(gap),
        None if !whole || !any => Err(Gap::PodUnknown),
        None => Ok(Absence {
            control: control.map(|(_, control)| control),
        }),
    }
}

/// Whether a control was not soon after the beginning of an attempt, and how far from it.
type Distance = (bool, u64);

/// The first attempt that got through to the namespace soon after, so that it is known of two that failed whether any did between them;
/// else the nearest. It came on the same way: from where the asker is, in the same family, whose routes are others, and of the same
/// transport, since some networks carry no SCTP.
fn nearest(
    question: &Question,
    netns: NetnsCookie,
    memory: &Recent,
    knowledge: &dyn Knowledge,
    best: &mut Option<(Distance, Control)>,
) {
    let Some(asker) = &question.asker else {
        return;
    };
    let (from, to) = (question.first.minus(CONTROL), question.last.plus(CONTROL));
    for entry in memory.controls(netns, from, to) {
        let at = entry.first();
        let soon = (question.first..=question.last.plus(AFTER)).contains(&at);
        let distance = if soon {
            (false, at.since(question.first))
        } else {
            let apart = question.first.since(at).max(at.since(question.last));
            (true, apart)
        };
        if entry.is_like(question)
            && best.as_ref().is_none_or(|(held, _)| distance < *held)
            && knowledge.same_node(entry.client().ip(), asker, at)
        {
            let control = Control {
                at,
                client: entry.client(),
                server: entry.server(),
            };
            *best = Some((distance, control));
        }
    }
}

#[cfg(test)]
mod controls;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
