//! The classes of the index as an explanation lists them.

use std::collections::BTreeMap;

use super::explain::{Class, MAX_SAMPLE};
use super::host::Request;
use super::index::{ClassRow, Index};

/// Every class; hosts that the request excludes make classes of their own.
pub(super) fn classes<'a>(index: &'a Index, request: &Request) -> Vec<Class<'a>> {
    let excluded = index.excluded(request);
    let mut apart: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for slot in &excluded {
        apart.entry(index.slots[*slot as usize].class).or_default().push(*slot);
    }
    let mut classes = Vec::with_capacity(index.classes.len() + apart.len());
    for (number, row) in (0..).zip(&index.classes).filter(|(_, row)| row.hosts > 0) {
        let out = apart.get(&number).map_or(0, Vec::len) as u64;
        let allowed = index.members.iter(row.root);
        let allowed = allowed.filter(|slot| excluded.binary_search(slot).is_err());
        if u64::from(row.hosts) > out {
            let sample = allowed.take(MAX_SAMPLE);
            classes.push(class(index, row, false, u64::from(row.hosts) - out, sample));
        }
    }
    for (number, slots) in apart {
        let (row, sample) = (&index.classes[number as usize], slots.iter().take(MAX_SAMPLE));
        classes.push(class(index, row, true, slots.len() as u64, sample.copied()));
    }
    classes
}

fn class<'a>(
    index: &'a Index,
    row: &ClassRow,
    excluded: bool,
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
        excluded,
        hosts,
        sample: sample.map(named).collect(),
    }
}
