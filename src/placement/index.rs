//! The capacity index: hosts in classes, classes in trees, kept by deltas.

use super::host::{Constraints, HostView, Request};
use super::lifetime::ExitClass;
use super::members::{Members, NONE, moved_down, moved_up};
use super::names::Names;
use super::resources::Resources;
use super::shapes::{Shape, Shapes, mark};
use super::tree::{Forest, Place, Point, push};
use crate::domain::id::HostId;

/// No host can take the request; [`Index::explain`] says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no host can take the request")]
pub struct NoFit;

/// A delta that does not agree with what the index holds: reload the host with [`Index::upsert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    #[error("the index does not know host {0}")]
    UnknownHost(HostId),
    #[error("host {0} has no room left for this")]
    NoRoom(HostId),
    #[error("more would be given back than is taken on host {0}")]
    NotTaken(HostId),
}

/// The capacity index. Hosts of equal shape (constraints, limit) and equal free amounts form a class, since
/// placement cannot tell them apart; the classes of similar shapes lie in one tree.
///
/// Placing costs about the logarithm of the number of classes, a delta that of the hosts. Adding a host whose id
/// is not the largest and removing a host renumber all of them: build with [`Index::from_hosts`].
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// Sorted by id: the number of a host's slot is its place in the order of ids.
    pub(super) slots: Vec<Slot>,
    pub(super) members: Members,
    pub(super) names: Names,
    pub(super) classes: Vec<ClassRow>,
    /// Rows of `classes` that may be used again.
    spare: Vec<u32>,
    pub(super) shapes: Shapes,
    pub(super) forest: Forest,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) id: HostId,
    pub(super) class: u32,
    pub(super) name: u32,
}

/// Hosts that placement cannot tell apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClassRow {
    pub(super) free: Point,
    pub(super) shape: u32,
    /// The root of the treap of its slots.
    pub(super) root: u32,
    pub(super) hosts: u32,
}

