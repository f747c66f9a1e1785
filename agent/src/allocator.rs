//! What the C library's allocator is told, so that memory which is not used any more goes back to the system.
//!
//! Left to itself it keeps ever larger blocks once one of their size was freed (the threshold from which it maps them follows the largest one so far), and
//! has a heap for each thread, up to eight times the processors. Starting reads megabytes of type information, so the first is always
//! so.

/// From this size on a block is mapped by itself, and given back with its last byte.
const OWN_MAPPING: i32 = 256 * 1024;
/// So much may lie unused at the end of a heap.
const UNUSED: i32 = 1024 * 1024;
/// Heaps. The judge allocates little, and all the others hardly anything.
const HEAPS: i32 = 2;

/// Tells it. To be called before there is any other thread.
pub fn give_back_early() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING),
        (libc::M_TRIM_THRESHOLD, UNUSED),
        (libc::M_ARENA_MAX, HEAPS),
    ] {
        // SAFETY: `mallopt` only sets a parameter of the allocator, and no other thread is there. Where it refuses (0), all
        // stays as it was.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what the start has left. Takes some milliseconds.
pub fn give_back_now() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no precondition; the allocator locks each of its heaps.
    let _ = unsafe { libc::malloc_trim(0) };
}
