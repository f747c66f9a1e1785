//! Times in which something may have gone unseen.

use polproof_policy::Protocol;

use crate::record::Instant;
use crate::witness::Gap;

/// Spans of each kind that are remembered.
const BOUND: usize = 64;

/// What went unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// Records that were written, or should have been.
    Records,
    /// Packets that could not be read.
    Unparsed,
    /// Datagrams of new tuples, when there were too many.
    Sampled,
}

/// When what went unseen.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    records: Spans,
    unparsed: Spans,
    sampled: Spans,
}

impl Losses {
    pub(crate) fn note(&mut self, missed: Missed, from: Instant, to: Instant) {
        match missed {
            Missed::Records => &mut self.records,
            Missed::Unparsed => &mut self.unparsed,
            Missed::Sampled => &mut self.sampled,
        }
        .insert(from, to);
    }

    /// Why something of this protocol may have gone unseen between two moments, if it may.
    pub(crate) fn between(&self, protocol: Protocol, from: Instant, to: Instant) -> Option<Gap> {
        if self.records.touch(from, to) {
            Some(Gap::RecordsLost)
        } else if self.unparsed.touch(from, to) {
            Some(Gap::Unparsed)
        } else if protocol == Protocol::Udp && self.sampled.touch(from, to) {
            Some(Gap::NotSampled)
        } else {
            None
        }
    }

    /// Forgets what was over by then.
    pub(crate) fn expire(&mut self, until: Instant) {
        for spans in [&mut self.records, &mut self.unparsed, &mut self.sampled] {
            spans.0.retain(|(_, to)| *to >= until);
        }
    }
}

/// Spans apart from each other, in order; both ends belong to them.
#[derive(Debug, Default)]
struct Spans(Vec<(Instant, Instant)>);

impl Spans {
    fn insert(&mut self, from: Instant, to: Instant) {
        let mut span = (from.min(to), from.max(to));
        let first = self.0.partition_point(|(_, end)| *end < span.0);
        let last = self.0.partition_point(|(begin, _)| *begin <= span.1);
        for held in self.0.drain(first..last) {
            span = (span.0.min(held.0), span.1.max(held.1));
        }
        self.0.insert(first, span);
        if self.0.len() > BOUND {
            self.join_nearest();
        }
    }

    /// What was in between counts as unseen too: in doubt nobody is accused.
    fn join_nearest(&mut self) {
        let gaps = self.0.windows(2).enumerate();
        let nearest = gaps.filter_map(|(n, pair)| match pair {
            [one, other] => Some((other.0.since(one.1), n)),
            _ => None,
        });
        if let Some((_, n)) = nearest.min() {
            let (_, to) = self.0.remove(n + 1);
            if let Some(span) = self.0.get_mut(n) {
                span.1 = to;
            }
        }
    }

    fn touch(&self, from: Instant, to: Instant) -> bool {
        let first = self.0.partition_point(|(_, end)| *end < from);
        self.0.get(first).is_some_and(|(begin, _)| *begin <= to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(spans: &[(u64, u64)]) -> Losses {
        let mut losses = Losses::default();
        for (from, to) in spans {
            losses.note(Missed::Records, Instant(*from), Instant(*to));
        }
        losses
    }

    fn is_lost(losses: &Losses, from: u64, to: u64) -> bool {
        losses
            .between(Protocol::Tcp, Instant(from), Instant(to))
            .is_some()
    }

    #[test]
    fn spans_come_in_any_order_and_overlap() {
        let orders: [&[(u64, u64)]; 3] = [
            &[(10, 20), (40, 50), (15, 30)],
            &[(40, 50), (15, 30), (10, 20)],
            &[(15, 30), (50, 40), (10, 20), (12, 13)],
        ];
        for order in orders {
            let losses = held(order);
            assert_eq!(
                losses.records.0,
                [(Instant(10), Instant(30)), (Instant(40), Instant(50))]
            );
            for (from, to, lost) in [
                (0, 9, false),
                (0, 10, true),
                (30, 35, true),
                (31, 39, false),
                (31, 40, true),
                (50, 60, true),
                (51, 60, false),
                (0, 100, true),
            ] {
                assert_eq!(is_lost(&losses, from, to), lost, "{from} {to}");
            }
        }
    }

    #[test]
    fn each_loss_has_its_reason_and_sampling_is_about_datagrams_alone() {
        let mut losses = Losses::default();
        let at = Instant(5);
        for (missed, tcp, udp) in [
            (Missed::Sampled, None, Some(Gap::NotSampled)),
            (Missed::Unparsed, Some(Gap::Unparsed), Some(Gap::Unparsed)),
            (
                Missed::Records,
                Some(Gap::RecordsLost),
                Some(Gap::RecordsLost),
            ),
        ] {
            losses.note(missed, at, at);
            assert_eq!(losses.between(Protocol::Tcp, at, at), tcp);
            assert_eq!(losses.between(Protocol::Udp, at, at), udp);
        }
        losses.expire(Instant(6));
        assert_eq!(losses.between(Protocol::Udp, at, at), None);
    }

    #[test]
    fn what_there_is_no_room_for_withholds_more_and_not_less() {
        let spans: Vec<_> = (0..200_u64).map(|n| (n * n * 10, n * n * 10 + 1)).collect();
        let losses = held(&spans);
        assert_eq!(losses.records.0.len(), BOUND);
        for (from, to) in spans {
            assert!(is_lost(&losses, from, to), "{from}");
        }
    }
}
