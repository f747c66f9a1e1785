//! A simulated cluster under churn: nodes with clocks of their own, pods that inherit addresses, policies and labels that change, an enforcer
//! that follows within the grace time, addresses that are translated, records that come late or never, agents that are killed.
//! Nobody is accused while the enforcer works; what it lets through for good is found.
//!
//! `POLPROOF_CLUSTERS=10000 cargo test -p polproof-flow --release --test cluster` runs more of them, from seed `POLPROOF_SEED` on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub,
    missing_docs
)]

mod town;
mod world;

use std::collections::BTreeSet;

use polproof_flow::finding::{End, FindingKey, FindingKind, Recovery, RecoveryCause};
use polproof_policy::Protocol;
use town::agents::Agents;
use town::wire::{Call, Wire};
use town::{Dice, FULL, Plan, Town};
use world::pair::Sum;

/// True time goes in steps of so many milliseconds.
const STEP: u64 = 100;
/// By then every agent that runs has been told of a change.
const TOLD: u64 = 1_600;

struct Run {
    town: Town,
    agents: Agents,
    wire: Wire,
}

fn plan(dice: &mut Dice, inert: bool) -> Plan {
    let end = 200_000;
    let cuts = (0..dice.between(0, 3))
        .map(|_| {
            let from = dice.between(50_000, end);
            let length = dice.of(&[700, 3_000, 8_000, 40_000]);
            let one = dice.between(0, 3) as usize;
            (one, (one + 1) % 3, from, from + dice.between(100, length))
        })
        .collect();
    let weather = dice.often(70);
    Plan {
        end,
        lag: dice.of(&[0, 300, 5_000, 25_000]),
        stateful: dice.often(50),
        rejects: dice.between(0, 3),
        // Those whom a policy selects at first.
        inert: inert.then(|| (dice.between(0, 60_000), dice.of(&[0, 5, 6]))),
        cuts,
        weather,
        loss: if weather { dice.of(&[0, 0, 1, 5]) } else { 0 },
    }
}

fn run(seed: u64, inert: bool) -> Run {
    let mut dice = Dice::new(seed);
    let plan = plan(&mut dice, inert);
    let end = plan.end;
    let weather = plan.weather;
    let mut town = Town::new(dice.next(), plan);
    let mut agents = Agents::new(&mut dice);
    let mut wire = Wire::new();
    let bodies = town.bodies.clone();
    for body in &bodies {
        agents.born(&mut town.dice, body);
    }
    let first = town.log[0].1.clone();
    agents.view(&mut town.dice, 0, &first);
    let mut told = bodies.len();
    let mut change = 45_000;
    let mut weather_at = 60_000;
    let mut now = 1_000;
    while now < end + 60_000 {
        now += STEP;
        if now < end && now >= change {
            change = now + town.dice.of(&[500, 3_000, 12_000, 35_000, 80_000]);
            if let Some(dead) = town.change(now) {
                let body = town.bodies[dead].clone();
                agents.died(&mut town.dice, &body, now);
            }
        }
        for n in told..town.bodies.len() {
            let body = town.bodies[n].clone();
            agents.born(&mut town.dice, &body);
        }
        if told < town.bodies.len() {
            told = town.bodies.len();
            wire.forget();
        }
        if town.tick(now) {
            let view = town.truth(now).clone();
            agents.view(&mut town.dice, now, &view);
        }
        if weather && now < end && now >= weather_at {
            weather_at = now + town.dice.between(1_000, 15_000);
            agents.befall(&mut town, now);
        }
        if (40_000..end).contains(&now) {
            for _ in 0..town.dice.between(0, 3) {
                wire.call(&mut town, now);
            }
        }
        wire.send(&mut town, &mut agents, now);
        agents.tick(&mut town, now);
    }
    Run { town, agents, wire }
}

impl Run {
    /// The bodies that a finding names.
    fn ends(&self, key: &FindingKey) -> Option<(usize, usize)> {
        let of = |end: &End| match end {
            End::Pod(_, uid) => self.town.bodies.iter().position(|body| body.uid == *uid),
            End::Node(_) | End::External => None,
        };
        Some((of(&key.source)?, of(&key.destination)?))
    }

    fn findings(&self) -> impl Iterator<Item = (&FindingKey, &Sum)> {
        let books = self.agents.books();
        books.flat_map(|book| book.findings.iter().map(|(key, sum)| (&**key, sum)))
    }

    fn is_inert(&self, key: &FindingKey) -> bool {
        let place = self.ends(key).map(|(_, to)| self.town.bodies[to].place);
        self.town
            .plan
            .inert
            .is_some_and(|(_, of)| place == Some(of))
    }

