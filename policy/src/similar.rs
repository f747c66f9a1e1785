//! Names that are nearly the same: what somebody meant who made a slip of the keyboard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Labels, Selector};

/// Insertions, deletions, replacements and swaps of neighbours between two names (optimal string alignment).
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut earlier = None;
    for (i, left) in a.chars().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, right) in b.iter().enumerate() {
            let mut best = (at(&last, j) + usize::from(left != *right))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            let swapped = j > 0 && earlier == Some(*right) && b.get(j - 1) == Some(&left);
            if swapped {
                best = best.min(at(&before_last, j - 1) + 1);
            }
            row.push(best);
        }
        earlier = Some(left);
        before_last = std::mem::replace(&mut last, row);
    }
    at(&last, b.len())
}

/// How far apart two different texts are, if they are similar: 0 if they are equal but for case, else their distance if it
/// is at most 2 and at most a third of the longer one.
pub(crate) fn similar(a: &str, b: &str) -> Option<usize> {
    if a == b {
        return None;
    }
    let (long, short) = (a.chars().count(), b.chars().count());
    let (long, short) = (long.max(short), long.min(short));
    if long == short && a.to_lowercase() == b.to_lowercase() {
        return Some(0);
    }
    let most = (long / 3).min(2);
    // What is this much longer cannot be nearer, and most are.
    if long - short > most || most == 0 {
        return None;
    }
    Some(distance(a, b)).filter(|distance| *distance <= most)
}

/// The label pairs that some sets of labels have.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    values: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    keys: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Vocabulary {
    pub(crate) fn of<'l>(sets: impl IntoIterator<Item = &'l Labels>) -> Self {
        let mut vocabulary = Self::default();
        for (key, value) in sets.into_iter().flatten() {
            let values = vocabulary.values.entry(Arc::clone(key)).or_default();
            if values.insert(Arc::clone(value)) {
                let keys = vocabulary.keys.entry(Arc::clone(value)).or_default();
                keys.insert(Arc::clone(key));
            }
        }
        vocabulary
    }

    fn has(&self, key: &str, value: &str) -> bool {
        let values = self.values.get(key);
        values.is_some_and(|values| values.contains(value))
    }
}

/// A pair of a selector that nothing has, and one that something has and that is nearly the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NearMiss {
    /// 0 if they differ in case only.
    distance: usize,
    /// Whether the keys differ; of two equally near, the one with the same key is the more likely.
    other_key: bool,
    /// The pair of the selector.
    pub(crate) wanted: (Arc<str>, Arc<str>),
    /// What was probably meant.
    pub(crate) found: (Arc<str>, Arc<str>),
}

impl NearMiss {
    /// `key=value`: what was probably meant.
    pub(crate) fn suggestion(&self) -> String {
        format!("{}={}", self.found.0, self.found.1)
    }
}

/// The nearest miss of the `matchLabels` of a selector among the label sets in question.
pub(crate) fn near_miss(selector: &Selector, among: &[&Vocabulary]) -> Option<NearMiss> {
    let pairs = selector.match_labels.iter();
    let absent = pairs.filter(|(key, value)| !among.iter().any(|of| of.has(key, value)));
    let misses = absent.flat_map(|(key, value)| {
        // Namespaces have much in common: a set tests each word once.
        let mut values: BTreeSet<&Arc<str>> = BTreeSet::new();
        let mut keys: BTreeSet<&Arc<str>> = BTreeSet::new();
        for vocabulary in among {
            values.extend(vocabulary.values.get(key).into_iter().flatten());
            keys.extend(vocabulary.keys.get(value).into_iter().flatten());
        }
        let miss = |other_key, distance, found| NearMiss {
            distance,
            other_key,
            wanted: (Arc::clone(key), Arc::clone(value)),
            found,
        };
        let by_value = values.into_iter().filter_map(move |other| {
            let distance = similar(value, other)?;
            Some(miss(false, distance, (Arc::clone(key), Arc::clone(other))))
        });
        let by_key = keys.into_iter().filter_map(move |other| {
            let distance = similar(key, other)?;
            Some(miss(true, distance, (Arc::clone(other), Arc::clone(value))))
        });
        by_value.chain(by_key).min()
    });
    misses.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let arcs = |(key, value): &(&str, &str)| (Arc::from(*key), Arc::from(*value));
        pairs.iter().map(arcs).collect()
    }

    fn suggests(wanted: &[(&str, &str)], sets: &[&[(&str, &str)]]) -> Option<String> {
        let sets: Vec<Labels> = sets.iter().map(|set| labels(set)).collect();
        let selector = Selector {
            match_labels: labels(wanted),
            match_expressions: Vec::new(),
        };
        let vocabulary = Vocabulary::of(&sets);
        near_miss(&selector, &[&vocabulary]).map(|miss| miss.suggestion())
    }

    #[test]
    fn distances() {
        for (a, b, d) in [
            ("", "", 0),
            ("web", "web", 0),
            ("wbe", "web", 1),
            ("wbe", "db", 2),
            ("ab", "ba", 1),
            ("we", "web", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), d, "{a} {b}");
            assert_eq!(distance(b, a), d, "{b} {a}");
        }
    }

    #[test]
    fn similar_is_case_or_a_third_of_the_longer_and_at_most_two() {
        for (a, b, expected) in [
            ("web", "web", None),
            ("Web", "web", Some(0)),
            ("WEB", "web", Some(0)),
            ("wbe", "web", Some(1)),
            // A third of two is none.
            ("db", "dc", None),
            ("db", "dbs", Some(1)),
            ("", "web", None),
            ("frontnd", "frontend", Some(1)),
            ("frntnd", "frontend", Some(2)),
            ("frntn", "frontend", None),
            ("cache", "cachier", Some(2)),
            ("abcde", "abxye", None),
        ] {
            assert_eq!(similar(a, b), expected, "{a} {b}");
            assert_eq!(similar(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_pair_wins_and_the_same_key_goes_first() {
        let suggested = |wanted, sets| suggests(wanted, sets);
        assert_eq!(
            suggested(&[("app", "frontnd")], &[&[("app", "frontend")]]).as_deref(),
            Some("app=frontend")
        );
        assert_eq!(
            suggested(&[("apps", "web")], &[&[("app", "web")]]).as_deref(),
            Some("app=web")
        );
        assert_eq!(
            suggested(
                &[("tiers", "backend")],
                &[&[("tiers", "backends")], &[("tier", "backend")]]
            )
            .as_deref(),
            Some("tiers=backends")
        );
        assert_eq!(
            suggested(
                &[("app", "frontnd")],
                &[
                    &[("app", "frntnd"), ("tier", "frontend")],
                    &[("app", "Frontnd")]
                ]
            )
            .as_deref(),
            Some("app=Frontnd")
        );
    }

    #[test]
    fn a_pair_that_some_set_has_is_no_slip() {
        // Each pair is there, but on different pods.
        assert_eq!(
            suggests(
                &[("app", "web"), ("tier", "back")],
                &[&[("app", "web"), ("tier", "backs")], &[("tier", "back")]]
            ),
            None
        );
        // A key and a value that are both nearly right are too far.
        assert_eq!(suggests(&[("apps", "wbe")], &[&[("app", "web")]]), None);
    }
}
