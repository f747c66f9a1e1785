//! The table of lints.

use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::np001;
use super::np002;
use super::np003;
use super::np004;
use super::np010;
use super::np011;
use super::np012;
use super::np013;
use super::np020;
use super::np021;
use super::np022;
use super::np030;
use super::np031;
use super::np032;
use super::np033;
use super::np034;

/// What a lint is.
#[derive(Debug)]
pub struct Lint {
    /// `NP001`; never changes its meaning.
    pub id: &'static str,
    /// A few words.
    pub title: &'static str,
    /// Of its findings, but for those that depend on the case.
    pub severity: Severity,
    /// Controls that it is evidence for.
    pub references: &'static [&'static str],
    /// Why it matters and what to do, in a few sentences.
    pub help: &'static str,
    pub(super) check: fn(&Cluster<'_>, &mut Findings),
}

/// Every lint, by id.
pub static LINTS: &[Lint] = &[
    np001::LINT,
    np002::LINT,
    np003::LINT,
    np004::LINT,
    np010::LINT,
    np011::LINT,
    np012::LINT,
    np013::LINT,
    np020::LINT,
    np021::LINT,
    np022::LINT,
    np030::LINT,
    np031::LINT,
    np032::LINT,
    np033::LINT,
    np034::LINT,
];

/// A lint by its id.
pub fn lint(id: &str) -> Option<&'static Lint> {
    LINTS.iter().find(|lint| lint.id == id)
}
