//! Whatever is translated, lost on the way, sampled by the kernel, evicted or told with a wrong time: nobody says "not seen" of what was
//! delivered, nor "seen" of what was not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::tests::{CLIENT_NETNS, CLUSTER, OTHER_NETNS, SERVER_NETNS, address, at, question, uid};
use super::*;
use crate::attempt::AttemptKey;
use crate::attempt::sides::Sides;
use crate::record::{Crossing, Event, Record};
use crate::settings::Settings;

const SERVERS: [(&str, NetnsCookie); 2] = [("10.1.0.2", SERVER_NETNS), ("10.1.0.3", OTHER_NETNS)];
const NODE: &str = "192.168.0.2";
const SERVICE: &str = "10.96.0.1";

/// One SYN or INIT, or one datagram, as it leaves its source.
#[derive(Clone, Debug)]
struct Plan {
    ms: u64,
    client: u8,
    port: u16,
    server: usize,
    /// Through a Service, which translates the port too.
    service: bool,
    masked: bool,
    delivered: bool,
    answered: bool,
    repeated: bool,
    /// How wrong the time of the question is.
    wrong: i64,
    /// How late each of its records is read.
    late: [u64; 3],
    /// The kernel has forgotten the tuple.
    forgotten: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        (0..100_000_u64, 1..4_u8, 0..3_u16, 0..2_usize),
        any::<[bool; 6]>(),
        -1_900..=1_900_i64,
        proptest::array::uniform3(0..45_u64),
    )
        .prop_map(|((ms, client, port, server), flags, wrong, late)| Plan {
            ms,
            client,
            port,
            server,
            service: flags[0],
            masked: flags[1] && flags[2],
            delivered: flags[3],
            answered: flags[4],
            repeated: flags[5],
            wrong,
            late,
            forgotten: flags[1] && flags[5],
        })
}

impl Plan {
    fn client(&self) -> SocketAddr {
        address(&format!("10.2.0.{}:{}", self.client, 40_000 + self.port))
    }
    /// As the destination sees it.
    fn seen_client(&self) -> SocketAddr {
        if self.masked {
            address(&format!("{NODE}:{}", 10_000 + self.port))
        } else {
            self.client()
        }
    }
    /// As the source calls it.
    fn called(&self) -> SocketAddr {
        if self.service {
            address(&format!("{SERVICE}:8080"))
        } else {
            self.server()
        }
    }
    fn server(&self) -> SocketAddr {
        address(&format!("{}:80", SERVERS[self.server].0))
    }
    fn key(&self, protocol: Protocol, tag: u32) -> AttemptKey {
        AttemptKey {
            netns: SERVERS[self.server].1,
            protocol,
            client: self.client(),
            server: self.called(),
            tag,
        }
    }
    fn question(&self, protocol: Protocol, tag: u32) -> Question {
        let wrong = |ms: u64| (ms + 10_000).checked_add_signed(self.wrong).unwrap();
        Question {
            pod: CLUSTER.pod(SERVERS[self.server].1).map(|(_, uid)| uid),
            first: at(wrong(self.ms)),
            last: at(wrong(self.ms + if self.repeated { 1_000 } else { 0 })),
            ..question(&self.key(protocol, tag), 0)
        }
    }
    fn record(&self, protocol: Protocol, event: Event, ms: u64, back: bool) -> Record {
        let (client, server) = (self.seen_client(), self.server());
        let (crossing, source, destination) = if back {
            (Crossing::Out, server, client)
        } else {
            (Crossing::In, client, server)
        };
        Record {
            at: at(ms + 10_000),
            netns: SERVERS[self.server].1,
            crossing,
            protocol,
            source,
            destination,
            event,
        }
    }
}

/// What a witness says who reads these records (each so late), and is asked these questions (each at that time).
fn witness(
    settings: &Settings,
    mut records: Vec<(u64, Record)>,
    questions: Vec<(u64, u64, Question)>,
) -> HashMap<u64, Testimony> {
    let mut sides = Sides::new(settings);
    let mut answers = Answers::new(10_000, 10 * Instant::SECOND);
    let mut said = Vec::new();
    records.sort_by_key(|(late, record)| record.at.plus(late * 1_000_000));
    let mut records = records.into_iter().peekable();
    let mut questions = {
        let mut questions = questions;
        questions.sort_by_key(|(when, ..)| *when);
        questions.into_iter().peekable()
    };
    for n in 0..1_300 {
        let now = at(n * 100);
        while let Some((_, record)) =
            records.next_if(|(late, record)| record.at.plus(late * 1_000_000) <= now)
        {
            sides.read(&record);
        }
        sides.tick(now);
        while let Some((_, id, question)) = questions.next_if(|(when, ..)| *when <= n * 100) {
            answers.ask(id, question, now, &mut said);
        }
        let memories = Memories {
            destination: sides.destination.recent(),
            source: sides.source.recent(),
        };
        answers.tick(now, now, memories, &CLUSTER, &mut said);
        assert!(sides.destination.recent().len() <= settings.max_remembered);
    }
    assert_eq!(answers.len(), 0, "everything is answered");
    said.into_iter().collect()
}

