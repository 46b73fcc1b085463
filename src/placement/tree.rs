//! A dynamic binary trie over points of three amounts, where every node knows the tight box of what lies below it,
//! and the marks.
//!
//! The bits of the three amounts are interleaved from the highest on, so that each level halves one amount, and
//! levels at which nothing differs are skipped: the depth is at most 96 whatever the points, and mostly the binary
//! logarithm of their number. The boxes let a search leave out what cannot fit or cannot be better.

use super::members::NONE;

/// Amounts in the order of `Resources::parts`.
pub(super) type Point = [u32; 3];

/// Most levels of inner nodes: each tells one bit of the three amounts apart.
pub(super) const DEPTH: usize = 96;

/// How many items a leaf holds before it is split. Items at one point are never split.
const LEAF: usize = 12;

/// The nodes of many trees.
#[derive(Debug, Clone, Default)]
pub(super) struct Forest {
    pub(super) nodes: Vec<Node>,
    /// Nodes that may be used again.
    spare: Vec<u32>,
    /// The way down to an item that is removed, kept to spare an allocation.
    path: Vec<(u32, usize)>,
}

/// Adds to a list that is as large as the fleet: its room grows by an eighth, since twice would be most of the index's memory.
pub(super) fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len() / 8 + 16);
    }
    list.push(item);
}

/// Where an item lies, and bits that a search can ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) point: Point,
    pub(super) marks: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) low: Point,
    pub(super) high: Point,
    /// The marks of all items below.
    pub(super) marks: u64,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Inner {
        /// The first interleaved bit in which items below differ; the kids have it 0 and 1.
        level: u8,
        /// The same as a bit of one amount.
        bit: Bit,
        kids: [u32; 2],
    },
    Leaf(Vec<u32>),
}

/// A bit of the amount with this number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bit {
    amount: u8,
    bit: u8,
}

impl Bit {
    fn of(self, point: Point) -> usize {
        (point[usize::from(self.amount)] >> self.bit & 1) as usize
    }
}

/// One tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    pub(super) node: u32,
    /// By how much each amount is shifted so that the largest ones use the highest bit.
    shift: [u8; 3],
}

impl Root {
    /// A tree for amounts up to about `most`; larger ones would be put in order wrongly.
    pub(super) fn for_amounts(most: Point) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
        let shift = most.map(|amount| if amount == 0 { 0 } else { amount.leading_zeros() as u8 });
        Self { node: NONE, shift }
    }

    /// The first interleaved bit in which two points differ; none if they are equal.
    fn differ(self, a: Point, b: Point) -> Option<u8> {
        let levels = (0..3).filter(|r| a[*r] != b[*r]).map(|r| {
            #[expect(clippy::cast_possible_truncation, reason = "at most 95")]
            let level = (((a[r] ^ b[r]) << self.shift[r]).leading_zeros() * 3) as u8 + r as u8;
            level
        });
        levels.min()
    }

    /// The bit of an amount that an interleaved one is.
    fn bit(self, level: u8) -> Bit {
        let amount = level % 3;
        Bit { amount, bit: 31 - level / 3 - self.shift[usize::from(amount)] }
    }
}

impl Node {
    fn leaf(items: Vec<u32>, place_of: impl Fn(u32) -> Place) -> Self {
        let body = Body::Leaf(Vec::new());
        let mut node = Self { low: [u32::MAX; 3], high: [0; 3], marks: 0, body };
        for item in &items {
            node.cover(place_of(*item));
        }
        node.body = Body::Leaf(items);
        node
    }

    fn cover(&mut self, Place { point, marks }: Place) {
        self.low = std::array::from_fn(|r| self.low[r].min(point[r]));
        self.high = std::array::from_fn(|r| self.high[r].max(point[r]));
        self.marks |= marks;
    }

    fn holds(&self, point: Point) -> bool {
        (0..3).all(|r| self.low[r] <= point[r] && point[r] <= self.high[r])
    }
}

