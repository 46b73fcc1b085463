//! Branch and bound over the trees: finds the best class without scoring every class.

use super::host::Request;
use super::index::{ClassRow, Index};
use super::members::NONE;
use super::policy::{Policy, Rank, RoundRobin, Share};
use super::resources::Resources;
use super::shapes::{Admitted, Group};
use super::tree::{Body, DEPTH, Node, Point};

/// One search.
struct Search<'a> {
    index: &'a Index,
    need: Point,
    policy: Policy,
    admitted: Admitted,
    /// Slots that must not be chosen, sorted.
    excluded: Vec<u32>,
    /// The best host so far.
    best: Option<(Rank, u32)>,
    group: &'a Group,
    /// Under best and lifetime fit: how much may be free of each resource in this group without being worse than the best.
    reach: Point,
    /// The same where that much free would be exactly as bad as the best, else more than there can be.
    edge: [u64; 3],
}

/// The slot of the best host, ties going to the smallest slot; not for round robin.
pub(super) fn best(index: &Index, request: &Request) -> Option<u32> {
    let mut search = Search {
        index,
        need: request.need.parts(),
        policy: request.policy,
        admitted: index.shapes.admitted(request),
        excluded: index.excluded(request),
        best: None,
        group: index.shapes.groups.first()?,
        reach: [u32::MAX; 3],
        edge: [u64::MAX; 3],
    };
    let mut groups = index.shapes.groups.iter().filter(|group| search.may(group));
    let first = groups.next()?;
    let Some(second) = groups.next() else {
        // Most clouds have one kind of host: no list is made for it.
        search.group = first;
        search.visit(first.tree.node);
        return search.best.map(|(_, slot)| slot);
    };
    let mut groups: Vec<_> = [first, second].into_iter().chain(groups).collect();
    // In turn, and the most promising group first, so that its host rules the others out early.
    groups.sort_by_cached_key(|group| {
        (request.turn(group.exit), search.bound(group, search.node(group.tree.node)))
    });
    for group in groups {
        let turn = request.turn(group.exit);
        if search.best.is_some() && turn != request.turn(search.group.exit) {
            break;
        }
        search.group = group;
        search.set_reach();
        search.visit(group.tree.node);
    }
    search.best.map(|(_, slot)| slot)
}

/// The slot of the best of these hosts, which are few; the same order of preference as everywhere.
pub(super) fn among(
    index: &Index,
    request: &Request,
    slots: &[u32],
    cursor: &RoundRobin,
) -> Option<u32> {
    let (excluded, admitted) = (index.excluded(request), index.shapes.admitted(request));
    let need = request.need;
    let fits = |slot: &&u32| {
        let class = index.class_of(**slot);
        need.fits_in(Resources::from_parts(class.free))
            && admitted.has(index.shapes.get(class.shape))
            && excluded.binary_search(slot).is_err()
    };
    let fitting = slots.iter().filter(fits);
    if request.policy == Policy::RoundRobin {
        // After the host that was chosen last, and then from the first.
        let is_past =
            |slot: u32| cursor.last.is_some_and(|last| index.slots[slot as usize].id <= last);
        return fitting.copied().min_by_key(|slot| (is_past(*slot), *slot));
    }
    fitting.copied().min_by_key(|slot| {
        let class = index.class_of(*slot);
        let shape = index.shapes.get(class.shape);
        let rank = request.policy.rank(shape.limit, Resources::from_parts(class.free), need);
        (request.turn(shape.exit), rank, *slot)
    })
}

/// The first slot from `from` on that fits, for round robin.
pub(super) fn next(index: &Index, request: &Request, from: u32) -> Option<u32> {
    /// So many hosts are tried one by one; in a cloud with room, one of them mostly fits.
    const TRIED: u32 = 64;
    let (excluded, admitted) = (index.excluded(request), index.shapes.admitted(request));
    let need = request.need.parts();
    let fits = |class: &ClassRow| {
        (0..3).all(|r| need[r] <= class.free[r]) && admitted.has(index.shapes.get(class.shape))
    };
    let end = from.saturating_add(TRIED).min(u32::try_from(index.len()).unwrap_or(NONE));
    let tried = (from..end)
        .find(|slot| fits(index.class_of(*slot)) && excluded.binary_search(slot).is_err());
    if tried.is_some() {
        return tried;
    }
    // In a full cloud few classes fit: take the nearest member of any.
    let mut nearest = None;
    let groups = index.shapes.groups.iter().filter(|group| !group.over && group.tree.node != NONE);
    let mut open: Vec<_> = groups.map(|group| group.tree.node).collect();
    while let Some(node) = open.pop() {
        let node = &index.forest.nodes[node as usize];
        if node.marks & admitted.marks == 0 || (0..3).any(|r| need[r] > node.high[r]) {
            continue;
        }
        match &node.body {
            Body::Inner { kids, .. } => open.extend(kids),
            Body::Leaf(classes) => {
                for class in classes {
                    let class = &index.classes[*class as usize];
                    if fits(class) {
                        let member = index.first_allowed(class.root, end, &excluded);
                        nearest = nearest.into_iter().chain(member).min();
                    }
                }
            }
        }
    }
    nearest
}

