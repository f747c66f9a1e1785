//! The ring as the task sees it; tests give it another.

use std::os::fd::AsFd;
use std::time::Duration;

use polproof_flow::record::Record;

use crate::observe::{ReadOutcome, RingId, RingReader};

/// Where records come from: the ring, whose contract this is.
pub(super) trait Records: AsFd {
    fn id(&self) -> RingId;
    fn seek(&mut self, position: u64) -> bool;
    fn read(&mut self, out: &mut Vec<(u64, Record)>, max: usize) -> ReadOutcome;
    fn position(&self) -> u64;
    fn release(&mut self, position: u64);
    /// See [`RingReader::must_poll`].
    fn must_poll(&self) -> Option<Duration>;
}

impl Records for RingReader {
    fn id(&self) -> RingId {
        Self::id(self)
    }
    fn seek(&mut self, position: u64) -> bool {
        Self::seek(self, position)
    }
    fn read(&mut self, out: &mut Vec<(u64, Record)>, max: usize) -> ReadOutcome {
        Self::read(self, out, max)
    }
    fn position(&self) -> u64 {
        Self::position(self)
    }
    fn release(&mut self, position: u64) {
        Self::release(self, position);
    }
    fn must_poll(&self) -> Option<Duration> {
        Self::must_poll(self)
    }
}
