//! What the agent asks the kernel by rtnetlink about one interface of the calling thread's namespace, and how it asks.
//! Attributes are walked by hand and only those wanted are read, so that a newer kernel's additions cannot make an
//! answer unreadable.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use super::error::ObserveError;

const NLMSG_HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// In an answer: what is listed changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Refuse what is there already.
pub(super) const NLM_F_EXCL: u16 = 0x200;
/// Make what is not there.
pub(super) const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;

/// The kernel answers within microseconds, or after whoever holds its network lock; later than this nobody will.
const PATIENCE_SECONDS: i64 = 10;

/// The nested flag and the byte-order flag of an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

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

pub(super) fn failed(what: &'static str) -> impl Fn(io::Error) -> ObserveError {
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

/// Sends one dump request and hands every answer's type and body to `each`.
pub(super) fn dump(request: u16, body: &[u8], each: impl FnMut(u16, &[u8])) -> io::Result<()> {
    dump_of(NETLINK_ROUTE, request, body, each)
}

/// [`dump`] of another family of netlink than routing's. A list that changed while it was made is an error of kind
/// [`io::ErrorKind::Interrupted`].
pub(crate) fn dump_of(
    protocol: isize,
    request: u16,
    body: &[u8],
    mut each: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    let socket = ask(protocol, request, NLM_F_DUMP, body)?;
    read_answers(&socket, &mut each)
}

/// Sends one request that changes something, and waits for the kernel's word on it.
pub(super) fn change(request: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = ask(NETLINK_ROUTE, request, NLM_F_ACK | flags, body)?;
    read_answers(&socket, &mut |_, _| {})
}

fn ask(protocol: isize, request: u16, flags: u16, body: &[u8]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE_SECONDS, 0))?;
    let length = u32::try_from(NLMSG_HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(NLMSG_HEADER + body.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&request.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend_from_slice(&1_u32.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    message.extend_from_slice(body);
    socket.send(&message, 0)?;
    Ok(socket)
}

/// Reads up to the end of a dump, or to the acknowledgement of a change.
fn read_answers(socket: &Socket, each: &mut impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut interrupted = false;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while rest.len() >= NLMSG_HEADER {
            let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) else {
                return Err(truncated());
            };
            let length = usize::try_from(length).map_err(|_| truncated())?;
            let body = rest.get(NLMSG_HEADER..length).ok_or_else(truncated)?;
            interrupted |= u16_at(rest, 6).is_some_and(|flags| flags & NLM_F_DUMP_INTR != 0);
            match kind {
                // A dump that failed on its way says so at its end.
                NLMSG_DONE => {
                    return match u32_at(body, 0).map_or(0, u32::cast_signed) {
                        errno if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
                        _ if interrupted => Err(io::ErrorKind::Interrupted.into()),
                        _ => Ok(()),
                    };
                }
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

/// Appends one attribute, padded to the next multiple of four.
pub(super) fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) -> io::Result<()> {
    let length = u16::try_from(4 + value.len()).map_err(io::Error::other)?;
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
    Ok(())
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    field.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_ne_bytes)
}

/// Walks attributes; ends at the first that does not fit.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

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