impl Index {
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds the index at once, in any order; of hosts of one id the last counts.
    pub fn from_hosts(hosts: impl IntoIterator<Item = HostView>) -> Self {
        let mut hosts: Vec<_> = hosts.into_iter().collect();
        hosts.sort_by_key(|host| host.id);
        let mut index = Self::default();
        index.slots.reserve_exact(hosts.len());
        for host in hosts {
            index.upsert(host);
        }
        index.members.shrink();
        index.names.shrink();
        index.classes.shrink_to_fit();
        index.forest.shrink();
        index
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds the host, or replaces everything known of it.
    pub fn upsert(&mut self, host: HostView) {
        let HostView { id, name, limit, used, traits, zone, dedicated, state, exit } = host;
        let slot = match self.slots.binary_search_by_key(&id, |slot| slot.id) {
            Ok(at) => {
                let slot = self.detach(at);
                if self.names.get(self.slots[at].name) != name {
                    self.slots[at].name = self.names.replace(self.slots[at].name, &name);
                    self.compact_names();
                }
                slot
            }
            Err(at) => self.open(at, id, &name),
        };
        let set = self.shapes.set(Constraints { state, zone, traits, dedicated });
        self.attach(slot, set, limit, used, exit);
        // Values that no host has any more are never taken out one by one.
        if self.shapes.all.len() > 2 * self.slots.len() + 1024 {
            *self = Self::from_hosts(self.hosts());
        }
    }

    /// Forgets the host; whether it was there.
    pub fn remove(&mut self, id: HostId) -> bool {
        let Ok(at) = self.slots.binary_search_by_key(&id, |slot| slot.id) else { return false };
        let slot = self.detach(at);
        self.names.forget(self.slots[at].name);
        self.slots.remove(at);
        self.members.close(slot);
        for class in &mut self.classes {
            class.root = moved_down(class.root, slot);
        }
        self.compact_names();
        true
    }

    /// What is known of the host.
    pub fn host(&self, id: HostId) -> Option<HostView> {
        let at = self.slots.binary_search_by_key(&id, |slot| slot.id).ok()?;
        Some(self.view(&self.slots[at]))
    }

    /// The zone of the host, where it is known.
    pub fn zone(&self, id: HostId) -> Option<&str> {
        let at = self.slots.binary_search_by_key(&id, |slot| slot.id).ok()?;
        let set = self.shapes.get(self.class_of(number(at)).shape).set;
        self.shapes.sets[set as usize].zone.as_deref()
    }

    /// Everything that is known, by id.
    pub fn hosts(&self) -> impl Iterator<Item = HostView> {
        self.slots.iter().map(|slot| self.view(slot))
    }

    /// Takes room on a host, whatever its state: its claim is already decided.
    ///
    /// # Errors
    /// The host is unknown, or it would carry more than its limit; then nothing changes.
    pub fn take(&mut self, id: HostId, amount: Resources) -> Result<(), IndexError> {
        self.change(id, |shape, used| {
            let after = used.checked_add(amount).filter(|used| used.fits_in(shape.limit));
            after.ok_or(IndexError::NoRoom(id))
        })
    }

    /// Gives room back.
    ///
    /// # Errors
    /// The host is unknown, or less is taken than would be given back; then nothing changes.
    pub fn give(&mut self, id: HostId, amount: Resources) -> Result<(), IndexError> {
        self.change(id, |_, used| used.checked_sub(amount).ok_or(IndexError::NotTaken(id)))
    }

    /// Sets what is taken on a host, as the store has it; may exceed the limit.
    ///
    /// # Errors
    /// The host is unknown.
    pub fn set_used(&mut self, id: HostId, used: Resources) -> Result<(), IndexError> {
        self.change(id, |_, _| Ok(used))
    }

    /// Sets in how long the host is expected to be left by all its guests.
    ///
    /// # Errors
    /// The host is unknown.
    pub fn set_exit(&mut self, id: HostId, exit: ExitClass) -> Result<(), IndexError> {
        let at = self.slots.binary_search_by_key(&id, |slot| slot.id);
        let at = at.ok().ok_or(IndexError::UnknownHost(id))?;
        let class = *self.class_of(number(at));
        let shape = *self.shapes.get(class.shape);
        let slot = self.detach(at);
        self.attach(slot, shape.set, shape.limit, class.used(&shape), exit);
        Ok(())
    }

    fn change(
        &mut self,
        id: HostId,
        used: impl FnOnce(&Shape, Resources) -> Result<Resources, IndexError>,
    ) -> Result<(), IndexError> {
        let at = self.slots.binary_search_by_key(&id, |slot| slot.id);
        let at = at.ok().ok_or(IndexError::UnknownHost(id))?;
        let class = *self.class_of(number(at));
        let shape = *self.shapes.get(class.shape);
        let after = used(&shape, class.used(&shape))?;
        let slot = self.detach(at);
        if after.saturating_sub(shape.limit) == shape.over {
            self.join(slot, class.shape, shape.limit.saturating_sub(after).parts());
        } else {
            self.attach(slot, shape.set, shape.limit, after, shape.exit);
        }
        Ok(())
    }

    /// Puts a host that is in no class into the class that these amounts make.
    fn attach(&mut self, slot: u32, set: u32, limit: Resources, used: Resources, exit: ExitClass) {
        let over = used.saturating_sub(limit);
        let shape = self.shapes.shape(Shape { set, limit, over, exit });
        self.join(slot, shape, limit.saturating_sub(used).parts());
    }

    fn join(&mut self, slot: u32, shape: u32, free: Point) {
        let row = ClassRow { free, shape, root: NONE, hosts: 0 };
        let (group, shapes) = (self.shapes.group(shape), &self.shapes.all);
        let tree = &mut self.shapes.groups[group].tree;
        let (classes, spare) = (&self.classes, &mut self.spare);
        let class = self.forest.find_or_insert(
            tree,
            row.place(shapes),
            |class| {
                let class = &classes[class as usize];
                class.shape == shape && class.free == free
            },
            || spare.pop().unwrap_or_else(|| number(classes.len())),
            |class| classes[class as usize].place(shapes),
        );
        if class as usize == self.classes.len() {
            push(&mut self.classes, row);
        }
        let class_row = &mut self.classes[class as usize];
        if class_row.hosts == 0 {
            *class_row = row;
        }
        class_row.hosts += 1;
        class_row.root = self.members.insert(class_row.root, slot);
        self.slots[slot as usize].class = class;
    }

    /// Takes a host out of its class; gives its slot.
    fn detach(&mut self, at: usize) -> u32 {
        let (class, slot) = (self.slots[at].class, number(at));
        let row = &mut self.classes[class as usize];
        row.hosts -= 1;
        row.root = self.members.remove(row.root, slot);
        if row.hosts == 0 {
            let group = self.shapes.group(row.shape);
            let (tree, shapes) = (&mut self.shapes.groups[group].tree, &self.shapes.all);
            let classes = &self.classes;
            self.forest.remove(tree, class, |class| classes[class as usize].place(shapes));
            self.spare.push(class);
        }
        slot
    }

    fn open(&mut self, at: usize, id: HostId, name: &str) -> u32 {
        let slot = number(at);
        if at < self.slots.len() {
            for class in &mut self.classes {
                class.root = moved_up(class.root, slot);
            }
        }
        self.slots.insert(at, Slot { id, class: NONE, name: self.names.add(name) });
        // Any spread of priorities does; this one is the same wherever the index is built.
        let bits = id.0.as_u128();
        #[expect(clippy::cast_possible_truncation, reason = "the high bits of a hash")]
        let mixed = (((bits >> 64) ^ bits) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.members.open(slot, (mixed >> 48) as u16);
        slot
    }

    fn compact_names(&mut self) {
        if self.names.is_wasteful() {
            let mut names = Names::default();
            for slot in &mut self.slots {
                slot.name = names.add(self.names.get(slot.name));
            }
            self.names = names;
        }
    }

    fn view(&self, slot: &Slot) -> HostView {
        let class = &self.classes[slot.class as usize];
        let shape = self.shapes.get(class.shape);
        let Constraints { state, zone, traits, dedicated } =
            self.shapes.sets[shape.set as usize].clone();
        let name = self.names.get(slot.name).to_owned();
        HostView {
            id: slot.id,
            name,
            limit: shape.limit,
            used: class.used(shape),
            traits,
            zone,
            dedicated,
            state,
            exit: shape.exit,
        }
    }

    pub(super) fn class_of(&self, slot: u32) -> &ClassRow {
        &self.classes[self.slots[slot as usize].class as usize]
    }

    /// The slots of the hosts that the request must not have, sorted.
    pub(super) fn excluded(&self, request: &Request) -> Vec<u32> {
        if request.exclude.is_empty() && request.apart.is_empty() {
            return Vec::new();
        }
        let mut slots = self.slots_of(request.exclude.iter());
        if !request.apart.is_empty() {
            slots.extend(self.slots_of(request.apart.iter()));
            slots.sort_unstable();
        }
        slots
    }

    /// The slots of those of the hosts that are known.
    pub(super) fn slots_of<'a>(&self, ids: impl Iterator<Item = &'a HostId>) -> Vec<u32> {
        let slot = |id| self.slots.binary_search_by_key(id, |slot| slot.id).ok().map(number);
        ids.filter_map(slot).collect()
    }

    /// The first member from a slot on that is not excluded.
    pub(super) fn first_allowed(&self, root: u32, from: u32, excluded: &[u32]) -> Option<u32> {
        let mut slot = self.members.first(root, from)?;
        while excluded.binary_search(&slot).is_ok() {
            slot = self.members.first(root, slot + 1)?;
        }
        Some(slot)
    }
}

impl ClassRow {
    fn place(&self, shapes: &[(Shape, u32)]) -> Place {
        Place { point: self.free, marks: mark(shapes[self.shape as usize].0.set) }
    }

    pub(super) fn used(&self, shape: &Shape) -> Resources {
        let taken = shape.limit.saturating_sub(Resources::from_parts(self.free)).parts();
        // One of the two is 0, or their sum is what was given as used.
        Resources::from_parts(std::array::from_fn(|r| {
            taken[r].saturating_add(shape.over.parts()[r])
        }))
    }
}

/// Slots and classes are u32; a cloud of four thousand million hosts is refused by memory first.
pub(super) fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(NONE)
}
