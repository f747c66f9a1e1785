//! Wire messages to our own types and back. Nothing else in this crate reads the fields of a message.
//!
//! What comes in is not trusted: a finding that makes no sense is refused with the name of the field, and the rest
//! of its batch goes on.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use polproof_flow::finding::{Exposure, JudgedCounts};
use polproof_policy::{Direction, Protocol};
use polproof_proto::{MAX_FINDINGS_PER_BATCH, v1};
use prost_types::Timestamp;

use crate::finding::{Denier, End, Key, Kind, Recovery, Sample, Update, Wall};
use crate::store::{Delivery, Filter};

mod answer;
mod heartbeat;
mod text;
mod witness;

pub use answer::{explanation, exposure, finding, judged, kind_count, timestamp};
pub use heartbeat::heartbeat;
pub use text::{printable, unprintable};
pub use witness::{inquiry, moment, question_out, testimony_out, word};

/// No honest batch counts more of anything: a million attempts a second for two weeks.
const LARGEST_COUNT: u64 = 1_000_000_000_000;
/// Kubernetes names and namespaces are at most 253 long.
const LONGEST_NAME: usize = 253;
/// Policies that may decide one connection.
const MOST_POLICIES: usize = 1_000;
/// Rules of one policy in one direction.
const MOST_RULES: usize = 10_000;
/// Samples that one update may bring.
const MOST_SAMPLES: usize = 10;
/// How far an agent's clock may be ahead of ours before its times are taken as "now".
const CLOCK_AHEAD: i64 = 60 * Wall::SECOND;

/// What is wrong with a message, by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Path of the field in the message.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

fn bad<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Bad> {
    Err(Bad {
        field: field.into(),
        problem: problem.into(),
    })
}

fn inside(outer: &str) -> impl Fn(Bad) -> Bad + '_ {
    move |bad| Bad {
        field: format!("{outer}.{}", bad.field),
        problem: bad.problem,
    }
}

/// Checks the Hello of an agent.
pub fn hello(hello: &v1::Hello) -> Result<(), Bad> {
    object_name("node", &hello.node, false)?;
    name("instance", &hello.instance, false)?;
    name("agent_version", &hello.agent_version, true)?;
    name("kernel_release", &hello.kernel_release, true)
}

/// A batch as a delivery, and what had to be left out of it.
pub fn delivery(node: &str, instance: &str, batch: v1::Batch, now: Wall) -> (Delivery, Vec<Bad>) {
    let mut refused = Vec::new();
    let mut delivery = Delivery {
        node: node.to_owned(),
        instance: instance.to_owned(),
        sequence: batch.sequence,
        // Agents before this field sent at once, if they could.
        made: time("made", batch.made, now).unwrap_or(now),
        ..Delivery::default()
    };
    let given = batch.findings.len();
    for (index, finding) in batch
        .findings
        .into_iter()
        .take(MAX_FINDINGS_PER_BATCH)
        .enumerate()
    {
        match update(finding, now) {
            Ok(update) => delivery.updates.push(update),
            Err(bad) => refused.push(inside(&format!("findings[{index}]"))(bad)),
        }
    }
    delivery.refused = refused.len() as u64;
    if given > MAX_FINDINGS_PER_BATCH {
        delivery.refused += (given - MAX_FINDINGS_PER_BATCH) as u64;
        refused.push(Bad {
            field: "findings".to_owned(),
            problem: format!(
                "{given} of them, at most {MAX_FINDINGS_PER_BATCH} are allowed; the rest is left out"
            ),
        });
    }
    for (index, entry) in batch.inconclusive.into_iter().enumerate() {
        let field = format!("inconclusive[{index}]");
        match v1::InconclusiveReason::try_from(entry.reason) {
            Ok(v1::InconclusiveReason::Unspecified) => refused.push(Bad {
                field: format!("{field}.reason"),
                problem: "unspecified".to_owned(),
            }),
            // A reason that only a newer agent knows is counted all the same, under its number.
            Ok(_) | Err(_) => match count(&field, entry.count) {
                Ok(count) if index < 1_000 => delivery.inconclusive.push((entry.reason, count)),
                Ok(_) => {}
                Err(bad) => refused.push(bad),
            },
        }
    }
    if let Some(judged) = batch.judged {
        match judged_counts(&judged) {
            Ok(judged) => delivery.judged = judged,
            Err(bad) => refused.push(inside("judged")(bad)),
        }
    }
    if let Some(wire) = batch.exposure {
        match histogram(&wire) {
            Ok(exposure) => delivery.exposure = exposure,
            Err(bad) => refused.push(inside("exposure")(bad)),
        }
    }
    (delivery, refused)
}

