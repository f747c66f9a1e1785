//! `--baseline FILE`: an earlier output, so that only what is new fails.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file;
use crate::failure::Failure;

/// Bytes of the file: some 500,000 findings.
const MOST: u64 = 512 << 20;

/// What identifies a finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Identity {
    /// `NP012`.
    pub(super) lint: String,
    /// In the form of the lint's definition.
    pub(super) subject: String,
}

/// Findings of an earlier audit.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    known: BTreeSet<Identity>,
}

/// The part of an output that is looked at.
#[derive(Debug, Deserialize)]
struct Earlier {
    findings: Vec<Identity>,
}

impl Baseline {
    /// Reads the output of `-o json` or `-o yaml`.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = file::read("--baseline", path, MOST)?;
        Self::parse(&text).map_err(|error| {
            Failure::usage(format!(
                "--baseline {}: {error}; give a file that `polproof audit -o json` wrote",
                path.display()
            ))
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let one_line = |error: String| error.lines().next().unwrap_or_default().to_owned();
        let earlier: Earlier = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| one_line(error.to_string()))?
        } else {
            serde_saphyr::from_str(text).map_err(|error| one_line(error.to_string()))?
        };
        Ok(Self {
            known: earlier.findings.into_iter().collect(),
        })
    }

    /// Whether it was there.
    pub(super) fn has(&self, identity: &Identity) -> bool {
        self.known.contains(identity)
    }

    /// Those that are found no more.
    pub(super) fn without<'a>(
        &'a self,
        found: &'a BTreeSet<Identity>,
    ) -> impl Iterator<Item = &'a Identity> {
        self.known.difference(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_for_programs_are_read() {
        let json = r#"{"summary": "x", "findings": [{"lint": "NP001", "subject": "shop", "severity": "high"}]}"#;
        let yaml = "summary: x\nfindings:\n- lint: NP001\n  subject: shop\n  severity: high\n";
        let shop = Identity {
            lint: "NP001".to_owned(),
            subject: "shop".to_owned(),
        };
        for text in [json, yaml] {
            assert!(Baseline::parse(text).unwrap().has(&shop), "{text}");
        }
    }

    #[test]
    fn what_is_no_output_of_audit_is_an_error() {
        for text in ["", "{}", "[]", r#"{"findings": 3}"#, "{", "no"] {
            assert!(Baseline::parse(text).is_err(), "{text}");
        }
    }
}
