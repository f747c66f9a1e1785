#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

const NETNS: NetnsCookie = NetnsCookie(1);
const CLIENT: &str = "10.1.0.1:40000";
const SERVER: &str = "10.1.0.2:53";
/// Long after the start.
const T: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant((T + ms) * 1_000_000)
}

fn datagram(crossing: Crossing, from: &str, to: &str, ms: u64) -> Record {
    Record {
        at: at(ms),
        netns: NETNS,
        crossing,
        protocol: Protocol::Udp,
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        event: Event::Datagram,
    }
}

/// At the server.
fn there(ms: u64) -> Record {
    datagram(Crossing::In, CLIENT, SERVER, ms)
}

fn back(ms: u64) -> Record {
    datagram(Crossing::Out, SERVER, CLIENT, ms)
}

fn error(crossing: Crossing, reporter: &str, code: u8, ms: u64) -> Record {
    Record {
        event: Event::Unreachable {
            reporter: reporter.parse().unwrap(),
            icmp_type: 3,
            code,
            quoted_sequence: 0,
        },
        ..datagram(crossing, CLIENT, SERVER, ms)
    }
}

fn flows() -> Flows {
    let mut flows = Flows::new(&Settings::default());
    flows.due(Instant(0), &mut |_, _| ());
    flows
}

/// What is told of these records, read one after the other, with announcements when they are due and at the end.
fn told(flows: &mut Flows, records: &[Record]) -> Vec<(Instant, Side, SocketAddr, Signal)> {
    let mut told = Vec::new();
    for record in records {
        // As a horizon is: everything before has been read, but for the skew.
        flows.due(record.at.minus(SKEW), &mut |(side, key, signal), at| {
            told.push((at, side, key.client, signal));
        });
        if let Some((side, key, signal)) = flows.read(record) {
            told.push((record.at, side, key.client, signal));
        }
    }
    let end = records.iter().map(|record| record.at).max().unwrap();
    flows.due(end.plus(SKEW), &mut |(side, key, signal), at| {
        told.push((at, side, key.client, signal));
    });
    told
}

fn begun(ms: u64, side: Side, client: &str) -> (Instant, Side, SocketAddr, Signal) {
    let signal = Signal::Begun { unsure: false };
    (at(ms), side, client.parse().unwrap(), signal)
}

fn answered(ms: u64, side: Side, client: &str) -> (Instant, Side, SocketAddr, Signal) {
    let signal = Signal::Answer(Outcome::Accepted, Told::Plain);
    (at(ms), side, client.parse().unwrap(), signal)
}

fn on(ms: u64, forward: bool, since: u64) -> (Instant, Side, SocketAddr, Signal) {
    let begun = Some(at(since));
    let signal = Signal::GoesOn { forward, begun };
    (at(ms), Side::Destination, CLIENT.parse().unwrap(), signal)
}

#[test]
fn the_first_datagram_after_a_silence_is_an_attempt_and_the_others_go_on() {
    let records = [
        there(0),
        back(1),
        there(30_000),
        back(30_001),
        // The kernel says nothing for 30 s: this is a silence of 180 s at least.
        there(240_001),
        there(270_000),
        back(300_000),
    ];
    assert_eq!(
        told(&mut flows(), &records),
        [
            begun(0, Side::Destination, CLIENT),
            answered(1, Side::Destination, CLIENT),
            on(30_000, true, 0),
            on(30_001, false, 0),
            begun(240_001, Side::Destination, CLIENT),
            on(270_000, true, 240_001),
            answered(300_000, Side::Destination, CLIENT),
        ]
    );
}

#[test]
fn a_flow_that_went_on_until_lately_is_not_begun_again() {
    let told = told(&mut flows(), &[there(0), there(100_000), there(309_000)]);
    assert_eq!(told[1..], [on(100_000, true, 0), on(309_000, true, 0)]);
}

#[test]
fn whoever_sent_first_begins_in_whatever_order_it_is_read() {
    for records in [[there(0), back(1)], [back(1), there(0)]] {
        assert_eq!(
            told(&mut flows(), &records),
            [
                begun(0, Side::Destination, CLIENT),
                answered(1, Side::Destination, CLIENT)
            ]
        );
    }
    // The other way round: the pod sends first.
    for records in [[there(1), back(0)], [back(0), there(1)]] {
        let told = told(&mut flows(), &records);
        assert_eq!(told[0].1, Side::Source);
        assert_eq!(told[0].2, SERVER.parse().unwrap());
        assert_eq!(told[1], answered(1, Side::Source, SERVER));
    }
    // In the same nanosecond the higher port is the client's.
    for records in [[there(0), back(0)], [back(0), there(0)]] {
        let told = told(&mut flows(), &records);
        assert_eq!(told[0], begun(0, Side::Destination, CLIENT));
    }
}

#[test]
fn another_socket_of_the_same_client_is_the_same_flow() {
    let other = "10.1.0.1:40001";
    let told = told(
        &mut flows(),
        &[
            there(0),
            datagram(Crossing::In, other, SERVER, 31_000),
            datagram(Crossing::Out, SERVER, other, 31_001),
        ],
    );
    assert_eq!(told[1].2, other.parse().unwrap(), "it has its own port");
    assert!(matches!(told[1].3, Signal::GoesOn { forward: true, .. }));
    assert_eq!(told[2], answered(31_001, Side::Destination, CLIENT));
    assert_eq!(told.len(), 3);
}

