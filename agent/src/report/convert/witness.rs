//! Questions and testimonies, both ways. What comes in is checked field by field: it was relayed for an agent of another node, which may be
//! of another version, or broken.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use polproof_flow::record::Instant;
use polproof_flow::witness::{
    Absence, Control, Gap, Inquiry, Question, Seen, Side, Sighting, Testimony, Whom,
};
use polproof_policy::{NamespacedName, Protocol, Uid};
use polproof_proto::v1;
use polproof_proto::v1::testimony::Word;
use prost_types::Timestamp;

use super::{object, protocol, wall};

/// Kubernetes names and UIDs are at most that long, in bytes.
const LONGEST_NAME: usize = 253;
const SECOND: i128 = 1_000_000_000;

/// What is wrong with a message, by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Path of the field in the message.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

fn bad<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed {
        field: field.into(),
        problem: problem.into(),
    })
}

fn inside(outer: &'static str) -> impl Fn(Malformed) -> Malformed {
    move |inner| Malformed {
        field: format!("{outer}.{}", inner.field),
        problem: inner.problem,
    }
}

/// A question that the collector brings.
///
/// # Errors
/// The first field that makes no sense.
pub fn question_in(wire: v1::Question, wall_offset_ns: i64) -> Result<(u64, Question), Malformed> {
    let id = wire.id;
    read_question(wire, wall_offset_ns)
        .map(|question| (id, question))
        .map_err(inside("question"))
}

fn read_question(wire: v1::Question, wall_offset_ns: i64) -> Result<Question, Malformed> {
    let side = match v1::WitnessSide::try_from(wire.side) {
        Ok(v1::WitnessSide::Destination) => Side::Destination,
        Ok(v1::WitnessSide::Source) => Side::Source,
        Ok(v1::WitnessSide::Unspecified) | Err(_) => return bad("side", unknown(wire.side)),
    };
    let protocol = match v1::Protocol::try_from(wire.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Ok(v1::Protocol::Unspecified) | Err(_) => {
            return bad("protocol", unknown(wire.protocol));
        }
    };
    let client = address("client", &wire.client_address, wire.client_port)?;
    let server = address("server", &wire.server_address, wire.server_port)?;
    same_family(client, server)?;
    let first = moment("first", wire.first, wall_offset_ns)?;
    let last = moment("last", wire.last, wall_offset_ns)?;
    if last < first {
        return bad("last", "before `first`");
    }
    Ok(Question {
        side,
        protocol,
        tag: wire.tag,
        client,
        server,
        pod: uid("pod_uid", wire.pod_uid)?,
        asker: uid("asker_uid", wire.asker_uid)?,
        first,
        last,
    })
}

/// The answer to an inquiry of ours.
///
/// # Errors
/// Its number, and the first field that makes no sense.
pub fn testimony_in(
    wire: v1::Testimony,
    wall_offset_ns: i64,
) -> Result<(u64, Testimony), (u64, Malformed)> {
    let id = wire.id;
    let read = match wire.word {
        None => bad("word", "missing: none of seen, not_seen, incomplete"),
        Some(Word::Seen(seen)) => sighting(seen, wall_offset_ns)
            .map(Testimony::Seen)
            .map_err(inside("seen")),
        Some(Word::NotSeen(absence)) => absence
            .control
            .map(|wire| control(&wire, wall_offset_ns))
            .transpose()
            .map(|control| Testimony::NotSeen(Absence { control }))
            .map_err(inside("not_seen.control")),
        Some(Word::Incomplete(number)) => gap_in(number).map(Testimony::Incomplete),
    };
    match read {
        Ok(testimony) => Ok((id, testimony)),
        Err(malformed) => Err((id, inside("testimony")(malformed))),
    }
}

