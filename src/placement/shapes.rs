//! What hosts have in common beside their free amounts, interned: constraints, limits, and groups searched as one.

use std::collections::HashMap;

use super::host::{Constraints, Request};
use super::lifetime::ExitClass;
use super::members::NONE;
use super::resources::Resources;
use super::tree::{Point, Root};

/// Constraints, limits, overload and exit class of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// Index into [`Shapes::sets`].
    pub(super) set: u32,
    pub(super) limit: Resources,
    /// What is taken above the limit. With it, what is free tells what is taken.
    pub(super) over: Resources,
    pub(super) exit: ExitClass,
}

/// Shapes of one exit class with limits so near each other that one tree orders them all, whatever their constraints.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Hosts above their limit take nothing.
    pub(super) over: bool,
    pub(super) exit: ExitClass,
    /// The largest limits that the group has seen.
    pub(super) most: Point,
    /// The smallest limits that the group has seen.
    pub(super) least: Point,
    pub(super) tree: Root,
}

/// Everything interned. Grows with the distinct values seen; the index is rebuilt when it grows out of proportion.
#[derive(Debug, Clone, Default)]
pub(super) struct Shapes {
    pub(super) sets: Vec<Constraints>,
    /// Each with its group.
    pub(super) all: Vec<(Shape, u32)>,
    pub(super) groups: Vec<Group>,
    set_numbers: HashMap<Constraints, u32>,
    shape_numbers: HashMap<Shape, u32>,
    group_numbers: HashMap<(bool, ExitClass, [u32; 3]), u32>,
}

impl Shapes {
    pub(super) fn set(&mut self, constraints: Constraints) -> u32 {
        if let Some(number) = self.set_numbers.get(&constraints) {
            return *number;
        }
        let number = number(self.sets.len());
        self.sets.push(constraints.clone());
        self.set_numbers.insert(constraints, number);
        number
    }

    pub(super) fn shape(&mut self, shape: Shape) -> u32 {
        if let Some(number) = self.shape_numbers.get(&shape) {
            return *number;
        }
        let limit = shape.limit.parts();
        let over = shape.over != Resources::ZERO;
        let key = (over, shape.exit, limit.map(magnitude));
        let group = *self.group_numbers.entry(key).or_insert_with(|| {
            let tree = Root::for_amounts(limit);
            self.groups.push(Group { over, exit: shape.exit, most: limit, least: limit, tree });
            number(self.groups.len() - 1)
        });
        let bounds = &mut self.groups[group as usize];
        bounds.most = std::array::from_fn(|r| bounds.most[r].max(limit[r]));
        bounds.least = std::array::from_fn(|r| bounds.least[r].min(limit[r]));
        let number = number(self.all.len());
        self.all.push((shape, group));
        self.shape_numbers.insert(shape, number);
        number
    }

    pub(super) fn get(&self, shape: u32) -> &Shape {
        &self.all[shape as usize].0
    }

    pub(super) fn group(&self, shape: u32) -> usize {
        self.all[shape as usize].1 as usize
    }

    /// The sets that the request may use.
    pub(super) fn admitted(&self, request: &Request) -> Admitted {
        let admit = self.sets.iter().map(|set| set.admit(request));
        if self.sets.len() <= MARKS {
            let marks = (0..).zip(admit).filter(|(_, admitted)| *admitted);
            let marks = marks.map(|(set, _)| mark(set)).fold(0, |all, one| all | one);
            return Admitted { sets: Vec::new(), marks };
        }
        let sets: Vec<_> = admit.collect();
        let admitted = (0..).zip(&sets).filter(|(_, admitted)| **admitted);
        let marks = admitted.map(|(set, _)| mark(set)).fold(0, |all, one| all | one);
        Admitted { sets, marks }
    }
}

/// The sets of constraints that a request may use.
pub(super) struct Admitted {
    /// Empty where the marks tell all.
    sets: Vec<bool>,
    /// The marks of those sets. With more than 64 sets some share a mark, so that it only hints.
    pub(super) marks: u64,
}

impl Admitted {
    pub(super) fn has(&self, shape: &Shape) -> bool {
        let admitted = self.sets.get(shape.set as usize).copied();
        shape.over == Resources::ZERO && admitted.unwrap_or(self.marks & mark(shape.set) != 0)
    }
}

/// How many marks there are.
const MARKS: usize = u64::BITS as usize;

/// Classes whose hosts have this set bear this mark in their tree.
pub(super) fn mark(set: u32) -> u64 {
    1 << (set % u64::BITS)
}

/// Equal for amounts within an eighth of each other, roughly: the length in bits and the four highest bits.
fn magnitude(amount: u32) -> u32 {
    let bits = u32::BITS - amount.leading_zeros();
    (bits << 4) | (amount >> bits.saturating_sub(4))
}

/// Fewer things are interned than there are slots, which are u32.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_one_magnitude_share_their_highest_bit_and_differ_by_an_eighth_at_most() {
        for amount in (0..5000).chain([u32::MAX - 1, u32::MAX, 1 << 31]) {
            let next = amount.saturating_add(1);
            if magnitude(amount) == magnitude(next) {
                assert_eq!(amount.leading_zeros(), next.leading_zeros());
            } else {
                assert!(magnitude(next) > magnitude(amount));
            }
        }
        assert_eq!(magnitude(257_512), magnitude(257_834));
        assert_ne!(magnitude(64), magnitude(72));
    }
}
