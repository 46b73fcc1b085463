//! The hosts of each class in the order of their ids: treaps whose links lie beside the hosts, 8 bytes a host.

/// No host, no class, no node.
pub(super) const NONE: u32 = u32::MAX;

/// Two links a slot: the members with smaller and with larger slots. A class holds the root of its treap.
/// Slots are numbered in the order of ids, so comparing them compares ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    links: Vec<[u32; 2]>,
    /// Decides the shape of the treaps; follows the host when slots are renumbered.
    priorities: Vec<u16>,
}

impl Members {
    /// Opens a slot before the one that now has this number, which moves up with all behind it.
    /// The caller moves the roots, with [`moved_up`].
    pub(super) fn open(&mut self, slot: u32, priority: u16) {
        if (slot as usize) < self.links.len() {
            self.renumber(|link| moved_up(link, slot));
        }
        self.links.insert(slot as usize, [NONE; 2]);
        self.priorities.insert(slot as usize, priority);
    }

    /// Closes a slot that is in no treap; those behind it move down. The caller moves the roots, with [`moved_down`].
    pub(super) fn close(&mut self, slot: u32) {
        self.links.remove(slot as usize);
        self.priorities.remove(slot as usize);
        self.renumber(|link| moved_down(link, slot));
    }

    pub(super) fn shrink(&mut self) {
        self.links.shrink_to_fit();
        self.priorities.shrink_to_fit();
    }

    fn renumber(&mut self, moved: impl Fn(u32) -> u32) {
        for link in self.links.iter_mut().flatten() {
            *link = moved(*link);
        }
    }

    /// Adds a slot that is not in the treap; gives the new root.
    pub(super) fn insert(&mut self, root: u32, slot: u32) -> u32 {
        if root == NONE {
            return slot;
        }
        if self.priorities[slot as usize] > self.priorities[root as usize] {
            self.links[slot as usize] = self.split(root, slot);
            return slot;
        }
        let side = usize::from(slot > root);
        let below = self.links[root as usize][side];
        self.links[root as usize][side] = self.insert(below, slot);
        root
    }

    /// Takes a slot that is in the treap out of it; gives the new root.
    pub(super) fn remove(&mut self, root: u32, slot: u32) -> u32 {
        if root == NONE {
            return NONE;
        }
        if root == slot {
            let [low, high] = std::mem::replace(&mut self.links[slot as usize], [NONE; 2]);
            return self.merge(low, high);
        }
        let side = usize::from(slot > root);
        let below = self.links[root as usize][side];
        self.links[root as usize][side] = self.remove(below, slot);
        root
    }

    /// The smallest member that is at least `from`.
    pub(super) fn first(&self, mut root: u32, from: u32) -> Option<u32> {
        let mut found = None;
        while root != NONE {
            let [low, high] = self.links[root as usize];
            if root >= from {
                found = Some(root);
                root = low;
            } else {
                root = high;
            }
        }
        found
    }

    /// The members in order.
    pub(super) fn iter(&self, root: u32) -> impl Iterator<Item = u32> {
        let mut next = self.first(root, 0);
        std::iter::from_fn(move || {
            let slot = next?;
            next = self.first(root, slot + 1);
            Some(slot)
        })
    }

    /// The members below a slot, and those above it.
    fn split(&mut self, root: u32, slot: u32) -> [u32; 2] {
        if root == NONE {
            return [NONE; 2];
        }
        let side = usize::from(slot > root);
        let mut parts = self.split(self.links[root as usize][side], slot);
        self.links[root as usize][side] = parts[1 - side];
        parts[1 - side] = root;
        parts
    }

    /// Every member of `low` is below every member of `high`.
    fn merge(&mut self, low: u32, high: u32) -> u32 {
        if low == NONE || high == NONE {
            return low.min(high);
        }
        if self.priorities[low as usize] > self.priorities[high as usize] {
            self.links[low as usize][1] = self.merge(self.links[low as usize][1], high);
            low
        } else {
            self.links[high as usize][0] = self.merge(low, self.links[high as usize][0]);
            high
        }
    }
}

/// Where a slot's number goes when `opened` is opened.
pub(super) fn moved_up(slot: u32, opened: u32) -> u32 {
    if slot != NONE && slot >= opened { slot + 1 } else { slot }
}

/// Where a slot's number goes when `closed` is closed.
pub(super) fn moved_down(slot: u32, closed: u32) -> u32 {
    if slot != NONE && slot > closed { slot - 1 } else { slot }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_treap_holds_what_a_sorted_set_holds(slots in prop::collection::vec(0..50u32, 0..200)) {
            let (mut members, mut set, mut root) = (Members::default(), BTreeSet::new(), NONE);
            (0..50u32).for_each(|slot| members.open(slot, (slot * 7919 % 64) as u16));
            for slot in slots {
                if set.remove(&slot) {
                    root = members.remove(root, slot);
                } else {
                    set.insert(slot);
                    root = members.insert(root, slot);
                }
                prop_assert!(members.iter(root).eq(set.iter().copied()));
                prop_assert_eq!(members.first(root, 25), set.range(25..).next().copied());
            }
        }
    }
}
