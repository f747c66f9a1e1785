//! Our own questions to the witnesses at the other ends, until they are answered.
//!
//! What is asked, and why, is one *case*. A case may be several questions, of which one answer "seen" is enough, and "not seen"
//! needs all. Whatever is not answered in time is answered by [`Gap::TimedOut`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;

use crate::record::Instant;
use crate::tally::Tally;
use crate::witness::{Gap, Inquiry, Question, Testimony, Whom};

/// Marks the numbers of questions that we ask ourselves: no collector gives one so high.
pub(crate) const OWN: u64 = 1 << 63;

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Ourselves: both ends are on this node.
    Ourselves,
    Others(Whom),
}

#[derive(Debug)]
struct Case<P> {
    purpose: P,
    /// Questions without an answer.
    left: usize,
    /// What the others say so far, if none has seen it.
    so_far: Option<Testimony>,
}

/// See the module. `P` is what a case is about.
#[derive(Debug)]
pub(crate) struct Inquiries<P> {
    bound: usize,
    patience: u64,
    connected: bool,
    next: u64,
    /// Case by question.
    questions: HashMap<u64, u64>,
    cases: BTreeMap<u64, Case<P>>,
    /// When each case is given up; the patience is the same for all.
    ends: VecDeque<(Instant, u64)>,
    out: Vec<Inquiry>,
    own: Vec<(u64, Question)>,
    finished: VecDeque<(P, Testimony)>,
}

impl<P> Inquiries<P> {
    /// At most so many questions at a time, each given up after so long.
    pub(crate) fn new(bound: usize, patience: u64) -> Self {
        Self {
            bound: bound.max(1),
            patience,
            connected: false,
            next: 1,
            questions: HashMap::new(),
            cases: BTreeMap::new(),
            ends: VecDeque::new(),
            out: Vec::new(),
            own: Vec::new(),
            finished: VecDeque::new(),
        }
    }

    /// Notes whether others can be asked.
    pub(crate) fn connect(&mut self, connected: bool) {
        self.connected = connected;
    }

    /// Whether others can be asked.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Asks. What comes of it is given by [`Self::finished`], also if nobody can be asked.
    pub(crate) fn open(
        &mut self,
        purpose: P,
        asks: Vec<(Ask, Question)>,
        now: Instant,
        tally: &mut Tally,
    ) {
        let alone = |ask: &Ask| *ask != Ask::Ourselves && !self.connected;
        let gap = if asks.is_empty() || asks.iter().any(|(ask, _)| alone(ask)) {
            Some(Gap::NoAgent)
        } else if self.questions.len() + asks.len() > self.bound {
            tally.inquiries_dropped += 1;
            Some(Gap::Overloaded)
        } else {
            None
        };
        if let Some(gap) = gap {
            self.finished
                .push_back((purpose, Testimony::Incomplete(gap)));
            return;
        }
        let case = self.next;
        self.cases.insert(
            case,
            Case {
                purpose,
                left: asks.len(),
                so_far: None,
            },
        );
        self.ends.push_back((now.plus(self.patience), case));
        for (ask, question) in asks {
            let number = self.next;
            self.next += 1;
            match ask {
                Ask::Ourselves => {
                    self.questions.insert(number | OWN, case);
                    self.own.push((number | OWN, question));
                }
                Ask::Others(whom) => {
                    tally.inquiries += 1;
                    self.questions.insert(number, case);
                    self.out.push(Inquiry {
                        id: number,
                        whom,
                        question,
                    });
                }
            }
        }
    }