fn histogram(wire: &v1::Exposure) -> Result<Exposure, Bad> {
    let mut exposure = Exposure {
        sum_ms: count("sum_ms", wire.sum_ms)?,
        ..Exposure::default()
    };
    if wire.counts.len() != exposure.counts.len() {
        // Other bounds: the counts would stand for other times.
        return bad(
            "counts",
            format!(
                "{} of them, {} are understood",
                wire.counts.len(),
                exposure.counts.len()
            ),
        );
    }
    for (known, given) in exposure.counts.iter_mut().zip(&wire.counts) {
        *known = count("counts", *given)?;
    }
    Ok(exposure)
}

fn judged_counts(judged: &v1::JudgedCounts) -> Result<JudgedCounts, Bad> {
    Ok(JudgedCounts {
        allowed_delivered: count("allowed_delivered", judged.allowed_delivered)?,
        denied_delivered: count("denied_delivered", judged.denied_delivered)?,
        denied_unanswered: count("denied_unanswered", judged.denied_unanswered)?,
        denied_answered: count("denied_answered", judged.denied_answered)?,
        allowed_answered: count("allowed_answered", judged.allowed_answered)?,
        denied_stopped: count("denied_stopped", judged.denied_stopped)?,
        denied_in_grace: count("denied_in_grace", judged.denied_in_grace)?,
    })
}

fn update(update: v1::FindingUpdate, now: Wall) -> Result<Update, Bad> {
    let Some(wire) = update.key else {
        return bad("key", "missing");
    };
    let key = key(wire).map_err(inside("key"))?;
    let observed = count("observed", update.observed)?;
    let settled = count("settled", update.settled)?;
    let retracted = count("retracted", update.retracted)?;
    let witnessed = count("witnessed", update.witnessed)?;
    let recovered = update
        .recovered
        .map(|wire| recovery(&wire, now))
        .transpose()
        .map_err(inside("recovered"))?;
    if observed + settled + retracted + witnessed == 0 && recovered.is_none() {
        return bad(
            "observed",
            "0, and settled, retracted and witnessed too, and no end: it says nothing",
        );
    }
    let evidence = match v1::EvidenceLevel::try_from(update.evidence) {
        Ok(v1::EvidenceLevel::OneWitness) => 1,
        Ok(v1::EvidenceLevel::TwoWitnesses) => 2,
        Ok(v1::EvidenceLevel::Probe) => 3,
        Ok(v1::EvidenceLevel::Unspecified) | Err(_) => {
            return bad("evidence", unknown(update.evidence));
        }
    };
    let last = time("last_seen", update.last_seen, now)?;
    let first = time("first_seen", update.first_seen, now)?.min(last);
    let mut samples = Vec::with_capacity(update.samples.len().min(MOST_SAMPLES));
    for (index, wire) in update.samples.into_iter().take(MOST_SAMPLES).enumerate() {
        samples.push(sample(&wire, now).map_err(inside(&format!("samples[{index}]")))?);
    }
    Ok(Update {
        id: key.id(),
        key,
        observed,
        settled,
        retracted,
        first,
        last,
        evidence,
        witnessed,
        recovered,
        samples,
    })
}

fn recovery(wire: &v1::Recovery, now: Wall) -> Result<Recovery, Bad> {
    let cause = match v1::RecoveryCause::try_from(wire.cause) {
        Ok(v1::RecoveryCause::Enforced) => 1,
        Ok(v1::RecoveryCause::Delivered) => 2,
        Ok(v1::RecoveryCause::PolicyChanged) => 3,
        Ok(v1::RecoveryCause::PodGone) => 4,
        Ok(v1::RecoveryCause::Closed) => 5,
        Ok(v1::RecoveryCause::Unspecified) | Err(_) => return bad("cause", unknown(wire.cause)),
    };
    Ok(Recovery {
        at: time("at", wire.at, now)?,
        cause,
    })
}

