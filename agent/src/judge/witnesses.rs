//! The judge's words with other witnesses: what they ask and answer goes in, what it asks and answers goes out.
//!
//! Neither side waits for the other. What finds a queue full is dropped and counted here: an answer less leaves the asker
//! with one witness, and of an inquiry that was not sent the judge is told so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use polproof_flow::Judge;
use polproof_flow::witness::{Gap, Question, Testimony};
use tokio::sync::mpsc::error::TrySendError;

use super::stats::JudgeStats;
use crate::report::witness::JudgeEnd;

/// Messages of each kind taken at a time; then the ring is looked at again.
const ROUND: usize = 1_024;
/// While questions wait for the time that they ask about to be over, they are looked at so often.
const LOOK: Duration = Duration::from_millis(100);
/// After an inquiry was refused: the judge may have to decide without it.
const SOON: Duration = Duration::from_millis(20);

/// What came.
#[derive(Debug)]
enum Heard {
    Question(u64, Question),
    Answer(u64, Testimony),
    Connected(bool),
}

/// The judge's end of the queues, and what they are at.
#[derive(Debug)]
pub(super) struct Witnesses {
    end: JudgeEnd,
    stats: Arc<JudgeStats>,
    questions_open: bool,
    answers_open: bool,
    connected_open: bool,
    /// Taken from the queues while waiting.
    heard: VecDeque<Heard>,
    /// Questions that the judge has and has not answered.
    unanswered: u64,
    /// An inquiry was refused in the last round.
    refused: bool,
}

impl Witnesses {
    pub(super) fn new(mut end: JudgeEnd, stats: Arc<JudgeStats>) -> Self {
        let connected = *end.connected.borrow_and_update();
        Self {
            end,
            stats,
            questions_open: true,
            answers_open: true,
            connected_open: true,
            heard: VecDeque::from([Heard::Connected(connected)]),
            unanswered: 0,
            refused: false,
        }
    }

    /// Whether an answer may be given with the next tick: it must not overlook a loss of just now.
    pub(super) fn asked(&self) -> bool {
        self.unanswered > 0 || !self.heard.is_empty() || !self.end.questions.is_empty()
    }

    /// Waits until there is something to [`hear`](Self::hear). Nothing is lost if it is cancelled.
    pub(super) async fn wait(&mut self) {
        while self.heard.is_empty() {
            let end = &mut self.end;
            tokio::select! {
                question = end.questions.recv(), if self.questions_open => match question {
                    Some((id, question)) => self.heard.push_back(Heard::Question(id, question)),
                    None => self.questions_open = false,
                },
                answer = end.answers.recv(), if self.answers_open => match answer {
                    Some((id, testimony)) => self.heard.push_back(Heard::Answer(id, testimony)),
                    None => self.answers_open = false,
                },
                changed = end.connected.changed(), if self.connected_open => match changed {
                    Ok(()) => self.connected(),
                    Err(_) => self.connected_open = false,
                },
                // There is no stream: nobody will ever ask.
                else => std::future::pending().await,
            }
        }
    }

    fn connected(&mut self) {
        let connected = *self.end.connected.borrow_and_update();
        self.heard.push_back(Heard::Connected(connected));
    }

    /// Hands the judge what came. Questions wait until all records have been read (`drained`): it may be in one of them what
    /// is asked for.
    pub(super) fn hear(&mut self, judge: &mut Judge, drained: bool) {
        // First, so that answers of a stream that has ended are not taken for those of the next one.
        if self.connected_open && self.end.connected.has_changed().unwrap_or(false) {
            self.connected();
        }
        for _ in 0..self.heard.len() {
            match self.heard.pop_front() {
                Some(question @ Heard::Question(..)) if !drained => {
                    self.heard.push_back(question);
                }
                Some(heard) => self.tell(judge, heard),
                None => break,
            }
        }
        for _ in 0..ROUND {
            let Ok((id, testimony)) = self.end.answers.try_recv() else {
                break;
            };
            self.tell(judge, Heard::Answer(id, testimony));
        }
        for _ in 0..if drained { ROUND } else { 0 } {
            let Ok((id, question)) = self.end.questions.try_recv() else {
                break;
            };
            self.tell(judge, Heard::Question(id, question));
        }
    }

    fn tell(&mut self, judge: &mut Judge, heard: Heard) {
        match heard {
            Heard::Question(id, question) => {
                self.stats.questions.fetch_add(1, Relaxed);
                self.unanswered = self.unanswered.saturating_add(1);
                judge.on_question(id, question);
            }
            Heard::Answer(id, testimony) => {
                self.stats.answers.count(&testimony);
                judge.on_testimony(id, testimony);
            }
            Heard::Connected(connected) => judge.on_collector(connected),
        }
    }

    /// Sends what the judge has to say.
    pub(super) fn speak(&mut self, judge: &mut Judge) {
        for message in judge.take_testimonies() {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.stats.testimonies.count(&message.1);
            if self.end.testimonies.try_send(message).is_err() {
                self.stats.testimonies_dropped.fetch_add(1, Relaxed);
            }
        }
        self.refused = false;
        for inquiry in judge.take_inquiries() {
            let id = inquiry.id;
            let (counter, gap): (&AtomicU64, _) = match self.end.inquiries.try_send(inquiry) {
                Ok(()) => (&self.stats.inquiries, None),
                Err(TrySendError::Full(_)) => {
                    (&self.stats.inquiries_dropped, Some(Gap::Overloaded))
                }
                Err(TrySendError::Closed(_)) => (&self.stats.inquiries_dropped, Some(Gap::NoAgent)),
            };
            counter.fetch_add(1, Relaxed);
            if let Some(gap) = gap {
                self.refused = true;
                judge.on_testimony(id, Testimony::Incomplete(gap));
            }
        }
    }

    /// How long the judge may be left alone on their account.
    pub(super) fn pause(&self) -> Option<Duration> {
        if self.refused {
            Some(SOON)
        } else {
            (self.unanswered > 0).then_some(LOOK)
        }
    }
}
