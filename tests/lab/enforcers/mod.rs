//! Every enforcer of the catalogue, without agents: what it says of an attempt is what happens to its packets.
//!
//! One story for all of them: policies in force, policies changed while connections are open, a new pod, whatever else must befall it for its nature to
//! show, and its end, after which everything is open and nothing is left.

mod story;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use polproof_policy::Protocol;
use polproof_tests::lab::Lab;
use polproof_tests::lab::enforcers::{Case, Entry, Fate, How, catalogue};

use self::wire::{Client, Echo, Packet, Witness, begin};
use crate::Scenario;

pub(crate) fn scenarios() -> Vec<Scenario> {
    catalogue()
        .iter()
        .map(|entry| {
            Scenario::network(format!("enforcer: {}", entry.name), move |lab| {
                story::tell(lab, entry)
            })
            .missing(entry.missing())
        })
        .chain([Scenario::network(
            "enforcer: an agent that died on one node",
            story::one_agent_dies,
        )])
        .collect()
}

/// How long what must not arrive is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long what must arrive is waited for, on a busy machine.
const LIMIT: Duration = Duration::from_secs(8);

/// The lab with a witness and an echo in every pod.
struct Bench<'a> {
    lab: &'a mut Lab,
    entry: &'a Entry,
    witnesses: BTreeMap<String, Witness>,
    echoes: BTreeMap<String, Echo>,
    numbers: u16,
    /// Fates that were seen, and how often.
    seen: BTreeMap<String, u32>,
}

/// One attempt under way, and what the enforcer said of it.
struct Attempt {
    from: String,
    to: String,
    client: Client,
    fate: Fate,
}

/// What the wire said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    arrived: bool,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Destination,
    Reset,
    Error(u8, u8),
}

