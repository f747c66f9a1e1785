//! What the running kernel lacks, found by trying, and what that means.

use std::fmt;
use std::sync::OnceLock;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::identity::Identity;
use super::means::Means;
use super::netlink::dump_of;

/// More than the programs and their maps take.
const LOCKED_MEMORY: u64 = 64 << 20;

/// Something that the agent would use and that the running kernel does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelLacks {
    /// The BPF ring buffer (Linux 5.8): without it there is no observation.
    RingBuffer,
    /// The kernel's own type information: without it there is no observation.
    Btf,
    /// tcx hooks (Linux 6.6).
    Tcx,
    /// Cookies of network namespaces (Linux 5.14).
    NetCookie,
    /// BPF memory counted by cgroup and not as locked memory (Linux 5.11), while the limit of locked memory is low.
    MemoryAccounting,
    /// Lists of TCP's or UDP's sockets (`sock_diag`).
    SocketList,
    /// Lists of SCTP's associations, while SCTP is in use.
    SctpList,
}

impl KernelLacks {
    /// All that can be lacking, the fatal ones first.
    pub const ALL: [Self; 7] = [
        Self::RingBuffer,
        Self::Btf,
        Self::Tcx,
        Self::NetCookie,
        Self::MemoryAccounting,
        Self::SocketList,
        Self::SctpList,
    ];

    /// A short name, for labels of metrics and for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingBuffer => "ring_buffer",
            Self::Btf => "btf",
            Self::Tcx => "tcx",
            Self::NetCookie => "net_cookie",
            Self::MemoryAccounting => "memory_accounting",
            Self::SocketList => "socket_list",
            Self::SctpList => "sctp_list",
        }
    }

    /// Whether nothing can be observed without it.
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::RingBuffer | Self::Btf)
    }

    /// What it is.
    pub fn what(self) -> &'static str {
        match self {
            Self::RingBuffer => "no BPF ring buffer",
            Self::Btf => "no type information in /sys/kernel/btf/vmlinux",
            Self::Tcx => "no tcx hooks",
            Self::NetCookie => "no cookies of network namespaces",
            Self::MemoryAccounting => {
                "BPF memory counts as locked memory, of which little may be had"
            }
            Self::SocketList => "no list of TCP's or UDP's sockets",
            Self::SctpList => "no list of SCTP's associations",
        }
    }

    /// What that means for verdicts.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::RingBuffer | Self::Btf => "nothing can be observed",
            Self::Tcx => {
                "the programs are attached as clsact filters, which others in the pod's namespace can remove; this is \
                 noticed within a second or two, and nothing is concluded from what was not seen until then"
            }
            Self::NetCookie => {
                "namespaces are told apart by their inode and the time of attaching; packets seen while no agent ran \
                 belong to no pod and get no verdict until its filters are met again"
            }
            Self::MemoryAccounting => {
                "loading the programs may fail for want of memory, and then nothing is observed"
            }
            Self::SocketList => {
                "connections that are older than the agent, or than a policy that denies them, are found only as far as \
                 they were seen to begin: survivors may be missed"
            }
            Self::SctpList => {
                "SCTP associations that are older than the agent, or than a policy that denies them, are found only as \
                 far as they were seen to begin: survivors may be missed"
            }
        }
    }

    /// What to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::RingBuffer => "run Linux 5.8 or later",
            Self::Btf => {
                "run a kernel built with CONFIG_DEBUG_INFO_BTF, as every large distribution's is"
            }
            Self::Tcx => "run Linux 6.6 or later",
            Self::NetCookie => "run Linux 5.14 or later",
            Self::MemoryAccounting => {
                "raise the limit (LimitMEMLOCK=infinity, ulimit -l), or run Linux 5.11 or later"
            }
            Self::SocketList => {
                "load the modules tcp_diag and udp_diag (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG)"
            }
            Self::SctpList => "load the module sctp_diag (CONFIG_INET_SCTP_DIAG)",
        }
    }
}

impl fmt::Display for KernelLacks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {}; to do: {}",
            self.what(),
            self.consequence(),
            self.remedy()
        )
    }
}

/// What the running kernel has to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Its release, such as `6.1.0-56-amd64`.
    pub kernel: String,
    /// How programs are attached.
    pub means: Means,
    /// What it lacks, in the order of [`KernelLacks::ALL`].
    pub lacks: Vec<KernelLacks>,
}

