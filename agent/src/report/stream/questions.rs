//! Questions and testimonies on the stream: carried beside the batches, never in their way.
//!
//! ```text
//! collector --Question--> judge     judge --Inquiry----> collector
//! judge --Testimony-----> collector collector --Testimony--> judge
//! ```
//!
//! Every inquiry that the judge hands over is answered once: by the collector, or here with [`Testimony::Incomplete`] if it cannot be sent
//! (`Overloaded`), if nothing comes back (`TimedOut`) or if there is no stream (`NoAgent`).

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polproof_flow::witness::{Gap, Inquiry, Testimony};
use polproof_proto::v1;
use polproof_proto::v1::StreamRequest;
use polproof_proto::v1::stream_request::Message as Up;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::StreamStats;
use crate::observe::wall_offset_ns;
use crate::report::convert::{self, Malformed};
use crate::report::witness::StreamEnd;

/// Room in the channel for questions and testimonies.
pub(super) const SHARE: usize = 1_024;
/// Inquiries that may be without an answer.
const OUTSTANDING: usize = 4_096;
/// The collector gives up after 10 s; what is not back by then was lost on the way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What the judge hands over.
pub(super) enum Carried {
    /// An answer of ours.
    Testimony(u64, Testimony),
    /// A question of ours.
    Inquiry(Inquiry),
}

/// The stream's end of the queues, and the inquiries that are on their way.
pub(super) struct Witnesses {
    end: StreamEnd,
    outstanding: HashMap<u64, Instant>,
    /// The same in order of time; may hold some that are answered.
    order: VecDeque<(Instant, u64)>,
    /// The judge has closed its end.
    no_testimonies: bool,
    no_inquiries: bool,
    /// Whether a malformed message was logged on this stream.
    said: bool,
    stats: Arc<StreamStats>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Witnesses {
    pub(super) fn new(end: StreamEnd, stats: Arc<StreamStats>) -> Self {
        Self {
            end,
            outstanding: HashMap::new(),
            order: VecDeque::new(),
            no_testimonies: false,
            no_inquiries: false,
            said: false,
            stats,
        }
    }

    /// The collector has welcomed us.
    pub(super) fn connected(&mut self) {
        self.said = false;
        self.end.connected.send_replace(true);
    }

    /// The stream has ended: nobody answers what was asked on it.
    pub(super) fn disconnected(&mut self) {
        self.end.connected.send_replace(false);
        let open: Vec<u64> = self.outstanding.drain().map(|(id, _)| id).collect();
        self.order.clear();
        for id in open {
            self.answer(id, Testimony::Incomplete(Gap::NoAgent));
        }
    }

    /// Answers what is asked while there is no stream.
    pub(super) async fn away(&mut self) -> Infallible {
        loop {
            match self.next().await {
                Carried::Inquiry(inquiry) => {
                    count(&self.stats.inquiries_dropped);
                    self.answer(inquiry.id, Testimony::Incomplete(Gap::NoAgent));
                }
                // It answers a question of a stream that has ended.
                Carried::Testimony(..) => count(&self.stats.testimonies_dropped),
            }
        }
    }

    /// The next that the judge hands over; never, if it has closed its ends. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Carried {
        loop {
            tokio::select! {
                testimony = self.end.testimonies.recv(), if !self.no_testimonies => match testimony {
                    Some((id, testimony)) => return Carried::Testimony(id, testimony),
                    None => self.no_testimonies = true,
                },
                inquiry = self.end.inquiries.recv(), if !self.no_inquiries => match inquiry {
                    Some(inquiry) => return Carried::Inquiry(inquiry),
                    None => self.no_inquiries = true,
                },
                else => std::future::pending::<()>().await,
            }
        }
    }

    /// Sends what the judge handed over, if that leaves `reserved` places in the channel.
    pub(super) fn send(
        &mut self,
        carried: Carried,
        requests: &mpsc::Sender<StreamRequest>,
        reserved: usize,
    ) {
        let room = requests.capacity() > reserved;
        let offset = wall_offset_ns();
        match carried {
            Carried::Testimony(id, testimony) => {
                let message = Up::Testimony(convert::testimony_out(id, &testimony, offset));
                let sent = room && requests.try_send(super::request(message)).is_ok();
                count(if sent {
                    &self.stats.testimonies_sent
                } else {
                    &self.stats.testimonies_dropped
                });
            }
            Carried::Inquiry(inquiry) => {
                let message = Up::Inquiry(convert::inquiry_out(&inquiry, offset));
                let sent = room
                    && self.outstanding.len() < OUTSTANDING
                    && requests.try_send(super::request(message)).is_ok();
                if sent {
                    count(&self.stats.inquiries_sent);
                    let now = Instant::now();
                    self.outstanding.insert(inquiry.id, now);
                    self.order.push_back((now, inquiry.id));
                } else {
                    count(&self.stats.inquiries_dropped);
                    self.answer(inquiry.id, Testimony::Incomplete(Gap::Overloaded));
                }
            }
        }
    }

    /// A question came.
    pub(super) fn asked(
        &mut self,
        wire: v1::Question,
        requests: &mpsc::Sender<StreamRequest>,
        reserved: usize,
    ) {
        count(&self.stats.questions);
        let id = wire.id;
        let refused = match convert::question_in(wire, wall_offset_ns()) {
            Ok(question) => self.end.questions.try_send(question).is_err(),
            Err(malformed) => {
                self.say(&malformed);
                true
            }
        };
        if refused {
            count(&self.stats.questions_refused);
            let overloaded = Testimony::Incomplete(Gap::Overloaded);
            self.send(Carried::Testimony(id, overloaded), requests, reserved);
        }
    }

    /// The answer to an inquiry came.
    pub(super) fn answered(&mut self, wire: v1::Testimony) {
        let (id, testimony) = match convert::testimony_in(wire, wall_offset_ns()) {
            Ok(answer) => answer,
            Err((id, malformed)) => {
                self.say(&malformed);
                // Nothing that can be used has come, and nothing else will.
                (id, Testimony::Incomplete(Gap::TimedOut))
            }
        };
        if self.outstanding.remove(&id).is_some() {
            self.answer(id, testimony);
        } else {
            count(&self.stats.answers_dropped);
        }
    }

    /// Gives up what is out for too long.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let over = |asked: Instant| now.duration_since(asked) >= ANSWER_TIMEOUT;
        while let Some((asked, id)) = self
            .order
            .pop_front_if(|(asked, id)| over(*asked) || self.outstanding.get(id) != Some(&*asked))
        {
            if self.outstanding.get(&id) == Some(&asked) {
                self.outstanding.remove(&id);
                self.answer(id, Testimony::Incomplete(Gap::TimedOut));
            }
        }
    }

    fn answer(&self, id: u64, testimony: Testimony) {
        let sent = self.end.answers.try_send((id, testimony)).is_ok();
        count(if sent {
            &self.stats.answers
        } else {
            &self.stats.answers_dropped
        });
    }

    fn say(&mut self, malformed: &Malformed) {
        if !std::mem::replace(&mut self.said, true) {
            warn!(
                %malformed,
                "refused what the collector relayed of another witness; further ones on this stream are only counted. Are agents and \
                 collector of one release?"
            );
        }
    }
}