/// TCP or SCTP, one attempt for each plan; what is said of each.
fn attempts(settings: &Settings, protocol: Protocol, plans: &[Plan]) -> Vec<(bool, Testimony)> {
    let mut records = Vec::new();
    let mut questions = Vec::new();
    for (n, plan) in (0_u32..).zip(plans) {
        // Apart, but many with the same low bits.
        let tag = n << 16;
        let (begin, accept) = match protocol {
            Protocol::Sctp => (Event::Init { tag }, Event::InitAck { tag }),
            _ => (
                Event::Syn { isn: tag },
                Event::SynAck {
                    acknowledgement: tag.wrapping_add(1),
                },
            ),
        };
        if plan.delivered {
            let record = |event, ms, back| plan.record(protocol, event, ms, back);
            records.push((plan.late[0], record(begin, plan.ms, false)));
            if plan.repeated {
                records.push((plan.late[1], record(begin, plan.ms + 1_000, false)));
            }
            if plan.answered {
                records.push((plan.late[2], record(accept, plan.ms, true)));
            }
        }
        let when = plan.ms + 10_000 + plan.late.iter().sum::<u64>() * 30;
        questions.push((when, u64::from(n), plan.question(protocol, tag)));
    }
    let said = witness(settings, records, questions);
    plans
        .iter()
        .zip(0_u64..)
        .map(|(plan, n)| (plan.delivered, said[&n].clone()))
        .collect()
}

/// UDP: what the two kernels record of these datagrams, and what is said of each that its source takes for an attempt.
fn datagrams(settings: &Settings, plans: &[Plan]) -> Vec<(Plan, Testimony)> {
    const HELD: u64 = 30_000;
    const IDLE: u64 = 210_000;
    let mut plans = plans.to_vec();
    plans.sort_by_key(|plan| plan.ms);
    let mut source: HashMap<(u8, SocketAddr), u64> = HashMap::new();
    let mut kernel: HashMap<(bool, IpAddr, IpAddr, u16), u64> = HashMap::new();
    let mut records = Vec::new();
    let mut questions = Vec::new();
    for (n, plan) in (0_u64..).zip(&plans) {
        let last = source.insert((plan.client, plan.called()), plan.ms);
        if last.is_none_or(|last| last + IDLE <= plan.ms) {
            let once = Plan {
                repeated: false,
                ..plan.clone()
            };
            let question = once.question(Protocol::Udp, 0);
            questions.push((plan.ms + 10_000 + plan.late[0] * 50, n, question));
        }
        if !plan.delivered {
            continue;
        }
        for back in [false, true] {
            if back && !plan.answered {
                continue;
            }
            let (client, server) = (plan.seen_client(), plan.server());
            let port = client.port().min(server.port());
            let tuple = (back, server.ip(), client.ip(), port);
            let held = kernel.get(&tuple).is_some_and(|at| at + HELD > plan.ms);
            if !held || plan.forgotten {
                kernel.insert(tuple, plan.ms);
                let record = plan.record(Protocol::Udp, Event::Datagram, plan.ms, back);
                records.push((plan.late[usize::from(back)], record));
            }
        }
    }
    let said = witness(settings, records, questions);
    said.into_iter()
        .map(|(n, testimony)| (plans[usize::try_from(n).unwrap()].clone(), testimony))
        .collect()
}

/// UDP the other way: what the kernel at the source records of these datagrams, and what is said there of each that its destination takes
/// for an attempt.
fn senders(settings: &Settings, plans: &[Plan]) -> Vec<(Plan, Testimony)> {
    const HELD: u64 = 30_000;
    const IDLE: u64 = 210_000;
    let mut plans = plans.to_vec();
    plans.sort_by_key(|plan| plan.ms);
    let mut kernel: HashMap<(SocketAddr, IpAddr), u64> = HashMap::new();
    let mut arrived: HashMap<(IpAddr, SocketAddr), u64> = HashMap::new();
    let mut records = Vec::new();
    let mut questions = Vec::new();
    for (n, plan) in (0_u64..).zip(&plans) {
        let tuple = (plan.called(), plan.client().ip());
        let held = kernel.get(&tuple).is_some_and(|at| at + HELD > plan.ms);
        if !held || plan.forgotten {
            kernel.insert(tuple, plan.ms);
            let record = Record {
                netns: CLIENT_NETNS,
                crossing: Crossing::Out,
                source: plan.client(),
                destination: plan.called(),
                ..plan.record(Protocol::Udp, Event::Datagram, plan.ms, false)
            };
            records.push((plan.late[0], record));
        }
        if !plan.delivered {
            continue;
        }
        let last = arrived.insert((plan.seen_client().ip(), plan.server()), plan.ms);
        if last.is_none_or(|last| last + IDLE <= plan.ms) {
            let once = Plan {
                repeated: false,
                ..plan.clone()
            };
            let question = Question {
                side: Side::Source,
                client: plan.seen_client(),
                server: plan.server(),
                pod: Some(uid("client")),
                ..once.question(Protocol::Udp, 0)
            };
            questions.push((plan.ms + 10_000 + plan.late[0] * 50, n, question));
        }
    }
    let said = witness(settings, records, questions);
    said.into_iter()
        .map(|(n, testimony)| (plans[usize::try_from(n).unwrap()].clone(), testimony))
        .collect()
}

