//! Emulations of the ways in which CNIs enforce NetworkPolicies, or do not. One file each.

mod iptables_drop;
mod none;

use std::net::IpAddr;

use anyhow::Result;
use serde_json::Value;

use crate::netns::Netns;

pub use iptables_drop::IptablesDrop;
pub use none::None;

/// What an enforcer gets to see.
#[derive(Debug)]
pub struct World<'a> {
    /// Each node's name and namespace.
    pub nodes: Vec<(&'a str, &'a Netns)>,
    /// Every object of the cluster, as written.
    pub objects: Vec<Value>,
    /// Addresses outside of the cluster that the lab's traffic may go to or come from.
    pub outside: Vec<IpAddr>,
}

/// Something that makes NetworkPolicies true on every node.
pub trait Enforcer: std::fmt::Debug {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Makes the nodes enforce what the objects say now.
    ///
    /// # Errors
    /// When the rules cannot be computed or loaded.
    fn enforce(&mut self, world: &World<'_>) -> Result<()>;

    /// Takes away all that it installed.
    ///
    /// # Errors
    /// When something of it stays.
    fn withdraw(&mut self, world: &World<'_>) -> Result<()>;
}
