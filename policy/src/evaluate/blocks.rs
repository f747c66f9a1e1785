//! Address blocks as sorted ranges: each block without its exceptions, all blocks joined.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// A set of addresses.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    v4: Arc<[(u32, u32)]>,
    v6: Arc<[(u128, u128)]>,
}

/// An address as a number that has a next and a previous one.
trait Step: Copy + Ord {
    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
}

impl Step for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Step for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Blocks {
    /// The union of these blocks, each without its exceptions.
    pub(crate) fn compile<'a>(blocks: impl IntoIterator<Item = (&'a IpNet, &'a [IpNet])>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (net, except) in blocks {
            match net {
                IpNet::V4(net) => {
                    let except = except.iter().filter_map(|except| match except {
                        IpNet::V4(net) => Some(bounds_v4(net)),
                        IpNet::V6(_) => None,
                    });
                    cut(bounds_v4(net), except.collect(), &mut v4);
                }
                IpNet::V6(net) => {
                    let except = except.iter().filter_map(|except| match except {
                        IpNet::V6(net) => Some(bounds_v6(net)),
                        IpNet::V4(_) => None,
                    });
                    cut(bounds_v6(net), except.collect(), &mut v6);
                }
            }
        }
        Self {
            v4: joined(v4).into(),
            v6: joined(v6).into(),
        }
    }

    #[inline]
    pub(crate) fn contain(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => within(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => within(&self.v6, ip.to_bits()),
        }
    }
}

fn bounds_v4(net: &ipnet::Ipv4Net) -> (u32, u32) {
    (net.network().to_bits(), net.broadcast().to_bits())
}

fn bounds_v6(net: &ipnet::Ipv6Net) -> (u128, u128) {
    (net.network().to_bits(), net.broadcast().to_bits())
}

/// What the exceptions leave of a range.
fn cut<T: Step>(range: (T, T), mut except: Vec<(T, T)>, into: &mut Vec<(T, T)>) {
    except.sort_unstable();
    let (mut first, last) = range;
    for (from, to) in except {
        if to < first {
            continue;
        }
        if from > last {
            break;
        }
        if let Some(before) = from.previous()
            && first <= before
        {
            into.push((first, before));
        }
        match to.next() {
            Some(after) => first = after,
            None => return,
        }
    }
    if first <= last {
        into.push((first, last));
    }
}

fn joined<T: Step>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, held| {
        let joins = held.1.next().is_none_or(|after| next.0 <= after);
        if joins {
            held.1 = held.1.max(next.1);
        }
        joins
    });
    ranges
}

#[inline]
fn within<T: Step>(ranges: &[(T, T)], ip: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= ip);
    after
        .checked_sub(1)
        .and_then(|at| ranges.get(at))
        .is_some_and(|(_, last)| ip <= *last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_hold_what_the_blocks_hold() {
        let blocks = [
            (
                net("10.0.0.0/24"),
                vec![net("10.0.0.0/28"), net("10.0.0.8/30"), net("10.0.0.240/28")],
            ),
            (net("10.0.0.4/30"), vec![]),
            (
                net("10.0.1.0/24"),
                vec![net("10.0.1.128/25"), net("fd00::/8")],
            ),
            (
                net("10.0.3.0/24"),
                vec![net("10.0.3.7/32"), net("10.0.3.8/32")],
            ),
            (net("255.255.255.0/24"), vec![net("255.255.255.255/32")]),
            (net("0.0.0.0/30"), vec![net("0.0.0.0/32")]),
            (net("fd00::/120"), vec![net("fd00::10/124")]),
            (net("ffff::/16"), vec![]),
        ];
        let compiled = Blocks::compile(blocks.iter().map(|(net, except)| (net, &**except)));
        let v4 = [0, 0x0a00_0000, 0x0a00_0300, u32::MAX - 0x3ff]
            .into_iter()
            .flat_map(|start| {
                (0..0x400).map(move |more| IpAddr::from((start + more).to_be_bytes()))
            });
        let fd00 = u128::from(0xfd00_u16) << 112;
        let v6 = [fd00, u128::MAX - 0x1ff].into_iter().flat_map(|start| {
            (0..0x200).map(move |more| IpAddr::from((start + more).to_be_bytes()))
        });
        for ip in v4.chain(v6) {
            let held = blocks.iter().any(|(net, except)| {
                net.contains(&ip) && !except.iter().any(|except| except.contains(&ip))
            });
            assert_eq!(compiled.contain(ip), held, "{ip}");
        }
    }

    #[test]
    fn blocks_that_touch_become_one() {
        let halves = [net("10.0.0.0/9"), net("10.128.0.0/9"), net("10.1.0.0/16")];
        let compiled = Blocks::compile(halves.iter().map(|net| (net, &[] as &[IpNet])));
        assert_eq!(compiled.v4.len(), 1);
        let all = [net("0.0.0.0/0"), net("255.255.255.255/32"), net("::/0")];
        let compiled = Blocks::compile(all.iter().map(|net| (net, &[] as &[IpNet])));
        assert_eq!((compiled.v4.len(), compiled.v6.len()), (1, 1));
    }
}
