//! From the ABI's bytes to the domain's record: the only place that sees both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use polproof_agent_common::{
    DIRECTION_IN, DIRECTION_OUT, KIND_DATAGRAM, KIND_SAMPLED, KIND_SCTP_ABORT, KIND_SCTP_INIT,
    KIND_SCTP_INIT_ACK, KIND_TCP_RST, KIND_TCP_SYN, KIND_TCP_SYN_ACK, KIND_UNPARSED,
    KIND_UNREACHABLE, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, PacketRecord,
};
use polproof_flow::record::{Crossing, Event, Instant, NetnsCookie, Record};
use polproof_policy::Protocol;
use zerocopy::FromBytes;

/// The ACK bit of the TCP flags.
const FLAG_ACK: u8 = 0x10;

/// Bytes that are no record of this ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Too short or too long.
    #[error("a record of {0} bytes, {want} expected", want = size_of::<PacketRecord>())]
    Length(usize),
    /// Not one of the `KIND_*`.
    #[error("unknown record kind {0}")]
    Kind(u8),
    /// Not one of the `DIRECTION_*`.
    #[error("unknown direction {0}")]
    Direction(u8),
    /// Neither 4 nor 6.
    #[error("unknown IP version {0}")]
    IpVersion(u8),
    /// Not one of the `PROTOCOL_*`, or not that of the kind.
    #[error("a record of kind {kind} of the transport protocol {protocol}")]
    Protocol {
        /// The kind.
        kind: u8,
        /// IANA's number.
        protocol: u8,
    },
}

/// What the programs had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// About a packet.
    Record(Record),
    /// From this moment on, for [`polproof_agent_common::NOTICE_INTERVAL_MS`], there may have been packets whose headers could not be walked.
    Unparsed(Instant),
    /// From this moment on, for as long, first datagrams may have been left out.
    Sampled(Instant),
}

/// Decodes one record.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let packet =
        PacketRecord::read_from_bytes(bytes).map_err(|_| DecodeError::Length(bytes.len()))?;
    from_packet(&packet)
}

/// Gives the fields their meaning.
pub(super) fn from_packet(packet: &PacketRecord) -> Result<Decoded, DecodeError> {
    let at = Instant(packet.ktime_ns);
    match packet.kind {
        KIND_UNPARSED => return Ok(Decoded::Unparsed(at)),
        KIND_SAMPLED => return Ok(Decoded::Sampled(at)),
        _ => {}
    }
    let crossing = match packet.direction {
        DIRECTION_IN => Crossing::In,
        DIRECTION_OUT => Crossing::Out,
        other => return Err(DecodeError::Direction(other)),
    };
    let source = address(packet.ip_version, packet.source)?;
    let destination = address(packet.ip_version, packet.destination)?;
    let event = event(packet)?;
    Ok(Decoded::Record(Record {
        at,
        netns: NetnsCookie(packet.netns_cookie),
        crossing,
        protocol: protocol(packet)?,
        source: SocketAddr::new(source, packet.source_port),
        destination: SocketAddr::new(destination, packet.destination_port),
        event,
    }))
}

fn event(packet: &PacketRecord) -> Result<Event, DecodeError> {
    Ok(match packet.kind {
        KIND_TCP_SYN => Event::Syn {
            isn: packet.sequence,
        },
        KIND_TCP_SYN_ACK => Event::SynAck {
            acknowledgement: packet.acknowledgement,
        },
        KIND_TCP_RST => Event::Rst {
            sequence: packet.sequence,
            acknowledgement: packet.acknowledgement,
            ack: packet.tcp_flags & FLAG_ACK != 0,
            ttl: packet.ttl,
        },
        KIND_UNREACHABLE => Event::Unreachable {
            reporter: address(packet.ip_version, packet.reporter)?,
            icmp_type: packet.icmp_type,
            code: packet.icmp_code,
            quoted_sequence: packet.sequence,
        },
        KIND_SCTP_INIT => Event::Init {
            tag: packet.sequence,
        },
        KIND_SCTP_INIT_ACK => Event::InitAck {
            tag: packet.sequence,
        },
        KIND_SCTP_ABORT => Event::Abort {
            tag: packet.sequence,
        },
        KIND_DATAGRAM => Event::Datagram,
        other => return Err(DecodeError::Kind(other)),
    })
}

/// Of the quoted packet, if one is quoted; else it goes with the kind.
fn protocol(packet: &PacketRecord) -> Result<Protocol, DecodeError> {
    match (packet.kind, packet.protocol) {
        (KIND_TCP_SYN | KIND_TCP_SYN_ACK | KIND_TCP_RST | KIND_UNREACHABLE, PROTOCOL_TCP) => {
            Ok(Protocol::Tcp)
        }
        (KIND_DATAGRAM | KIND_UNREACHABLE, PROTOCOL_UDP) => Ok(Protocol::Udp),
        (
            KIND_SCTP_INIT | KIND_SCTP_INIT_ACK | KIND_SCTP_ABORT | KIND_UNREACHABLE,
            PROTOCOL_SCTP,
        ) => Ok(Protocol::Sctp),
        (kind, protocol) => Err(DecodeError::Protocol { kind, protocol }),
    }
}

