//! One group of cells: an enforcer in a topology, one lab, all cells at the same time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use polproof_policy::Protocol;
use polproof_proto::v1::InconclusiveReason;
use polproof_tests::lab::enforcers::Entry;
use polproof_tests::lab::topology::Topology;
use polproof_tests::lab::{Lab, Setup, lease};

use crate::cell::{Cell, PROTOCOLS, Path, Said};
use crate::expected::expected;
use crate::facts::Taps;
use crate::findings::Findings;
use crate::oracle;
use crate::scene::Scene;
use crate::stage::{Shows, Stage, UP};
use crate::traffic::Traffic;
use crate::verdict::{Row, complaints, verdict};

/// Agents take a datagram for a beginning only when they have watched for twice as long, which they have when denials are old.
const UDP_IDLE: &str = "--udp-idle=3s";
/// After the last attempt nothing more can be said: it was silent for 8 s, and was settled.
const FLOOR: Duration = Duration::from_secs(12);
/// For that long nothing is counted any more.
const QUIET: Duration = Duration::from_secs(4);
/// After that nobody waits for what is missing.
const ENOUGH: Duration = Duration::from_secs(32);
/// Complaints that are shown; the file has all of them.
const SHOWN: usize = 16;

/// An enforcer in a topology, and how it is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) enforcer: &'static Entry,
    pub(crate) stage: Stage,
    pub(crate) topology: Topology,
}

/// What a group came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    pub(crate) complaints: Vec<String>,
    pub(crate) took: Duration,
}

impl Group {
    /// Its name, as a test.
    pub(crate) fn name(&self) -> String {
        let label = self.stage.label();
        let label = label.map_or(String::new(), |label| format!(" ({label})"));
        format!("{}{label}, {}", self.enforcer.name, self.topology)
    }

    /// Makes the lab, tries every cell, and compares what was found with what happened.
    pub(crate) fn run(&self, cells: &[Cell]) -> Result<Outcome> {
        let began = Instant::now();
        let mut lab = Lab::create(Setup {
            topology: self.topology,
            agent_arguments: vec![UDP_IDLE.to_owned()],
            ..Setup::default()
        })?;
        let outcome = self.run_in(&mut lab, cells);
        let (rows, complaints) = outcome.map_err(|error| {
            lease::end_if_interrupted();
            error.context(lab.logs(20))
        })?;
        Ok(Outcome {
            rows,
            complaints,
            took: began.elapsed(),
        })
    }

    fn run_in(&self, lab: &mut Lab, cells: &[Cell]) -> Result<(Vec<Row>, Vec<String>)> {
        let stage = self.stage;
        let cells: Vec<Cell> = cells
            .iter()
            .copied()
            .filter(|cell| stage.has(cell))
            .collect();
        let cells = &*cells;
        let watched = stage.watched(self.enforcer);
        let mut scene = Scene::furnish(lab, cells, watched)?;
        stage.begin(lab, self.enforcer, &mut scene)?;
        lab.start_all()?;
        lab.wait_ready(UP)?;
        stage.strike(lab, self.enforcer, &mut scene, cells)?;
        std::thread::sleep(stage.ageing());
        let mut taps = Taps::open(lab, &scene.pods)?;
        let mut traffic = Traffic::default();
        let going = (&mut taps, &mut traffic);
        stage.touch_off(lab, self.enforcer, &mut scene, cells, going)?;
        let sent = traffic.finish(lab, &scene, cells, &taps)?;
        let (mut rows, counted) = self.wait(lab, &scene, cells, &taps)?;
        let mut wrong = complaints(&rows.0, &counted);
        wrong.extend(rows.1.iter().map(|strange| format!("FALSE {strange}")));
        wrong.extend(oracle::disagreements(lab, &scene, &rows.0, sent)?);
        for shows in stage.must_show(self.enforcer) {
            if !rows.0.iter().any(|row| is_shown(*shows, row)) {
                wrong.push(format!("LAB no {shows:?}, so nothing was shown"));
            }
        }
        for row in &mut rows.0 {
            row.verdict.keep_counted(&counted);
        }
        Ok((rows.0, wrong))
    }

