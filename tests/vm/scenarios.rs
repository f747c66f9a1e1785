//! What is tried on every kernel, by every means that it has.

use anyhow::{Result, ensure};
use polproof_agent::observe::{Identity, KernelLacks, Means, capabilities};

use crate::{filters, means, world};

/// A name and what it does.
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) run: Box<dyn FnOnce() -> Result<()> + Send>,
}

/// How the programs come onto eth0, and by what namespaces are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tcx,
    Clsact,
    /// Clsact, and no cookies.
    Inode,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Tcx, Self::Clsact, Self::Inode];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Inode => "clsact, inodes",
        }
    }

    pub(crate) fn means(self) -> Means {
        match self {
            Self::Tcx => Means::Tcx,
            Self::Clsact | Self::Inode => Means::Clsact,
        }
    }

    pub(crate) fn identity(self) -> Identity {
        match self {
            Self::Tcx | Self::Clsact => Identity::Cookie,
            Self::Inode => Identity::Inode,
        }
    }

    /// Why it cannot be tried on the running kernel.
    pub(crate) fn missing(self) -> Option<String> {
        (self == Self::Tcx && capabilities().lacks(KernelLacks::Tcx))
            .then(|| "this kernel has no tcx".to_owned())
    }
}

pub(crate) type Try = fn(Way) -> Result<()>;

/// The scenarios of one way.
pub(crate) fn of(way: Way) -> Vec<Scenario> {
    let mut tries = means::TRIES.to_vec();
    if way.means() == Means::Clsact {
        tries.extend(filters::TRIES);
    }
    if way.identity() == Identity::Inode {
        tries.extend(filters::OF_INODES);
    }
    named(way, tries)
}

fn named(way: Way, tries: Vec<(&'static str, Try)>) -> Vec<Scenario> {
    tries
        .into_iter()
        .map(|(name, run)| Scenario {
            name: format!("{}: {name}", way.name()),
            run: Box::new(move || run(way)),
        })
        .collect()
}

/// What a machine runs whose kernel has this at best: that way, and the tests of the programs.
pub(crate) fn of_kernel(way: Way) -> Vec<Scenario> {
    let mut all = vec![Scenario {
        name: "what it lacks is named".to_owned(),
        run: Box::new(move || lacks(way)),
    }];
    all.extend(of(way));
    if way == Way::Clsact {
        // The rest of it is the same as with cookies, and is tried on the host.
        let of_inodes = [
            means::TRIES.get(..2).unwrap_or_default(),
            &filters::OF_INODES,
        ]
        .concat();
        all.extend(named(Way::Inode, of_inodes));
    }
    let mut tests: Vec<world::Test> = Vec::new();
    tests.extend(crate::records::TESTS);
    tests.extend(crate::odd::TESTS);
    tests.extend(crate::transports::TESTS);
    tests.extend(crate::bounds::TESTS);
    tests.extend(crate::pods::TESTS);
    tests.extend(crate::inside::TESTS);
    tests.extend(crate::restart::TESTS);
    tests.extend(crate::hooks::TESTS);
    tests.extend(crate::moves::TESTS);
    for (name, run) in tests {
        // These look for links on tcx and their pins.
        const OF_TCX: [&str; 8] = [
            "a_restart_takes_over_and_misses_nothing",
            "another_program_on_eth0_is_noticed",
            "another_versions_programs_are_removed",
            "our_own_program_missing_is_noticed_and_mended",
            "a_namespace_that_ends_leaves_a_dead_link",
            "an_eth0_that_moved_is_watched_where_it_is_now",
            "an_eth0_that_replaced_one_that_moved_away_is_attached_to",
            "a_device_that_outlives_its_namespace_is_released",
        ];
        // And these need identities that outlive an agent or an interface.
        const OF_COOKIES: [&str; 3] = [
            "a_pod_whose_eth0_went_to_another_has_a_gap",
            "a_position_is_a_durable_cursor",
            "a_replaced_interface_is_a_gap",
        ];
        let possible = (way == Way::Tcx || !OF_TCX.contains(&name))
            && (way != Way::Inode || !OF_COOKIES.contains(&name));
        if possible {
            all.push(Scenario {
                name: format!("observe: {name}"),
                run: Box::new(run),
            });
        }
    }
    all
}

fn lacks(way: Way) -> Result<()> {
    let found = capabilities();
    let expected: &[KernelLacks] = match way {
        Way::Tcx => &[KernelLacks::SctpList],
        Way::Clsact => &[KernelLacks::Tcx, KernelLacks::SctpList],
        Way::Inode => &[
            KernelLacks::Tcx,
            KernelLacks::NetCookie,
            KernelLacks::SctpList,
        ],
    };
    // The machine has the module of SCTP, and not the one that lists its associations. How much memory may be locked is no matter of the kernel alone.
    let lacks = found
        .lacks
        .iter()
        .filter(|lack| **lack != KernelLacks::MemoryAccounting);
    ensure!(lacks.eq(expected), "{found:?}");
    ensure!(found.fatal().is_none(), "{found:?}");
    ensure!(found.means == way.means(), "{found:?}");
    Ok(())
}