impl Forest {
    /// The item at this place for which `is` holds; if there is none, the item that `new` gives is put there.
    pub(super) fn find_or_insert(
        &mut self,
        root: &mut Root,
        place: Place,
        is: impl Fn(u32) -> bool,
        new: impl FnOnce() -> u32,
        place_of: impl Fn(u32) -> Place,
    ) -> u32 {
        let (mut at, mut parent) = (root.node, None);
        while at != NONE {
            let node = &mut self.nodes[at as usize];
            let outside = !node.holds(place.point);
            match &node.body {
                Body::Inner { level, bit, kids } => {
                    if outside
                        && let Some(above) =
                            root.differ(node.low, place.point).filter(|above| above < level)
                    {
                        return self.insert_above(root, parent, at, above, place, new());
                    }
                    let side = bit.of(place.point);
                    parent = Some((at, side));
                    at = kids[side];
                }
                Body::Leaf(items) => {
                    if !outside && let Some(item) = items.iter().find(|item| is(**item)) {
                        return *item;
                    }
                    break;
                }
            }
            // Also right if the item turns out to be there: then the node covers it already.
            node.cover(place);
        }
        let item = new();
        if at == NONE {
            root.node = self.add(Node::leaf(vec![item], |_| place));
            return item;
        }
        let node = &mut self.nodes[at as usize];
        node.cover(place);
        if let Body::Leaf(items) = &mut node.body {
            items.push(item);
            if items.len() > LEAF {
                self.split(*root, at, |of| if of == item { place } else { place_of(of) });
            }
        }
        item
    }

    /// Puts a new node between a node and its parent, where the item's place leaves its box.
    fn insert_above(
        &mut self,
        root: &mut Root,
        parent: Option<(u32, usize)>,
        at: u32,
        level: u8,
        place: Place,
        item: u32,
    ) -> u32 {
        let leaf = self.add(Node::leaf(vec![item], |_| place));
        let (bit, mut kids) = (root.bit(level), [at; 2]);
        kids[bit.of(place.point)] = leaf;
        let Node { low, high, marks, .. } = self.nodes[at as usize];
        let mut over = Node { low, high, marks, body: Body::Inner { level, bit, kids } };
        over.cover(place);
        let over = self.add(over);
        self.link(root, parent, over);
        item
    }

    /// Takes out an item that is there; `place_of` still tells its place.
    pub(super) fn remove(&mut self, root: &mut Root, item: u32, place_of: impl Fn(u32) -> Place) {
        let point = place_of(item).point;
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        let mut at = root.node;
        while at != NONE {
            match &mut self.nodes[at as usize].body {
                Body::Inner { bit, kids, .. } => {
                    let side = bit.of(point);
                    path.push((at, side));
                    at = kids[side];
                }
                Body::Leaf(items) => {
                    items.retain(|other| *other != item);
                    break;
                }
            }
        }
        if at != NONE {
            self.tidy(root, at, &mut path, place_of);
            self.tighten(&path);
        }
        self.path = path;
    }

    /// Brings a leaf that has lost an item in order: gone if empty, merged with a small sibling, its box tight.
    fn tidy(
        &mut self,
        root: &mut Root,
        leaf: u32,
        path: &mut Vec<(u32, usize)>,
        place_of: impl Fn(u32) -> Place,
    ) {
        let items = self.take_items(leaf);
        let Some(&(parent, side)) = path.last() else {
            if items.is_empty() {
                root.node = NONE;
                self.spare.push(leaf);
            } else {
                self.nodes[leaf as usize] = Node::leaf(items, place_of);
            }
            return;
        };
        let Body::Inner { kids, .. } = self.nodes[parent as usize].body else { return };
        let sibling = kids[1 - side];
        let merged = match &mut self.nodes[sibling as usize].body {
            Body::Leaf(others) if others.len() + items.len() <= LEAF / 2 => {
                others.extend(&items);
                true
            }
            Body::Leaf(_) | Body::Inner { .. } => items.is_empty(),
        };
        if merged {
            path.pop();
            self.link(root, path.last().copied(), sibling);
            self.spare.extend([leaf, parent]);
            if let Body::Leaf(_) = self.nodes[sibling as usize].body {
                let items = self.take_items(sibling);
                self.nodes[sibling as usize] = Node::leaf(items, place_of);
            }
        } else {
            self.nodes[leaf as usize] = Node::leaf(items, place_of);
        }
    }

    /// Makes the boxes and marks along the path tight again, from the bottom on, up to the first that stays.
    fn tighten(&mut self, path: &[(u32, usize)]) {
        for (at, _) in path.iter().rev() {
            let Body::Inner { kids, .. } = self.nodes[*at as usize].body else { return };
            let [a, b] = kids.map(|kid| &self.nodes[kid as usize]);
            let low = std::array::from_fn(|r| a.low[r].min(b.low[r]));
            let high = std::array::from_fn(|r| a.high[r].max(b.high[r]));
            let marks = a.marks | b.marks;
            let node = &mut self.nodes[*at as usize];
            if (node.low, node.high, node.marks) == (low, high, marks) {
                return;
            }
            (node.low, node.high, node.marks) = (low, high, marks);
        }
    }

