//! What may have gone unseen of an attempt, or before it.

use polproof_policy::Protocol;

use crate::attempt::Attempt;
use crate::finding::InconclusiveReason;
use crate::record::Instant;

use super::Judge;

impl Judge {
    /// Whether something that belongs to an attempt may have gone unseen.
    pub(super) fn lost_around(&self, attempt: &Attempt) -> bool {
        let from = self.hidden_from(attempt);
        let until = attempt.last.plus(2 * Instant::SECOND);
        let protocol = attempt.key.protocol;
        self.losses.between(protocol, from, until).is_some()
    }

    /// Whether only one direction of an attempt may have been seen: packets come and go while the programs are attached.
    pub(super) fn is_deaf(&self, attempt: &Attempt) -> bool {
        let until = attempt.last.plus(2 * Instant::SECOND);
        self.namespaces
            .is_deaf(attempt.key.netns, attempt.first, until)
    }

    /// Why an attempt that was denied since then may be part of something older, of which the beginning went unseen. Of a loss it
    /// may be told only after the attempt was announced.
    pub(super) fn may_be_older(
        &self,
        attempt: &Attempt,
        denied_since: Instant,
    ) -> Option<InconclusiveReason> {
        if attempt.unsure {
            return Some(InconclusiveReason::FlowBegunBefore);
        }
        let protocol = attempt.key.protocol;
        if protocol != Protocol::Udp {
            return None;
        }
        // What goes on in between is told of by a record now and then. What says nothing for longer goes on all the same, as
        // long as a connection tracker remembers it; but what began under the policy has no right to.
        let idle = self
            .settings
            .udp_idle
            .saturating_add(self.settings.udp_window);
        let settled = denied_since.plus(self.settings.grace).min(attempt.first);
        let spans = [
            (self.hidden_from(attempt), attempt.first),
            (attempt.first.minus(idle), settled),
        ];
        spans.into_iter().find_map(|(from, to)| {
            if from > to {
                None
            } else if self.losses.between(protocol, from, to).is_some() {
                Some(InconclusiveReason::RecordsLost)
            } else {
                let away = self.namespaces.was_away(attempt.key.netns, from, to);
                away.then_some(InconclusiveReason::FlowBegunBefore)
            }
        })
    }

    /// From when on what went unseen may have to do with an attempt: the first datagram of a flow hides those that follow.
    fn hidden_from(&self, attempt: &Attempt) -> Instant {
        match attempt.key.protocol {
            Protocol::Udp => attempt
                .first
                .minus(self.settings.udp_window)
                .minus(Instant::SECOND),
            Protocol::Tcp | Protocol::Sctp => attempt.first,
        }
    }
}
