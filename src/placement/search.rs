//! Branch and bound over the trees: finds the best class without scoring every class.

use super::host::Request;
use super::index::Index;
use super::members::NONE;
use super::policy::{Policy, Rank, Share};
use super::resources::Resources;
use super::shapes::Group;
use super::tree::{Body, Node, Point};

/// One search.
struct Search<'a> {
    index: &'a Index,
    need: Point,
    policy: Policy,
    /// Slots that must not be chosen, sorted.
    excluded: Vec<u32>,
    /// The best host so far.
    best: Option<(Rank, u32)>,
    group: &'a Group,
    /// Under best fit: how much may be free of each resource in this group without being worse than the best.
    reach: Point,
}

/// The slot of the best host, ties going to the smallest slot; not for round robin.
pub(super) fn best(index: &Index, request: &Request) -> Option<u32> {
    let groups: Vec<_> = index.shapes.admitted(request).collect();
    let mut search = Search {
        index,
        need: request.need.parts(),
        policy: request.policy,
        excluded: index.excluded(request),
        best: None,
        group: groups.first()?,
        reach: [u32::MAX; 3],
    };
    // The most promising group first, so that its host rules the others out early.
    let mut bounded: Vec<_> = groups
        .into_iter()
        .filter_map(|group| {
            search.group = group;
            let node = search.node(group.tree.node);
            (0..3).all(|r| search.need[r] <= node.high[r]).then(|| (search.bound(node), group))
        })
        .collect();
    bounded.sort_by_key(|(bound, _)| *bound);
    for (_, group) in bounded {
        search.group = group;
        search.set_reach();
        search.visit(group.tree.node);
    }
    search.best.map(|(_, slot)| slot)
}

/// The first slot from `from` on that fits, for round robin.
pub(super) fn next(index: &Index, request: &Request, from: u32) -> Option<u32> {
    /// So many hosts are tried one by one; in a cloud with room, one of them mostly fits.
    const TRIED: u32 = 64;
    let excluded = index.excluded(request);
    let groups: Vec<_> = index.shapes.admitted(request).collect();
    let is_admitted = |shape: u32| {
        let group = &index.shapes.groups[index.shapes.group(shape)];
        !group.over && index.shapes.sets[group.set as usize].admit(request)
    };
    let end = from.saturating_add(TRIED).min(u32::try_from(index.len()).unwrap_or(NONE));
    for slot in from..end {
        let class = index.class_of(slot);
        let fits = request.need.fits_in(Resources::from_parts(class.free));
        if fits && is_admitted(class.shape) && excluded.binary_search(&slot).is_err() {
            return Some(slot);
        }
    }
    // In a full cloud few classes fit: take the nearest member of any.
    let mut nearest = None;
    let mut open: Vec<_> = groups.iter().map(|group| group.tree.node).collect();
    while let Some(node) = open.pop() {
        let node = &index.forest.nodes[node as usize];
        if (0..3).any(|r| request.need.parts()[r] > node.high[r]) {
            continue;
        }
        match &node.body {
            Body::Inner { kids, .. } => open.extend(kids),
            Body::Leaf(classes) => {
                for class in classes {
                    let class = &index.classes[*class as usize];
                    if request.need.fits_in(Resources::from_parts(class.free)) {
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

    /// No class of this group below the node ranks better than this.
    fn bound(&self, node: &Node) -> Rank {
        let (limit, free) = match self.policy {
            // The most that is free of the smallest host.
            Policy::Spread => (self.group.least, node.high),
            // The least that is free, yet fits, of the largest host.
            Policy::BestFit | Policy::BestFitSum | Policy::RoundRobin => {
                (self.group.most, std::array::from_fn(|r| node.low[r].max(self.need[r])))
            }
        };
        let need = Resources::from_parts(self.need);
        self.policy.rank(Resources::from_parts(limit), Resources::from_parts(free), need)
    }

    fn visit(&mut self, at: u32) {
        let node = self.node(at);
        if (0..3).any(|r| node.high[r] < self.need[r] || node.low[r] > self.reach[r]) {
            return;
        }
        if self.best.is_some_and(|(best, _)| self.bound(node) > best) {
            return;
        }
        match &node.body {
            Body::Inner { kids: [few, much], .. } => {
                let order = if self.policy == Policy::Spread { [much, few] } else { [few, much] };
                order.into_iter().for_each(|kid| self.visit(*kid));
            }
            Body::Leaf(classes) => classes.iter().for_each(|class| self.weigh(*class)),
        }
    }

    fn weigh(&mut self, class: u32) {
        let class = &self.index.classes[class as usize];
        if (0..3).any(|r| class.free[r] < self.need[r] || class.free[r] > self.reach[r]) {
            return;
        }
        let limit = self.index.shapes.get(class.shape).limit;
        let (free, need) = (Resources::from_parts(class.free), Resources::from_parts(self.need));
        let rank = self.policy.rank(limit, free, need);
        if self.best.is_some_and(|(best, _)| rank > best) {
            return;
        }
        let Some(slot) = self.index.first_allowed(class.root, 0, &self.excluded) else { return };
        if self.best.is_none_or(|best| (rank, slot) < best) {
            self.best = Some((rank, slot));
            self.set_reach();
        }
    }

    fn set_reach(&mut self) {
        let Some((Rank::Least([Share { num, den }, ..]), _)) = self.best else { return };
        self.reach = std::array::from_fn(|r| {
            let left = u64::from(num) * u64::from(self.group.most[r]) / u64::from(den);
            u32::try_from(left).unwrap_or(u32::MAX).saturating_add(self.need[r])
        });
    }
}
