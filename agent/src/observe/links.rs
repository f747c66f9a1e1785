//! What the kernel tells of tcx links, and aya does not: which link is pinned at a path, and which ones sit on a hook.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::tc::Direction;

/// Commands of include/uapi/linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
/// Types of attachment.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// The most programs that the kernel has on one hook (`BPF_MPROG_MAX`).
const ON_ONE_HOOK: usize = 64;

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number in the kernel, which no other link has.
    pub(super) id: u32,
    /// The number that its device has in the namespace where it is now; 0 once it is gone.
    interface: u32,
}

impl Link {
    /// Whether its device is gone: it will never see a packet again.
    pub(super) const fn is_dead(self) -> bool {
        self.interface == 0
    }
}

/// The system call; what it returns if it did not fail.
///
/// # Safety
///
/// `attributes` has the layout that the command wants, and what it points to outlives the call and is as large as it says.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller answers for the structure, of which the kernel uses no more than its size.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// The link that is pinned at a path.
pub(super) fn pinned(path: &Path) -> io::Result<Link> {
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Ask {
        fd: u32,
        length: u32,
        info: u64,
    }
    /// `struct bpf_link_info`, with the `tcx` arm of its union.
    #[repr(C, align(8))]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        interface: u32,
        attach: u32,
    }
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get {
        path: name.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the structure is that of the command and its path ends in a zero byte and outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut get) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = LinkInfo::default();
    let mut ask = Ask {
        fd: link.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: &raw mut info as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that large.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask) }?;
    Ok(Link {
        id: info.id,
        interface: info.interface,
    })
}

/// The numbers of the links on one hook of an interface of the calling thread's namespace.
pub(super) fn on(interface: u32, direction: Direction) -> io::Result<Vec<u32>> {
    /// The `query` arm of `union bpf_attr`.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        interface: u32,
        attach: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let mut programs = [0_u32; ON_ONE_HOOK];
    let mut links = [0_u32; ON_ONE_HOOK];
    let mut query = Query {
        interface,
        attach: match direction {
            Direction::Ingress => BPF_TCX_INGRESS,
            Direction::Egress => BPF_TCX_EGRESS,
        },
        programs: &raw mut programs as u64,
        links: &raw mut links as u64,
        count: u32::try_from(ON_ONE_HOOK).map_err(io::Error::other)?,
        ..Query::default()
    };
    // SAFETY: the structure is the command's, and the kernel writes at most `count` numbers to each of the two arrays, which are
    // that long and outlive the call.
    match unsafe { bpf(BPF_PROG_QUERY, &mut query) } {
        Ok(_) => {}
        // Nothing was ever there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let count = usize::try_from(query.count).unwrap_or(ON_ONE_HOOK);
    // A program without a link has 0 here.
    Ok(links
        .into_iter()
        .take(count)
        .filter(|id| *id != 0)
        .collect())
}
