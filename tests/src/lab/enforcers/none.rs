//! flannel and every other CNI that takes NetworkPolicies to heart and does nothing.

use anyhow::Result;

use super::{Case, Enforcer, Event, Fate, World};

/// Enforces nothing.
#[derive(Debug, Default)]
pub struct None;

impl Enforcer for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn enforce(&mut self, _world: &World<'_>) -> Result<()> {
        Ok(())
    }

    fn withdraw(&mut self, _world: &World<'_>) -> Result<()> {
        Ok(())
    }

    fn happen(&mut self, _event: &Event, _world: &World<'_>) -> Result<()> {
        Ok(())
    }

    fn fate(&self, _case: &Case) -> Fate {
        Fate::Passes
    }
}
