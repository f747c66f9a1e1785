//! The four questions that the agent asks the kernel by rtnetlink, about one interface of the calling thread's
//! namespace. Attributes are walked by hand and only those wanted are read, so that a newer kernel's
//! additions cannot make an answer unreadable.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::ObserveError;

const NLMSG_HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const TCMSG: usize = 20;

/// The nested flag and the byte-order flag of an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const TCA_KIND: u16 = 1;

/// The parents of clsact's two chains of filters.
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// Its number.
    pub(super) index: u32,
    /// ARPHRD_*.
    pub(super) hardware: u16,
    /// Id of an XDP program on it.
    pub(super) xdp: Option<u32>,
}

/// ARPHRD_ETHER
pub(super) const ETHERNET: u16 = 1;

fn failed(what: &'static str) -> impl Fn(io::Error) -> ObserveError {
    move |source| ObserveError::Inside { what, source }
}

/// The interface of that name, if there is one.
pub(super) fn interface(name: &str) -> Result<Option<Interface>, ObserveError> {
    let mut found = None;
    dump(libc::RTM_GETLINK, &[0; IFINFOMSG], |kind, body| {
        if kind != libc::RTM_NEWLINK {
            return;
        }
        let (Some(hardware), Some(index)) = (u16_at(body, 2), u32_at(body, 4)) else {
            return;
        };
        let attributes = || Attributes(body.get(IFINFOMSG..).unwrap_or_default());
        let named = attributes().any(|(kind, value)| {
            kind == IFLA_IFNAME && value.strip_suffix(&[0]).unwrap_or(value) == name.as_bytes()
        });
        if named {
            let xdp = attributes()
                .filter(|(kind, _)| *kind == IFLA_XDP)
                .flat_map(|(_, nested)| Attributes(nested))
                .find(|(kind, _)| *kind == IFLA_XDP_PROG_ID)
                .and_then(|(_, value)| u32_at(value, 0))
                .filter(|id| *id != 0);
            found = Some(Interface {
                index,
                hardware,
                xdp,
            });
        }
    })
    .map_err(failed("list interfaces"))?;
    Ok(found)
}

/// Addresses of the interface, without link-local ones, which identify nothing.
pub(super) fn addresses(index: u32) -> Result<Vec<IpAddr>, ObserveError> {
    let mut found = Vec::new();
    dump(libc::RTM_GETADDR, &[0; IFADDRMSG], |kind, body| {
        if kind != libc::RTM_NEWADDR || u32_at(body, 4) != Some(index) {
            return;
        }
        let attributes = || Attributes(body.get(IFADDRMSG..).unwrap_or_default());
        // IFA_LOCAL is the own address of a point-to-point interface, where IFA_ADDRESS is the peer's.
        let own = attributes()
            .find(|(kind, _)| *kind == IFA_LOCAL)
            .or_else(|| attributes().find(|(kind, _)| *kind == IFA_ADDRESS));
        let address = own.and_then(|(_, value)| {
            <[u8; 4]>::try_from(value)
                .map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)))
                .or_else(|_| {
                    <[u8; 16]>::try_from(value).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
                })
                .ok()
        });
        match address {
            Some(IpAddr::V4(v4)) if v4.is_link_local() => {}
            Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() => {}
            Some(address) => found.push(address),
            None => {}
        }
    })
    .map_err(failed("list addresses"))?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Kinds of the classic tc filters on the interface's clsact or ingress qdisc, with the direction.
pub(super) fn filters(index: u32) -> Result<Vec<String>, ObserveError> {
    let mut has_qdisc = false;
    dump(libc::RTM_GETQDISC, &tcmsg(0, 0), |kind, body| {
        // This dump knows no filter by interface.
        if kind == libc::RTM_NEWQDISC && u32_at(body, 4) == Some(index) {
            has_qdisc |= matches!(kind_of(body).as_deref(), Some("clsact" | "ingress"));
        }
    })
    .map_err(failed("list queueing disciplines"))?;
    let mut found = Vec::new();
    if !has_qdisc {
        return Ok(found);
    }
    for (parent, direction) in [(CLSACT_INGRESS, "ingress"), (CLSACT_EGRESS, "egress")] {
        let before = found.len();
        let dumped = dump(libc::RTM_GETTFILTER, &tcmsg(index, parent), |kind, body| {
            if kind == libc::RTM_NEWTFILTER {
                found.push(format!(
                    "tc filter {} on {direction}",
                    kind_of(body).unwrap_or_else(|| "of an unknown kind".to_owned())
                ));
            }
        });
        match dumped {
            // The qdisc vanished, or (`ingress`) has no such chain.
            Err(error) if found.len() == before && error.raw_os_error().is_some_and(no_such) => {}
            other => other.map_err(failed("list tc filters"))?,
        }
        // One filter is listed once as itself and once for each of its handles.
        found.dedup();
    }
    Ok(found)
}

fn no_such(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)
}

fn kind_of(body: &[u8]) -> Option<String> {
    let (_, value) =
        Attributes(body.get(TCMSG..)?).find(|(attribute, _)| *attribute == TCA_KIND)?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

fn tcmsg(index: u32, parent: u32) -> [u8; TCMSG] {
    let mut body = [0; TCMSG];
    let (_, rest) = body.split_at_mut(4);
    for (place, value) in rest.chunks_exact_mut(4).zip([index, 0, parent]) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
    body
}

/// Sends one dump request and hands every answer's type and body to `each`.
fn dump(request: u16, body: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = u32::try_from(NLMSG_HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(NLMSG_HEADER + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&request.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    message.extend_from_slice(body);
    socket.send(&message, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while rest.len() >= NLMSG_HEADER {
            let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) else {
                return Err(truncated());
            };
            let length = usize::try_from(length).map_err(|_| truncated())?;
            let body = rest.get(NLMSG_HEADER..length).ok_or_else(truncated)?;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let errno = u32_at(body, 0).map_or(0, u32::cast_signed);
                    if errno == 0 {
                        return Ok(());
                    }
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                other => each(other, body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "a netlink message is cut short",
    )
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    field.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_ne_bytes)
}

/// Walks attributes; ends at the first that does not fit.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn attributes_end_at_what_does_not_fit() {
        let mut bytes = vec![8, 0, 3, 0, 1, 2, 3, 4];
        assert_eq!(
            Attributes(&bytes).collect::<Vec<_>>(),
            [(3, &[1, 2, 3, 4][..])]
        );
        bytes.extend([9, 0, 1, 0, 0]);
        assert_eq!(Attributes(&bytes).count(), 1);
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[0; 4]).count(), 0);
        assert_eq!(Attributes(&[1]).count(), 0);
    }

    #[test]
    fn the_loopback_is_there_and_nonsense_is_not() {
        let lo = interface("lo").unwrap().unwrap();
        assert_eq!(lo.index, 1);
        assert_ne!(lo.hardware, ETHERNET);
        assert!(interface("no-such-link0").unwrap().is_none());
    }
}