    fn split(&mut self, root: Root, leaf: u32, place_of: impl Fn(u32) -> Place) {
        let node = &self.nodes[leaf as usize];
        let Some(level) = root.differ(node.low, node.high) else { return };
        let (items, bit) = (self.take_items(leaf), root.bit(level));
        let (zero, one) = items.into_iter().partition(|item| bit.of(place_of(*item).point) == 0);
        let kids = [zero, one].map(|items| self.add(Node::leaf(items, &place_of)));
        self.nodes[leaf as usize].body = Body::Inner { level, bit, kids };
    }

    fn take_items(&mut self, leaf: u32) -> Vec<u32> {
        match &mut self.nodes[leaf as usize].body {
            Body::Leaf(items) => std::mem::take(items),
            Body::Inner { .. } => Vec::new(),
        }
    }

    fn add(&mut self, node: Node) -> u32 {
        if let Some(spare) = self.spare.pop() {
            self.nodes[spare as usize] = node;
            return spare;
        }
        push(&mut self.nodes, node);
        // Fewer nodes than twice the hosts, whose slots are u32.
        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
    }

    fn link(&mut self, root: &mut Root, parent: Option<(u32, usize)>, child: u32) {
        let Some((parent, side)) = parent else {
            root.node = child;
            return;
        };
        if let Body::Inner { kids, .. } = &mut self.nodes[parent as usize].body {
            kids[side] = child;
        }
    }

    pub(super) fn shrink(&mut self) {
        for node in &mut self.nodes {
            if let Body::Leaf(items) = &mut node.body {
                items.shrink_to_fit();
            }
        }
        self.nodes.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The items below a node, after checking that its box, marks and kids are what they say.
    fn check(forest: &Forest, at: u32, places: &BTreeMap<u32, Place>) -> Vec<u32> {
        let node = &forest.nodes[at as usize];
        let items = match &node.body {
            Body::Leaf(items) => items.clone(),
            Body::Inner { bit, kids, .. } => {
                let kids = kids.map(|kid| check(forest, kid, places));
                for (side, items) in kids.iter().enumerate() {
                    assert!(items.iter().all(|item| bit.of(places[item].point) == side));
                }
                kids.concat()
            }
        };
        let tight = Node::leaf(items.clone(), |item| places[&item]);
        assert_eq!((node.low, node.high, node.marks), (tight.low, tight.high, tight.marks));
        assert!(!items.is_empty());
        items
    }

    proptest! {
        #[test]
        fn every_box_is_tight_and_no_item_is_lost(
            ops in prop::collection::vec((0..6u32, 0..40u32, 0..1000u32, 0..64u32), 1..300),
        ) {
            let mut root = Root::for_amounts([7, 40, 1000]);
            let (mut forest, mut places) = (Forest::default(), BTreeMap::<u32, Place>::new());
            for (number, (v, m, d, mark)) in (0..).zip(ops) {
                let place = Place { point: [v, m, if d < 600 { 9 } else { d }], marks: 1 << mark };
                let place_of = |item: u32| places[&item];
                let is = |item: u32| places[&item].point == place.point;
                let known = places.iter().find(|(_, other)| other.point == place.point);
                let known = known.map(|(item, _)| *item);
                if let Some(item) = known.filter(|item| item % 3 > 0) {
                    forest.remove(&mut root, item, place_of);
                    places.remove(&item);
                } else if known.is_none() {
                    prop_assert_eq!(forest.find_or_insert(&mut root, place, is, || number, place_of), number);
                    places.insert(number, place);
                }
                let oldest = places.keys().next().copied();
                if let Some(item) = oldest.filter(|_| number % 3 == 0) {
                    forest.remove(&mut root, item, |item| places[&item]);
                    places.remove(&item);
                }
                let mut items = if root.node == NONE { vec![] } else { check(&forest, root.node, &places) };
                items.sort_unstable();
                prop_assert!(items.iter().eq(places.keys()));
                prop_assert!(forest.nodes.len() <= 2 * 300);
            }
        }
    }
}
