//! A dynamic binary trie over points of three amounts, where every node knows the tight box of what lies below it.
//!
//! The bits of the three amounts are interleaved from the highest on, so that each level halves one amount, and
//! levels at which nothing differs are skipped: the depth is at most 96 whatever the points, and mostly the binary
//! logarithm of their number. The boxes let a search leave out what cannot fit or cannot be better.

use super::members::NONE;

/// Amounts in the order of `Resources::parts`.
pub(super) type Point = [u32; 3];

/// How many items a leaf holds before it is split. Items at one point are never split.
const LEAF: usize = 16;

/// The nodes of many trees.
#[derive(Debug, Clone, Default)]
pub(super) struct Forest {
    pub(super) nodes: Vec<Node>,
    /// Nodes that may be used again.
    spare: Vec<u32>,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) low: Point,
    pub(super) high: Point,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Inner {
        /// The first interleaved bit in which items below differ; the kids have it 0 and 1.
        level: u8,
        kids: [u32; 2],
    },
    Leaf(Vec<u32>),
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
    fn differ(&self, a: Point, b: Point) -> Option<u8> {
        let levels = (0..3).filter(|r| a[*r] != b[*r]).map(|r| {
            #[expect(clippy::cast_possible_truncation, reason = "at most 95")]
            let level = (((a[r] ^ b[r]) << self.shift[r]).leading_zeros() * 3) as u8 + r as u8;
            level
        });
        levels.min()
    }

    fn side(&self, point: Point, level: u8) -> usize {
        let r = usize::from(level % 3);
        ((point[r] << self.shift[r]) >> (31 - level / 3) & 1) as usize
    }
}

impl Node {
    fn leaf(items: Vec<u32>, point_of: impl Fn(u32) -> Point) -> Self {
        let (low, high) = bounds(&items, point_of);
        Self { low, high, body: Body::Leaf(items) }
    }

    fn cover(&mut self, point: Point) {
        for r in 0..3 {
            self.low[r] = self.low[r].min(point[r]);
            self.high[r] = self.high[r].max(point[r]);
        }
    }

    fn holds(&self, point: Point) -> bool {
        (0..3).all(|r| self.low[r] <= point[r] && point[r] <= self.high[r])
    }
}

impl Forest {
    /// The item at this point for which `is` holds.
    pub(super) fn find(&self, root: &Root, point: Point, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = root.node;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if !node.holds(point) {
                return None;
            }
            match &node.body {
                Body::Inner { level, kids } => at = kids[root.side(point, *level)],
                Body::Leaf(items) => return items.iter().copied().find(|item| is(*item)),
            }
        }
        None
    }

    /// Adds an item; `point_of` tells the points of all items, the new one included.
    pub(super) fn insert(&mut self, root: &mut Root, item: u32, point_of: impl Fn(u32) -> Point) {
        let point = point_of(item);
        let (mut at, mut parent) = (root.node, None);
        if at == NONE {
            root.node = self.add(Node::leaf(vec![item], point_of));
            return;
        }
        loop {
            let node = &mut self.nodes[at as usize];
            let above = match node.body {
                Body::Inner { level, .. } => {
                    root.differ(node.low, point).filter(|differ| *differ < level)
                }
                Body::Leaf(_) => None,
            };
            if let Some(level) = above {
                let mut over = node.clone_box();
                over.cover(point);
                let leaf = self.add(Node::leaf(vec![item], point_of));
                let mut kids = [at; 2];
                kids[root.side(point, level)] = leaf;
                over.body = Body::Inner { level, kids };
                let over = self.add(over);
                self.link(root, parent, over);
                return;
            }
            node.cover(point);
            match &mut node.body {
                Body::Inner { level, kids } => {
                    let side = root.side(point, *level);
                    parent = Some((at, side));
                    at = kids[side];
                }
                Body::Leaf(items) => {
                    items.push(item);
                    if items.len() > LEAF {
                        self.split(root, at, point_of);
                    }
                    return;
                }
            }
        }
    }

    /// Takes out an item that is there; `point_of` still tells its point.
    pub(super) fn remove(&mut self, root: &mut Root, item: u32, point_of: impl Fn(u32) -> Point) {
        let point = point_of(item);
        // At most 96 levels and the leaf.
        let mut path = Vec::with_capacity(32);
        let mut at = root.node;
        while at != NONE {
            match &mut self.nodes[at as usize].body {
                Body::Inner { level, kids } => {
                    let side = root.side(point, *level);
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
            self.tidy(root, at, &mut path, point_of);
            self.tighten(&path, point);
        }
    }

    /// Brings a leaf that has lost an item in order: gone if empty, merged with a small sibling, its box tight.
    fn tidy(
        &mut self,
        root: &mut Root,
        leaf: u32,
        path: &mut Vec<(u32, usize)>,
        point_of: impl Fn(u32) -> Point,
    ) {
        let items = self.take_items(leaf);
        let Some(&(parent, side)) = path.last() else {
            if items.is_empty() {
                root.node = NONE;
                self.spare.push(leaf);
            } else {
                self.nodes[leaf as usize] = Node::leaf(items, point_of);
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
            if let Body::Leaf(items) = &self.nodes[sibling as usize].body {
                let (low, high) = bounds(items, point_of);
                let node = &mut self.nodes[sibling as usize];
                (node.low, node.high) = (low, high);
            }
        } else {
            self.nodes[leaf as usize] = Node::leaf(items, point_of);
        }
    }

    /// Makes the boxes along the path tight again, from the bottom on, after a point went.
    fn tighten(&mut self, path: &[(u32, usize)], point: Point) {
        for (at, _) in path.iter().rev() {
            let Node { low, high, body: Body::Inner { kids, .. } } = &self.nodes[*at as usize]
            else {
                return;
            };
            // A point inside the box holds up none of its sides, here or above.
            if (0..3).all(|r| low[r] < point[r] && point[r] < high[r]) {
                return;
            }
            let [a, b] = kids.map(|kid| &self.nodes[kid as usize]);
            let low = std::array::from_fn(|r| a.low[r].min(b.low[r]));
            let high = std::array::from_fn(|r| a.high[r].max(b.high[r]));
            let node = &mut self.nodes[*at as usize];
            (node.low, node.high) = (low, high);
        }
    }

    fn split(&mut self, root: &Root, leaf: u32, point_of: impl Fn(u32) -> Point) {
        let node = &self.nodes[leaf as usize];
        let Some(level) = root.differ(node.low, node.high) else { return };
        let items = self.take_items(leaf);
        let (zero, one) =
            items.into_iter().partition(|item| root.side(point_of(*item), level) == 0);
        let kids = [zero, one].map(|items| self.add(Node::leaf(items, &point_of)));
        self.nodes[leaf as usize].body = Body::Inner { level, kids };
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
        self.nodes.push(node);
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

impl Node {
    fn clone_box(&self) -> Self {
        Self { low: self.low, high: self.high, body: Body::Leaf(Vec::new()) }
    }
}

fn bounds(items: &[u32], point_of: impl Fn(u32) -> Point) -> (Point, Point) {
    let (mut low, mut high) = ([u32::MAX; 3], [0; 3]);
    for item in items {
        let point = point_of(*item);
        for r in 0..3 {
            low[r] = low[r].min(point[r]);
            high[r] = high[r].max(point[r]);
        }
    }
    (low, high)
}