impl Capabilities {
    /// The first thing without which nothing can be observed.
    pub fn fatal(&self) -> Option<KernelLacks> {
        self.lacks.iter().copied().find(|lack| lack.is_fatal())
    }

    /// Whether it is lacking.
    pub fn lacks(&self, what: KernelLacks) -> bool {
        self.lacks.contains(&what)
    }

    /// Says in the log what is lacking.
    pub(super) fn log(&self) {
        for lack in &self.lacks {
            tracing::warn!(
                kernel = self.kernel,
                lacks = lack.name(),
                "this kernel has {lack}"
            );
        }
    }
}

/// What the running kernel has to offer; found out once, at the first call, which takes the privileges of an agent. A
/// question that the kernel refuses to answer counts as nothing lacking: what then fails says so itself.
pub fn capabilities() -> &'static Capabilities {
    static FOUND: OnceLock<Capabilities> = OnceLock::new();
    FOUND.get_or_init(|| {
        let means = Means::of_running_kernel().unwrap_or(Means::Tcx);
        let lacking = |lack: &KernelLacks| match lack {
            KernelLacks::RingBuffer => is_map_supported(MapType::RingBuf).is_ok_and(|has| !has),
            KernelLacks::Btf => !std::path::Path::new("/sys/kernel/btf/vmlinux").exists(),
            KernelLacks::Tcx => means != Means::Tcx,
            KernelLacks::NetCookie => Identity::of_running_kernel() != Identity::Cookie,
            KernelLacks::MemoryAccounting => {
                // This helper came with the same version.
                let helper = BpfHelper::BPF_FUNC_ktime_get_coarse_ns;
                lockable_memory() < LOCKED_MEMORY
                    && is_helper_supported(ProgramType::SchedClassifier, helper)
                        .is_ok_and(|has| !has)
            }
            KernelLacks::SocketList => {
                !lists_sockets(libc::IPPROTO_TCP) || !lists_sockets(libc::IPPROTO_UDP)
            }
            // Without SCTP there are no associations to list.
            KernelLacks::SctpList => {
                std::path::Path::new("/proc/net/sctp").exists()
                    && !lists_sockets(libc::IPPROTO_SCTP)
            }
        };
        Capabilities {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            means,
            lacks: KernelLacks::ALL.into_iter().filter(lacking).collect(),
        }
    })
}

/// Whether the kernel has a list of the protocol's sockets. It is asked for those in no state: none.
fn lists_sockets(protocol: libc::c_int) -> bool {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    /// `struct inet_diag_req_v2`.
    const REQUEST: usize = 56;
    let (Ok(family), Ok(protocol)) = (u8::try_from(libc::AF_INET), u8::try_from(protocol)) else {
        return true;
    };
    let mut request = [0; REQUEST];
    let [of, kind, ..] = &mut request;
    (*of, *kind) = (family, protocol);
    let asked = dump_of(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, &request, |_, _| {});
    !asked.is_err_and(|error| {
        matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::EPROTONOSUPPORT)
        )
    })
}

/// How much memory this process could lock if it raised its limit as far as it may.
fn lockable_memory() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is the command's, and ours.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if result == 0 {
        limit.rlim_max
    } else {
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_says_what_and_what_now() {
        for lack in KernelLacks::ALL {
            let text = lack.to_string();
            assert!(text.contains("to do: "), "{text}");
            assert!(
                lack.name()
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter == '_')
            );
        }
    }

    #[test]
    fn a_list_of_sockets_is_lacking_only_where_the_kernel_has_none() {
        assert!(lists_sockets(libc::IPPROTO_TCP));
        // No kernel lists these.
        assert!(!lists_sockets(libc::IPPROTO_ENCAP));
    }

    #[test]
    fn what_is_fatal_comes_first() {
        let found = Capabilities {
            kernel: "5.4.0".to_owned(),
            means: Means::Clsact,
            lacks: vec![KernelLacks::RingBuffer, KernelLacks::Tcx],
        };
        assert_eq!(found.fatal(), Some(KernelLacks::RingBuffer));
        assert!(found.lacks(KernelLacks::Tcx) && !found.lacks(KernelLacks::Btf));
    }
}