    /// Waits until nothing more can come, and compares.
    #[expect(
        clippy::type_complexity,
        reason = "rows and strangers, and the counters"
    )]
    fn wait(
        &self,
        lab: &Lab,
        scene: &Scene,
        cells: &[Cell],
        taps: &Taps,
    ) -> Result<((Vec<Row>, Vec<String>), BTreeMap<InconclusiveReason, u64>)> {
        let began = Instant::now();
        let mut last = (0, Instant::now());
        loop {
            taps.drain()?;
            let (sum, counted) = counters(lab)?;
            if last.0 != sum {
                last = (sum, Instant::now());
            }
            if began.elapsed() >= FLOOR && last.1.elapsed() >= QUIET {
                let rows = self.compare(lab, scene, cells, taps)?;
                let done = complaints(&rows.0, &counted).is_empty();
                if done || began.elapsed() > ENOUGH {
                    return Ok((rows, counted));
                }
            }
            if began.elapsed() > ENOUGH * 2 {
                bail!("the counters of the agents do not come to rest: {counted:?}");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn compare(
        &self,
        lab: &Lab,
        scene: &Scene,
        cells: &[Cell],
        taps: &Taps,
    ) -> Result<(Vec<Row>, Vec<String>)> {
        let seen = taps.seen()?;
        let found = lab.questions()?.findings()?;
        let mut findings = Findings::sort(&found, cells)?;
        let mut rows = Vec::new();
        for cell in cells {
            let facts = seen.facts(*cell, cell.asked(&scene.places)?);
            let open = |by: &[Protocol]| {
                cell.destinations()
                    .iter()
                    .any(|pod| seen.answered_somebody(pod, cell.family, by))
            };
            let way_open = open(&PROTOCOLS);
            // That a way carries one transport says nothing of another: some networks drop all SCTP.
            let expected = expected(*cell, self.stage, &facts, open(&[cell.protocol]));
            let found = findings.of.remove(cell).unwrap_or_default();
            rows.push(Row {
                enforcer: self.enforcer.name.to_owned(),
                label: self.stage.label(),
                topology: self.topology.name(),
                cell: *cell,
                said: self.stage.said(cell.said),
                verdict: verdict(&expected, &facts, &found),
                facts,
                way_open,
                found,
            });
        }
        Ok((rows, findings.strange))
    }
}

/// Whether a cell shows that of its enforcer.
fn is_shown(shows: Shows, row: &Row) -> bool {
    // Which no policy speaks of, and of which the API leaves open what it is.
    if matches!(row.cell.path, Path::Hairpin | Path::NodePort) {
        return false;
    }
    let arrived = row.facts.iter().any(|fact| fact.arrived.is_some());
    let blocked = row.said == Said::Allowed && !row.facts.is_empty() && !arrived;
    match shows {
        Shows::Leak => row.said != Said::Allowed && arrived,
        Shows::Block => blocked && row.way_open,
        Shows::CutOff => blocked && !row.way_open,
    }
}

/// All that the agents count, in one number, and why attempts got no verdict.
fn counters(lab: &Lab) -> Result<(u64, BTreeMap<InconclusiveReason, u64>)> {
    let status = lab.questions()?.status().context("ask for the counters")?;
    let mut sum = 0;
    let mut reasons = BTreeMap::new();
    for node in &status.nodes {
        let judged = node.judged.unwrap_or_default();
        sum += judged.allowed_delivered
            + judged.denied_delivered
            + judged.denied_unanswered
            + judged.denied_answered
            + judged.allowed_answered
            + judged.denied_stopped
            + judged.denied_in_grace
            + node.violations;
        for entry in &node.inconclusive {
            *reasons.entry(entry.reason()).or_insert(0) += entry.count;
            sum += entry.count;
        }
    }
    Ok((sum, reasons))
}

/// What is wrong, as the text of a failed test.
pub(crate) fn text(complaints: &[String]) -> String {
    let mut text: String = complaints
        .iter()
        .take(SHOWN)
        .map(|line| format!("\n  {line}"))
        .collect();
    if complaints.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", complaints.len() - SHOWN));
    }
    format!("{} complaints:{text}", complaints.len())
}
