//! System programs that the lab and the tests start.

use super::{Item, debian};
use crate::workspace::find_program;

/// A program, the Debian package that holds it, and what it is for.
struct Program {
    name: &'static str,
    package: &'static str,
    without: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "ip",
        package: "iproute2",
        without: "the lab cannot make its nodes and pods",
    },
    Program {
        name: "bridge",
        package: "iproute2",
        without: "the lab cannot tunnel between its nodes",
    },
    Program {
        name: "tc",
        package: "iproute2",
        without: "the tests cannot see what is left at a device",
    },
    Program {
        name: "iptables-restore",
        package: "iptables",
        without: "the lab's enforcer cannot drop anything",
    },
    Program {
        name: "ip6tables-restore",
        package: "iptables",
        without: "the lab's enforcer cannot drop IPv6",
    },
    Program {
        name: "ipset",
        package: "ipset",
        without: "the lab's enforcer cannot hold its sets of addresses",
    },
    Program {
        name: "nft",
        package: "nftables",
        without: "the lab has no enforcers that use nftables",
    },
];

/// Each program, there or not.
pub(super) fn items() -> Vec<Item> {
    PROGRAMS
        .iter()
        .map(|program| match find_program(program.name) {
            Some(path) => Item::present(program.name, path.display().to_string()),
            None => Item::missing(
                program.name,
                program.without,
                debian::by_hand(&[program.package.to_owned()]),
            ),
        })
        .collect()
}

/// The packages of those that are not there.
pub(super) fn missing_packages() -> Vec<String> {
    let mut packages: Vec<String> = PROGRAMS
        .iter()
        .filter(|program| find_program(program.name).is_none())
        .map(|program| program.package.to_owned())
        .collect();
    packages.dedup();
    packages
}
