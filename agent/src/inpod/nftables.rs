//! nf_tables, which the iptables of today writes too. One list of all chains tells enough: a base chain is referred to by its
//! own rules alone.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::observe::{Attributes, dump_of};

/// Of include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM | 3;
const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NF_ACCEPT: u32 = 1;

/// `struct nfgenmsg` of every family.
const NFGENMSG: [u8; 4] = [0; 4];

/// A list that changes while it is made is made again so often.
const TRIES: u32 = 4;

/// The chains of the calling thread's namespace that filter: hooked, with rules or another policy than accept.
pub(super) fn chains() -> io::Result<Vec<String>> {
    let mut tries = 0;
    loop {
        let mut found = Vec::new();
        let listed = dump_of(
            NETLINK_NETFILTER,
            NFT_MSG_GETCHAIN,
            &NFGENMSG,
            |kind, body| {
                if kind == NFT_MSG_NEWCHAIN {
                    found.extend(filters(body));
                }
            },
        );
        tries += 1;
        match listed {
            Ok(()) => return Ok(found),
            Err(error) if error.kind() == io::ErrorKind::Interrupted && tries < TRIES => {}
            // Neither nfnetlink nor nf_tables are in this kernel: nothing of theirs filters.
            Err(error) if found.is_empty() && error.raw_os_error().is_some_and(is_absent) => {
                return Ok(found);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_absent(errno: i32) -> bool {
    matches!(
        errno,
        libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT
    )
}

/// The chain's name, if it filters.
fn filters(body: &[u8]) -> Option<String> {
    let family = *body.first()?;
    let attributes = || Attributes(body.get(NFGENMSG.len()..).unwrap_or_default());
    let value = |wanted| {
        attributes()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    // Others are only jumped to.
    value(NFTA_CHAIN_HOOK)?;
    let number =
        |wanted| value(wanted).and_then(|value| value.try_into().ok().map(u32::from_be_bytes));
    let accepts = number(NFTA_CHAIN_POLICY).is_none_or(|policy| policy == NF_ACCEPT);
    let is_empty = number(NFTA_CHAIN_USE) == Some(0);
    if accepts && is_empty {
        return None;
    }
    let name = |wanted| {
        value(wanted).map_or_else(
            || "?".into(),
            |value| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)),
        )
    };
    let family = match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "of another family",
    };
    Some(format!(
        "nftables: table {family} {}, chain {}",
        name(NFTA_CHAIN_TABLE),
        name(NFTA_CHAIN_NAME)
    ))
}
