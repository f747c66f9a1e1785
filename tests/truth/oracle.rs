//! The enforcers, and whether they did what they say of themselves.

use anyhow::Result;
use polproof_tests::lab::Lab;
use polproof_tests::lab::enforcers::{self, Enforcer, IptablesDrop};

use crate::scene::Scene;
use crate::verdict::Row;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    make: fn() -> Box<dyn Enforcer>,
}

impl Entry {
    pub(crate) fn make(&self) -> Box<dyn Enforcer> {
        (self.make)()
    }
}

pub(crate) fn catalogue() -> &'static [Entry] {
    &[
        Entry {
            name: "none",
            make: || Box::new(enforcers::None),
        },
        Entry {
            name: "iptables-drop",
            make: || Box::<IptablesDrop>::default(),
        },
    ]
}

pub(crate) fn disagreements(_: &Lab, _: &Scene, _: &[Row]) -> Result<Vec<String>> {
    Ok(Vec::new())
}