fn address(version: u8, bytes: [u8; 16]) -> Result<IpAddr, DecodeError> {
    match version {
        4 => {
            let [a, b, c, d, ..] = bytes;
            Ok(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        6 => Ok(IpAddr::V6(Ipv6Addr::from(bytes))),
        other => Err(DecodeError::IpVersion(other)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn packet() -> PacketRecord {
        let mut packet = PacketRecord::new_zeroed();
        packet.ktime_ns = 7;
        packet.netns_cookie = 9;
        packet.kind = KIND_TCP_SYN;
        packet.protocol = PROTOCOL_TCP;
        packet.direction = DIRECTION_IN;
        packet.ip_version = 4;
        packet.sequence = 0xdead_beef;
        packet.source = [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        packet.destination = [10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        packet.source_port = 40_000;
        packet.destination_port = 80;
        packet
    }

    fn record(packet: &PacketRecord) -> Record {
        match decode(packet.as_bytes()) {
            Ok(Decoded::Record(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_syn() {
        assert_eq!(
            record(&packet()),
            Record {
                at: Instant(7),
                netns: NetnsCookie(9),
                crossing: Crossing::In,
                protocol: Protocol::Tcp,
                source: "10.0.0.1:40000".parse().unwrap(),
                destination: "10.0.0.2:80".parse().unwrap(),
                event: Event::Syn { isn: 0xdead_beef },
            }
        );
    }

    #[test]
    fn a_refusal_and_an_icmp_error_over_ipv6() {
        let mut refusal = packet();
        refusal.kind = KIND_TCP_RST;
        refusal.direction = DIRECTION_OUT;
        refusal.tcp_flags = 0x14;
        refusal.acknowledgement = 5;
        refusal.sequence = 0;
        refusal.ttl = 63;
        let refused = record(&refusal);
        assert_eq!(refused.crossing, Crossing::Out);
        assert_eq!(
            refused.event,
            Event::Rst {
                sequence: 0,
                acknowledgement: 5,
                ack: true,
                ttl: 63
            }
        );

        let mut error = packet();
        error.kind = KIND_UNREACHABLE;
        error.ip_version = 6;
        error.reporter[15] = 1;
        error.icmp_type = 1;
        error.icmp_code = 4;
        assert_eq!(
            record(&error).event,
            Event::Unreachable {
                reporter: "::1".parse().unwrap(),
                icmp_type: 1,
                code: 4,
                quoted_sequence: 0xdead_beef
            }
        );
    }

    #[test]
    fn datagrams_sctp_and_errors_about_them() {
        for (kind, protocol, event) in [
            (KIND_DATAGRAM, PROTOCOL_UDP, Event::Datagram),
            (
                KIND_SCTP_INIT,
                PROTOCOL_SCTP,
                Event::Init { tag: 0xdead_beef },
            ),
            (
                KIND_SCTP_INIT_ACK,
                PROTOCOL_SCTP,
                Event::InitAck { tag: 0xdead_beef },
            ),
            (
                KIND_SCTP_ABORT,
                PROTOCOL_SCTP,
                Event::Abort { tag: 0xdead_beef },
            ),
        ] {
            let mut packet = packet();
            packet.kind = kind;
            packet.protocol = protocol;
            assert_eq!(record(&packet).event, event);
            // A kind of another transport is no record.
            packet.protocol = PROTOCOL_TCP;
            let wrong = DecodeError::Protocol {
                kind,
                protocol: PROTOCOL_TCP,
            };
            assert_eq!(decode(packet.as_bytes()), Err(wrong));
        }
        for (number, protocol) in [
            (PROTOCOL_TCP, Protocol::Tcp),
            (PROTOCOL_UDP, Protocol::Udp),
            (PROTOCOL_SCTP, Protocol::Sctp),
        ] {
            let mut error = packet();
            error.kind = KIND_UNREACHABLE;
            error.protocol = number;
            assert_eq!(record(&error).protocol, protocol);
        }
    }

    #[test]
    fn notices_need_no_packet() {
        let mut notice = PacketRecord::new_zeroed();
        notice.ktime_ns = 7;
        notice.kind = KIND_UNPARSED;
        assert_eq!(decode(notice.as_bytes()), Ok(Decoded::Unparsed(Instant(7))));
        notice.kind = KIND_SAMPLED;
        assert_eq!(decode(notice.as_bytes()), Ok(Decoded::Sampled(Instant(7))));
    }

    #[test]
    fn every_truncation_and_every_unknown_number_is_an_error() {
        let whole = packet();
        let bytes = whole.as_bytes();
        for length in 0..bytes.len() {
            assert_eq!(
                decode(bytes.get(..length).unwrap()),
                Err(DecodeError::Length(length))
            );
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode(&longer), Err(DecodeError::Length(longer.len())));

        for kind in (0..=u8::MAX).filter(|kind| !(1..=10).contains(kind)) {
            let mut wrong = whole;
            wrong.kind = kind;
            assert_eq!(decode(wrong.as_bytes()), Err(DecodeError::Kind(kind)));
        }
        for direction in [0, 3, 255] {
            let mut wrong = whole;
            wrong.direction = direction;
            assert_eq!(
                decode(wrong.as_bytes()),
                Err(DecodeError::Direction(direction))
            );
        }
        for version in [0, 5, 7, 255] {
            let mut wrong = whole;
            wrong.ip_version = version;
            assert_eq!(
                decode(wrong.as_bytes()),
                Err(DecodeError::IpVersion(version))
            );
        }
    }
}