impl<'a> Search<'a> {
    fn node(&self, at: u32) -> &'a Node {
        &self.index.forest.nodes[at as usize]
    }

    /// Whether a group may have a host that fits.
    fn may(&self, group: &Group) -> bool {
        !group.over && group.tree.node != NONE && self.may_below(self.node(group.tree.node))
    }

    fn may_below(&self, node: &Node) -> bool {
        node.marks & self.admitted.marks != 0 && (0..3).all(|r| self.need[r] <= node.high[r])
    }

    /// No class below the node ranks better than this.
    fn bound(&self, group: &Group, node: &Node) -> Rank {
        let (limit, free) = match self.policy {
            // The most that is free of the smallest host.
            Policy::Spread => (group.least, node.high),
            // The least that is free, yet fits, of the largest host.
            Policy::BestFit | Policy::LifetimeFit | Policy::BestFitSum | Policy::RoundRobin => {
                (group.most, std::array::from_fn(|r| node.low[r].max(self.need[r])))
            }
        };
        let need = Resources::from_parts(self.need);
        self.policy.rank(Resources::from_parts(limit), Resources::from_parts(free), need)
    }

    fn visit(&mut self, root: u32) {
        // What is still to be seen: at most one node a level.
        let (mut open, mut count) = ([root; DEPTH + 1], 1);
        while count > 0 {
            count -= 1;
            let node = self.node(open[count]);
            let may = |r: usize| node.low[r] <= self.reach[r] && self.need[r] <= node.high[r];
            if !(may(0) && may(1) && may(2)) || node.marks & self.admitted.marks == 0 {
                continue;
            }
            if let Some((best, _)) = self.best {
                // Within reach and not at its edge, a better host is possible: there is no need to rank.
                let is_bounded = !matches!(self.policy, Policy::BestFit | Policy::LifetimeFit)
                    || (0..3).any(|r| u64::from(node.low[r].max(self.need[r])) == self.edge[r]);
                if is_bounded && self.bound(self.group, node) > best {
                    continue;
                }
            }
            match &node.body {
                Body::Inner { kids: [few, much], .. } => {
                    let swap = self.policy == Policy::Spread;
                    let [first, second] = if swap { [much, few] } else { [few, much] };
                    (open[count], open[count + 1]) = (*second, *first);
                    count += 2;
                }
                Body::Leaf(classes) => classes.iter().for_each(|class| self.weigh(*class)),
            }
        }
    }

    fn weigh(&mut self, class: u32) {
        let class = &self.index.classes[class as usize];
        if (0..3).any(|r| class.free[r] < self.need[r] || class.free[r] > self.reach[r]) {
            return;
        }
        let shape = self.index.shapes.get(class.shape);
        if !self.admitted.has(shape) {
            return;
        }
        let (free, need) = (Resources::from_parts(class.free), Resources::from_parts(self.need));
        let rank = self.policy.rank(shape.limit, free, need);
        if self.best.is_some_and(|(best, _)| rank > best) {
            return;
        }
        let Some(slot) = self.index.first_allowed(class.root, 0, &self.excluded) else { return };
        match self.best {
            // As good, so that the reach stays.
            Some((best, other)) if best == rank => self.best = Some((best, slot.min(other))),
            _ => {
                self.best = Some((rank, slot));
                self.set_reach();
            }
        }
    }

    fn set_reach(&mut self) {
        let Some((Rank::Least([Share { num, den }, ..]), _)) = self.best else { return };
        for r in 0..3 {
            let (left, den) = (u64::from(num) * u64::from(self.group.most[r]), u64::from(den));
            let reach = left / den + u64::from(self.need[r]);
            self.reach[r] = u32::try_from(reach).unwrap_or(u32::MAX);
            self.edge[r] = if left % den == 0 { reach } else { u64::MAX };
        }
    }
}