#[test]
fn two_ends_may_be_each_others_clients() {
    let other = "10.1.0.2:50000";
    let told = told(
        &mut flows(),
        &[
            there(0),
            back(1),
            datagram(Crossing::Out, other, "10.1.0.1:53", 1_000),
            datagram(Crossing::In, "10.1.0.1:53", other, 1_001),
        ],
    );
    assert_eq!(
        told,
        [
            begun(0, Side::Destination, CLIENT),
            answered(1, Side::Destination, CLIENT),
            begun(1_000, Side::Source, other),
            answered(1_001, Side::Source, other),
        ]
    );
}

#[test]
fn port_unreachable_is_the_stacks_answer_if_the_called_address_sends_it() {
    use Outcome::{Refused, Unreachable};
    for (crossing, reporter, code, expected) in [
        (Crossing::Out, "10.1.0.2", 3, Refused),
        // A filter in the pod.
        (Crossing::Out, "10.1.0.2", 13, Unreachable),
        (Crossing::Out, "10.1.0.9", 3, Unreachable),
        // At the source nobody knows who it was.
        (Crossing::In, "10.1.0.2", 3, Unreachable),
    ] {
        let forward = match crossing {
            Crossing::Out => Crossing::In,
            Crossing::In => Crossing::Out,
        };
        let side = match crossing {
            Crossing::Out => Side::Destination,
            Crossing::In => Side::Source,
        };
        let mut flows = flows();
        let told = told(
            &mut flows,
            &[
                datagram(forward, CLIENT, SERVER, 0),
                error(crossing, reporter, code, 1),
            ],
        );
        assert!(told.contains(&begun(0, side, CLIENT)), "{told:?}");
        assert!(
            told.iter().any(|(_, s, client, signal)| *s == side
                && *client == CLIENT.parse().unwrap()
                && matches!(signal, Signal::Answer(outcome, _) if *outcome == expected)),
            "{told:?}"
        );
    }
}

#[test]
fn what_may_have_begun_before_is_unsure() {
    let unsure = |flows: &mut Flows, record: &Record| {
        let told = told(flows, std::slice::from_ref(record));
        matches!(told[0].3, Signal::Begun { unsure: true })
    };
    // A namespace that was there when the agent came.
    let mut old = Flows::new(&Settings::default());
    old.attached(NETNS, at(0));
    assert!(unsure(&mut old, &there(1)));
    assert!(!unsure(&mut old, &there(230_000)), "a silence in between");
    // One that came later is new.
    let mut new = Flows::new(&Settings::default());
    new.due(at(0), &mut |_, _| ());
    new.attached(NETNS, at(60_000));
    assert!(!unsure(&mut new, &there(60_001)));
    // From a service's port to a client's.
    let answer = datagram(Crossing::In, "10.1.0.1:53", "10.1.0.2:40000", 0);
    assert!(unsure(&mut flows(), &answer));
    // The beginning may have been lost.
    let mut torn = flows();
    torn.lost(at(0));
    assert!(unsure(&mut torn, &there(31_000)));
    let mut mended = flows();
    mended.lost(at(0));
    assert!(!unsure(&mut mended, &there(31_001)));
    // A forgotten one may have been this one.
    let mut full = Flows::new(&Settings {
        max_flows: 1,
        ..Settings::default()
    });
    full.due(Instant(0), &mut |_, _| ());
    assert!(!unsure(&mut full, &there(0)));
    let other = datagram(Crossing::In, "10.1.0.3:40000", SERVER, 1_000);
    assert!(!unsure(&mut full, &other));
    assert_eq!((full.len(), full.evicted()), (1, 1));
    assert!(unsure(&mut full, &there(2_000)));
}

#[test]
fn memory_is_bounded_and_what_is_silent_is_forgotten() {
    let mut flows = Flows::new(&Settings {
        max_flows: 100,
        ..Settings::default()
    });
    for n in 0..10_000_u64 {
        let client = format!("10.{}.{}.1:40000", n % 7, n % 251);
        told(
            &mut flows,
            &[datagram(Crossing::In, &client, SERVER, n * 10)],
        );
        assert!(flows.len() <= 100 && flows.order.len() <= 100);
    }
    for _ in 0..3 {
        flows.due(at(1_000_000), &mut |_, _| panic!("nothing is young"));
    }
    assert_eq!((flows.len(), flows.order.len()), (0, 0));
    assert!(flows.next_due().is_none());
}

#[test]
fn what_is_written_down_leads_to_the_same_flows() {
    let mut flows = flows();
    let long = datagram(Crossing::Out, "10.1.0.2:50000", "10.1.0.9:443", 0);
    told(&mut flows, &[long, there(100), back(101), there(30_200)]);
    // Not announced yet.
    let young = datagram(Crossing::In, "10.1.0.7:40000", SERVER, 30_301);
    flows.read(&young);
    flows.read(&Record {
        at: at(30_302),
        ..datagram(Crossing::Out, SERVER, "10.1.0.7:40000", 0)
    });
    let mut written = Vec::new();
    flows.open(&mut written);

    let mut again = Flows::new(&Settings::default());
    for record in &written {
        assert!(again.read(record).is_none());
    }
    again.restored(at(31_000));
    for (tuple, flow) in &flows.flows {
        let held = &again.flows[tuple];
        assert_eq!(
            (held.client, held.server, held.side, held.last, held.young),
            (flow.client, flow.server, flow.side, flow.last, flow.young)
        );
        assert!(flow.begun.since(held.begun) < Instant::SECOND);
        assert_eq!(held.answered.is_some(), flow.answered.is_some());
    }
    assert_eq!(again.len(), flows.len());
    let told = told(&mut again, &[there(60_300)]);
    assert_eq!(
        told[..2],
        [
            begun(30_301, Side::Destination, "10.1.0.7:40000"),
            answered(30_302, Side::Destination, "10.1.0.7:40000"),
        ]
    );
    assert!(matches!(told[2].3, Signal::GoesOn { forward: true, .. }));
}
