//! What reading the ring shows besides records: when something was missed.

use polproof_agent_common::{NOTICE_INTERVAL_MS, PacketRecord};
use polproof_flow::record::Instant;

/// For how long a notice stands: the programs write no second one within it.
const NOTICE: u64 = NOTICE_INTERVAL_MS as u64 * (Instant::SECOND / 1000);

/// A stretch of time, both ends within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first moment.
    pub from: Instant,
    /// Its last moment.
    pub to: Instant,
}

impl Span {
    /// The shortest that covers both.
    fn and(self, other: Option<Self>) -> Self {
        other.map_or(self, |other| Self {
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        })
    }
}

/// What one [`RingReader::read`](super::RingReader::read) met besides records. Nothing of it is bound to a namespace: a witness
/// on this node that is asked about a moment within one of the spans has to say that it is not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Records that were to be written and are missing, by the gaps in the CPUs' sequence numbers.
    pub lost: u64,
    /// Records that are not of this ABI.
    pub undecodable: u64,
    /// When the records were written that are lost or cannot be decoded: from the CPU's last record before the gap to the first after it.
    pub lost_in: Option<Span>,
    /// When packets came whose headers could not be walked.
    pub unparsed_in: Option<Span>,
    /// When datagrams of new tuples were left out, since there were too many of them. This is about UDP alone.
    pub sampled_in: Option<Span>,
}

impl ReadOutcome {
    /// This and what a later read met.
    pub fn and(self, later: Self) -> Self {
        let both = |one: Option<Span>, other: Option<Span>| match one {
            Some(one) => Some(one.and(other)),
            None => other,
        };
        Self {
            lost: self.lost.saturating_add(later.lost),
            undecodable: self.undecodable.saturating_add(later.undecodable),
            lost_in: both(self.lost_in, later.lost_in),
            unparsed_in: both(self.unparsed_in, later.unparsed_in),
            sampled_in: both(self.sampled_in, later.sampled_in),
        }
    }

    pub(super) fn add_lost(&mut self, lost: u64, span: Span) {
        self.lost = self.lost.saturating_add(lost);
        self.lost_in = Some(span.and(self.lost_in));
    }

    pub(super) fn add_undecodable(&mut self, packet: &PacketRecord) {
        self.undecodable += 1;
        let at = Instant(packet.ktime_ns);
        self.lost_in = Some(Span { from: at, to: at }.and(self.lost_in));
    }

    pub(super) fn add_unparsed(&mut self, at: Instant) {
        self.unparsed_in = Some(notice(at).and(self.unparsed_in));
    }

    pub(super) fn add_sampled(&mut self, at: Instant) {
        self.sampled_in = Some(notice(at).and(self.sampled_in));
    }
}

fn notice(at: Instant) -> Span {
    Span {
        from: at,
        to: at.plus(NOTICE),
    }
}

/// The last record of each CPU: its sequence number and time. `None` before the first.
#[derive(Debug, Default)]
pub(super) struct Sequences(Vec<Option<(u64, Instant)>>);

impl Sequences {
    /// How many records of its CPU were skipped before this one, if any, and when. The first one of a CPU says nothing.
    pub(super) fn gap(&mut self, packet: &PacketRecord) -> Option<(u64, Span)> {
        let cpu = usize::from(packet.cpu);
        if self.0.len() <= cpu {
            self.0.resize(cpu + 1, None);
        }
        let at = Instant(packet.ktime_ns);
        let last = self.0.get_mut(cpu)?.replace((packet.cpu_sequence, at));
        let (sequence, from) = last?;
        let lost = packet
            .cpu_sequence
            .saturating_sub(sequence.saturating_add(1));
        (lost > 0).then_some((lost, Span { from, to: at }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use zerocopy::FromZeros;

    use super::*;

    fn packet(cpu: u16, cpu_sequence: u64, ktime_ns: u64) -> PacketRecord {
        let mut packet = PacketRecord::new_zeroed();
        packet.cpu = cpu;
        packet.cpu_sequence = cpu_sequence;
        packet.ktime_ns = ktime_ns;
        packet
    }

    #[test]
    fn a_gap_is_dated_by_the_records_of_its_cpu_around_it() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.gap(&packet(1, 70, 100)), None);
        assert_eq!(sequences.gap(&packet(0, 5, 110)), None);
        assert_eq!(sequences.gap(&packet(1, 71, 120)), None);
        let (lost, span) = sequences.gap(&packet(0, 8, 190)).unwrap();
        assert_eq!(lost, 2);
        assert_eq!(
            span,
            Span {
                from: Instant(110),
                to: Instant(190)
            }
        );
        assert_eq!(sequences.gap(&packet(0, 9, 200)), None);
    }

    #[test]
    fn notices_stand_for_their_interval_and_reads_add_up() {
        let mut first = ReadOutcome::default();
        first.add_unparsed(Instant(1_000));
        let mut second = ReadOutcome::default();
        second.add_unparsed(Instant(500));
        second.add_sampled(Instant(7));
        let both = first.and(second);
        assert_eq!(
            both.unparsed_in,
            Some(Span {
                from: Instant(500),
                to: Instant(1_000 + 100_000_000)
            })
        );
        assert_eq!(both.sampled_in, second.sampled_in);
        assert_eq!(both.lost_in, None);
    }
}