fn roomy() -> Settings {
    Settings {
        max_attempts: 4_096,
        max_remembered: 4_096,
        max_flows: 1_024,
        ..Settings::default()
    }
}

fn scanty() -> Settings {
    Settings {
        max_attempts: 8,
        max_remembered: 8,
        max_early: 4,
        max_flows: 4,
        remember: 5 * Instant::SECOND,
        ..Settings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn with_room_enough_what_was_delivered_is_seen_and_the_rest_is_not(
        plans in proptest::collection::vec(plan(), 1..80),
        sctp in any::<bool>(),
    ) {
        let protocol = if sctp { Protocol::Sctp } else { Protocol::Tcp };
        for ((delivered, said), plan) in attempts(&roomy(), protocol, &plans).iter().zip(&plans) {
            match said {
                Testimony::Seen(sighting) => {
                    prop_assert!(delivered);
                    prop_assert_eq!(sighting.first, at(plan.ms + 10_000));
                    prop_assert_eq!(sighting.client, plan.seen_client());
                    prop_assert_eq!(sighting.outcome == Seen::Accepted, plan.answered);
                }
                Testimony::NotSeen(_) => prop_assert!(!delivered),
                Testimony::Incomplete(gap) => prop_assert!(false, "{gap:?} of {plan:?}"),
            }
        }
    }

    #[test]
    fn without_room_nothing_delivered_is_denied(
        plans in proptest::collection::vec(plan(), 1..80),
    ) {
        // So many at a time that most are forgotten before they are asked for.
        let crowd: Vec<Plan> = plans
            .iter()
            .map(|plan| Plan { ms: plan.ms / 50, ..plan.clone() })
            .collect();
        for (delivered, said) in attempts(&scanty(), Protocol::Tcp, &crowd) {
            match said {
                Testimony::Seen(_) => prop_assert!(delivered),
                Testimony::NotSeen(_) => prop_assert!(!delivered),
                Testimony::Incomplete(gap) => prop_assert_eq!(gap, Gap::TooOld),
            }
        }
    }

    #[test]
    fn no_datagram_is_denied_that_was_delivered(
        plans in proptest::collection::vec(plan(), 1..60),
        room in any::<bool>(),
    ) {
        let settings = if room { roomy() } else { scanty() };
        for (plan, said) in datagrams(&settings, &plans) {
            match said {
                // Of the same client and to the same pod, at that time: which of them it was nobody can tell.
                Testimony::Seen(sighting) => {
                    let delivered = plans.iter().any(|other| {
                        other.delivered
                            && other.seen_client() == sighting.client
                            && other.server() == sighting.server
                            && other.ms.abs_diff(plan.ms) <= 4_000
                    });
                    prop_assert!(delivered, "{sighting:?}");
                }
                Testimony::NotSeen(_) => prop_assert!(!plan.delivered, "{plan:?}"),
                Testimony::Incomplete(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_datagram_is_denied_that_was_sent(
        plans in proptest::collection::vec(plan(), 1..60),
        room in any::<bool>(),
    ) {
        let settings = if room { roomy() } else { scanty() };
        for (plan, said) in senders(&settings, &plans) {
            match said {
                Testimony::Seen(sighting) => {
                    prop_assert!(!plan.masked);
                    prop_assert_eq!(sighting.client.ip(), plan.client().ip());
                }
                Testimony::NotSeen(_) => prop_assert!(false, "{plan:?}"),
                Testimony::Incomplete(_) => {}
            }
        }
    }
}

#[test]
fn most_datagrams_are_told_of_where_nothing_hides_them() {
    let plans: Vec<Plan> = (0..60_u64)
        .map(|n| Plan {
            ms: n * 1_500,
            client: u8::try_from(n).unwrap(),
            port: 0,
            server: 0,
            service: n % 3 == 0,
            masked: false,
            delivered: n % 2 == 0,
            answered: true,
            repeated: false,
            wrong: 0,
            late: [0; 3],
            forgotten: false,
        })
        .collect();
    let said = datagrams(&roomy(), &plans);
    assert_eq!(said.len(), 60);
    for (plan, said) in said {
        match said {
            Testimony::Seen(_) => assert!(plan.delivered),
            Testimony::NotSeen(_) => assert!(!plan.delivered),
            Testimony::Incomplete(gap) => panic!("{gap:?} of {plan:?}"),
        }
    }
}
