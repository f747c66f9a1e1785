//! The state of the switchboard: who is connected, what is open, who waits. It takes the time from its caller.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use polproof_flow::witness::Gap;
use polproof_proto::v1::stream_response::Message as Down;
use tokio::sync::mpsc;

use super::clock::Clock;
use super::figures::{Figures, Ignored};
use super::line::Line;
use super::rate::{Rate, Tokens};
use super::words::{Control, Question, Word};
use crate::convert;
use crate::finding::Wall;

/// How long an inquiry may be open, and a question with an agent.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// Inquiries that may be open in all.
pub(super) const OPEN: usize = 65_536;
/// Inquiries of one agent that may be open.
pub(super) const OPEN_OF_ONE: usize = 2_048;
/// And in any case, however much the others ask.
const OPEN_AT_LEAST: usize = 16;
/// Questions that may be with one agent.
pub(super) const ASKED_OF_ONE: usize = 1_024;
/// Inquiries of everybody that may be open in a large cluster; more wait for their turn.
pub(super) const EVERYBODY: usize = 32;
/// And in a small one.
const EVERYBODY_OF_FEW: usize = 1_024;
/// Questions that inquiries of everybody may make in a second: each makes one for every agent.
const EVERYBODY_A_SECOND: u32 = 2_000;
/// Inquiries of one agent in a second, on average and at once.
const OF_ONE_A_SECOND: Rate = Rate {
    a_second: 1_000.0,
    burst: 2_048.0,
};

/// One open stream.
#[derive(Debug)]
struct Party {
    node: Arc<str>,
    down: mpsc::Sender<Down>,
    clock: Clock,
    /// Its inquiries that are open.
    open: HashSet<u64>,
    /// Inquiries that it may begin now.
    tokens: Tokens,
    /// Questions that it has.
    asked: HashSet<u64>,
    /// Inquiries that wait for it.
    line: Line,
}

/// An open inquiry.
#[derive(Debug)]
struct Case {
    asker: u64,
    /// The asker's number.
    id: u64,
    began: Instant,
    /// From the asker's clock to ours, when it asked.
    offset: i64,
    /// By our clock.
    question: Arc<Question>,
    /// Holds one of the places of inquiries of everybody.
    of_everybody: bool,
    /// Witnesses who have not spoken; 0 while it waits.
    left: usize,
    /// Why "not seen" may not be said, if somebody could not tell.
    gap: Option<Gap>,
    control: Option<Control>,
}

/// A question with an agent.
#[derive(Debug)]
struct Ask {
    case: u64,
    of: u64,
    /// From that agent's clock to ours, when it was asked.
    offset: i64,
}

/// Which nodes there are, by the collector's view of the cluster; `None` if it has none.
pub(super) type Nodes = Option<Arc<HashSet<Arc<str>>>>;

#[derive(Debug)]
pub(super) struct Board {
    figures: Arc<Figures>,
    parties: HashMap<u64, Party>,
    by_node: HashMap<Arc<str>, u64>,
    cases: HashMap<u64, Case>,
    asks: HashMap<u64, Ask>,
    /// In order of time.
    cases_due: VecDeque<(Instant, u64)>,
    asks_due: VecDeque<(Instant, u64)>,
    /// Inquiries of everybody that wait for a place.
    crowd: Line,
    crowd_open: usize,
    crowd_tokens: Tokens,
    nodes: Nodes,
    /// The next number of a case, and of a question.
    next: u64,
}

impl Board {
    pub(super) fn new(figures: Arc<Figures>) -> Self {
        Self {
            figures,
            parties: HashMap::new(),
            by_node: HashMap::new(),
            cases: HashMap::new(),
            asks: HashMap::new(),
            cases_due: VecDeque::new(),
            asks_due: VecDeque::new(),
            crowd: Line::default(),
            crowd_open: 0,
            crowd_tokens: Tokens::new(Self::crowd_rate(0)),
            nodes: None,
            next: 1,
        }
    }

