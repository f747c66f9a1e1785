//! The kernel's memory of connections.

use anyhow::{Context, Result};

use super::netlink::Message;
use crate::netns::Netns;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;

/// `conntrack -F`.
pub(super) fn flush(netns: &Netns) -> Result<()> {
    // struct nfgenmsg: any family, version 0, no resource. Without a tuple it means all.
    Message::new(DELETE, 0, &[0, 0, 0, 0])
        .send(netns, libc::NETLINK_NETFILTER)
        .context("forget all connections")
}
