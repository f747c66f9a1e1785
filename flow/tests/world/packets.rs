//! The records that an attempt between two nodes makes.

use std::net::SocketAddr;

use polproof_flow::record::{Crossing, Event, NetnsCookie, Record};
use polproof_policy::Protocol;

use super::ip;
use super::pair::{At, Fate, Nodes, on};

/// When, and its initial sequence number.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub at: f64,
    pub tag: u32,
}

impl Nodes {
    /// An attempt at this moment, with the records that it makes.
    pub fn attempt(&mut self, from: At, to: At, port: u16, fate: Fate) {
        self.tag += 1;
        let client = SocketAddr::new(ip(from.1), 20_000 + (self.tag % 20_000) as u16);
        let server = SocketAddr::new(ip(to.1), port);
        let packet = Packet {
            at: self.now,
            tag: self.tag,
        };
        self.leave(from, packet, client, server, fate);
        if fate.arrives() {
            self.arrive(to, packet, client, server, fate);
        }
    }

    /// One whose client is seen under another address at the destination, and whose server under another at the source.
    pub fn translated(&mut self, from: At, to: At, called: (&str, u16), seen_as: &str, fate: Fate) {
        self.tag += 1;
        let packet = Packet {
            at: self.now,
            tag: self.tag,
        };
        let client = SocketAddr::new(ip(from.1), 30_000);
        self.leave(
            from,
            packet,
            client,
            SocketAddr::new(ip(called.0), called.1),
            fate,
        );
        if fate.arrives() {
            let seen = SocketAddr::new(ip(seen_as), 61_234);
            self.arrive(to, packet, seen, SocketAddr::new(ip(to.1), 80), fate);
        }
    }

    /// The records at the source.
    pub fn leave(
        &mut self,
        from: At,
        packet: Packet,
        client: SocketAddr,
        server: SocketAddr,
        fate: Fate,
    ) {
        let make = |at, crossing, source, destination, event| Record {
            at: on(from.0, at),
            netns: NetnsCookie(from.2),
            crossing,
            protocol: Protocol::Tcp,
            source,
            destination,
            event,
        };
        let Packet { at, tag } = packet;
        let syn = Event::Syn { isn: tag };
        self.record(from.0, make(at, Crossing::Out, client, server, syn));
        if matches!(fate, Fate::Dropped | Fate::ReplyLost) {
            // It repeats itself: sooner than a kernel does, so that the time does not matter.
            self.record(from.0, make(at + 0.005, Crossing::Out, client, server, syn));
        }
        let back = match fate {
            Fate::Accepted | Fate::Elsewhere => Event::SynAck {
                acknowledgement: tag.wrapping_add(1),
            },
            Fate::Refused | Fate::Reset => Event::Rst {
                sequence: 0,
                acknowledgement: tag.wrapping_add(1),
                ack: true,
                ttl: 64,
            },
            Fate::Icmp => {
                let event = Event::Unreachable {
                    reporter: ip("192.168.0.1"),
                    icmp_type: 3,
                    code: 13,
                    quoted_sequence: tag,
                };
                self.record(from.0, make(at + 0.01, Crossing::In, client, server, event));
                return;
            }
            Fate::Unanswered | Fate::Dropped | Fate::ReplyLost => return,
        };
        self.record(from.0, make(at + 0.01, Crossing::In, server, client, back));
    }

    /// The records at the destination.
    pub fn arrive(
        &mut self,
        to: At,
        packet: Packet,
        client: SocketAddr,
        server: SocketAddr,
        fate: Fate,
    ) {
        let make = |at, crossing, source, destination, event| Record {
            at: on(to.0, at),
            netns: NetnsCookie(to.2),
            crossing,
            protocol: Protocol::Tcp,
            source,
            destination,
            event,
        };
        let Packet { at, tag } = packet;
        let syn = Event::Syn { isn: tag };
        self.record(to.0, make(at + 0.002, Crossing::In, client, server, syn));
        let back = match fate {
            Fate::Accepted | Fate::ReplyLost => Event::SynAck {
                acknowledgement: tag.wrapping_add(1),
            },
            Fate::Refused => Event::Rst {
                sequence: 0,
                acknowledgement: tag.wrapping_add(1),
                ack: true,
                ttl: 64,
            },
            _ => return,
        };
        self.record(to.0, make(at + 0.003, Crossing::Out, server, client, back));
    }

    pub fn next_tag(&mut self) -> Packet {
        self.tag += 1;
        Packet {
            at: self.now,
            tag: self.tag,
        }
    }
}