impl Bench<'_> {
    fn take_seat(&mut self, pod: &str) -> Result<()> {
        let netns = self.lab.pod(pod)?.netns();
        self.witnesses
            .insert(pod.to_owned(), Witness::attach(netns)?);
        self.echoes
            .insert(pod.to_owned(), Echo::serve(netns, &[53, 54])?);
        Ok(())
    }

    fn address(&self, pod: &str, v6: bool) -> Result<IpAddr> {
        let [four, six] = self.lab.pod(pod)?.addresses();
        Ok(if v6 { six } else { four })
    }

    /// Begins attempts of all protocols, families and ports between the pods.
    fn begin(&mut self, pairs: &[(&str, &str)]) -> Result<Vec<Attempt>> {
        let mut attempts = Vec::new();
        for (from, to) in pairs {
            for v6 in [false, true] {
                for (protocol, port) in [
                    (Protocol::Tcp, 5432),
                    (Protocol::Tcp, 80),
                    (Protocol::Udp, 53),
                    (Protocol::Udp, 54),
                    (Protocol::Sctp, 5432),
                ] {
                    attempts.push(self.attempt(from, to, v6, protocol, port)?);
                }
            }
        }
        Ok(attempts)
    }

    fn attempt(
        &mut self,
        from: &str,
        to: &str,
        v6: bool,
        protocol: Protocol,
        port: u16,
    ) -> Result<Attempt> {
        self.numbers += 1;
        let own = self.address(from, v6)?;
        let at = SocketAddr::new(self.address(to, v6)?, port);
        let sent = Instant::now();
        let client = begin(self.lab.pod(from)?.netns(), own, protocol, at, self.numbers)?;
        let case = Case {
            source: client.tuple.from,
            ..Case::direct(protocol, own, at)
        };
        Ok(Attempt {
            from: from.to_owned(),
            to: to.to_owned(),
            client,
            fate: self.lab.enforcer().fate(&case.sent(sent, Instant::now())),
        })
    }

    /// Lets packets go to and fro for that long.
    fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.echoes.values().for_each(Echo::answer);
            self.witnesses.values_mut().for_each(Witness::look);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn outcome(&self, attempt: &Attempt) -> Result<Outcome> {
        let tuple = attempt.client.tuple;
        let there = wire::Tuple {
            from: tuple.to,
            to: tuple.from,
            ..tuple
        };
        let at = |pod: &str| self.witnesses.get(pod).context("no witness");
        let straight = |packet: &&Packet| matches!(packet, Packet::Straight { .. });
        let source = at(&attempt.from)?;
        let mut answer = Answer::Nothing;
        for packet in source.of(&there).iter().chain(source.of(&tuple)) {
            answer = match packet {
                Packet::Straight { flags, .. } if flags & 4 != 0 => Answer::Reset,
                Packet::Straight { .. } => Answer::Destination,
                Packet::Error(kind, code) => Answer::Error(*kind, *code),
            };
            if answer == Answer::Destination {
                break;
            }
        }
        let arrived = at(&attempt.to)?.of(&tuple).iter().find(straight).is_some();
        Ok(Outcome { arrived, answer })
    }

    /// Waits, and holds every attempt against what was said of it.
    fn check(&mut self, when: &str, attempts: &[Attempt]) -> Result<()> {
        let began = Instant::now();
        self.wait(PATIENCE);
        while began.elapsed() < LIMIT {
            let mut missing = attempts
                .iter()
                .filter(|attempt| attempt.fate == Fate::Passes);
            if missing.all(|attempt| self.outcome(attempt).is_ok_and(|it| agrees(attempt, it))) {
                break;
            }
            self.wait(Duration::from_millis(50));
        }
        let mut wrong = Vec::new();
        for attempt in attempts {
            let outcome = self.outcome(attempt)?;
            let name = match attempt.fate {
                Fate::Dies(How::IcmpThenSilence) if outcome.answer == Answer::Nothing => {
                    "IcmpThenSilence: silence".to_owned()
                }
                fate => format!("{fate:?}"),
            };
            *self.seen.entry(name).or_default() += 1;
            if !agrees(attempt, outcome) {
                let Attempt {
                    from,
                    to,
                    client,
                    fate,
                } = attempt;
                wrong.push(format!(
                    "{from} to {to}, {:?}: {fate:?}, but {outcome:?}",
                    client.tuple
                ));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        wrong.truncate(12);
        bail!(
            "{} {when}: what it says is not what happens:\n{}",
            self.entry.name,
            wrong.join("\n")
        )
    }

    /// How often a fate that begins so was seen.
    fn seen(&self, fate: &str) -> u32 {
        let of_it = self.seen.iter().filter(|(name, _)| name.starts_with(fate));
        of_it.map(|(_, count)| count).sum()
    }

    /// Says more on open connections after a change, and checks what of it arrives.
    fn check_old(&mut self, opened: Instant, attempts: &[Attempt]) -> Result<()> {
        let mut expected = Vec::new();
        for attempt in attempts
            .iter()
            .filter(|attempt| attempt.fate == Fate::Passes)
        {
            let tuple = attempt.client.tuple;
            let protocol = match tuple.protocol {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                _ => continue,
            };
            let before = self.said(attempt)?;
            let now = Instant::now();
            attempt.client.say_more();
            let case = Case {
                source: tuple.from,
                ..Case::direct(protocol, tuple.from.ip(), tuple.to)
            };
            let case = case.sent(now, Instant::now()).of_connection_opened(opened);
            expected.push((attempt, before, self.lab.enforcer().fate(&case)));
        }
        let began = Instant::now();
        self.wait(PATIENCE);
        while began.elapsed() < LIMIT {
            let mut missing = expected.iter().filter(|(_, _, fate)| *fate == Fate::Passes);
            if missing.all(|(attempt, before, _)| self.said(attempt).is_ok_and(|it| it > *before)) {
                break;
            }
            self.wait(Duration::from_millis(50));
        }
        for (attempt, before, fate) in expected {
            let arrived = self.said(attempt)? > before;
            *self.seen.entry(format!("old {fate:?}")).or_default() += 1;
            let agrees = match fate {
                Fate::Passes | Fate::ReplyDies => arrived,
                Fate::Dies(_) => !arrived,
                Fate::Either => true,
            };
            ensure!(
                agrees,
                "{}: an old connection, {:?}: {fate:?}, but arrived: {arrived}",
                self.entry.name,
                attempt.client.tuple
            );
        }
        Ok(())
    }

    /// Packets with a payload that came to the destination.
    fn said(&self, attempt: &Attempt) -> Result<usize> {
        let witness = self.witnesses.get(&attempt.to).context("no witness")?;
        let packets = witness.of(&attempt.client.tuple).iter();
        Ok(packets
            .filter(|packet| matches!(packet, Packet::Straight { payload: true, .. }))
            .count())
    }
}

fn agrees(attempt: &Attempt, outcome: Outcome) -> bool {
    let v6 = attempt.client.tuple.to.is_ipv6();
    let answered = match attempt.client.tuple.protocol {
        // A kernel without SCTP has another answer: unknown protocol, or next header.
        132 => !matches!(
            outcome.answer,
            Answer::Error(3, 13 | 3) | Answer::Error(1, _)
        ),
        _ => outcome.answer == Answer::Destination,
    };
    let error = |v4: (u8, u8), v6_: (u8, u8)| {
        let (kind, code) = if v6 { v6_ } else { v4 };
        outcome.answer == Answer::Error(kind, code)
    };
    match attempt.fate {
        Fate::Either => true,
        Fate::Passes => outcome.arrived && answered,
        Fate::ReplyDies => {
            // The answer to an INIT is no packet of the connection.
            let init = attempt.client.tuple.protocol == 132;
            outcome.arrived && (init || outcome.answer == Answer::Nothing)
        }
        Fate::Dies(how) => {
            !outcome.arrived
                && match how {
                    How::Silence => outcome.answer == Answer::Nothing,
                    How::TcpReset => outcome.answer == Answer::Reset,
                    How::IcmpAdminProhibited => error((3, 13), (1, 1)),
                    How::IcmpPortUnreachable => error((3, 3), (1, 4)),
                    How::IcmpThenSilence => {
                        outcome.answer == Answer::Nothing || error((3, 3), (1, 4))
                    }
                }
        }
    }
}
