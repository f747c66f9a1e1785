#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;

use super::*;
use crate::attempt::{AttemptKey, Outcome};

pub(super) const SERVER_NETNS: NetnsCookie = NetnsCookie(2);
pub(super) const OTHER_NETNS: NetnsCookie = NetnsCookie(3);
pub(super) const CLIENT_NETNS: NetnsCookie = NetnsCookie(4);

/// Two pods, 10.1.0.2 and 10.1.0.3: the first is called. The asker's node has the pods 10.2.0.x; asked itself, it is here, too.
pub(super) struct Cluster {
    pub(super) gap: Option<(NetnsCookie, Gap)>,
    pub(super) lost: Option<(Instant, Instant)>,
    pub(super) unknown: bool,
}

pub(super) const CLUSTER: Cluster = Cluster {
    gap: None,
    lost: None,
    unknown: false,
};

pub(super) fn uid(name: &str) -> Uid {
    Uid(name.into())
}

impl Knowledge for Cluster {
    fn pod(&self, netns: NetnsCookie) -> Option<(NamespacedName, Uid)> {
        let name = match netns {
            SERVER_NETNS => "server",
            OTHER_NETNS => "other",
            CLIENT_NETNS => "client",
            _ => return None,
        };
        Some((NamespacedName::new("shop", name), uid(name)))
    }

    fn namespaces(
        &self,
        pod: Option<&Uid>,
        _: Instant,
        _: Instant,
        each: &mut dyn FnMut(NetnsCookie),
    ) -> bool {
        let mut any = false;
        for netns in [SERVER_NETNS, OTHER_NETNS, CLIENT_NETNS] {
            if pod.is_none_or(|pod| self.pod(netns).is_some_and(|(_, uid)| uid == *pod)) {
                any = true;
                each(netns);
            }
        }
        any && !self.unknown
    }

    fn gap(&self, netns: NetnsCookie, _: Instant, _: Instant) -> Option<Gap> {
        self.gap.and_then(|(of, gap)| (of == netns).then_some(gap))
    }

    fn lost(&self, _: Protocol, from: Instant, to: Instant) -> Option<Gap> {
        self.lost
            .is_some_and(|lost| lost.0 <= to && lost.1 >= from)
            .then_some(Gap::RecordsLost)
    }

    fn same_node(&self, client: IpAddr, asker: &Uid, _: Instant) -> bool {
        let client = client.to_string();
        *asker == uid("client")
            && ["10.2.0.", "fd00:2::"]
                .iter()
                .any(|pods| client.starts_with(pods))
    }

    fn stands_for_others(&self, ip: IpAddr) -> bool {
        let text = ip.to_string();
        !["10.1.0.", "10.2.0.", "10.3.0."]
            .iter()
            .any(|pods| text.starts_with(pods))
    }

    fn is_ours(&self, ip: IpAddr) -> bool {
        !self.stands_for_others(ip)
    }
}

