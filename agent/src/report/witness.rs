//! Between the judge, which asks and answers, and the stream, which carries questions and testimonies.
//!
//! Every queue is bounded. What does not fit is dropped by whoever would put it in, and counted there: an inquiry that was dropped is one
//! witness less, never a wrong verdict.

use polproof_flow::witness::{Inquiry, Question, Testimony};
use tokio::sync::{mpsc, watch};

/// Messages that may wait in each queue.
pub const QUEUE: usize = 4_096;

/// What the judge holds.
#[derive(Debug)]
pub struct JudgeEnd {
    /// What others ask.
    pub questions: mpsc::Receiver<(u64, Question)>,
    /// Our answers to that.
    pub testimonies: mpsc::Sender<(u64, Testimony)>,
    /// What we ask.
    pub inquiries: mpsc::Sender<Inquiry>,
    /// The answers to that, by our number.
    pub answers: mpsc::Receiver<(u64, Testimony)>,
    /// Whether the collector has welcomed us.
    pub connected: watch::Receiver<bool>,
}

/// What the stream holds.
#[derive(Debug)]
pub struct StreamEnd {
    /// Questions that came.
    pub questions: mpsc::Sender<(u64, Question)>,
    /// Testimonies to send.
    pub testimonies: mpsc::Receiver<(u64, Testimony)>,
    /// Inquiries to send.
    pub inquiries: mpsc::Receiver<Inquiry>,
    /// Answers that came.
    pub answers: mpsc::Sender<(u64, Testimony)>,
    /// Whether the collector has welcomed us.
    pub connected: watch::Sender<bool>,
}

/// Both ends.
pub fn pair() -> (JudgeEnd, StreamEnd) {
    let (ask, questions) = mpsc::channel(QUEUE);
    let (testify, testimonies) = mpsc::channel(QUEUE);
    let (inquire, inquiries) = mpsc::channel(QUEUE);
    let (answer, answers) = mpsc::channel(QUEUE);
    let (say, connected) = watch::channel(false);
    (
        JudgeEnd {
            questions,
            testimonies: testify,
            inquiries: inquire,
            answers,
            connected,
        },
        StreamEnd {
            questions: ask,
            testimonies,
            inquiries,
            answers: answer,
            connected: say,
        },
    )
}