    /// Whether the way was cut so soon after something had got through that this looks like enforcement: the witnesses look ten seconds far.
    /// A single packet that was lost looks like it, too.
    fn may_be_cut(&self, key: &FindingKey, over: &Recovery) -> bool {
        let Some(ends) = self.ends(key) else {
            return false;
        };
        if self.town.plan.loss > 0 {
            return true;
        }
        let at = self
            .agents
            .true_time(self.town.bodies[ends.1].node, over.at);
        (at.saturating_sub(1_000)..at + 1_000).any(|at| self.town.is_cut(at, ends))
    }

    /// Whether labels changed and changed back while the agent that judges was killed, or just before, which it was not told of.
    fn may_be_hidden(&self, key: &FindingKey) -> bool {
        let Some(ends) = self.ends(key) else {
            return false;
        };
        let judge = self.town.bodies[ends.1].node;
        self.agents.restarts.iter().any(|(node, from, to)| {
            *node == judge
                && self
                    .town
                    .relabelled(from.saturating_sub(TOLD), to + STEP, ends)
        })
    }

    /// Nothing is said that is not so.
    fn nothing_false(&self, seed: u64) {
        for (key, sum) in self.findings() {
            assert_eq!(
                sum.observed,
                sum.settled + sum.retracted,
                "seed {seed}: {key:#?} {sum:#?}"
            );
            assert!(sum.witnessed <= sum.settled, "seed {seed}: {key:?} {sum:?}");
            let inert = self.is_inert(key);
            for over in &sum.recovered {
                assert!(
                    !(inert && over.cause == RecoveryCause::Enforced) || self.may_be_cut(key, over),
                    "seed {seed}: over? {key:#?} {sum:#?}"
                );
            }
            let true_kind = match key.kind {
                FindingKind::Unenforced
                | FindingKind::LateEnforcement
                | FindingKind::StartupGap => inert,
                FindingKind::OverBlocked | FindingKind::ReplyLost => false,
                FindingKind::Survivor => inert || self.town.plan.stateful,
            };
            assert!(
                true_kind || sum.settled == 0 || self.may_be_hidden(key),
                "seed {seed}: {key:#?} {sum:#?}\n{:#?}",
                self.town.plan
            );
        }
        let proofs: u64 = self.agents.books().map(|b| b.judged.denied_stopped).sum();
        let stopped = self
            .wire
            .calls
            .iter()
            .filter(|call| call.stopped || call.lost)
            .count() as u64;
        assert!(proofs <= stopped, "seed {seed}: {proofs} of {stopped}");
    }

    /// What was let through for good, in fair weather and by its own address, is found.
    fn all_found(&self, seed: u64) -> usize {
        let town = &self.town;
        let found: BTreeSet<_> = self
            .findings()
            .filter(|(key, sum)| key.kind == FindingKind::Unenforced && sum.settled > 0)
            .filter_map(|(key, _)| Some((self.ends(key)?, key.protocol, key.port)))
            .collect();
        let must = |call: &&Call| {
            let Some(at) = call.delivered else {
                return false;
            };
            let old = |n: usize| town.bodies[n].born + 60_000 < at;
            let stays = |n: usize| town.bodies[n].died.is_none_or(|died| died > at + 20_000);
            let (from, to) = call.ends;
            let way = (call.protocol, call.server.port());
            !call.translated
                && call.protocol != Protocol::Udp
                && (call.answered || way.1 == FULL)
                && [from, to].into_iter().all(|n| old(n) && stays(n))
                && at + 20_000 < town.plan.end
                && town.denied(at - 50_000, at + 15_000, call.ends, way)
        };
        let mut count = 0;
        for call in self.wire.calls.iter().filter(must) {
            count += 1;
            let what = (call.ends, call.protocol, call.server.port());
            assert!(
                town.plan.weather || found.contains(&what),
                "seed {seed}: missed {call:#?}\n{:#?}",
                town.plan
            );
        }
        count
    }
}

fn number(name: &str) -> Option<u64> {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long to try is up to who tries"
    )]
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

fn seeds(few: u64) -> std::ops::Range<u64> {
    let first = number("POLPROOF_SEED").unwrap_or(1);
    first..first + number("POLPROOF_CLUSTERS").unwrap_or(few)
}

#[test]
fn nobody_is_accused_while_the_enforcer_works() {
    for seed in seeds(10) {
        let run = run(seed, false);
        run.nothing_false(seed);
    }
}

#[test]
fn an_enforcer_that_ignores_a_pod_is_found_out_and_never_said_to_work() {
    let mut count = 0;
    for seed in seeds(10) {
        let run = run(seed + 1_000_000, true);
        run.nothing_false(seed + 1_000_000);
        count += run.all_found(seed + 1_000_000);
    }
    assert!(count > 0, "nothing was shown");
}