    pub(super) fn opened(
        &mut self,
        stream: u64,
        node: &str,
        down: mpsc::Sender<Down>,
        now: Instant,
    ) {
        let node: Arc<str> = node.into();
        // A stream that was replaced before it got here.
        if self.by_node.get(&node).is_some_and(|newer| *newer > stream) {
            return;
        }
        if let Some(earlier) = self.by_node.insert(Arc::clone(&node), stream) {
            self.closed(earlier, now);
        }
        let party = Party {
            node,
            down,
            clock: Clock::default(),
            open: HashSet::new(),
            tokens: Tokens::new(OF_ONE_A_SECOND),
            asked: HashSet::new(),
            line: Line::default(),
        };
        self.parties.insert(stream, party);
    }

    pub(super) fn closed(&mut self, stream: u64, now: Instant) {
        let Some(mut party) = self.parties.remove(&stream) else {
            return;
        };
        if self.by_node.get(&party.node) == Some(&stream) {
            self.by_node.remove(&party.node);
        }
        for ask in party.asked {
            if let Some(ask) = self.asks.remove(&ask) {
                self.cannot_tell(ask.case, Gap::NoAgent, now);
            }
        }
        for case in party.line.drain() {
            self.cannot_tell(case, Gap::NoAgent, now);
        }
        // What it asked nobody wants to know any more.
        for case in party.open {
            if self
                .cases
                .remove(&case)
                .is_some_and(|case| case.of_everybody)
            {
                self.crowd_open = self.crowd_open.saturating_sub(1);
            }
        }
        self.dispatch_crowd(now);
    }

    pub(super) fn heartbeat(&mut self, stream: u64, sent: Wall, arrived: Wall) {
        if let Some(party) = self.parties.get_mut(&stream) {
            party.clock.heartbeat(sent, arrived);
        }
    }

    pub(super) fn node(&self, stream: u64) -> Option<Arc<str>> {
        Some(Arc::clone(&self.parties.get(&stream)?.node))
    }

    /// How many inquiries of one agent may be open now. While there is room everybody may have many; of the second half of the room
    /// each has an equal part, which one that asks without end cannot take from the others.
    fn share(&self) -> usize {
        if self.cases.len() < OPEN / 2 {
            return OPEN_OF_ONE;
        }
        (OPEN / 2 / self.parties.len().max(1)).clamp(OPEN_AT_LEAST, OPEN_OF_ONE)
    }

    /// An inquiry: `node` is whom to ask, empty for everybody.
    pub(super) fn inquire(
        &mut self,
        stream: u64,
        id: u64,
        node: &str,
        question: Question,
        now: Instant,
    ) {
        let share = self.share();
        let full = self.cases.len() >= OPEN;
        let Some(party) = self.parties.get_mut(&stream) else {
            return;
        };
        if full || party.open.len() >= share || !party.tokens.take(OF_ONE_A_SECOND, now) {
            return self.refuse(stream, id, Gap::Overloaded);
        }
        // Without both clocks a time means nothing.
        let Some(offset) = party.clock.offset() else {
            return self.refuse(stream, id, Gap::NoAgent);
        };
        let of = match node {
            "" => None,
            node => match self.by_node.get(node) {
                Some(of) => Some(*of),
                None => return self.refuse(stream, id, Gap::NoAgent),
            },
        };
        let number = self.next;
        self.next += 1;
        party.open.insert(number);
        let case = Case {
            asker: stream,
            id,
            began: now,
            offset,
            question: Arc::new(question.shifted(offset)),
            of_everybody: false,
            left: 0,
            gap: None,
            control: None,
        };
        self.cases.insert(number, case);
        self.cases_due.push_back((now, number));
        match of {
            Some(of) => {
                if let Some(asked) = self.parties.get_mut(&of) {
                    asked.line.push(stream, number);
                }
                self.dispatch(of, now);
            }
            None => {
                self.crowd.push(stream, number);
                self.dispatch_crowd(now);
            }
        }
    }

