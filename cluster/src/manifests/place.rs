//! Where something stands in the files.

use std::fmt;

use polproof_policy::compile::short;

use crate::{ClusterError, Origin};

use super::read::Text;

/// A place in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'f> {
    file: &'f Text,
    /// The line, from 1.
    line: u64,
    /// The item of the list that stands there.
    item: Option<usize>,
}

impl<'f> Place<'f> {
    pub(super) const fn new(file: &'f Text, line: u64) -> Self {
        Self {
            file,
            line,
            item: None,
        }
    }

    pub(super) const fn below(self, lines: u64) -> Self {
        Self {
            line: self.line.saturating_add(lines),
            ..self
        }
    }

    pub(super) const fn item(self, index: usize) -> Self {
        Self {
            item: Some(index),
            ..self
        }
    }

    pub(super) fn origin(&self) -> Origin {
        Origin {
            file: self.file.path.clone(),
            line: self.line,
        }
    }

    pub(super) fn broken(&self, problem: &str) -> ClusterError {
        ClusterError::Manifest {
            file: self.file.path.clone(),
            line: self.line,
            problem: short(problem),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.path.display(), self.line)?;
        match self.item {
            Some(index) => write!(f, " items[{index}]"),
            None => Ok(()),
        }
    }
}
