//! How far a long computation is.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Shorter ones need none.
const PATIENCE: Duration = Duration::from_millis(700);
const EVERY: Duration = Duration::from_millis(200);

/// A line on stderr that is written over again and again; nothing if stderr is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    shown: bool,
    terminal: bool,
    started: Instant,
    last: Option<Instant>,
}

impl Progress {
    /// `always` shows it also where stderr is no terminal, a line at a time and at once.
    pub(crate) fn new(what: &'static str, always: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            what,
            shown: always || terminal,
            terminal,
            started: Instant::now(),
            last: None,
        }
    }

    /// This many of all are done.
    pub(crate) fn step(&mut self, done: usize, all: usize) {
        if !self.shown || all == 0 {
            return;
        }
        let now = Instant::now();
        let early = self.terminal && now.duration_since(self.started) < PATIENCE;
        let soon = self
            .last
            .is_some_and(|last| now.duration_since(last) < EVERY);
        if early || (soon && done < all) {
            return;
        }
        self.last = Some(now);
        let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
        let line = format!(
            "polproof: {}: {percent}% ({done} of {all} groups)",
            self.what
        );
        let mut stderr = std::io::stderr();
        let _ = if self.terminal {
            write!(stderr, "\r{line}\u{1b}[K")
        } else {
            writeln!(stderr, "{line}")
        };
        let _ = stderr.flush();
    }

    /// Clears the line.
    pub(crate) fn end(&mut self) {
        if self.terminal && self.last.is_some() {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}
