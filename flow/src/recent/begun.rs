//! When a connection that is established began.

use std::net::SocketAddr;

use polproof_policy::Protocol;

use super::Recent;
use crate::record::{Instant, NetnsCookie};

impl Recent {
    /// When the latest attempt between these two ends began, if it is remembered.
    pub(crate) fn begun(
        &self,
        netns: NetnsCookie,
        protocol: Protocol,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Option<Instant> {
        self.with_ends(netns, protocol, client, server)
            .find(|entry| !entry.goes_on)
            .map(|entry| entry.first)
    }
}
