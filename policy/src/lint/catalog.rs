//! The table of lints.

use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use super::{
    np001, np002, np003, np004, np010, np011, np012, np013, np020, np021, np022, np030, np031,
    np032, np033, np034, np040, np041, np042, np043, np050, np051, np052, np060, np061, np062,
    np070, np071, np080, np081, np091, np092, np100, np101, np110, np111, np900,
};

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
    np040::LINT,
    np041::LINT,
    np042::LINT,
    np043::LINT,
    np050::LINT,
    np051::LINT,
    np052::LINT,
    np060::LINT,
    np061::LINT,
    np062::LINT,
    np070::LINT,
    np071::LINT,
    np080::LINT,
    np081::LINT,
    np091::LINT,
    np092::LINT,
    np100::LINT,
    np101::LINT,
    np110::LINT,
    np111::LINT,
    np900::LINT,
];

/// A lint by its id.
pub fn lint(id: &str) -> Option<&'static Lint> {
    LINTS.iter().find(|lint| lint.id == id)
}
