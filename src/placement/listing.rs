//! The classes of the index as an explanation lists them.

use std::collections::BTreeMap;

use super::explain::{Class, MAX_SAMPLE, Outside};
use super::host::Request;
use super::index::{ClassRow, Index};

/// Every class; hosts that the request excludes, and those where its group is or is not, make classes of their own.
pub(super) fn classes<'a>(index: &'a Index, request: &Request) -> Vec<Class<'a>> {
    let outside = |slot: u32| {
        let id = index.slots[slot as usize].id;
        let is_in = request.together.as_ref().is_none_or(|together| together.contains(&id));
        if request.exclude.contains(&id) {
            Some(Outside::Kept)
        } else if request.apart.contains(&id) {
            Some(Outside::Apart)
        } else {
            (!is_in).then_some(Outside::NotTogether)
        }
    };
    // Those that differ from the rest of their class: few, since they are named.
    let mut named = index.excluded(request);
    if let Some(together) = &request.together {
        named.extend(index.slots_of(together.iter()));
    }
    named.sort_unstable();
    named.dedup();
    let mut apart: BTreeMap<u32, BTreeMap<Option<Outside>, Vec<u32>>> = BTreeMap::new();
    for slot in &named {
        let of_class = apart.entry(index.slots[*slot as usize].class).or_default();
        of_class.entry(outside(*slot)).or_default().push(*slot);
    }
    let rest = request.together.as_ref().map(|_| Outside::NotTogether);
    let mut classes = Vec::with_capacity(index.classes.len() + apart.len());
    for (number, row) in (0..).zip(&index.classes).filter(|(_, row)| row.hosts > 0) {
        let out = apart.get(&number).map_or(0, |all| all.values().map(Vec::len).sum()) as u64;
        if u64::from(row.hosts) > out {
            let others = index.members.iter(row.root);
            let others = others.filter(|slot| named.binary_search(slot).is_err());
            let sample = others.take(MAX_SAMPLE);
            classes.push(class(index, row, rest, u64::from(row.hosts) - out, sample));
        }
    }
    for (number, kinds) in apart {
        for (outside, slots) in kinds {
            let (row, sample) = (&index.classes[number as usize], slots.iter().take(MAX_SAMPLE));
            classes.push(class(index, row, outside, slots.len() as u64, sample.copied()));
        }
    }
    classes
}

fn class<'a>(
    index: &'a Index,
    row: &ClassRow,
    outside: Option<Outside>,
    hosts: u64,
    sample: impl Iterator<Item = u32>,
) -> Class<'a> {
    let shape = index.shapes.get(row.shape);
    let named = |slot: u32| {
        let slot = &index.slots[slot as usize];
        (slot.id, index.names.get(slot.name))
    };
    Class {
        constraints: &index.shapes.sets[shape.set as usize],
        limit: shape.limit,
        used: row.used(shape),
        exit: shape.exit,
        outside,
        hosts,
        sample: sample.map(named).collect(),
    }
}