fn key(key: v1::FindingKey) -> Result<Key, Bad> {
    let kind = kind(key.kind)?;
    let (source, source_ip) = end("source", key.source)?;
    let (destination, destination_ip) = end("destination", key.destination)?;
    if source_ip.is_ipv4() != destination_ip.is_ipv4() {
        return bad("destination.address", "not of the family of source.address");
    }
    let protocol = protocol(key.protocol)?;
    if key.policies.len() > MOST_POLICIES {
        return bad("policies", format!("{} of them", key.policies.len()));
    }
    let mut policies = Vec::with_capacity(key.policies.len());
    for (index, policy) in key.policies.into_iter().enumerate() {
        policies.push(denier(policy).map_err(inside(&format!("policies[{index}]")))?);
    }
    // The order is part of the agreement, but a key must not change with it.
    policies.sort();
    Ok(Key {
        kind,
        source,
        source_ip,
        destination,
        destination_ip,
        protocol,
        port: port("destination_port", key.destination_port)?,
        policies,
    })
}

fn denier(policy: v1::DecidingPolicy) -> Result<Denier, Bad> {
    let direction = match v1::Direction::try_from(policy.direction) {
        Ok(v1::Direction::Ingress) => Direction::Ingress,
        Ok(v1::Direction::Egress) => Direction::Egress,
        Ok(v1::Direction::Unspecified) | Err(_) => {
            return bad("direction", unknown(policy.direction));
        }
    };
    name("policy_kind", &policy.policy_kind, false)?;
    let Some(object) = policy.policy else {
        return bad("policy", "missing");
    };
    object_names("policy", &object)?;
    let mut rules = policy.rules_without_match;
    if rules.len() > MOST_RULES {
        return bad("rules_without_match", format!("{} of them", rules.len()));
    }
    rules.sort_unstable();
    rules.dedup();
    Ok(Denier {
        direction,
        namespace: object.namespace,
        name: object.name,
        kind: policy.policy_kind,
        uid: object.uid,
        generation: policy.generation,
        rules,
        rule: policy.denying_rule,
    })
}

fn end(field: &str, end: Option<v1::Endpoint>) -> Result<(End, IpAddr), Bad> {
    let Some(end) = end else {
        return bad(field, "missing");
    };
    let ip = ip("address", &end.address).map_err(inside(field))?;
    let end = match end.kind {
        None => {
            return bad(
                format!("{field}.kind"),
                "missing: none of pod, node, external",
            );
        }
        Some(v1::endpoint::Kind::External(v1::External {})) => End::External,
        Some(v1::endpoint::Kind::Pod(pod)) => {
            object_names("pod", &pod).map_err(inside(field))?;
            name("pod.namespace", &pod.namespace, false).map_err(inside(field))?;
            name("pod.uid", &pod.uid, false).map_err(inside(field))?;
            End::Pod {
                namespace: pod.namespace,
                name: pod.name,
                uid: pod.uid,
            }
        }
        Some(v1::endpoint::Kind::Node(node)) => {
            object_names("node", &node).map_err(inside(field))?;
            End::Node {
                name: node.name,
                uid: node.uid,
            }
        }
    };
    Ok((end, ip))
}

fn sample(sample: &v1::AttemptSample, now: Wall) -> Result<Sample, Bad> {
    Ok(Sample {
        at: time("at", sample.at, now)?,
        source: SocketAddr::new(
            ip("source_address", &sample.source_address)?,
            port("source_port", sample.source_port)?,
        ),
        destination: SocketAddr::new(
            ip("destination_address", &sample.destination_address)?,
            port("destination_port", sample.destination_port)?,
        ),
        isn: sample.isn,
        answer: match v1::Answer::try_from(sample.answer) {
            Ok(v1::Answer::Accepted) => 1,
            Ok(v1::Answer::Refused) => 2,
            Ok(v1::Answer::Delivered) => 3,
            Ok(v1::Answer::Dropped) => 4,
            Ok(v1::Answer::Rejected) => 5,
            Ok(v1::Answer::ReplyLost) => 6,
            Ok(v1::Answer::Established) => 7,
            Ok(v1::Answer::Unspecified) | Err(_) => 0,
        },
    })
}

fn object_names(field: &str, object: &v1::ObjectRef) -> Result<(), Bad> {
    object_name("namespace", &object.namespace, true).map_err(inside(field))?;
    object_name("name", &object.name, false).map_err(inside(field))?;
    object_name("uid", &object.uid, true).map_err(inside(field))
}

/// Names of objects are stricter than other text, and people paste them into their shell.
fn object_name(field: &str, text: &str, may_be_empty: bool) -> Result<(), Bad> {
    name(field, text, may_be_empty)?;
    if text
        .chars()
        .any(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':')))
    {
        return bad(field, format!("`{text}` is no name of an object"));
    }
    Ok(())
}

