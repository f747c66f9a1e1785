//! Where witnesses meet: an agent's question about one attempt goes to the agent at the other end, and its answer back.
//!
//! ```text
//! agent A --Inquiry--> convert --> board --> Question (B's clock) --> agent B
//! agent A <--Testimony (A's clock)-- board <-- convert <-- Testimony -- agent B
//! ```
//!
//! - Bounded: inquiries that are open (in all and of one agent), questions with one agent, inquiries of everybody; and rated. What is too
//!   much is answered at once by `Incomplete(Overloaded)`.
//! - Fair: what waits for an agent is taken from the askers in turn, and of the second half of the room each asker has an equal part.
//! - Timed: after 10 s the answer is `Incomplete(TimedOut)`; what then still comes is counted and ignored.
//! - Of everybody: the first who has seen it decides. "Not seen" needs every node of the cluster to say so; one that is away, or no view
//!   of the cluster to know the nodes by, makes it `Incomplete`.
//! - The least that must be known: an agent asks about pods of its own node only (as far as the collector's view knows them), and learns the
//!   answer and nothing else. A testimony counts only of the agent that was asked, and for no pod of another node.
//!
//! The board is one lock, held for the handling of one message. Nothing in it waits.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polproof_cluster::View;
use polproof_flow::witness::Gap;
use polproof_policy::Uid;
use polproof_proto::v1::stream_response::Message as Down;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

mod board;
mod clock;
mod figures;
mod line;
mod rate;
#[cfg(test)]
mod tests;
mod words;

use board::{Board, Nodes};
pub use figures::Figures;
pub use words::{Control, Inquiry, Question, Sighting, Word};

use crate::finding::Wall;

/// Questions and answers that may wait for a slow connection: as many as an agent may have of either.
pub const DOWN: usize = board::ASKED_OF_ONE + board::OPEN_OF_ONE;
/// How often is looked for what took too long.
const EVERY: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Switchboard {
    board: Mutex<Board>,
    figures: Arc<Figures>,
    view: Option<watch::Receiver<Arc<View>>>,
}

impl Switchboard {
    /// Nobody is connected.
    pub fn new(figures: Arc<Figures>, view: Option<watch::Receiver<Arc<View>>>) -> Self {
        Self {
            board: Mutex::new(Board::new(Arc::clone(&figures))),
            figures,
            view,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // Nothing in the board panics; a case that a panic elsewhere left half-done ends by its time.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// An agent was welcomed; `down` leads to it. An earlier stream of the node is closed by this.
    pub fn opened(&self, stream: u64, node: &str, down: mpsc::Sender<Down>) {
        self.lock().opened(stream, node, down, Instant::now());
    }

    /// A stream has ended.
    pub fn closed(&self, stream: u64) {
        self.lock().closed(stream, Instant::now());
    }

    /// An agent said what time it is.
    pub fn heartbeat(&self, stream: u64, sent: Wall, arrived: Wall) {
        self.lock().heartbeat(stream, sent, arrived);
    }

    /// An agent asks.
    pub fn inquire(&self, stream: u64, inquiry: Inquiry) {
        self.figures.inquired();
        let Inquiry { id, node, question } = inquiry;
        let mut whom = node;
        let mut theirs = true;
        if let Some(view) = &self.view {
            let view = view.borrow();
            let node_of = |uid: &str| node_of(&view, uid);
            if whom.is_empty() && !question.pod.is_empty() {
                // By UID only: an address may have had another owner at that time.
                whom = node_of(&question.pod).map_or(whom, |node| node.to_string());
            }
            if !question.asker.is_empty()
                && let Some(on) = node_of(&question.asker)
            {
                theirs = self.lock().node(stream).is_none_or(|own| own == on);
            }
        }
        let mut board = self.lock();
        if theirs {
            board.inquire(stream, id, &whom, question, Instant::now());
        } else {
            self.figures.not_theirs();
            board.refuse(stream, id, Gap::PodUnknown);
        }
    }

    /// An agent asks what cannot be read.
    pub fn refuse(&self, stream: u64, id: u64) {
        self.figures.malformed();
        self.lock().refuse(stream, id, Gap::Overloaded);
    }

    /// An agent answers; `None`: what cannot be read.
    pub fn testify(&self, stream: u64, id: u64, mut word: Option<Word>) {
        if word.is_none() {
            self.figures.malformed();
        }
        if let Some(view) = &self.view
            && let Some(Word::Seen(Sighting {
                pod: Some((_, _, uid)),
                ..
            })) = &word
            && let Some(on) = node_of(&view.borrow(), uid)
            && self.lock().node(stream).is_some_and(|own| own != on)
        {
            // It speaks for a pod of another node.
            self.figures.not_theirs();
            word = None;
        }
        self.lock().testify(stream, id, word, Instant::now());
    }

    /// Ends what takes too long, until told to end.
    pub async fn watch(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        let mut known: Option<(u64, Nodes)> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let nodes = self.nodes(&mut known);
            self.lock().expire(nodes, Instant::now());
        }
    }

    /// The nodes of the cluster, if the view is whole; made afresh when it has changed.
    fn nodes(&self, known: &mut Option<(u64, Nodes)>) -> Nodes {
        let view = self.view.as_ref()?.borrow().clone();
        if !view.ready || view.problem.is_some() {
            return None;
        }
        let version = view.snapshot.version();
        if known.as_ref().is_none_or(|(of, _)| *of != version) {
            let mut nodes: HashSet<Arc<str>> = view
                .snapshot
                .nodes()
                .map(|node| Arc::clone(&node.name))
                .collect();
            if nodes.is_empty() {
                // Manifests seldom have any; their pods say where they are.
                nodes = view
                    .snapshot
                    .pods()
                    .filter_map(|pod| pod.node.clone())
                    .collect();
            }
            *known = Some((version, Some(Arc::new(nodes))));
        }
        known.as_ref().and_then(|(_, nodes)| nodes.clone())
    }
}

/// The node of a pod, if the view knows it.
fn node_of(view: &View, uid: &str) -> Option<Arc<str>> {
    view.snapshot.pod(&Uid(Arc::from(uid)))?.node.clone()
}