    /// A testimony of `stream` to our question of a number; `None`: it could not be read.
    pub(super) fn testify(&mut self, stream: u64, id: u64, word: Option<Word>, now: Instant) {
        match self.asks.get(&id) {
            Some(ask) if ask.of == stream => {}
            // Numbers that were never given out, or were given to another.
            Some(_) => return self.figures.ignored(Ignored::Forged),
            None if id == 0 || id >= self.next => return self.figures.ignored(Ignored::Forged),
            None => return self.figures.ignored(Ignored::Late),
        }
        let Some(ask) = self.asks.remove(&id) else {
            return;
        };
        if let Some(party) = self.parties.get_mut(&stream) {
            party.asked.remove(&id);
        }
        if !self.cases.contains_key(&ask.case) {
            self.figures.ignored(Ignored::Superfluous);
        } else {
            match word {
                Some(word) => self.said(ask.case, word.shifted(ask.offset), now),
                None => self.cannot_tell(ask.case, Gap::TimedOut, now),
            }
        }
        self.dispatch(stream, now);
        self.dispatch_crowd(now);
    }

    /// Gives up what is open for too long.
    pub(super) fn expire(&mut self, nodes: Nodes, now: Instant) {
        self.nodes = nodes;
        let over = |since: Instant| now.saturating_duration_since(since) >= TIMEOUT;
        while let Some((_, number)) = self
            .cases_due
            .pop_front_if(|(since, number)| over(*since) || !self.cases.contains_key(number))
        {
            if let Some(case) = self.cases.get(&number) {
                let nobody_asked = if case.left == 0 {
                    Gap::Overloaded
                } else {
                    Gap::TimedOut
                };
                let gap = case.gap.unwrap_or(nobody_asked);
                self.finish(number, Word::Incomplete(gap), now);
            }
        }
        while let Some((_, number)) = self
            .asks_due
            .pop_front_if(|(since, number)| over(*since) || !self.asks.contains_key(number))
        {
            if let Some(ask) = self.asks.remove(&number) {
                if let Some(party) = self.parties.get_mut(&ask.of) {
                    party.asked.remove(&number);
                }
                self.dispatch(ask.of, now);
            }
        }
        self.dispatch_crowd(now);
        self.figures
            .open
            .set(i64::try_from(self.cases.len()).unwrap_or(i64::MAX));
        self.figures
            .asked
            .set(i64::try_from(self.asks.len()).unwrap_or(i64::MAX));
    }

    /// Asks an agent what waits for it, as far as it has room.
    fn dispatch(&mut self, of: u64, now: Instant) {
        loop {
            let Some(party) = self.parties.get_mut(&of) else {
                return;
            };
            if party.line.is_empty() || party.asked.len() >= ASKED_OF_ONE {
                return;
            }
            if let Some(number) = party.line.pop()
                && let Some(case) = self.cases.get_mut(&number)
            {
                case.left = 1;
                self.ask(number, of, now);
            }
        }
    }

    /// How many inquiries of everybody so many agents bear.
    fn crowd_rate(agents: usize) -> Rate {
        let agents = u32::try_from(agents.max(1)).unwrap_or(u32::MAX);
        let a_second = f64::from((EVERYBODY_A_SECOND / agents).clamp(1, 500));
        Rate {
            a_second,
            burst: 2.0 * a_second,
        }
    }

    /// Begins inquiries of everybody, as far as there is room.
    fn dispatch_crowd(&mut self, now: Instant) {
        let agents = self.parties.len();
        let rate = Self::crowd_rate(agents);
        let places = (EVERYBODY * 1_000 / agents.max(1)).clamp(EVERYBODY, EVERYBODY_OF_FEW);
        while !self.crowd.is_empty()
            && self.crowd_open < places
            && self.crowd_tokens.take(rate, now)
        {
            // One that is closed cost nothing.
            let waiting = std::iter::from_fn(|| self.crowd.pop())
                .find(|number| self.cases.contains_key(number));
            let Some(number) = waiting else {
                return;
            };
            let Some(case) = self.cases.get_mut(&number) else {
                return;
            };
            let own = self.parties.get(&case.asker).map(|party| &party.node);
            let whom: Vec<u64> = self
                .parties
                .iter()
                .filter(|(_, party)| Some(&party.node) != own)
                .map(|(stream, _)| *stream)
                .collect();
            // "Not seen" of everybody needs everybody: without a view of the cluster nobody knows who that is.
            let all_here = self.nodes.as_ref().is_some_and(|nodes| {
                !nodes.is_empty() && nodes.iter().all(|node| self.by_node.contains_key(node))
            });
            if whom.is_empty() {
                self.finish(number, Word::Incomplete(Gap::NoAgent), now);
                continue;
            }
            case.left = whom.len();
            case.gap = (!all_here).then_some(Gap::NoAgent);
            case.of_everybody = true;
            self.crowd_open += 1;
            for of in whom {
                let full = self
                    .parties
                    .get(&of)
                    .is_none_or(|party| party.asked.len() >= ASKED_OF_ONE);
                if full {
                    self.cannot_tell(number, Gap::Overloaded, now);
                } else {
                    self.ask(number, of, now);
                }
            }
        }
    }

