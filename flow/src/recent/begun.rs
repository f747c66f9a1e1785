//! When a connection that is established began.

use std::net::SocketAddr;

use polproof_policy::Protocol;

use super::{CLIENT, Recent, WALK, chains};
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
        let (_, chain) = chains(protocol, 0, client, server);
        self.walk(CLIENT, self.head(CLIENT, &chain))
            .take(WALK)
            .map(|(_, entry)| entry)
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