fn sighting(wire: v1::Sighting, wall_offset_ns: i64) -> Result<Sighting, Malformed> {
    let client = address("client", &wire.client_address, wire.client_port)?;
    let server = address("server", &wire.server_address, wire.server_port)?;
    same_family(client, server)?;
    let pod = match wire.pod {
        None => None,
        Some(pod) => {
            for (field, text) in [
                ("pod.namespace", &pod.namespace),
                ("pod.name", &pod.name),
                ("pod.uid", &pod.uid),
            ] {
                if text.is_empty() {
                    return bad(field, "missing");
                }
                name(field, text)?;
            }
            Some((
                NamespacedName::new(pod.namespace, pod.name),
                Uid(Arc::from(pod.uid)),
            ))
        }
    };
    Ok(Sighting {
        pod,
        client,
        server,
        first: moment("first", wire.first, wall_offset_ns)?,
        outcome: match v1::SeenOutcome::try_from(wire.outcome) {
            Ok(v1::SeenOutcome::Accepted) => Seen::Accepted,
            Ok(v1::SeenOutcome::Refused) => Seen::Refused,
            Ok(v1::SeenOutcome::Unreachable) => Seen::Unreachable,
            Ok(v1::SeenOutcome::Unanswered) => Seen::Unanswered,
            Ok(v1::SeenOutcome::Unspecified) | Err(_) => {
                return bad("outcome", unknown(wire.outcome));
            }
        },
    })
}

fn control(wire: &v1::Control, wall_offset_ns: i64) -> Result<Control, Malformed> {
    let client = address("client", &wire.client_address, wire.client_port)?;
    let server = address("server", &wire.server_address, wire.server_port)?;
    same_family(client, server)?;
    Ok(Control {
        at: moment("at", wire.at, wall_offset_ns)?,
        client,
        server,
    })
}

fn gap_in(number: i32) -> Result<Gap, Malformed> {
    Ok(match v1::WitnessGap::try_from(number) {
        Ok(v1::WitnessGap::NoAgent) => Gap::NoAgent,
        Ok(v1::WitnessGap::TimedOut) => Gap::TimedOut,
        Ok(v1::WitnessGap::Overloaded) => Gap::Overloaded,
        Ok(v1::WitnessGap::PodUnknown) => Gap::PodUnknown,
        Ok(v1::WitnessGap::HookShared) => Gap::HookShared,
        Ok(v1::WitnessGap::NotAttached) => Gap::NotAttached,
        Ok(v1::WitnessGap::RecordsLost) => Gap::RecordsLost,
        Ok(v1::WitnessGap::Unparsed) => Gap::Unparsed,
        Ok(v1::WitnessGap::TooOld) => Gap::TooOld,
        Ok(v1::WitnessGap::NotSampled) => Gap::NotSampled,
        Ok(v1::WitnessGap::Unspecified) | Err(_) => return bad("incomplete", unknown(number)),
    })
}

fn gap_out(gap: Gap) -> v1::WitnessGap {
    match gap {
        Gap::NoAgent => v1::WitnessGap::NoAgent,
        Gap::TimedOut => v1::WitnessGap::TimedOut,
        Gap::Overloaded => v1::WitnessGap::Overloaded,
        Gap::PodUnknown => v1::WitnessGap::PodUnknown,
        Gap::HookShared => v1::WitnessGap::HookShared,
        Gap::NotAttached => v1::WitnessGap::NotAttached,
        Gap::RecordsLost => v1::WitnessGap::RecordsLost,
        Gap::Unparsed => v1::WitnessGap::Unparsed,
        Gap::TooOld => v1::WitnessGap::TooOld,
        Gap::NotSampled => v1::WitnessGap::NotSampled,
    }
}

/// An inquiry of ours.
pub fn inquiry_out(inquiry: &Inquiry, wall_offset_ns: i64) -> v1::Inquiry {
    let asked = &inquiry.question;
    let uid = |uid: &Option<Uid>| {
        uid.as_ref()
            .map_or_else(String::new, |uid| uid.0.to_string())
    };
    v1::Inquiry {
        node: match &inquiry.whom {
            Whom::Node(node) => node.to_string(),
            Whom::Everybody => String::new(),
        },
        question: Some(v1::Question {
            id: inquiry.id,
            side: match asked.side {
                Side::Destination => v1::WitnessSide::Destination,
                Side::Source => v1::WitnessSide::Source,
            }
            .into(),
            protocol: protocol(asked.protocol).into(),
            tag: asked.tag,
            client_address: asked.client.ip().to_string(),
            client_port: u32::from(asked.client.port()),
            server_address: asked.server.ip().to_string(),
            server_port: u32::from(asked.server.port()),
            pod_uid: uid(&asked.pod),
            asker_uid: uid(&asked.asker),
            first: Some(wall(asked.first, wall_offset_ns)),
            last: Some(wall(asked.last, wall_offset_ns)),
        }),
    }
}

