//! The attempts of all cells, and those of a pod that gets through wherever anybody does.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use polproof_policy::{Family, Protocol};
use polproof_tests::lab::Lab;
use polproof_tests::lab::resident::Pending;
use polproof_tests::lab::tap::question;
use polproof_tests::lab::traffic::{Attempt, Reply};

use crate::cell::Cell;
use crate::expected::ATTEMPTS;
use crate::facts::Taps;
use crate::scene::{METRICS, Scene, WATCH};

/// Long enough for a second SYN, after which a silent client counts as one that was not answered.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// Between two attempts of a cell.
const INTERVAL: Duration = Duration::from_millis(700);

/// Attempts under way.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    attempts: Vec<Pending<Result<Attempt>>>,
    datagrams: Vec<Pending<Result<Reply>>>,
    /// How many datagrams were sent: each has a number.
    number: u32,
    /// Rounds that are behind.
    pub(crate) rounds: usize,
    /// When the first attempt was begun.
    began: Option<Instant>,
}

impl Traffic {
    /// Begins an attempt of each of the cells.
    pub(crate) fn start<'a>(
        &mut self,
        lab: &Lab,
        scene: &Scene,
        cells: impl IntoIterator<Item = &'a Cell>,
    ) -> Result<()> {
        self.began.get_or_insert_with(Instant::now);
        for cell in cells {
            let to = cell.asked(&scene.places)?;
            let source = lab.pod(&cell.source())?.resident();
            match cell.protocol {
                Protocol::Tcp => self.attempts.push(source.start_connect(to, PATIENCE)),
                Protocol::Sctp => self.attempts.push(source.start_associate(to, PATIENCE)),
                Protocol::Udp => {
                    self.number += 1;
                    let asked = question(self.number);
                    self.datagrams
                        .push(source.start_ask(to, 0, &asked, PATIENCE));
                }
            }
        }
        Ok(())
    }

    /// Lets the pod that watches all destinations look at them: that is what shows that a way is open on which others fail. A network may
    /// carry TCP and no SCTP, so by both; over-blocked datagrams accuse nobody, and need none.
    fn watch(&mut self, lab: &Lab, scene: &Scene) -> Result<()> {
        let watch = lab.pod(WATCH)?.resident();
        for pod in &scene.destinations {
            let over = |ip: &IpAddr| scene.watched.contains(&Family::of(*ip));
            for ip in lab.pod(pod)?.addresses().into_iter().filter(over) {
                let to = (ip, METRICS).into();
                self.attempts.push(watch.start_connect(to, PATIENCE));
                self.attempts.push(watch.start_associate(to, PATIENCE));
            }
        }
        Ok(())
    }

    /// Makes the attempts that are missing, of all cells at the same time, and waits for the end of all. Gives the time of them.
    pub(crate) fn finish(
        mut self,
        lab: &Lab,
        scene: &Scene,
        cells: &[Cell],
        taps: &Taps,
    ) -> Result<(Instant, Instant)> {
        while self.rounds < ATTEMPTS {
            if self.rounds > 0 {
                std::thread::sleep(INTERVAL / 2);
                taps.drain()?;
            }
            self.watch(lab, scene)?;
            self.start(lab, scene, cells)?;
            self.rounds += 1;
            // Something has to get through between two attempts, and whether the first look came before them nobody knows.
            std::thread::sleep(INTERVAL / 2);
            self.watch(lab, scene)?;
        }
        let limit = PATIENCE + Duration::from_secs(60);
        for attempt in self.attempts {
            attempt.wait(limit)??;
        }
        for datagram in self.datagrams {
            datagram.wait(limit)??;
        }
        let ended = Instant::now();
        Ok((self.began.unwrap_or(ended), ended))
    }
}
