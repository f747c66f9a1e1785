//! The embedded BPF object.

/// Keeps the bytes aligned for the ELF reader.
#[repr(C, align(32))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("POLPROOF_BPF_EMBED")));

/// The ELF object of the BPF programs; empty if the agent was built without one (see build.rs).
pub fn bpf_object() -> &'static [u8] {
    &OBJECT.0
}
