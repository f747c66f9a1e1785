//! `sock_diag` as it is on the wire (include/uapi/linux/inet_diag.h).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use polproof_flow::record::Instant;
use polproof_policy::Protocol;

use crate::observe::{Attributes, dump_of, u32_at};

/// Those asked for, in order.
pub(super) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Sctp, Protocol::Udp];

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// Length of `struct inet_diag_sockid`.
const SOCKET_ID: usize = 48;

const INET_DIAG_INFO: u16 = 2;
/// Of `struct tcp_info`: segments not acknowledged, and milliseconds since data was sent, since new data came and since any segment
/// came.
const UNACKED: usize = 24;
const LAST_DATA_SENT: usize = 44;
const LAST_DATA_RECV: usize = 52;
const LAST_ACK_RECV: usize = 56;

/// TCP's names serve for all: TCP_ESTABLISHED is a connected UDP socket too, TCP_CLOSE an unconnected one.
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
/// An SCTP association tells its own state.
const SCTP_ESTABLISHED: u8 = 3;

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Else it waits for others to connect.
    pub(super) connected: bool,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) cookie: u64,
    /// Where the kernel tells.
    pub(super) quiet: Option<Quiet>,
}

/// For how long nothing got through, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quiet {
    /// To us.
    pub(super) inwards: u64,
    /// From us, as far as we know from what came back: new data comes only while our acknowledgements arrive, and what we sent
    /// arrived if it is acknowledged. A mere repetition of the other end's tells that they do not.
    pub(super) outwards: u64,
}

const fn number(protocol: Protocol) -> libc::c_int {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        Protocol::Sctp => libc::IPPROTO_SCTP,
    }
}

/// The states that are wanted, and which of them are connected.
const fn states(protocol: Protocol) -> (&'static [u8], u8) {
    match protocol {
        Protocol::Tcp => (&[TCP_ESTABLISHED, TCP_LISTEN], TCP_ESTABLISHED),
        Protocol::Udp => (&[TCP_ESTABLISHED, TCP_CLOSE], TCP_ESTABLISHED),
        Protocol::Sctp => (&[SCTP_ESTABLISHED, TCP_LISTEN], SCTP_ESTABLISHED),
    }
}

/// Lists the sockets of the calling thread's namespace. A protocol that the kernel does not have, or whose list it does not
/// give, has none. Says whether the list is complete.
pub(super) fn dump(
    protocol: Protocol,
    family: libc::c_int,
    mut each: impl FnMut(Entry),
) -> io::Result<bool> {
    let (wanted, connected) = states(protocol);
    let request = request(protocol, family, wanted)?;
    let listed = dump_of(
        NETLINK_SOCK_DIAG,
        SOCK_DIAG_BY_FAMILY,
        &request,
        |kind, body| {
            if kind == SOCK_DIAG_BY_FAMILY
                && let Some((state, entry)) = read(body, protocol, connected)
                && wanted.contains(&state)
            {
                each(entry);
            }
        },
    );
    match listed {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        // Connections come and go while they are listed; nothing of the rest is wrong.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => other.map(|()| true),
    }
}

/// `struct inet_diag_req_v2`.
fn request(protocol: Protocol, family: libc::c_int, wanted: &[u8]) -> io::Result<Vec<u8>> {
    let byte = |number: libc::c_int| u8::try_from(number).map_err(io::Error::other);
    let extensions = 1_u8 << (INET_DIAG_INFO - 1);
    let states = wanted.iter().fold(0_u32, |all, state| all | 1 << state);
    let mut request = vec![byte(family)?, byte(number(protocol))?, extensions, 0];
    request.extend_from_slice(&states.to_ne_bytes());
    request.extend_from_slice(&[0; SOCKET_ID]);
    Ok(request)
}

/// State and rest of `struct inet_diag_msg`.
fn read(body: &[u8], protocol: Protocol, connected: u8) -> Option<(u8, Entry)> {
    let (family, state) = (libc::c_int::from(*body.first()?), *body.get(1)?);
    let port = |at: usize| {
        let bytes = body.get(at..at + 2)?;
        bytes.try_into().ok().map(u16::from_be_bytes)
    };
    let address = |at: usize| {
        let bytes = body.get(at..at + 16)?;
        Some(if family == libc::AF_INET {
            let four: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(four))
        } else {
            let sixteen: [u8; 16] = bytes.try_into().ok()?;
            // A socket for both families has IPv4's inside IPv6's.
            IpAddr::V6(Ipv6Addr::from(sixteen)).to_canonical()
        })
    };
    let cookie = u64::from(u32_at(body, 44)?) | u64::from(u32_at(body, 48)?) << 32;
    let entry = Entry {
        connected: state == connected,
        local: SocketAddr::new(address(8)?, port(4)?),
        remote: SocketAddr::new(address(24)?, port(6)?),
        cookie,
        quiet: quiet(body.get(MESSAGE..)?, protocol),
    };
    Some((state, entry))
}

/// Of TCP alone: other protocols' information is another structure.
fn quiet(attributes: &[u8], protocol: Protocol) -> Option<Quiet> {
    if protocol != Protocol::Tcp {
        return None;
    }
    let (_, info) = Attributes(attributes).find(|(kind, _)| *kind == INET_DIAG_INFO)?;
    let nanos = |at| Some(u64::from(u32_at(info, at)?) * (Instant::SECOND / 1_000));
    let data = nanos(LAST_DATA_RECV)?;
    let sent = match u32_at(info, UNACKED)? {
        0 => nanos(LAST_DATA_SENT)?,
        _ => u64::MAX,
    };
    Some(Quiet {
        inwards: data.min(nanos(LAST_ACK_RECV)?),
        outwards: data.min(sent),
    })
}
