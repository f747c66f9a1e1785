//! What attempts look like on the wire, at both ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};

use polproof_flow::record::{Crossing, Event, NetnsCookie, Record};
use polproof_policy::Protocol;

use super::super::world::ip;
use super::agents::Agents;
use super::{CLOSED, FULL, NODE_PORT, OPEN, SERVICE, Town, node_ip};

/// A connection that is tried.
#[derive(Clone, Debug)]
pub struct Call {
    pub ends: (usize, usize),
    pub protocol: Protocol,
    pub tag: u32,
    pub client: SocketAddr,
    /// As the source calls it.
    pub called: SocketAddr,
    /// As the destination sees it.
    pub seen: SocketAddr,
    pub server: SocketAddr,
    pub begun: u64,
    pub patience: u64,
    pub translated: bool,
    /// When it was delivered first.
    pub delivered: Option<u64>,
    /// The pod's stack spoke.
    pub answered: bool,
    /// It died by the enforcer.
    pub stopped: bool,
    /// A packet of it was lost.
    pub lost: bool,
    over: bool,
}

pub struct Wire {
    pub calls: Vec<Call>,
    packets: BinaryHeap<Reverse<(u64, usize)>>,
    /// Flows that a connection tracker knows, with their last packet, and as whose they are seen.
    tracked: BTreeMap<(usize, usize, u16, u16), (u64, SocketAddr)>,
    /// What the kernel has recorded of UDP, and when.
    recorded: BTreeMap<(u64, IpAddr, IpAddr, u16, [bool; 2]), u64>,
    tag: u32,
}

impl Wire {
    pub fn new() -> Self {
        Self {
            calls: Vec::new(),
            packets: BinaryHeap::new(),
            tracked: BTreeMap::new(),
            recorded: BTreeMap::new(),
            tag: 1_000,
        }
    }

    /// The programs are made to forget datagrams: an address may have another owner.
    pub fn forget(&mut self) {
        self.recorded.clear();
    }

