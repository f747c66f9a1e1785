//! What must outlive the collector: findings, counts, and how far each agent's spool is stored.
//!
//! A [`Store`] promises one thing above all: a [`Delivery`] and its sequence number are stored together or not
//! at all, and one that comes again is not counted again.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use polproof_flow::finding::{Exposure, JudgedCounts};

use crate::finding::{Finding, Kind, Update, Wall};

pub mod sqlite;

/// How long the store knows when violations and unanswered attempts were.
pub const ACTIVITY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// An attempt is judged some 15 s after its first packet, and reported soon after: what is reported this long after a
/// violation began after it, clocks that differ a little included.
pub const MARGIN: Duration = Duration::from_secs(30);

/// One batch of an agent, validated.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// The agent's node.
    pub node: String,
    /// Its spool.
    pub instance: String,
    /// The number of the batch within the spool, from 1.
    pub sequence: u64,
    /// What it says.
    pub updates: Vec<Update>,
    /// Attempts without a verdict: the wire's reason and how many.
    pub inconclusive: Vec<(i32, u64)>,
    /// Attempts with one.
    pub judged: JudgedCounts,
    /// How late enforcement was.
    pub exposure: Exposure,
    /// Findings left out because they were unusable.
    pub refused: u64,
    /// When the agent made it.
    pub made: Wall,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// All batches up to this number are stored (or known to be missing).
    pub last_sequence: u64,
    /// Whether it was new.
    pub fresh: bool,
    /// Batches that never came, between the last one stored and this one.
    pub missing: u64,
}

/// Which findings are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Namespace of either end; empty for all.
    pub namespace: String,
    /// Node of the witness; empty for all.
    pub node: String,
    /// Seen at or after.
    pub since: Option<Wall>,
    /// Empty for all.
    pub kinds: Vec<Kind>,
    /// Also those whose every attempt was taken back.
    pub include_retracted: bool,
    /// Only those that have not ended.
    pub standing_only: bool,
}

/// Where a walk over the findings stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Newest first, after this row.
    Newest {
        /// The store's clock when the walk began.
        began: i64,
        /// Last row sent: when last seen, id, node.
        after: Option<(i64, String, String)>,
    },
    /// What changed while the walk went on, in order of the change: a finding that is seen again moves to the
    /// front, where the walk has already passed.
    Changed {
        /// Clock value of the last row sent.
        after: i64,
        /// Its id and node; rows of one batch share a clock value.
        id: String,
        /// See `id`.
        node: String,
    },
}

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The findings.
    pub findings: Vec<Finding>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// A node as stored.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// Of the newest agent.
    pub agent_version: String,
    /// Of the newest agent.
    pub kernel_release: String,
    /// When the collector first heard of it.
    pub first_heard: Wall,
    /// When it was last heard of, as far as that is stored (now and then only).
    pub last_heard: Wall,
    /// The newest heartbeat that was stored, in the wire's form.
    pub heartbeat: Option<Vec<u8>>,
    /// Batches that were dropped before they could be stored.
    pub batches_missing: u64,
    /// Findings that were refused as unusable.
    pub findings_refused: u64,
    /// Totals.
    pub judged: JudgedCounts,
    /// Totals by the wire's reason.
    pub inconclusive: Vec<(i32, u64)>,
    /// Denied attempts that left pods of the node and were not answered, since the last violation.
    pub unanswered_since: u64,
    /// Findings that stand.
    pub findings: u64,
    /// Attempts of those that are violations.
    pub violations: u64,
    /// When the last of them was seen.
    pub last_violation: Option<Wall>,
    /// Violations since the time asked for.
    pub violations_recent: u64,
    /// Findings behind `violations` that have not ended.
    pub violations_standing: u64,
    /// Denied attempts of its pods that were proved stopped, [`MARGIN`] after the last violation or later; as far back as
    /// [`ACTIVITY_KEPT`] at most.
    pub stopped_since: u64,
    /// The same since the time asked for.
    pub stopped_recent: u64,
    /// Findings that stand, by kind; kinds without any are left out.
    pub kinds: Vec<KindCount>,
    /// How late enforcement was, in total.
    pub exposure: Exposure,
}

/// Findings of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindCount {
    /// The wire's number of the kind.
    pub kind: i32,
    /// Findings that are not taken back.
    pub findings: u64,
    /// Attempts behind them.
    pub attempts: u64,
    /// Of the findings, those that have not ended.
    pub standing: u64,
    /// When the last was seen.
    pub last: Wall,
}

/// Denied attempts that left pods of any node, and did not get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Not answered.
    pub unanswered: u64,
    /// Proved stopped.
    pub stopped: u64,
}

/// News of a node that is not part of a batch.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// The node.
    pub node: String,
    /// From its Hello.
    pub agent_version: String,
    /// From its Hello.
    pub kernel_release: String,
    /// When.
    pub at: Wall,
    /// Its newest heartbeat in the wire's form, if there was one.
    pub heartbeat: Option<Vec<u8>>,
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another collector has it.
    #[error(
        "the database {path} is in use by another polproof-collector; stop that one first (with SQLite there can \
         only be one replica; in Kubernetes use the strategy Recreate)"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It could not be opened or asked.
    #[error("cannot {what} in the database {path}: {problem}; {remedy}")]
    Database {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the database said.
        problem: String,
        /// What to do now.
        remedy: &'static str,
    },
    /// A stored row that this version cannot read.
    #[error(
        "the database {path} has a finding {id} that cannot be read ({problem}): was it written by a newer \
         version? Use that version, or delete the row"
    )]
    Row {
        /// The file.
        path: PathBuf,
        /// The row.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A batch number that cannot be.
    #[error(
        "batch.sequence is {got}, but the last one stored of this spool is {last}; numbers start at 1 and grow by one"
    )]
    Sequence {
        /// The number.
        got: u64,
        /// The last good one.
        last: u64,
    },
}

/// A place that keeps everything.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Stores a batch and its number in one transaction; a batch already stored changes nothing.
    async fn apply(&self, delivery: &Delivery) -> Result<Applied, StoreError>;
    /// The highest number stored of a spool, 0 for none.
    async fn last_sequence(&self, node: &str, instance: &str) -> Result<u64, StoreError>;
    /// Gives up one batch that nobody can read: it counts as missing.
    async fn skip(&self, node: &str, instance: &str, sequence: u64) -> Result<(), StoreError>;
    /// Notes when nodes were last heard of.
    async fn heard(&self, news: &[Heard]) -> Result<(), StoreError>;
    /// All nodes, by name; `recent` is the start of the recent window.
    async fn nodes(&self, recent: Wall) -> Result<Vec<Node>, StoreError>;
    /// Denied attempts that left pods of any node and did not get through, in batches made since then; as far back as
    /// [`ACTIVITY_KEPT`] at most.
    async fn tried(&self, since: Wall) -> Result<Tried, StoreError>;
    /// A walk's start.
    async fn begin(&self) -> Result<Cursor, StoreError>;
    /// A page of a walk.
    async fn list(&self, filter: &Filter, cursor: &Cursor, size: u32) -> Result<Page, StoreError>;
    /// How many findings match.
    async fn count(&self, filter: &Filter) -> Result<u64, StoreError>;
    /// Forgets findings last seen before a time, and the oldest beyond a number; says how many.
    async fn purge(&self, before: Wall, keep: u64) -> Result<u64, StoreError>;
    /// Whether it answers.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Closes it; what is stored is then in the main file.
    async fn close(&self);
}
