//! Which network namespace is which.
//!
//! A namespace's cookie (Linux 5.14) is never used again. Where there is none, the programs read the inode number, which
//! the kernel gives to the next namespace as soon as one has ended; so we add when it was first attached to:
//! `time << 32 | inode`, kept in the name of our filters, and a record belongs to the last of its inode that was attached
//! before it. That is sound, because a filter ends with its namespace, and the next namespace of the same inode has
//! none before it is attached to. What is lost: records that nobody read before the agent ended belong to no namespace
//! until the restarted agent has met their filters again; and a namespace whose filters were taken away, or whose eth0
//! was replaced, counts as another one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{PoisonError, RwLock};

use polproof_flow::record::{Instant, NetnsCookie};

use super::error::ObserveError;
use super::netlink::failed;

/// `SO_NETNS_COOKIE` of include/uapi/asm-generic/socket.h (Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Identities of one inode that are remembered: records older than the last few are not in any ring.
const GENERATIONS: usize = 4;
/// Inodes that are remembered; a node has some hundred pods.
const INODES: usize = 16_384;

/// By what the programs and the agent know a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Its cookie.
    Cookie,
    /// Its inode number, and the time of attaching.
    Inode,
}

impl Identity {
    /// The best that the running kernel has.
    pub(crate) fn of_running_kernel() -> Self {
        match cookie() {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Self::Inode,
            _ => Self::Cookie,
        }
    }

    /// The member of `struct net` that holds what the programs read.
    pub(super) fn member(self) -> &'static [&'static str] {
        match self {
            Self::Cookie => &["net_cookie"],
            Self::Inode => &["ns", "inum"],
        }
    }

    /// What the kernel calls the calling thread's namespace.
    pub(crate) fn here(self) -> Result<NetnsCookie, ObserveError> {
        match self {
            Self::Cookie => cookie()
                .map(NetnsCookie)
                .map_err(failed("read the cookie (SO_NETNS_COOKIE)")),
            Self::Inode => std::fs::metadata("/proc/thread-self/ns/net")
                .map(|data| NetnsCookie(data.ino()))
                .map_err(failed("read the inode (/proc/thread-self/ns/net)")),
        }
    }

    /// Whether an identity may be that of the namespace that the kernel calls so.
    pub(crate) fn matches(self, identity: NetnsCookie, here: NetnsCookie) -> bool {
        match self {
            Self::Cookie => identity == here,
            Self::Inode => inode(identity.0) == inode(here.0),
        }
    }
}

fn cookie() -> io::Result<u64> {
    // Any socket will do; an unbound datagram socket cannot be made with std, and a bound one needs `lo` up.
    let socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
    let mut cookie: u64 = 0;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the option writes at most `length` bytes, the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// What follows the inode number in the kernel's structure is read with it, and is none of our business.
fn inode(raw: u64) -> u64 {
    raw & u64::from(u32::MAX)
}

/// The identities that inode numbers have stood for, oldest first, each with when it was attached.
#[derive(Debug, Default)]
pub(super) struct Generations(RwLock<BTreeMap<u64, Vec<(Instant, NetnsCookie)>>>);

impl Generations {
    /// An identity that no other namespace of this inode has had.
    pub(super) fn fresh(here: NetnsCookie, now: Instant) -> NetnsCookie {
        // Units of 17 ms: a namespace takes longer to end, and 32 bits of them are two years.
        NetnsCookie((now.0 >> 24) << 32 | inode(here.0))
    }

    /// From this moment on the inode means this identity.
    pub(super) fn learn(&self, identity: NetnsCookie, since: Instant) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= INODES {
            known.pop_first();
        }
        let generations = known.entry(inode(identity.0)).or_default();
        if generations.iter().any(|(_, known)| *known == identity) {
            return;
        }
        generations.push((since, identity));
        generations.sort_unstable();
        let surplus = generations.len().saturating_sub(GENERATIONS);
        generations.drain(..surplus);
    }

    /// Whose a record is that the kernel wrote with this number at this moment; the bare inode number, which is
    /// nobody's, if that is not known.
    pub(super) fn whose(&self, raw: NetnsCookie, at: Instant) -> NetnsCookie {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(&inode(raw.0))
            .and_then(|generations| generations.iter().rev().find(|(since, _)| *since <= at))
            .map_or(NetnsCookie(inode(raw.0)), |(_, identity)| *identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_record_belongs_to_the_last_namespace_of_its_inode_before_it() {
        let known = Generations::default();
        let here = NetnsCookie(4_026_532_000);
        let first = Generations::fresh(here, Instant(10 * SECOND));
        let second = Generations::fresh(here, Instant(20 * SECOND));
        assert_ne!(first, second);
        known.learn(second, Instant(20 * SECOND));
        known.learn(first, Instant(10 * SECOND));
        known.learn(first, Instant(15 * SECOND));
        // The kernel's number may carry something in its upper half.
        let raw = NetnsCookie(here.0 | 3 << 32);
        assert_eq!(known.whose(raw, Instant(9 * SECOND)), here);
        assert_eq!(known.whose(raw, Instant(10 * SECOND)), first);
        assert_eq!(known.whose(raw, Instant(19 * SECOND)), first);
        assert_eq!(known.whose(raw, Instant(99 * SECOND)), second);
        assert_eq!(
            known.whose(NetnsCookie(7), Instant(99 * SECOND)),
            NetnsCookie(7)
        );
        assert!(Identity::Inode.matches(first, raw) && !Identity::Cookie.matches(first, raw));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let known = Generations::default();
        let here = NetnsCookie(5);
        for number in 0..100 {
            let at = Instant(number * SECOND);
            known.learn(Generations::fresh(here, at), at);
        }
        let kept = known.0.read().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(kept.get(&5).map(Vec::len), Some(GENERATIONS));
        assert_eq!(
            known.whose(here, Instant(1_000 * SECOND)),
            Generations::fresh(here, Instant(99 * SECOND))
        );
    }
}
