//! The kernel's limit for ICMP errors: lifted for enforcers that are to answer every denied packet.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::emulation::Place;
use super::kind::{Fault, Stop};
use crate::lab::wiring::sysctls;

/// The settings, and what they are while there is no limit. A list of types cannot be empty: packets that are too big stay limited.
const UNLIMITED: [(&str, &str); 2] = [
    ("net/ipv4/icmp_ratemask", "0"),
    ("net/ipv6/icmp/ratemask", "2"),
];

/// See the module.
#[derive(Debug)]
pub(super) struct Limits {
    lifted: bool,
    /// What the settings were before, by node.
    before: BTreeMap<String, Vec<String>>,
}

impl Limits {
    pub(super) fn new(stop: Stop, faults: &[Fault]) -> Self {
        let by_icmp = matches!(stop, Stop::AdminProhibited | Stop::PortUnreachable);
        Self {
            lifted: by_icmp && !faults.contains(&Fault::IcmpLimited),
            before: BTreeMap::new(),
        }
    }

    /// Lifts the limit on a node.
    pub(super) fn raise(&mut self, place: &Place<'_>) -> Result<()> {
        if !self.lifted || self.before.contains_key(place.node) {
            return Ok(());
        }
        let before = place.netns.run(|| {
            let read = |(name, _): (&str, &str)| {
                std::fs::read_to_string(Path::new("/proc/sys").join(name))
                    .with_context(|| format!("read {name}"))
            };
            UNLIMITED.into_iter().map(read).collect::<Result<Vec<_>>>()
        })??;
        self.before.insert(place.node.to_owned(), before);
        sysctls(place.netns, &UNLIMITED)
    }

    /// Puts it back.
    pub(super) fn restore(&mut self, place: &Place<'_>) -> Result<()> {
        let Some(before) = self.before.remove(place.node) else {
            return Ok(());
        };
        let settings: Vec<(&str, &str)> = UNLIMITED
            .iter()
            .zip(&before)
            .map(|((name, _), value)| (*name, value.trim()))
            .collect();
        sysctls(place.netns, &settings)
    }
}
