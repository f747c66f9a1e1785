//! Pods by UID, as an immutable table: most of the time of a verdict is finding its two pods.
//!
//! The hash chooses a page and a place in it, so that a look-up waits for memory twice (the
//! place and the pod). A change copies one page and the list of pages and shares the rest; while nobody shares a page, as when
//! a cluster is read for the first time, it is changed in place.

use std::sync::Arc;

use crate::evaluate::PodEntry;
use crate::model::Uid;

/// 128 pages: 80 pods each at 10,000, 1,200 at the 150,000 that Kubernetes supports.
const PAGE_BITS: u32 = 7;

/// The hash of a UID. Taking those of both ends before looking up either lets the processor
/// wait for both at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UidHash(u64);

#[derive(Clone, Debug)]
struct Slot {
    hash: UidHash,
    entry: Arc<PodEntry>,
}

/// Open addressing, a power of two of slots, at most half of them taken; or none at all.
type Page = Arc<[Option<Slot>]>;

#[derive(Clone, Debug)]
pub(crate) struct Pods {
    pages: Arc<[Page]>,
    /// How many slots of each page are taken.
    taken: Box<[usize]>,
}

impl Default for Pods {
    fn default() -> Self {
        let page = Page::from([]);
        Self {
            pages: (0..1 << PAGE_BITS).map(|_| Arc::clone(&page)).collect(),
            taken: (0..1 << PAGE_BITS).map(|_| 0).collect(),
        }
    }
}

impl Pods {
    pub(super) fn get(&self, uid: &Uid) -> Option<&Arc<PodEntry>> {
        self.get_hashed(hash(uid), uid)
    }

    /// [`Self::get`] with the hash of this UID.
    #[inline]
    pub(super) fn get_hashed(&self, hash: UidHash, uid: &Uid) -> Option<&Arc<PodEntry>> {
        let page = self.pages.get(hash.page())?;
        for place in hash.places(page.len()) {
            let slot = page.get(place)?.as_ref()?;
            if slot.is(hash, uid) {
                return Some(&slot.entry);
            }
        }
        None
    }

    /// Adds a pod or replaces the one with its UID.
    pub(super) fn insert(&mut self, entry: Arc<PodEntry>) {
        let slot = Slot {
            hash: hash(&entry.uid),
            entry,
        };
        let number = slot.hash.page();
        let pages = Arc::make_mut(&mut self.pages);
        let taken = self.taken.get_mut(number);
        let (Some(page), Some(taken)) = (pages.get_mut(number), taken) else {
            return;
        };
        let Err(slot) = put_in_place(page, taken, slot) else {
            return;
        };
        let others = page.iter().flatten();
        let mut slots: Vec<Slot> = others
            .filter(|other| !other.is(slot.hash, &slot.entry.uid))
            .cloned()
            .collect();
        slots.push(slot);
        *taken = slots.len();
        *page = page_of(slots);
    }