    fn ask(&mut self, case: u64, of: u64, now: Instant) {
        let number = self.next;
        self.next += 1;
        let (Some(open), Some(party)) = (self.cases.get(&case), self.parties.get_mut(&of)) else {
            return;
        };
        let Some(offset) = party.clock.offset() else {
            return self.cannot_tell(case, Gap::NoAgent, now);
        };
        let question = Question::clone(&open.question).shifted(offset.saturating_neg());
        let message = Down::Question(convert::question_out(number, &question));
        match party.down.try_send(message) {
            Ok(()) => {
                party.asked.insert(number);
                self.asks.insert(number, Ask { case, of, offset });
                self.asks_due.push_back((now, number));
                self.figures.asked();
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.cannot_tell(case, Gap::Overloaded, now);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.cannot_tell(case, Gap::NoAgent, now);
            }
        }
    }

    /// A witness of a case has spoken; by our clock.
    fn said(&mut self, number: u64, word: Word, now: Instant) {
        match word {
            Word::Seen(_) => self.finish(number, word, now),
            Word::Incomplete(gap) => self.cannot_tell(number, gap, now),
            Word::NotSeen(control) => {
                if let Some(case) = self.cases.get_mut(&number) {
                    case.control = case.control.or(control);
                }
                self.one_less(number, now);
            }
        }
    }

    fn cannot_tell(&mut self, number: u64, gap: Gap, now: Instant) {
        if let Some(case) = self.cases.get_mut(&number) {
            // Another may still have seen it.
            case.gap = case.gap.or(Some(gap));
            self.one_less(number, now);
        }
    }

    fn one_less(&mut self, number: u64, now: Instant) {
        let Some(case) = self.cases.get_mut(&number) else {
            return;
        };
        case.left = case.left.saturating_sub(1);
        if case.left == 0 {
            let word = match case.gap {
                Some(gap) => Word::Incomplete(gap),
                None => Word::NotSeen(case.control),
            };
            self.finish(number, word, now);
        }
    }

    /// Closes a case with a word, by our clock.
    fn finish(&mut self, number: u64, word: Word, now: Instant) {
        let Some(case) = self.cases.remove(&number) else {
            return;
        };
        if case.of_everybody {
            self.crowd_open = self.crowd_open.saturating_sub(1);
        }
        if let Some(party) = self.parties.get_mut(&case.asker) {
            party.open.remove(&number);
        }
        let waited = now.saturating_duration_since(case.began).as_secs_f64();
        self.figures.answered(word.name(), waited);
        let word = word.shifted(case.offset.saturating_neg());
        self.tell(case.asker, case.id, word);
    }

    /// Answers at once that nobody can tell.
    pub(super) fn refuse(&mut self, stream: u64, id: u64, gap: Gap) {
        let word = Word::Incomplete(gap);
        self.figures.answered(word.name(), 0.0);
        self.tell(stream, id, word);
    }

    /// By the clock of whom it is told.
    fn tell(&self, stream: u64, id: u64, word: Word) {
        let Some(party) = self.parties.get(&stream) else {
            return;
        };
        let testimony = convert::testimony_out(id, word);
        if party.down.try_send(Down::Testimony(testimony)).is_err() {
            self.figures.undelivered();
        }
    }
}
