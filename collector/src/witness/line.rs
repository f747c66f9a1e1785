//! Who waits for an agent: first come first served of one asker, turn by turn between askers.

use std::collections::{HashMap, VecDeque};

/// A line. What waits are numbers of cases; some may be closed already.
#[derive(Debug, Default)]
pub(super) struct Line {
    of: HashMap<u64, VecDeque<u64>>,
    /// Askers with something in `of`, whose turn is next first.
    turns: VecDeque<u64>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn push(&mut self, asker: u64, case: u64) {
        let waiting = self.of.entry(asker).or_default();
        if waiting.is_empty() {
            self.turns.push_back(asker);
        }
        waiting.push_back(case);
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        let asker = self.turns.pop_front()?;
        let waiting = self.of.get_mut(&asker)?;
        let case = waiting.pop_front();
        if waiting.is_empty() {
            self.of.remove(&asker);
        } else {
            self.turns.push_back(asker);
        }
        case
    }

    /// Empties it.
    pub(super) fn drain(&mut self) -> Vec<u64> {
        self.turns.clear();
        self.of.drain().flat_map(|(_, cases)| cases).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn askers_take_turns() {
        let mut line = Line::default();
        for case in 0..5 {
            line.push(1, case);
        }
        line.push(2, 10);
        line.push(3, 20);
        line.push(2, 11);
        let order: Vec<u64> = std::iter::from_fn(|| line.pop()).collect();
        assert_eq!(order, [0, 10, 20, 1, 11, 2, 3, 4]);
        assert!(line.is_empty() && line.of.is_empty());
        line.push(1, 7);
        assert_eq!(line.drain(), [7]);
        assert!(line.is_empty() && line.pop().is_none());
    }
}