/// A testimony of ours, to the question of a number.
pub fn testimony_out(id: u64, testimony: &Testimony, wall_offset_ns: i64) -> v1::Testimony {
    let word = match testimony {
        Testimony::Seen(seen) => Word::Seen(v1::Sighting {
            pod: seen.pod.as_ref().map(|(id, uid)| object(id, uid)),
            client_address: seen.client.ip().to_string(),
            client_port: u32::from(seen.client.port()),
            server_address: seen.server.ip().to_string(),
            server_port: u32::from(seen.server.port()),
            first: Some(wall(seen.first, wall_offset_ns)),
            outcome: match seen.outcome {
                Seen::Accepted => v1::SeenOutcome::Accepted,
                Seen::Refused => v1::SeenOutcome::Refused,
                Seen::Unreachable => v1::SeenOutcome::Unreachable,
                Seen::Unanswered => v1::SeenOutcome::Unanswered,
            }
            .into(),
        }),
        Testimony::NotSeen(absence) => Word::NotSeen(v1::Absence {
            control: absence.control.map(|control| v1::Control {
                at: Some(wall(control.at, wall_offset_ns)),
                client_address: control.client.ip().to_string(),
                client_port: u32::from(control.client.port()),
                server_address: control.server.ip().to_string(),
                server_port: u32::from(control.server.port()),
            }),
        }),
        Testimony::Incomplete(gap) => Word::Incomplete(gap_out(*gap).into()),
    };
    v1::Testimony {
        id,
        word: Some(word),
    }
}

fn address(end: &'static str, ip: &str, port: u32) -> Result<SocketAddr, Malformed> {
    let Ok(ip) = ip.parse::<IpAddr>() else {
        let shown: String = ip.chars().take(64).flat_map(char::escape_debug).collect();
        return bad(
            format!("{end}_address"),
            format!("`{shown}` is no IP address"),
        );
    };
    let Ok(port) = u16::try_from(port) else {
        return bad(format!("{end}_port"), format!("{port} is no port"));
    };
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

fn same_family(client: SocketAddr, server: SocketAddr) -> Result<(), Malformed> {
    if client.is_ipv4() == server.is_ipv4() {
        Ok(())
    } else {
        bad("server_address", "not of the family of client_address")
    }
}

fn uid(field: &'static str, text: String) -> Result<Option<Uid>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    name(field, &text)?;
    Ok(Some(Uid(Arc::from(text))))
}

fn name(field: &'static str, text: &str) -> Result<(), Malformed> {
    if text.len() > LONGEST_NAME {
        return bad(field, format!("{} bytes long", text.len()));
    }
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        return bad(field, "holds what no name of Kubernetes holds");
    }
    Ok(())
}

/// Monotonic time of a moment of the wall clock. What was before the boot has none.
fn moment(
    field: &'static str,
    time: Option<Timestamp>,
    wall_offset_ns: i64,
) -> Result<Instant, Malformed> {
    let Some(time) = time else {
        return bad(field, "missing");
    };
    if !(0..1_000_000_000).contains(&time.nanos) {
        return bad(field, format!("{} nanoseconds cannot be", time.nanos));
    }
    let monotonic =
        i128::from(time.seconds) * SECOND + i128::from(time.nanos) - i128::from(wall_offset_ns);
    match u64::try_from(monotonic) {
        Ok(at) => Ok(Instant(at)),
        Err(_) if monotonic < 0 => bad(field, "before this node's boot"),
        Err(_) => bad(field, format!("{} s cannot be", time.seconds)),
    }
}

fn unknown(number: i32) -> String {
    if number == 0 {
        "unspecified".to_owned()
    } else {
        format!("{number} is unknown to this version")
    }
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
