//! Inquiries and testimonies of agents: checked here before another agent has to read them. Times stay those of the clock of whoever
//! sent them.

use std::net::SocketAddr;

use polproof_flow::witness::{Gap, Seen, Side};
use polproof_proto::v1;
use polproof_proto::v1::testimony::Word as Wire;
use prost_types::Timestamp;

use super::answer::{self, timestamp};
use super::{Bad, bad, inside, ip, object_name, object_names, port, protocol, unknown, wall};
use crate::finding::Wall;
use crate::witness::{Control, Inquiry, Question, Sighting, Word};

/// An inquiry of an agent.
///
/// # Errors
/// The first field that makes no sense.
pub fn inquiry(wire: v1::Inquiry) -> Result<Inquiry, Bad> {
    object_name("node", &wire.node, true).map_err(inside("inquiry"))?;
    let Some(asked) = wire.question else {
        return bad("inquiry.question", "missing");
    };
    Ok(Inquiry {
        id: asked.id,
        node: wire.node,
        question: question(asked).map_err(inside("inquiry.question"))?,
    })
}

fn question(wire: v1::Question) -> Result<Question, Bad> {
    let side = match v1::WitnessSide::try_from(wire.side) {
        Ok(v1::WitnessSide::Destination) => Side::Destination,
        Ok(v1::WitnessSide::Source) => Side::Source,
        Ok(v1::WitnessSide::Unspecified) | Err(_) => return bad("side", unknown(wire.side)),
    };
    let (client, server) = ends(
        (&wire.client_address, wire.client_port),
        (&wire.server_address, wire.server_port),
    )?;
    object_name("pod_uid", &wire.pod_uid, true)?;
    object_name("asker_uid", &wire.asker_uid, true)?;
    let first = moment("first", wire.first)?;
    let last = moment("last", wire.last)?;
    if last < first {
        return bad("last", "before `first`");
    }
    Ok(Question {
        side,
        protocol: protocol(wire.protocol)?,
        tag: wire.tag,
        client,
        server,
        pod: wire.pod_uid,
        asker: wire.asker_uid,
        first,
        last,
    })
}

/// The answer of an agent to a question of ours.
///
/// # Errors
/// The first field that makes no sense.
pub fn word(wire: Option<Wire>) -> Result<Word, Bad> {
    match wire {
        None => bad(
            "testimony.word",
            "missing: none of seen, not_seen, incomplete",
        ),
        Some(Wire::Seen(seen)) => sighting(seen)
            .map(Word::Seen)
            .map_err(inside("testimony.seen")),
        Some(Wire::NotSeen(absence)) => absence
            .control
            .map(|wire| control(&wire))
            .transpose()
            .map(Word::NotSeen)
            .map_err(inside("testimony.not_seen.control")),
        Some(Wire::Incomplete(number)) => gap(number)
            .map(Word::Incomplete)
            .map_err(inside("testimony")),
    }
}

fn sighting(wire: v1::Sighting) -> Result<Sighting, Bad> {
    let (client, server) = ends(
        (&wire.client_address, wire.client_port),
        (&wire.server_address, wire.server_port),
    )?;
    if let Some(pod) = &wire.pod {
        object_names("pod", pod)?;
        if pod.namespace.is_empty() || pod.uid.is_empty() {
            return bad("pod", "without namespace or UID");
        }
    }
    Ok(Sighting {
        pod: wire.pod.map(|pod| (pod.namespace, pod.name, pod.uid)),
        client,
        server,
        first: moment("first", wire.first)?,
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

fn control(wire: &v1::Control) -> Result<Control, Bad> {
    let (client, server) = ends(
        (&wire.client_address, wire.client_port),
        (&wire.server_address, wire.server_port),
    )?;
    Ok(Control {
        at: moment("at", wire.at)?,
        client,
        server,
    })
}

fn ends(client: (&str, u32), server: (&str, u32)) -> Result<(SocketAddr, SocketAddr), Bad> {
    let client = SocketAddr::new(
        ip("client_address", client.0)?,
        port("client_port", client.1)?,
    );
    let server = SocketAddr::new(
        ip("server_address", server.0)?,
        port("server_port", server.1)?,
    );
    if client.is_ipv4() != server.is_ipv4() {
        return bad("server_address", "not of the family of client_address");
    }
    Ok((client, server))
}

/// A moment of the agent's clock, however wrong that may be.
pub fn moment(field: &str, time: Option<Timestamp>) -> Result<Wall, Bad> {
    wall(field, time, 0)
}

fn gap(number: i32) -> Result<Gap, Bad> {
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

/// A question for an agent, under our number.
pub fn question_out(id: u64, question: &Question) -> v1::Question {
    v1::Question {
        id,
        side: match question.side {
            Side::Destination => v1::WitnessSide::Destination,
            Side::Source => v1::WitnessSide::Source,
        }
        .into(),
        protocol: answer::protocol(question.protocol).into(),
        tag: question.tag,
        client_address: question.client.ip().to_string(),
        client_port: u32::from(question.client.port()),
        server_address: question.server.ip().to_string(),
        server_port: u32::from(question.server.port()),
        pod_uid: question.pod.clone(),
        asker_uid: question.asker.clone(),
        first: Some(timestamp(question.first)),
        last: Some(timestamp(question.last)),
    }
}

/// The answer for the agent that asked, under its number.
pub fn testimony_out(id: u64, word: Word) -> v1::Testimony {
    let word = match word {
        Word::Seen(seen) => Wire::Seen(v1::Sighting {
            pod: seen.pod.map(|(namespace, name, uid)| v1::ObjectRef {
                namespace,
                name,
                uid,
            }),
            client_address: seen.client.ip().to_string(),
            client_port: u32::from(seen.client.port()),
            server_address: seen.server.ip().to_string(),
            server_port: u32::from(seen.server.port()),
            first: Some(timestamp(seen.first)),
            outcome: match seen.outcome {
                Seen::Accepted => v1::SeenOutcome::Accepted,
                Seen::Refused => v1::SeenOutcome::Refused,
                Seen::Unreachable => v1::SeenOutcome::Unreachable,
                Seen::Unanswered => v1::SeenOutcome::Unanswered,
            }
            .into(),
        }),
        Word::NotSeen(control) => Wire::NotSeen(v1::Absence {
            control: control.map(|control| v1::Control {
                at: Some(timestamp(control.at)),
                client_address: control.client.ip().to_string(),
                client_port: u32::from(control.client.port()),
                server_address: control.server.ip().to_string(),
                server_port: u32::from(control.server.port()),
            }),
        }),
        Word::Incomplete(gap) => Wire::Incomplete(
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
            .into(),
        ),
    };
    v1::Testimony {
        id,
        word: Some(word),
    }
}
