//! Findings as the collector keeps them: free of the wire, with wall-clock times.

use std::net::{IpAddr, SocketAddr};

use polproof_policy::{Direction, Protocol};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A moment of wall time in nanoseconds since 1970 (UTC).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Wall(pub i64);

impl Wall {
    /// Nanoseconds in a second.
    pub const SECOND: i64 = 1_000_000_000;

    /// The system's clock now.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// This moment less a duration.
    pub fn minus(self, duration: std::time::Duration) -> Self {
        let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// How long before `later` this was, never negative.
    pub fn until(self, later: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

/// What kind of contradiction (the wire's `FindingKind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Denied by the policies, delivered all the same.
    Unenforced,
    /// Allowed by the policies, and not delivered.
    OverBlocked,
    /// Enforced, but later than the grace time.
    LateEnforcement,
    /// Not enforced while the pod started.
    StartupGap,
    /// A connection that outlived the policy change which denies it.
    Survivor,
    /// Allowed, delivered and answered; the answer never came back.
    ReplyLost,
}

impl Kind {
    /// The number in the store, equal to the wire's.
    pub const fn number(self) -> i64 {
        match self {
            Self::Unenforced => 1,
            Self::OverBlocked => 2,
            Self::LateEnforcement => 3,
            Self::StartupGap => 4,
            Self::Survivor => 5,
            Self::ReplyLost => 6,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Unenforced => "unenforced",
            Self::OverBlocked => "over_blocked",
            Self::LateEnforcement => "late_enforcement",
            Self::StartupGap => "startup_gap",
            Self::Survivor => "survivor",
            Self::ReplyLost => "reply_lost",
        }
    }
}

/// One end of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A pod.
    Pod {
        /// `metadata.namespace`.
        namespace: String,
        /// `metadata.name`.
        name: String,
        /// `metadata.uid`.
        uid: String,
    },
    /// A node.
    Node {
        /// `metadata.name`.
        name: String,
        /// `metadata.uid`, empty if the agent did not know it.
        uid: String,
    },
    /// An address outside the cluster.
    External,
}

impl End {
    /// The namespace of a pod; empty for everything else.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Pod { namespace, .. } => namespace,
            Self::Node { .. } | Self::External => "",
        }
    }
}

/// A policy that denies, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Denier {
    /// The direction that it denies.
    pub direction: Direction,
    /// `metadata.namespace`, empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// "NetworkPolicy", "AdminNetworkPolicy", ...
    pub kind: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Indices of the rules that did not match.
    pub rules: Vec<u32>,
    /// Index of the rule that denies, in a policy of the admin or baseline tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
}

/// What identifies a finding: equal keys are one finding, counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// Who connected.
    pub source: End,
    /// From which address.
    pub source_ip: IpAddr,
    /// Who was reached.
    pub destination: End,
    /// At which address.
    pub destination_ip: IpAddr,
    /// Transport.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Who denied it, sorted by direction, namespace, name.
    pub policies: Vec<Denier>,
}

impl Key {
    /// The finding's identity: 32 hex digits that depend on nothing but the key, so they stay the same over
    /// restarts, databases and versions. Every part goes in with its length: no two keys read alike.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        part("polproof finding 1");
        part(self.kind.word());
        for (end, ip) in [
            (&self.source, self.source_ip),
            (&self.destination, self.destination_ip),
        ] {
            match end {
                End::Pod {
                    namespace,
                    name,
                    uid,
                } => ["pod", namespace, name, uid]
                    .into_iter()
                    .for_each(&mut part),
                End::Node { name, uid } => ["node", name, uid].into_iter().for_each(&mut part),
                End::External => part("external"),
            }
            part(&ip.to_string());
        }
        part(match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        });
        part(&self.port.to_string());
        part(&self.policies.len().to_string());
        for policy in &self.policies {
            part(match policy.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            });
            part(&policy.kind);
            part(&policy.namespace);
            part(&policy.name);
            part(&policy.uid);
            part(&policy.generation.to_string());
            part(&policy.rules.len().to_string());
            for rule in &policy.rules {
                part(&rule.to_string());
            }
            if let Some(rule) = policy.rule {
                part("rule");
                part(&rule.to_string());
            }
        }
        let digest = hash.finalize();
        let mut id = String::with_capacity(32);
        for byte in digest.iter().take(16) {
            use std::fmt::Write as _;
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        id
    }
}