fn name(field: &str, text: &str, may_be_empty: bool) -> Result<(), Bad> {
    if text.is_empty() && !may_be_empty {
        return bad(field, "missing");
    }
    if text.len() > LONGEST_NAME {
        return bad(field, format!("{} bytes long", text.len()));
    }
    // These reach people's terminals.
    if text.chars().any(unprintable) {
        return bad(field, "holds a control character");
    }
    Ok(())
}

fn count(field: &str, count: u64) -> Result<u64, Bad> {
    if count > LARGEST_COUNT {
        return bad(
            field,
            format!("{count} cannot be (at most {LARGEST_COUNT})"),
        );
    }
    Ok(count)
}

fn ip(field: &str, text: &str) -> Result<IpAddr, Bad> {
    text.parse::<IpAddr>()
        .map(|ip| ip.to_canonical())
        .or_else(|_| bad(field, format!("`{}` is no IP address", printable(text, 64))))
}

/// A port; 0 is one on the wire of a packet, though nobody listens there.
pub fn port(field: &str, port: u32) -> Result<u16, Bad> {
    u16::try_from(port).or_else(|_| bad(field, format!("{port} is no port")))
}

fn time(field: &str, time: Option<Timestamp>, now: Wall) -> Result<Wall, Bad> {
    let wall = wall(field, time, 1)?;
    // A clock that runs ahead must not hold its findings at the top for ever.
    Ok(if wall.0 > now.0.saturating_add(CLOCK_AHEAD) {
        now
    } else {
        wall
    })
}

/// A time of so many seconds at the least.
fn wall(field: &str, time: Option<Timestamp>, least: i64) -> Result<Wall, Bad> {
    let Some(time) = time else {
        return bad(field, "missing");
    };
    let nanos = i64::from(time.nanos);
    let wall = time
        .seconds
        .checked_mul(Wall::SECOND)
        .and_then(|whole| whole.checked_add(nanos));
    match wall {
        Some(wall) if time.seconds >= least && (0..Wall::SECOND).contains(&nanos) => Ok(Wall(wall)),
        _ => bad(
            field,
            format!("{}.{:09} s cannot be", time.seconds, time.nanos),
        ),
    }
}

fn kind(number: i32) -> Result<Kind, Bad> {
    Ok(match v1::FindingKind::try_from(number) {
        Ok(v1::FindingKind::Unenforced) => Kind::Unenforced,
        Ok(v1::FindingKind::OverBlocked) => Kind::OverBlocked,
        Ok(v1::FindingKind::LateEnforcement) => Kind::LateEnforcement,
        Ok(v1::FindingKind::StartupGap) => Kind::StartupGap,
        Ok(v1::FindingKind::Survivor) => Kind::Survivor,
        Ok(v1::FindingKind::ReplyLost) => Kind::ReplyLost,
        Ok(v1::FindingKind::Unspecified) | Err(_) => return bad("kind", unknown(number)),
    })
}

/// The transport of a question; TCP where none is said.
pub fn asked_protocol(number: i32) -> Result<Protocol, Bad> {
    if number == 0 {
        return Ok(Protocol::Tcp);
    }
    protocol(number)
}

fn protocol(number: i32) -> Result<Protocol, Bad> {
    Ok(match v1::Protocol::try_from(number) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Ok(v1::Protocol::Unspecified) | Err(_) => return bad("protocol", unknown(number)),
    })
}

fn unknown(number: i32) -> String {
    if number == 0 {
        "unspecified".to_owned()
    } else {
        format!("{number} is unknown to this version")
    }
}

/// The filter of a question.
pub fn filter(filter: Option<v1::FindingFilter>) -> Result<Filter, Bad> {
    let filter = filter.unwrap_or_default();
    name("namespace", &filter.namespace, true).map_err(inside("filter"))?;
    name("node", &filter.node, true).map_err(inside("filter"))?;
    let mut kinds = Vec::new();
    for number in filter.kinds {
        kinds.push(kind(number).map_err(|bad| inside("filter.kinds")(bad))?);
    }
    kinds.sort_unstable();
    kinds.dedup();
    Ok(Filter {
        namespace: filter.namespace,
        node: filter.node,
        since: filter
            .since
            .map(|since| time("since", Some(since), Wall(i64::MAX - CLOCK_AHEAD)))
            .transpose()
            .map_err(inside("filter"))?,
        kinds,
        include_retracted: filter.include_retracted,
        standing_only: filter.standing_only,
    })
}