    pub(super) fn remove(&mut self, uid: &Uid) -> Option<Arc<PodEntry>> {
        let hash = hash(uid);
        let removed = Arc::clone(self.get_hashed(hash, uid)?);
        let page = Arc::make_mut(&mut self.pages).get_mut(hash.page())?;
        let others = page.iter().flatten();
        let others: Vec<Slot> = others.filter(|slot| !slot.is(hash, uid)).cloned().collect();
        if let Some(taken) = self.taken.get_mut(hash.page()) {
            *taken = others.len();
        }
        *page = page_of(others);
        Some(removed)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<PodEntry>> {
        let slots = self.pages.iter().flat_map(|page| page.iter().flatten());
        slots.map(|slot| &slot.entry)
    }
}

/// Puts a pod into a page that nobody shares and that has room; gives it back otherwise.
fn put_in_place(page: &mut Page, taken: &mut usize, slot: Slot) -> Result<(), Slot> {
    let Some(page) = Arc::get_mut(page) else {
        return Err(slot);
    };
    let has_room = taken.saturating_mul(2) < page.len();
    for place in slot.hash.places(page.len()) {
        match page.get_mut(place) {
            Some(Some(held)) if held.is(slot.hash, &slot.entry.uid) => {
                *held = slot;
                return Ok(());
            }
            Some(Some(_)) => {}
            Some(free @ None) if has_room => {
                *free = Some(slot);
                *taken = taken.saturating_add(1);
                return Ok(());
            }
            Some(None) | None => break,
        }
    }
    Err(slot)
}

/// A new page, with room for as many pods again if there is little.
fn page_of(slots: Vec<Slot>) -> Page {
    let length = slots
        .len()
        .saturating_add(1)
        .saturating_mul(2)
        .next_power_of_two();
    if slots.is_empty() {
        return Page::from([]);
    }
    let mut page = vec![None; length];
    for slot in slots {
        for place in slot.hash.places(length) {
            if let Some(free @ None) = page.get_mut(place) {
                *free = Some(slot);
                break;
            }
        }
    }
    page.into()
}

impl Slot {
    #[inline]
    fn is(&self, hash: UidHash, uid: &Uid) -> bool {
        // Equal pointers are the common case, and cost no look at the text.
        self.hash == hash && (Arc::ptr_eq(&self.entry.uid.0, &uid.0) || self.entry.uid == *uid)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a few bits of the hash are wanted"
)]
impl UidHash {
    const fn page(self) -> usize {
        (self.0 >> (64 - PAGE_BITS)) as usize
    }

    /// Where in a page of this length (a power of two, or 0) to look, in order.
    fn places(self, length: usize) -> impl Iterator<Item = usize> {
        let mask = length.wrapping_sub(1);
        (0..length).map(move |step| (self.0 as usize).wrapping_add(step) & mask)
    }
}

/// Digits of pi: any words without a pattern do.
const PI: [u64; 2] = [0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7345];

/// A fast hash, without a key: the API server draws UIDs at random and takes none from users,
/// so nobody can choose them to collide.
#[inline]
pub(super) fn hash(uid: &Uid) -> UidHash {
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
    UidHash(match (last.first_chunk(), last.last_chunk()) {
        (Some(low), Some(high)) => fold(sum ^ word(low) ^ PI[1], word(high) ^ PI[0]),
        _ => sum,
    })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use smallvec::SmallVec;

    use super::*;
    use crate::evaluate::SeenAs;
    use crate::model::{Labels, NamespacedName, Pod};

    fn entry(number: usize) -> Arc<PodEntry> {
        let uid = Uid(Arc::from(format!("Pod/shop/web-{number}")));
        let pod = Pod {
            id: NamespacedName::new("shop", format!("web-{number}")),
            uid: uid.clone(),
            labels: Labels::new(),
            ips: Vec::new(),
            node: None,
            host_network: false,
            finished: false,
            ports: Vec::new(),
            owner: None,
            annotations: Default::default(),
        };
        Arc::new(PodEntry {
            uid,
            seen_as: SeenAs::of(&pod),
            groups: SmallVec::new(),
            ingress: Arc::default(),
            egress: Arc::default(),
            pod: Arc::new(pod),
        })
    }

    #[test]
    fn holds_what_was_inserted_and_not_removed() {
        let mut pods = Pods::default();
        for number in 0..3_000 {
            pods.insert(entry(number));
            pods.insert(entry(number));
        }
        let full = pods.clone();
        for number in (0..3_000).step_by(2) {
            assert!(pods.remove(&entry(number).uid).is_some());
            assert!(pods.remove(&entry(number).uid).is_none());
        }
        for number in 0..3_000 {
            let uid = &entry(number).uid;
            assert_eq!(full.get(uid).map(|found| &found.uid), Some(uid));
            assert_eq!(pods.get(uid).is_some(), number % 2 == 1, "{number}");
        }
        assert_eq!(full.values().count(), 3_000);
        assert_eq!(pods.values().count(), 1_500);
        // A hash that puts all in one page would be right and slow.
        let longest = full.pages.iter().map(|page| page.len()).max();
        assert!(longest.unwrap() <= 128, "{longest:?}");
    }
}
