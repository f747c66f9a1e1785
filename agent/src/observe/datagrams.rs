//! The agent's side of the datagram filter (agent-ebpf/src/filter.rs): the clock that it counts by, and what makes it forget.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use nix::time::{ClockId, clock_getres};
use polproof_agent_common::SEED_MAP;

use super::error::ObserveError;
use super::load::Observer;

/// Jiffies in a second: the coarse clocks step with them.
pub(super) fn jiffies_per_second() -> Result<u32, ObserveError> {
    let failed = |source| ObserveError::Inside {
        what: "read the kernel's tick (clock_getres)",
        source,
    };
    let step =
        clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|error| failed(error.into()))?;
    let nanos = u32::try_from(step.tv_nsec()).unwrap_or(0);
    per_second(nanos).ok_or_else(|| {
        failed(std::io::Error::other(format!(
            "it is {nanos} ns, which no kernel has"
        )))
    })
}

/// Of a step in nanoseconds, which the kernel rounds: 300 Hz are 3333333.
fn per_second(nanos: u32) -> Option<u32> {
    let hertz = (1_000_000_000 + nanos / 2).checked_div(nanos)?;
    (24..=10_000).contains(&hertz).then_some(hertz)
}

/// What the filter's hash is mixed with.
pub(super) struct Seed(Array<MapData, u64>);

impl Seed {
    /// Takes its map, and gives it a value that nobody can guess: an attacker could else choose datagrams that hide others.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, ObserveError> {
        let map = ebpf
            .take_map(SEED_MAP)
            .ok_or(ObserveError::Missing("map .data.seed"))?;
        let mut seed = Self(Array::try_from(map)?);
        seed.renew()?;
        Ok(seed)
    }

    fn renew(&mut self) -> Result<(), ObserveError> {
        // Each of these has keys of its own, the first of a process from the system's random numbers.
        let random = RandomState::new().build_hasher().finish();
        Ok(self.0.set(0, random, 0)?)
    }
}

impl Observer {
    /// Makes the programs forget which UDP tuples they wrote down: the next datagram of each is recorded again. For when an address
    /// gets another owner, whose first datagrams the old owner's would hide for up to 30 s (or what it is set to) from those who talk to it (the owners' own
    /// ends are told apart by their MAC addresses, unless these are made of the IP addresses). It costs one record for each active tuple, so
    /// that it may be called as often as pods come and go, but had better not be called much more than once a second.
    pub fn forget_datagrams(&mut self) -> Result<(), ObserveError> {
        self.seed.renew()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ticks_of_real_kernels() {
        for (nanos, hertz) in [
            (10_000_000, Some(100)),
            (4_000_000, Some(250)),
            (3_333_333, Some(300)),
            (1_000_000, Some(1000)),
            (0, None),
            (1, None),
            (999_999_999, None),
        ] {
            assert_eq!(per_second(nanos), hertz, "{nanos}");
        }
        assert!(jiffies_per_second().is_ok());
    }
}
