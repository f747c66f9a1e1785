//! Not written yet.

/// Identity of the ring buffer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RingId {
    /// Boot of the kernel.
    pub boot_id: String,
    /// BPF map id.
    pub map_id: u32,
}
