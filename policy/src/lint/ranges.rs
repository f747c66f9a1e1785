//! Sets of addresses as sorted ranges, and what an ipBlock holds of them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Family;

/// First and last address.
type Span = (u128, u128);

/// Addresses of both families.
#[derive(Default)]
pub(super) struct Ranges {
    v4: Vec<Span>,
    v6: Vec<Span>,
}

const fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits() as u128,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn span(net: &IpNet) -> (Family, Span) {
    let (first, last) = (net.network(), net.broadcast());
    (Family::of(first), (bits(first), bits(last)))
}

/// Sorted, and one where they touch.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            Some(_) | None => merged.push((first, last)),
        }
    }
    merged
}

impl Ranges {
    pub(super) fn new(
        addresses: impl IntoIterator<Item = IpAddr>,
        nets: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        let mut ranges = Self::default();
        let addresses = addresses.into_iter().map(|ip| {
            let ip = ip.to_canonical();
            (Family::of(ip), (bits(ip), bits(ip)))
        });
        let nets = nets.into_iter().map(|net| span(&net));
        for (family, span) in addresses.chain(nets) {
            match family {
                Family::V4 => ranges.v4.push(span),
                Family::V6 => ranges.v6.push(span),
            }
        }
        ranges.v4 = merged(ranges.v4);
        ranges.v6 = merged(ranges.v6);
        ranges
    }

    /// Whether any of the addresses lies in the block and in none of its exceptions.
    pub(super) fn touch(&self, cidr: &IpNet, except: &[IpNet]) -> bool {
        let (family, (first, last)) = span(cidr);
        let ranges = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        // Most blocks hold nothing of the cluster, whatever their exceptions.
        if !touched(ranges, first, last) {
            return false;
        }
        let except = except
            .iter()
            .map(span)
            .filter(|(of, _)| *of == family)
            .map(|(_, span)| span)
            .collect();
        let mut from = first;
        for (cut, cut_last) in merged(except) {
            if cut > from && touched(ranges, from, (cut - 1).min(last)) {
                return true;
            }
            if cut_last >= last {
                return false;
            }
            from = from.max(cut_last + 1);
        }
        touched(ranges, from, last)
    }
}

fn touched(ranges: &[Span], first: u128, last: u128) -> bool {
    let at = ranges.partition_point(|(_, end)| *end < first);
    ranges.get(at).is_some_and(|(start, _)| *start <= last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn touch(ranges: &Ranges, cidr: &str, except: &[&str]) -> bool {
        ranges.touch(&cidr.parse().unwrap(), &nets(except))
    }

    #[test]
    fn an_address_in_the_block_and_out_of_its_exceptions_is_found() {
        let ip = |text: &str| text.parse().unwrap();
        let ranges = Ranges::new([ip("10.0.0.5"), ip("10.0.1.0"), ip("fd00::1")], []);
        assert!(touch(&ranges, "10.0.0.0/24", &[]));
        assert!(!touch(&ranges, "10.0.0.0/24", &["10.0.0.5/32"]));
        assert!(!touch(&ranges, "10.0.0.0/24", &["10.0.0.4/31"]));
        assert!(touch(&ranges, "10.0.0.0/24", &["10.0.0.6/31"]));
        assert!(touch(&ranges, "10.0.0.0/23", &["10.0.0.0/24"]));
        assert!(!touch(
            &ranges,
            "10.0.0.0/23",
            &["10.0.1.0/24", "10.0.0.0/24"]
        ));
        assert!(!touch(&ranges, "10.0.2.0/24", &[]));
        assert!(touch(&ranges, "fd00::/64", &[]));
        assert!(!touch(&ranges, "fd00::/64", &["fd00::/65"]));
        assert!(touch(&ranges, "::/1", &[]) == touch(&ranges, "::/1", &["fd00::/64"]));
    }

    #[test]
    fn a_range_that_exceptions_cover_together_is_not_found() {
        let ranges = Ranges::new([], nets(&["10.244.0.0/16"]));
        assert!(touch(&ranges, "10.0.0.0/8", &[]));
        assert!(touch(&ranges, "10.0.0.0/8", &["10.244.0.0/17"]));
        assert!(!touch(
            &ranges,
            "10.0.0.0/8",
            &["10.244.128.0/17", "10.244.0.0/17"]
        ));
        assert!(!touch(&ranges, "10.0.0.0/8", &["10.240.0.0/12"]));
        assert!(touch(&ranges, "10.244.3.0/24", &["10.244.3.0/25"]));
        assert!(touch(&ranges, "255.0.0.0/8", &[]) == touch(&ranges, "0.0.0.0/8", &[]));
    }
}
