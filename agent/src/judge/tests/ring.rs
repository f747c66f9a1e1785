//! A ring in memory, with the contract of the kernel's.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polproof_flow::record::Record;

use crate::judge::records::Records;
use crate::observe::{ReadOutcome, RingId};

/// What outlives the agent: records, and the consumer's position.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) records: Vec<Record>,
    pub(super) released: u64,
    /// The agent dies when it reads beyond this many records.
    pub(super) dies_at: Option<usize>,
}

pub(super) struct MemoryRing {
    pub(super) kernel: Arc<Mutex<Kernel>>,
    pub(super) wake: UnixStream,
    pub(super) position: u64,
}

impl AsFd for MemoryRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Records for MemoryRing {
    fn id(&self) -> RingId {
        RingId {
            boot_id: "boot".into(),
            map_id: 1,
        }
    }
    fn seek(&mut self, position: u64) -> bool {
        let ahead = position >= self.position;
        self.position = self.position.max(position);
        self.release(position);
        ahead
    }
    fn read(&mut self, out: &mut Vec<(u64, Record)>, max: usize) -> ReadOutcome {
        // A panic stands for the kill: nothing is flushed, nothing is cleaned up.
        let kernel = self
            .kernel
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        let from = self.position as usize;
        let to = kernel.records.len().min(from + max);
        for record in &kernel.records[from..to] {
            self.position += 1;
            out.push((self.position, *record));
        }
        let dies = kernel.dies_at.is_some_and(|at| to >= at);
        drop(kernel);
        assert!(!dies, "killed by the test");
        ReadOutcome::default()
    }
    fn position(&self) -> u64 {
        self.position
    }
    fn release(&mut self, position: u64) {
        let mut kernel = self.kernel.lock().unwrap();
        kernel.released = kernel.released.max(position);
    }
    fn must_poll(&self) -> Option<Duration> {
        let kernel = self.kernel.lock().unwrap();
        if (self.position as usize) < kernel.records.len() {
            Some(Duration::ZERO)
        } else {
            (kernel.released < self.position).then_some(Duration::from_millis(20))
        }
    }
}