    /// An answer.
    pub(crate) fn answer(&mut self, id: u64, testimony: Testimony, tally: &mut Tally) {
        let Some(number) = self.questions.remove(&id) else {
            // Given up, or decided without it.
            return;
        };
        if id & OWN == 0 {
            tally.inquiries_answered += 1;
        }
        let Some(case) = self.cases.get_mut(&number) else {
            return;
        };
        case.left = case.left.saturating_sub(1);
        let seen = matches!(testimony, Testimony::Seen(_));
        case.so_far = Some(match (case.so_far.take(), testimony) {
            (None, said) | (_, said @ Testimony::Seen(_)) => said,
            // Who cannot tell may have missed it.
            (Some(said @ Testimony::Incomplete(_)), _) | (Some(said), Testimony::NotSeen(_)) => {
                said
            }
            (Some(_), said @ Testimony::Incomplete(_)) => said,
        });
        if (seen || case.left == 0)
            && let Some(case) = self.cases.remove(&number)
            && let Some(said) = case.so_far
        {
            self.finished.push_back((case.purpose, said));
        }
    }

    /// Gives up what was not answered in time.
    pub(crate) fn expire(&mut self, now: Instant, tally: &mut Tally) {
        let mut gone = false;
        while let Some((end, number)) = self.ends.front()
            && *end <= now
        {
            if let Some(case) = self.cases.remove(number) {
                tally.inquiries_timed_out += 1;
                gone = true;
                self.finished
                    .push_back((case.purpose, Testimony::Incomplete(Gap::TimedOut)));
            }
            self.ends.pop_front();
        }
        if gone || self.questions.len() > 2 * self.cases.len() + 64 {
            let cases = &self.cases;
            self.questions.retain(|_, case| cases.contains_key(case));
            let questions = &self.questions;
            self.out
                .retain(|inquiry| questions.contains_key(&inquiry.id));
        }
    }

    /// The next case that is decided.
    pub(crate) fn finished(&mut self) -> Option<(P, Testimony)> {
        self.finished.pop_front()
    }

    /// Whether a case is decided.
    pub(crate) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// What the cases are about whose end nobody has been told yet.
    pub(crate) fn purposes(&self) -> impl Iterator<Item = &P> {
        let open = self.cases.values().map(|case| &case.purpose);
        open.chain(self.finished.iter().map(|(purpose, _)| purpose))
    }

    /// What others are to be asked.
    pub(crate) fn take(&mut self) -> Vec<Inquiry> {
        std::mem::take(&mut self.out)
    }

    /// What we are to ask ourselves.
    pub(crate) fn take_own(&mut self) -> Vec<(u64, Question)> {
        std::mem::take(&mut self.own)
    }

    /// When a case is given up next.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Cases that are not decided.
    pub(crate) fn len(&self) -> usize {
        self.cases.len()
    }
}

/// Lets so much through in a time, for each key; memory is bounded.
#[derive(Debug)]
pub(crate) struct Limit<K> {
    bound: usize,
    period: u64,
    burst: u8,
    young: HashMap<K, (Instant, u8)>,
    old: HashMap<K, (Instant, u8)>,
}