pub(super) fn at(ms: u64) -> Instant {
    Instant(1_000 * Instant::SECOND + ms * 1_000_000)
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn key(protocol: Protocol, client: &str, server: &str, tag: u32) -> AttemptKey {
    AttemptKey {
        netns: SERVER_NETNS,
        protocol,
        client: address(client),
        server: address(server),
        tag,
    }
}

pub(super) const CLIENT: &str = "10.2.0.1:40000";
pub(super) const SERVER: &str = "10.1.0.2:80";
const SERVICE: &str = "10.96.0.1:8080";
const NODE: &str = "192.168.0.2:1234";

pub(super) fn tcp(client: &str, server: &str) -> AttemptKey {
    key(Protocol::Tcp, client, server, 7)
}

pub(super) fn question(key: &AttemptKey, ms: u64) -> Question {
    Question {
        side: Side::Destination,
        protocol: key.protocol,
        tag: key.tag,
        client: key.client,
        server: key.server,
        pod: Some(uid("server")),
        asker: Some(uid("client")),
        first: at(ms),
        last: at(ms),
    }
}

/// What is said of a question at last, and when (ms), by a memory of these attempts (each with its time and outcome).
pub(super) fn said_by(cluster: &Cluster, recent: &Recent, question: &Question) -> (Testimony, u64) {
    let empty = Recent::new(1, u64::MAX);
    let memories = match question.side {
        Side::Destination => Memories {
            destination: recent,
            source: &empty,
        },
        Side::Source => Memories {
            destination: &empty,
            source: recent,
        },
    };
    let mut answers = Answers::new(8, 10 * Instant::SECOND);
    let mut said = Vec::new();
    let asked = question.first.since(at(0)) / 1_000_000;
    answers.ask(1, question.clone(), at(asked), &mut said);
    for ms in (asked..).step_by(10) {
        answers.tick(at(ms), at(ms), memories, cluster, &mut said);
        if let Some((id, testimony)) = said.pop() {
            assert_eq!((id, answers.len()), (1, 0));
            assert!(answers.next_look().is_none());
            return (testimony, ms - asked);
        }
    }
    panic!("nothing was said");
}

pub(super) fn memory(attempts: &[(AttemptKey, u64, Outcome)]) -> Recent {
    let mut recent = Recent::new(1_024, 600 * Instant::SECOND);
    for (key, ms, outcome) in attempts {
        let place = recent.begin(key, at(*ms), false);
        recent.answered(place, key, *outcome, at(*ms + 1));
    }
    recent
}

pub(super) fn said(
    cluster: &Cluster,
    attempts: &[(AttemptKey, u64, Outcome)],
    q: &Question,
) -> Testimony {
    said_by(cluster, &memory(attempts), q).0
}

#[test]
fn seen_is_said_at_once_with_what_it_became() {
    for (outcome, expected) in [
        (Outcome::Accepted, Seen::Accepted),
        (Outcome::Refused, Seen::Refused),
        (Outcome::Unreachable, Seen::Unreachable),
        (Outcome::Silent, Seen::Unanswered),
    ] {
        let attempt = tcp(CLIENT, SERVER);
        let recent = memory(&[(attempt, 60_000, outcome)]);
        let (said, when) = said_by(&CLUSTER, &recent, &question(&attempt, 60_000));
        let Testimony::Seen(sighting) = said else {
            panic!("{said:?}");
        };
        assert_eq!(sighting.outcome, expected);
        assert_eq!(sighting.pod, CLUSTER.pod(SERVER_NETNS));
        assert_eq!(sighting.first, at(60_000));
        // An answer may be read just after the attempt.
        assert!(when <= 500, "{outcome:?} after {when} ms");
        assert_eq!(when == 0, outcome != Outcome::Silent);
    }
}

#[test]
fn not_seen_is_said_when_all_of_the_time_has_been_read() {
    let q = question(&tcp(CLIENT, SERVER), 60_000);
    let (said, when) = said_by(&CLUSTER, &memory(&[]), &q);
    assert_eq!(said, Testimony::NotSeen(Absence { control: None }));
    assert!((2_100..=2_600).contains(&when), "after {when} ms");
}

#[test]
fn translations_are_seen_through() {
    for (there, here) in [
        // The client's address and port.
        ((NODE, SERVER), (CLIENT, SERVER)),
        // A Service.
        ((CLIENT, SERVER), (CLIENT, SERVICE)),
        // A node port, and its masquerade.
        ((NODE, SERVER), (CLIENT, "192.168.0.9:30080")),
    ] {
        let seen = said(
            &CLUSTER,
            &[(tcp(there.0, there.1), 60_000, Outcome::Accepted)],
            &question(&tcp(here.0, here.1), 60_500),
        );
        let Testimony::Seen(sighting) = seen else {
            panic!("{seen:?}");
        };
        assert_eq!(sighting.client, address(there.0));
        assert_eq!(sighting.server, address(there.1));
        // The source's witness is asked from the other end.
        let departed = AttemptKey {
            netns: OTHER_NETNS,
            ..tcp(here.0, here.1)
        };
        let back = Question {
            side: Side::Source,
            pod: None,
            ..question(&tcp(there.0, there.1), 59_000)
        };
        let seen = said(&CLUSTER, &[(departed, 60_000, Outcome::Accepted)], &back);
        let Testimony::Seen(sighting) = seen else {
            panic!("{seen:?}");
        };
        assert_eq!(sighting.pod, CLUSTER.pod(OTHER_NETNS));
    }
}

#[test]
fn whatever_is_in_doubt_is_said() {
    let attempt = tcp(CLIENT, SERVER);
    let q = question(&attempt, 60_000);
    let own = (SERVER_NETNS, Gap::HookShared);
    let foreign = (OTHER_NETNS, Gap::NotAttached);
    let anybody = Question {
        pod: None,
        ..q.clone()
    };
    let stranger = Question {
        pod: Some(uid("stranger")),
        ..q.clone()
    };
    for (cluster, q, expected) in [
        (
            Cluster {
                gap: Some(own),
                ..CLUSTER
            },
            &q,
            Some(Gap::HookShared),
        ),
        (
            Cluster {
                gap: Some(foreign),
                ..CLUSTER
            },
            &q,
            None,
        ),
        (
            Cluster {
                gap: Some(foreign),
                ..CLUSTER
            },
            &anybody,
            Some(Gap::NotAttached),
        ),
        (CLUSTER, &anybody, None),
        (
            Cluster {
                unknown: true,
                ..CLUSTER
            },
            &anybody,
            Some(Gap::PodUnknown),
        ),
        (CLUSTER, &stranger, Some(Gap::PodUnknown)),
        (
            Cluster {
                lost: Some((at(61_900), at(63_000))),
                ..CLUSTER
            },
            &q,
            Some(Gap::RecordsLost),
        ),
        (
            Cluster {
                lost: Some((at(62_001), at(63_000))),
                ..CLUSTER
            },
            &q,
            None,
        ),
    ] {
        let expected = match expected {
            Some(gap) => Testimony::Incomplete(gap),
            None => Testimony::NotSeen(Absence { control: None }),
        };
        assert_eq!(said(&cluster, &[], q), expected);
        // What was seen was seen, whatever else was not.
        let seen = said(&cluster, &[(attempt, 60_000, Outcome::Accepted)], q);
        assert!(matches!(seen, Testimony::Seen(_)));
    }
}

#[test]
fn what_is_forgotten_was_not_unseen() {
    let mut recent = memory(&[]);
    recent.forget_before(at(58_000));
    let not_seen = Testimony::NotSeen(Absence { control: None });
    for (ms, expected) in [
        (60_000, &not_seen),
        (59_999, &Testimony::Incomplete(Gap::TooOld)),
    ] {
        let q = question(&tcp(CLIENT, SERVER), ms);
        assert_eq!(&said_by(&CLUSTER, &recent, &q).0, expected);
    }
}

#[test]
fn a_datagram_hidden_behind_an_earlier_one_is_neither_seen_nor_unseen() {
    let dns = |client: &str, server: &str| key(Protocol::Udp, client, server, 0);
    let q = question(&dns(CLIENT, "10.1.0.2:53"), 60_000);
    let service = question(&dns(CLIENT, "10.96.0.10:53"), 60_000);
    let seen = |at: Testimony| match at {
        Testimony::Seen(_) => "seen",
        Testimony::NotSeen(_) => "not seen",
        Testimony::Incomplete(Gap::NotSampled) => "hidden",
        Testimony::Incomplete(gap) => panic!("{gap:?}"),
    };
    for (client, server, ms, direct, through_service) in [
        (CLIENT, "10.1.0.2:53", 60_001, "seen", "seen"),
        (CLIENT, "10.1.0.2:53", 58_000, "seen", "seen"),
        // Another socket of the client, in the same tuple.
        ("10.2.0.1:40001", "10.1.0.2:53", 60_001, "seen", "seen"),
        (CLIENT, "10.1.0.2:53", 57_000, "hidden", "hidden"),
        (CLIENT, "10.1.0.2:53", 28_000, "hidden", "hidden"),
        (CLIENT, "10.1.0.2:53", 27_999, "not seen", "not seen"),
        // Another port of the pod: the Service may mean it.
        (CLIENT, "10.1.0.2:5353", 60_001, "not seen", "seen"),
        (
            "10.2.0.1:40001",
            "10.1.0.2:5353",
            60_001,
            "not seen",
            "hidden",
        ),
        // Somebody else; somebody who may be anybody.
        (
            "10.2.0.2:40000",
            "10.1.0.2:53",
            60_001,
            "not seen",
            "not seen",
        ),
        (NODE, "10.1.0.2:53", 40_000, "hidden", "hidden"),
        (NODE, "10.1.0.2:53", 20_000, "not seen", "not seen"),
    ] {
        let attempts = [(dns(client, server), ms, Outcome::Accepted)];
        let what = format!("{client} to {server} at {ms}");
        assert_eq!(seen(said(&CLUSTER, &attempts, &q)), direct, "{what}");
        assert_eq!(
            seen(said(&CLUSTER, &attempts, &service)),
            through_service,
            "{what} through a Service"
        );
    }
}

#[test]
fn who_sent_a_datagram_is_told_by_any_of_its_flow() {
    let sent = AttemptKey {
        netns: OTHER_NETNS,
        ..key(Protocol::Udp, CLIENT, "10.96.0.10:53", 0)
    };
    let q = Question {
        side: Side::Source,
        ..question(&key(Protocol::Udp, CLIENT, "10.1.0.2:53", 0), 60_000)
    };
    for ms in [30_000, 61_000] {
        let seen = said(&CLUSTER, &[(sent, ms, Outcome::Silent)], &q);
        assert!(matches!(seen, Testimony::Seen(_)), "{ms}: {seen:?}");
    }
    // Another socket's datagram hid it, if it went through the Service too.
    let other = AttemptKey {
        netns: CLIENT_NETNS,
        client: address("10.2.0.1:40001"),
        ..sent
    };
    for (called, expected) in [
        ("10.96.0.10:5353", Testimony::Incomplete(Gap::NotSampled)),
        (
            "10.1.0.3:5353",
            Testimony::NotSeen(Absence { control: None }),
        ),
    ] {
        let other = AttemptKey {
            server: address(called),
            ..other
        };
        let q = Question {
            pod: Some(uid("client")),
            ..q.clone()
        };
        assert_eq!(
            said(&CLUSTER, &[(other, 50_000, Outcome::Silent)], &q),
            expected
        );
    }
    // Who is behind a node's address cannot be told.
    let masked = Question {
        client: address(NODE),
        ..q
    };
    assert_eq!(
        said(&CLUSTER, &[(sent, 60_000, Outcome::Silent)], &masked),
        Testimony::Incomplete(Gap::NotSampled)
    );
}

#[test]
fn one_question_too_many_is_refused_and_none_waits_for_ever() {
    let recent = memory(&[]);
    let memories = Memories {
        destination: &recent,
        source: &recent,
    };
    let mut answers = Answers::new(2, 10 * Instant::SECOND);
    let mut said = Vec::new();
    // Of a time to come, and turned round.
    let mut q = question(&tcp(CLIENT, SERVER), 100_000);
    q.last = at(90_000);
    for id in 1..=3 {
        answers.ask(id, q.clone(), at(0), &mut said);
    }
    assert_eq!(said, [(3, Testimony::Incomplete(Gap::Overloaded))]);
    assert_eq!((answers.len(), answers.refused()), (2, 1));
    said.clear();
    for ms in (0..=10_500).step_by(100) {
        answers.tick(at(ms), at(ms), memories, &CLUSTER, &mut said);
    }
    said.sort_by_key(|(id, _)| *id);
    let late = Testimony::Incomplete(Gap::TimedOut);
    assert_eq!(said, [(1, late.clone()), (2, late)]);
}
