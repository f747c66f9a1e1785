//! The agent's side of what the programs remember: datagrams (agent-ebpf/src/filter.rs), by which clock, and whose
//! namespace a device is in (agent-ebpf/src/emit.rs); and what makes them forget.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use nix::time::{ClockId, clock_getres};

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

/// What a memory of the programs is mixed with. Another value makes it forget, and none can be guessed: an attacker could else choose
/// datagrams that hide others.
pub(super) struct Salt(Array<MapData, u64>);

impl Salt {
    /// Takes the map of that name, and renews it.
    pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, ObserveError> {
        let map = ebpf.take_map(name).ok_or(ObserveError::Missing(name))?;
        let mut salt = Self(Array::try_from(map)?);
        salt.renew()?;
        Ok(salt)
    }

    fn renew(&mut self) -> Result<(), ObserveError> {
        // Each of these has keys of its own, the first of a process from the system's random numbers.
        let random = RandomState::new().build_hasher().finish();
        Ok(self.0.set(0, random, 0)?)
    }
}

impl Observer {
    /// Makes the programs forget which UDP tuples they wrote down: the next datagram of each is recorded again. For when an address
    /// gets another owner, whose first datagrams the old owner's would hide for up to 30 s from those who talk to it (the owners' own
    /// ends are told apart by their MAC addresses, unless these are made of the IP addresses). It costs one record for each active tuple, so
    /// that it may be called as often as pods come and go, but had better not be called much more than once a second.
    pub fn forget_datagrams(&mut self) -> Result<(), ObserveError> {
        self.seed.renew()
    }

    /// Makes the programs read again which namespace a device is in. To be called before each attachment: the new device may lie
    /// where one did that is gone.
    pub(super) fn forget_devices(&mut self) -> Result<(), ObserveError> {
        self.generation.renew()
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
