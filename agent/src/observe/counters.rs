//! What the programs count.

use std::path::Path;

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use polproof_agent_common::{ABI_VERSION, COUNTERS_MAP, CPU_STATE_WORDS, Counter};

use super::error::ObserveError;
use super::load::Observer;

/// Sums over all CPUs since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that were to be written.
    pub records: u64,
    /// Of those, lost because the ring was full.
    pub ring_full: u64,
    /// Of those, lost because the namespace could not be read.
    pub no_cookie: u64,
    /// Packets whose headers could not be walked: an attempt may have been among them.
    pub unparsed: u64,
    /// Non-first fragments: they belong to a packet that was seen.
    pub fragments: u64,
    /// First datagrams that were left out, since there were too many.
    pub datagrams_sampled: u64,
    /// Packets that came to eth0 for another device: they were not delivered to the pod.
    pub other_host: u64,
    /// ICMP and ICMPv6, without what keeps the link itself running.
    pub icmp: u64,
    /// Packets of tunnels.
    pub tunnel: u64,
    /// Packets of IPsec.
    pub ipsec: u64,
    /// Packets of every other protocol over IP.
    pub other_ip: u64,
    /// Frames that are neither IP nor ARP.
    pub other_frames: u64,
}

/// The map of the counters.
pub struct CounterMap(PerCpuArray<MapData, [u64; CPU_STATE_WORDS]>);

impl std::fmt::Debug for CounterMap {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CounterMap")
    }
}

impl TryFrom<Map> for CounterMap {
    type Error = MapError;

    fn try_from(map: Map) -> Result<Self, MapError> {
        Ok(Self(PerCpuArray::try_from(map)?))
    }
}

impl CounterMap {
    /// Opens the map that an [`Observer`] has pinned below `bpf_dir`, for somebody who reads beside it.
    pub fn open(bpf_dir: &Path) -> Result<Self, ObserveError> {
        let path = bpf_dir
            .join(format!("abi-{ABI_VERSION}"))
            .join(COUNTERS_MAP);
        let map = MapData::from_pin(path)?;
        Ok(Self::try_from(Map::PerCpuArray(map))?)
    }

    /// The counters, summed over the CPUs: one system call, so that they can be read as often as one likes.
    pub fn read(&self) -> Result<Counters, ObserveError> {
        let states = self.0.get(&0, 0)?;
        let sum = |counter: Counter| {
            states
                .iter()
                .filter_map(|words| words.get(counter as usize))
                .fold(0, |sum: u64, value| sum.saturating_add(*value))
        };
        Ok(Counters {
            records: sum(Counter::Sequence),
            ring_full: sum(Counter::RingFull),
            no_cookie: sum(Counter::NoCookie),
            unparsed: sum(Counter::Unparsed),
            fragments: sum(Counter::Fragment),
            datagrams_sampled: sum(Counter::DatagramsSampled),
            other_host: sum(Counter::OtherHost),
            icmp: sum(Counter::Icmp),
            tunnel: sum(Counter::Tunnel),
            ipsec: sum(Counter::Ipsec),
            other_ip: sum(Counter::OtherIp),
            other_frames: sum(Counter::OtherFrame),
        })
    }
}

impl Observer {
    /// The counters. Losses show here at once, and in the stream with the CPU's next record.
    pub fn counters(&self) -> Result<Counters, ObserveError> {
        self.counters.read()
    }
}
