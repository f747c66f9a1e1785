//! When a connection that is established began.

use std::net::SocketAddr;

use polproof_policy::Protocol;

use super::{ENDS, Recent, WALK, by_ends};
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
        let chain = by_ends(netns, protocol, client, server);
        self.walk(ENDS, self.head(ENDS, &chain))
            .take(WALK)
            .find(|entry| {
                entry.netns == netns
                    && entry.protocol == protocol
                    && entry.client() == client
                    && entry.server() == server
                    && !entry.goes_on
            })
            .map(|entry| entry.first)
    }
}
