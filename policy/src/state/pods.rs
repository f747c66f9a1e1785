//! Pods by UID, as an immutable table: half of the time of a verdict is finding its two pods.
//!
//! A table of a fixed shape, hash -> page -> bucket, so that a look-up waits for memory
//! twice (the bucket and the pod). A change copies one page and one bucket and shares the
//! rest. There are 4,096 buckets: two or three pods each at 10,000 pods, 40 at the 150,000
//! that Kubernetes supports.

use std::sync::Arc;

use crate::evaluate::PodEntry;
use crate::model::Uid;

/// Bits of the hash that choose the page, and the bucket in it.
const BITS: u32 = 6;

#[derive(Clone, Debug)]
struct Slot {
    hash: u64,
    entry: Arc<PodEntry>,
}

type Bucket = Arc<[Slot]>;
type Page = Arc<[Bucket]>;

#[derive(Clone, Debug)]
pub(crate) struct Pods {
    pages: Arc<[Page]>,
}

impl Default for Pods {
    fn default() -> Self {
        let bucket = Bucket::from([]);
        let page: Page = (0..1 << BITS).map(|_| Arc::clone(&bucket)).collect();
        Self {
            pages: (0..1 << BITS).map(|_| Arc::clone(&page)).collect(),
        }
    }
}

impl Pods {
    #[inline]
    pub(super) fn get(&self, uid: &Uid) -> Option<&Arc<PodEntry>> {
        let hash = hash(uid);
        let (page, bucket) = place(hash);
        let slots = self.pages.get(page)?.get(bucket)?;
        let slot = slots.iter().find(|slot| slot.is(hash, uid))?;
        Some(&slot.entry)
    }

    /// Adds a pod or replaces the one with its UID.
    pub(super) fn insert(&mut self, entry: Arc<PodEntry>) {
        let hash = hash(&entry.uid);
        let Some(bucket) = self.bucket_mut(hash) else {
            return;
        };
        let others = bucket.iter().filter(|slot| !slot.is(hash, &entry.uid));
        let mut slots: Vec<Slot> = others.cloned().collect();
        slots.push(Slot { hash, entry });
        *bucket = slots.into();
    }

    pub(super) fn remove(&mut self, uid: &Uid) -> Option<Arc<PodEntry>> {
        let removed = Arc::clone(self.get(uid)?);
        let hash = hash(uid);
        let bucket = self.bucket_mut(hash)?;
        *bucket = bucket
            .iter()
            .filter(|slot| !slot.is(hash, uid))
            .cloned()
            .collect();
        Some(removed)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<PodEntry>> {
        let buckets = self.pages.iter().flat_map(|page| page.iter());
        buckets.flat_map(|bucket| bucket.iter().map(|slot| &slot.entry))
    }

    fn bucket_mut(&mut self, hash: u64) -> Option<&mut Bucket> {
        let (page, bucket) = place(hash);
        let page = Arc::make_mut(&mut self.pages).get_mut(page)?;
        Arc::make_mut(page).get_mut(bucket)
    }
}

impl Slot {
    #[inline]
    fn is(&self, hash: u64, uid: &Uid) -> bool {
        // Equal pointers are the common case, and cost no look at the text.
        self.hash == hash && (Arc::ptr_eq(&self.entry.uid.0, &uid.0) || self.entry.uid == *uid)
    }
}

const fn place(hash: u64) -> (usize, usize) {
    let mask = (1 << BITS) - 1;
    (
        (hash >> (64 - BITS)) as usize & mask,
        (hash >> (64 - 2 * BITS)) as usize & mask,
    )
}

/// Digits of pi: any words without a pattern do.
const PI: [u64; 2] = [0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7345];

/// A fast hash, without a key: the API server draws UIDs at random and takes none from users,
/// so nobody can choose them to collide.
#[inline]
fn hash(uid: &Uid) -> u64 {
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let bytes = uid.0.as_bytes();
    let mut sum = bytes.len() as u64;
    // The products do not wait for each other.
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        if let (Some(low), Some(high)) = (pair.first_chunk(), pair.last_chunk()) {
            sum = sum.rotate_left(23) ^ fold(word(low) ^ PI[0], word(high) ^ PI[1]);
        }
    }
    let mut last = [0; 16];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    match (last.first_chunk(), last.last_chunk()) {
        (Some(low), Some(high)) => fold(sum ^ word(low) ^ PI[1], word(high) ^ PI[0]),
        _ => sum,
    }
}

/// The product of both, with its high half folded into its low one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "both halves of the product are wanted"
)]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ ((product >> 64) as u64)
}