    /// Somebody calls somebody.
    pub fn call(&mut self, town: &mut Town, now: u64) {
        let alive = town.alive(now);
        let from = town.dice.of(&alive);
        let service = town.dice.often(20);
        let ends = town.ends(now);
        let to = if service && !ends.is_empty() {
            town.dice.of(&ends)
        } else {
            town.dice.of(&alive)
        };
        if from == to {
            return;
        }
        self.tag += 1;
        let (source, destination) = (town.bodies[from].clone(), town.bodies[to].clone());
        let through = service && !ends.is_empty();
        let protocol = match town.dice.between(0, 100) {
            0..10 if !through => Protocol::Sctp,
            10..25 if !through => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let port = match town.dice.between(0, 10) {
            _ if through => OPEN,
            0 => CLOSED,
            1 => FULL,
            _ => OPEN,
        };
        let client_port = if protocol == Protocol::Udp {
            40_000 + town.dice.between(0, 2) as u16
        } else {
            20_000 + (self.tag % 20_000) as u16
        };
        let client = SocketAddr::new(ip(&source.ip), client_port);
        let server = SocketAddr::new(ip(&destination.ip), port);
        let (mut called, mut seen) = (server, client);
        if through {
            called = SocketAddr::new(ip(SERVICE), OPEN);
            if town.dice.often(30) {
                let by = town.dice.between(0, 3) as usize;
                called = SocketAddr::new(ip(&node_ip(by)), NODE_PORT);
                seen = SocketAddr::new(ip(&node_ip(by)), 61_000 + (self.tag % 4_000) as u16);
            }
        } else if source.node != destination.node && town.dice.often(8) {
            let mask = match town.dice.between(0, 3) {
                0 => node_ip(source.node),
                1 => format!("10.1.{}.250", source.node),
                _ => format!("172.31.0.{}", source.node),
            };
            seen = SocketAddr::new(ip(&mask), 61_000 + (self.tag % 4_000) as u16);
        }
        if protocol == Protocol::Udp
            && let Some(held) = self.tracked(now, (from, to, client.port(), server.port()))
        {
            // How a flow is translated is decided once.
            seen = held;
        }
        let patience = town.dice.of(&[500, 2_500, 9_000]);
        self.calls.push(Call {
            ends: (from, to),
            protocol,
            tag: if protocol == Protocol::Udp {
                0
            } else {
                self.tag
            },
            client,
            called,
            seen,
            server,
            begun: now,
            patience: if protocol == Protocol::Udp {
                0
            } else {
                patience
            },
            translated: called != server || seen != client,
            delivered: None,
            answered: false,
            stopped: false,
            lost: false,
            over: false,
        });
        self.packets.push(Reverse((now, self.calls.len() - 1)));
    }

    /// As whose a flow is seen that is still known.
    fn tracked(&self, at: u64, flow: (usize, usize, u16, u16)) -> Option<SocketAddr> {
        let (last, seen) = self.tracked.get(&flow)?;
        (last + 120_000 > at).then_some(*seen)
    }

    /// Everything that is sent until then.
    pub fn send(&mut self, town: &mut Town, agents: &mut Agents, until: u64) {
        while let Some(&Reverse((at, n))) = self.packets.peek()
            && at <= until
        {
            self.packets.pop();
            self.packet(town, agents, at, n);
        }
    }

    fn packet(&mut self, town: &mut Town, agents: &mut Agents, at: u64, n: usize) {
        let mut call = self.calls[n].clone();
        let lives = |town: &Town, n: usize| town.bodies[n].died.is_none_or(|died| died > at + 5);
        if call.over || !lives(town, call.ends.0) {
            return;
        }
        let opening = match call.protocol {
            Protocol::Tcp => Event::Syn { isn: call.tag },
            Protocol::Sctp => Event::Init { tag: call.tag },
            Protocol::Udp => Event::Datagram,
        };
        let packets = (call.client, call.called);
        self.cross(
            town,
            agents,
            (at, call.ends.0),
            Crossing::Out,
            packets,
            &call,
            opening,
        );
        // The next one, if nothing comes back.
        let unit = if call.protocol == Protocol::Sctp {
            3_000
        } else {
            1_000
        };
        let next = (0..4).map(|k| call.begun + unit * ((1 << k) - 1));
        if let Some(next) = next.into_iter().find(|next| *next > at)
            && next <= call.begun + call.patience
        {
            self.packets.push(Reverse((next, n)));
        }
        if !lives(town, call.ends.1) || town.is_cut(at, call.ends) {
            return;
        }
        if town.loses(call.ends) {
            self.calls[n].lost = true;
            return;
        }
        let way = (call.protocol, call.server.port());
        let flow = (
            call.ends.0,
            call.ends.1,
            call.client.port(),
            call.server.port(),
        );
        let tracked = town.plan.stateful
            && call.protocol == Protocol::Udp
            && self.tracked(at, flow) == Some(call.seen);
        if !tracked && !town.passes(at, call.ends, way) {
            self.calls[n].stopped = true;
            self.reject(town, agents, at, n);
            return;
        }
        if call.protocol == Protocol::Udp {
            self.tracked.insert(flow, (at, call.seen));
        }
        let arrived = (call.seen, call.server);
        self.cross(
            town,
            agents,
            (at + 2, call.ends.1),
            Crossing::In,
            arrived,
            &call,
            opening,
        );
        call.delivered = call.delivered.or(Some(at + 2));
        let back = (call.server, call.seen);
        let home = (call.called, call.client);
        let answer = match (call.server.port(), call.protocol) {
            (FULL, _) => None,
            (CLOSED, Protocol::Udp) => {
                let event = Event::Unreachable {
                    reporter: call.server.ip(),
                    icmp_type: 3,
                    code: 3,
                    quoted_sequence: 0,
                };
                // It quotes the datagram.
                let (from, to) = (call.ends.0, call.ends.1);
                self.cross(
                    town,
                    agents,
                    (at + 3, to),
                    Crossing::Out,
                    arrived,
                    &call,
                    event,
                );
                self.cross(
                    town,
                    agents,
                    (at + 4, from),
                    Crossing::In,
                    packets,
                    &call,
                    event,
                );
                call.answered = true;
                None
            }
            (CLOSED, Protocol::Sctp) => Some(Event::Abort { tag: call.tag }),
            (CLOSED, Protocol::Tcp) => Some(reset(call.tag)),
            (_, Protocol::Tcp) => Some(Event::SynAck {
                acknowledgement: call.tag.wrapping_add(1),
            }),
            (_, Protocol::Sctp) => Some(Event::InitAck { tag: call.tag }),
            (_, Protocol::Udp) => Some(Event::Datagram),
        };
        if let Some(event) = answer {
            self.cross(
                town,
                agents,
                (at + 3, call.ends.1),
                Crossing::Out,
                back,
                &call,
                event,
            );
            call.answered = true;
            if town.loses(call.ends) {
                call.lost = true;
            } else {
                self.cross(
                    town,
                    agents,
                    (at + 5, call.ends.0),
                    Crossing::In,
                    home,
                    &call,
                    event,
                );
                call.over = true;
            }
        }
        self.calls[n] = call;
    }

    fn reject(&mut self, town: &mut Town, agents: &mut Agents, at: u64, n: usize) {
        let call = self.calls[n].clone();
        let home = (call.called, call.client);
        let (packets, event) = match (town.plan.rejects, call.protocol) {
            (1, Protocol::Tcp) => (home, reset(call.tag)),
            (2, _) if town.dice.often(50) => {
                let event = Event::Unreachable {
                    reporter: ip(&node_ip(town.bodies[call.ends.0].node)),
                    icmp_type: 3,
                    code: 13,
                    quoted_sequence: call.tag,
                };
                ((call.client, call.called), event)
            }
            _ => return,
        };
        self.cross(
            town,
            agents,
            (at + 1, call.ends.0),
            Crossing::In,
            packets,
            &call,
            event,
        );
        self.calls[n].over = call.protocol == Protocol::Tcp;
    }

    /// A packet crosses the eth0 of a pod.
    #[expect(clippy::too_many_arguments, reason = "a packet")]
    fn cross(
        &mut self,
        town: &mut Town,
        agents: &mut Agents,
        (at, body): (u64, usize),
        crossing: Crossing,
        (source, destination): (SocketAddr, SocketAddr),
        call: &Call,
        event: Event,
    ) {
        let (node, netns) = (town.bodies[body].node, town.bodies[body].netns);
        if event == Event::Datagram {
            let (own, remote) = match crossing {
                Crossing::In => (destination, source),
                Crossing::Out => (source, destination),
            };
            let tuple = (
                netns,
                own.ip(),
                remote.ip(),
                own.port().min(remote.port()),
                [crossing == Crossing::In, own.port() <= remote.port()],
            );
            if self
                .recorded
                .get(&tuple)
                .is_some_and(|last| last + 30_000 > at)
            {
                return;
            }
            self.recorded.insert(tuple, at);
        }
        let record = Record {
            at: agents.clock(node, at),
            netns: NetnsCookie(netns),
            crossing,
            protocol: call.protocol,
            source,
            destination,
            event,
        };
        agents.record(&mut town.dice, node, at, record);
    }
}

fn reset(tag: u32) -> Event {
    Event::Rst {
        sequence: 0,
        acknowledgement: tag.wrapping_add(1),
        ack: true,
        ttl: 64,
    }
}