impl<K: Eq + Hash> Limit<K> {
    /// At most `burst` in a period.
    pub(crate) fn new(bound: usize, period: u64, burst: u8) -> Self {
        Self {
            bound: bound.max(1),
            period,
            burst,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Whether one more is let through.
    pub(crate) fn admits(&mut self, key: K, now: Instant) -> bool {
        let held = self.young.get(&key).or_else(|| self.old.get(&key)).copied();
        let (since, count) = match held {
            Some((since, count)) if since.plus(self.period) > now => (since, count),
            Some(_) | None => (now, 0),
        };
        if count >= self.burst {
            return false;
        }
        if self.young.len() >= self.bound && !self.young.contains_key(&key) {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, (since, count + 1));
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use polproof_policy::Protocol;

    use super::*;
    use crate::witness::{Absence, Seen, Side, Sighting};

    fn question() -> Question {
        Question {
            side: Side::Destination,
            protocol: Protocol::Tcp,
            tag: 7,
            client: "10.0.0.1:1".parse().unwrap(),
            server: "10.0.0.2:80".parse().unwrap(),
            pod: None,
            asker: None,
            first: Instant(1),
            last: Instant(1),
        }
    }

    fn asks(nodes: &[&str]) -> Vec<(Ask, Question)> {
        let ask = |node: &&str| (Ask::Others(Whom::Node((*node).into())), question());
        nodes.iter().map(ask).collect()
    }

    fn seen() -> Testimony {
        Testimony::Seen(Sighting {
            pod: None,
            client: question().client,
            server: question().server,
            first: Instant(1),
            outcome: Seen::Accepted,
        })
    }

    const NOT_SEEN: Testimony = Testimony::NotSeen(Absence { control: None });
    const LOST: Testimony = Testimony::Incomplete(Gap::RecordsLost);

    /// What comes of these answers to as many questions.
    fn outcome(answers: &[Testimony]) -> Option<Testimony> {
        let mut tally = Tally::default();
        let mut held = Inquiries::new(16, 10);
        held.connect(true);
        let nodes = vec!["n"; answers.len()];
        held.open((), asks(&nodes), Instant(0), &mut tally);
        let out = held.take();
        for (inquiry, said) in out.iter().zip(answers) {
            held.answer(inquiry.id, said.clone(), &mut tally);
        }
        let said = held.finished().map(|(_, said)| said);
        assert!(held.finished().is_none(), "a case is decided once");
        held.expire(Instant(10), &mut tally);
        assert_eq!((held.len(), held.questions.len()), (0, 0));
        said
    }

    #[test]
    fn one_that_saw_it_is_enough_and_not_seen_needs_all() {
        assert_eq!(outcome(&[NOT_SEEN, seen(), LOST]), Some(seen()));
        assert_eq!(outcome(&[NOT_SEEN, NOT_SEEN]), Some(NOT_SEEN));
        assert_eq!(outcome(&[NOT_SEEN, LOST]), Some(LOST));
        assert_eq!(outcome(&[LOST, NOT_SEEN]), Some(LOST));
        assert_eq!(outcome(&[LOST, seen()]), Some(seen()));
    }

    #[test]
    fn whoever_cannot_be_asked_or_does_not_answer() {
        let mut tally = Tally::default();
        let mut held = Inquiries::new(2, 10);
        held.open("alone", asks(&["a"]), Instant(0), &mut tally);
        assert_eq!(
            held.finished(),
            Some(("alone", Testimony::Incomplete(Gap::NoAgent)))
        );
        held.connect(true);
        held.open("asked", asks(&["a", "b"]), Instant(5), &mut tally);
        held.open("one too many", asks(&["a"]), Instant(6), &mut tally);
        assert_eq!(
            held.finished(),
            Some(("one too many", Testimony::Incomplete(Gap::Overloaded)))
        );
        let out = held.take();
        assert_eq!(out.len(), 2);
        held.answer(out[0].id, NOT_SEEN, &mut tally);
        assert!(!held.has_finished());
        held.expire(Instant(15), &mut tally);
        assert_eq!(
            held.finished(),
            Some(("asked", Testimony::Incomplete(Gap::TimedOut)))
        );
        held.answer(out[1].id, seen(), &mut tally);
        assert!(!held.has_finished(), "too late");
        assert_eq!(
            (
                tally.inquiries,
                tally.inquiries_answered,
                tally.inquiries_timed_out,
                tally.inquiries_dropped
            ),
            (2, 1, 1, 1)
        );
    }

    #[test]
    fn a_limit_holds_for_each_key_and_forgets() {
        let mut limit = Limit::new(2, 10, 2);
        let admitted = |limit: &mut Limit<u8>, key, at| limit.admits(key, Instant(at));
        assert!(admitted(&mut limit, 1, 0) && admitted(&mut limit, 1, 5));
        assert!(!admitted(&mut limit, 1, 9) && admitted(&mut limit, 2, 9));
        assert!(admitted(&mut limit, 1, 10));
        for key in 0..100 {
            admitted(&mut limit, key, 11);
        }
        assert!(limit.young.len() + limit.old.len() <= 4);
    }
}
