//! What is counted of questions and testimonies.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// Upper bounds of the latency histogram, in seconds.
const SECONDS: [f64; 10] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Since the start.
#[derive(Debug)]
pub struct Figures {
    inquiries: Counter,
    questions: Counter,
    answers: Labelled,
    ignored: Labelled,
    undelivered: Counter,
    /// Inquiries that wait for an answer.
    pub open: Gauge,
    /// Questions that are with an agent.
    pub asked: Gauge,
    latency: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            inquiries: Counter::default(),
            questions: Counter::default(),
            answers: Labelled::default(),
            ignored: Labelled::default(),
            undelivered: Counter::default(),
            open: Gauge::default(),
            asked: Gauge::default(),
            latency: Histogram::new(SECONDS),
        }
    }
}

/// A testimony that counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// Of an agent that was not asked this.
    Forged,
    /// It came after the time, or a second time.
    Late,
    /// The inquiry was answered already, by another witness.
    Superfluous,
}

impl Figures {
    /// An inquiry came.
    pub(super) fn inquired(&self) {
        self.inquiries.inc();
    }

    /// A question went out.
    pub(super) fn asked(&self) {
        self.questions.inc();
    }

    /// An inquiry was answered by this word, so many seconds after it came.
    pub(super) fn answered(&self, word: &'static str, seconds: f64) {
        self.answers.get_or_create(&[("word", word)]).inc();
        self.latency.observe(seconds);
    }

    /// An answer did not fit into the asker's queue.
    pub(super) fn undelivered(&self) {
        self.undelivered.inc();
    }

    pub(super) fn ignored(&self, why: Ignored) {
        self.why(match why {
            Ignored::Forged => "forged",
            Ignored::Late => "late",
            Ignored::Superfluous => "superfluous",
        });
    }

    /// An inquiry or testimony that could not be read.
    pub fn malformed(&self) {
        self.why("malformed");
    }

    /// An inquiry about a pod, or a testimony for one, that is on another node.
    pub(super) fn not_theirs(&self) {
        self.why("not_theirs");
    }

    fn why(&self, why: &'static str) {
        self.ignored.get_or_create(&[("why", why)]).inc();
    }

    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "witness_inquiries",
            "Inquiries of agents that want the word of the other end's witness",
            self.inquiries.clone(),
        );
        registry.register(
            "witness_questions",
            "Questions sent to agents; an inquiry of everybody makes many",
            self.questions.clone(),
        );
        registry.register(
            "witness_answers",
            "Inquiries answered, by the word that the asker got",
            self.answers.clone(),
        );
        registry.register(
            "witness_ignored",
            "Testimonies and inquiries that count for nothing, and why: forged (not of the agent that was asked), late (or twice), \
             superfluous (another had answered), malformed, not_theirs (about a pod of another node)",
            self.ignored.clone(),
        );
        registry.register(
            "witness_undelivered",
            "Answers dropped because their asker did not read",
            self.undelivered.clone(),
        );
        registry.register(
            "witness_inquiries_open",
            "Inquiries that wait for an answer",
            self.open.clone(),
        );
        registry.register(
            "witness_questions_open",
            "Questions that agents have not answered",
            self.asked.clone(),
        );
        registry.register(
            "witness_latency_seconds",
            "From an inquiry to its answer",
            self.latency.clone(),
        );
    }
}