/// One attempt, kept as an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When its SYN was seen.
    pub at: Wall,
    /// From where.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// TCP initial sequence number or SCTP initiate tag.
    pub isn: u32,
    /// The wire's `Answer`: 0 unknown, 1 accepted, 2 refused, ...
    pub answer: u8,
}

/// The end of what a finding tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// When it was noticed.
    pub at: Wall,
    /// The wire's `RecoveryCause`.
    pub cause: u8,
}

/// What one batch says about one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// [`Key::id`].
    pub id: String,
    /// Which finding.
    pub key: Key,
    /// New attempts.
    pub observed: u64,
    /// Earlier attempts that are judged for good.
    pub settled: u64,
    /// Earlier attempts taken back.
    pub retracted: u64,
    /// The first of the attempts.
    pub first: Wall,
    /// The last of them.
    pub last: Wall,
    /// The wire's `EvidenceLevel`: 1 one witness, 2 two witnesses, 3 probe.
    pub evidence: u8,
    /// Attempts that the other end's witness confirms.
    pub witnessed: u64,
    /// That it has ended.
    pub recovered: Option<Recovery>,
    /// A few of them.
    pub samples: Vec<Sample>,
}

/// A finding as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// [`Key::id`].
    pub id: String,
    /// Node of the witness.
    pub node: String,
    /// What it is.
    pub key: Key,
    /// All attempts ever observed.
    pub observed: u64,
    /// Those judged for good.
    pub settled: u64,
    /// Those taken back.
    pub retracted: u64,
    /// The first attempt.
    pub first: Wall,
    /// The last attempt.
    pub last: Wall,
    /// Best evidence so far.
    pub evidence: u8,
    /// Attempts that the other end's witness confirms.
    pub witnessed: u64,
    /// That it has ended, and was not seen again since.
    pub recovered: Option<Recovery>,
    /// Value of the store's clock when it last changed.
    pub changed: i64,
    /// The newest attempts, newest first.
    pub samples: Vec<Sample>,
}

impl Finding {
    /// Attempts that are not taken back. `settled` counts by itself too: after a gap in the batches it can be
    /// larger than what was seen observed.
    pub fn standing(&self) -> u64 {
        self.observed
            .saturating_sub(self.retracted)
            .max(self.settled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn key(rule: Option<u32>) -> Key {
        Key {
            kind: Kind::Unenforced,
            source: End::External,
            source_ip: "203.0.113.9".parse().unwrap(),
            destination: End::External,
            destination_ip: "10.0.0.2".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 80,
            policies: vec![Denier {
                direction: Direction::Ingress,
                namespace: String::new(),
                name: "guard".to_owned(),
                kind: "AdminNetworkPolicy".to_owned(),
                uid: "u".to_owned(),
                generation: 1,
                rules: Vec::new(),
                rule,
            }],
        }
    }

    #[test]
    fn the_rule_that_denies_is_part_of_the_identity() {
        let ids: std::collections::BTreeSet<String> = [None, Some(0), Some(1)]
            .map(|rule| key(rule).id())
            .into_iter()
            .collect();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn a_key_that_was_stored_before_there_were_such_rules_is_read_and_keeps_its_identity() {
        let stored = serde_json::to_value(key(None)).unwrap();
        assert!(stored["policies"][0].get("rule").is_none(), "{stored}");
        let read: Key = serde_json::from_value(stored).unwrap();
        assert_eq!(read, key(None));
        // It depends on nothing that a version may change.
        assert_eq!(read.id(), ID_BEFORE);
        let new = serde_json::to_value(key(Some(4))).unwrap();
        assert_eq!(serde_json::from_value::<Key>(new).unwrap(), key(Some(4)));
    }

    const ID_BEFORE: &str = "13c2466e9f8579e7e76cf2a5e00bb9ce";
}
