//! How long guests stay, learnt from those that left and from those that have not: a survival curve a label, in bounded
//! memory.
//!
//! For each bucket of age a label counts who ended in it and who outlived it, both of those that left and of those still
//! there, since counting only ends would make everything look short-lived. The chance to end in a bucket is
//! `(ended + W · h) / (ended + outlived + W)`, with `h` that chance by the next coarser label: the discrete hazard of Kaplan
//! and Meier (1958), shrunk to what is known of more guests. Only sums, products and quotients: the same on every machine.

use std::collections::HashMap;

use super::{BUCKETS, bucket, start};

/// Most labels that are kept, of about half a KiB each; those longest unseen go first.
pub const KEYS_MAX: usize = 4096;
/// Labels of one guest.
const LABELS: usize = 4;
/// For how many guests the coarser label stands.
const SHRINK: f32 = 4.0;
/// The chance to end in a bucket where nothing is known.
const PRIOR: f32 = 0.02;
/// Counts are halved when a bucket has seen so many guests, so that the old is forgotten.
const DECAY_AT: f32 = 1024.0;

/// What is said of a guest, from the general (its flavor) to the particular (its tenant's label); at most four.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Labels {
    keys: [u64; LABELS],
    count: usize,
    weight: f32,
}

impl Default for Labels {
    fn default() -> Self {
        Self { keys: [0; LABELS], count: 0, weight: 1.0 }
    }
}

impl Labels {
    /// Adds a more particular label; beyond four it is left out.
    pub fn with(mut self, label: &str) -> Self {
        if let Some(key) = self.keys.get_mut(self.count) {
            // FNV-1a: the same wherever it runs; who makes two labels meet spoils the guess for his own guests alone.
            let hash =
                |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            *key = label.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
            self.count += 1;
        }
        self
    }

    /// Of so many guests that were asked for together and are no independent witnesses.
    pub fn one_of(mut self, guests: usize) -> Self {
        self.weight = 1.0 / guests.max(1) as f32;
        self
    }

    fn keys(&self) -> &[u64] {
        &self.keys[..self.count]
    }
}

/// What is known of the stays of guests with a label.
#[derive(Debug, Clone)]
struct Curve {
    ended: [f32; BUCKETS],
    outlived: [f32; BUCKETS],
    seen: u64,
}

impl Default for Curve {
    fn default() -> Self {
        Self { ended: [0.0; BUCKETS], outlived: [0.0; BUCKETS], seen: 0 }
    }
}

impl Curve {
    fn note(&mut self, from: usize, to: usize, ended: bool, weight: f32) {
        for count in &mut self.outlived[from.min(to)..to] {
            *count += weight;
        }
        if ended {
            self.ended[to] += weight;
        }
        if (from..=to).any(|at| self.ended[at] + self.outlived[at] > DECAY_AT) {
            self.ended.iter_mut().chain(&mut self.outlived).for_each(|count| *count /= 2.0);
        }
    }

    fn hazard(&self, at: usize, coarser: f32) -> f32 {
        let seen = self.ended[at] + self.outlived[at];
        (self.ended[at] + SHRINK * coarser) / (seen + SHRINK)
    }
}

/// The curves of all labels.
#[derive(Debug, Clone, Default)]
pub struct Learner {
    /// Of every guest.
    all: Curve,
    curves: HashMap<u64, Curve>,
    clock: u64,
}

impl Learner {
    /// How many labels are kept.
    pub fn len(&self) -> usize {
        self.curves.len()
    }

    pub fn is_empty(&self) -> bool {
        self.curves.is_empty()
    }

    /// A guest that was last seen at one bucket of age has come to another, where it has `ended` or not.
    pub(super) fn note(&mut self, labels: &Labels, from: usize, to: usize, ended: bool) {
        self.clock += 1;
        self.all.note(from, to, ended, labels.weight);
        for key in labels.keys() {
            if self.curves.len() >= KEYS_MAX && !self.curves.contains_key(key) {
                self.evict();
            }
            let curve = self.curves.entry(*key).or_default();
            curve.seen = self.clock;
            curve.note(from, to, ended, labels.weight);
        }
    }

    /// Makes room: the quarter that was unseen for longest is forgotten, so that this is rarely done.
    fn evict(&mut self) {
        let mut seen: Vec<_> = self.curves.values().map(|curve| curve.seen).collect();
        let quarter = seen.len() / 4;
        let (_, limit, _) = seen.select_nth_unstable(quarter);
        let limit = *limit;
        self.curves.retain(|_, curve| curve.seen > limit);
    }

    /// Seconds within which this share of guests with these labels, having lived for so long, have left.
    pub fn remaining(&self, labels: &Labels, lived_s: u64, share: f32) -> u64 {
        let curves: Vec<_> = labels.keys().iter().filter_map(|key| self.curves.get(key)).collect();
        let (first, mut staying) = (bucket(lived_s), 1.0_f32);
        for at in first..BUCKETS {
            let all = self.all.hazard(at, PRIOR);
            let hazard = curves.iter().fold(all, |coarser, curve| curve.hazard(at, coarser));
            let (from, to) = (start(at).max(lived_s), start(at + 1));
            // The rest of a bucket that it is in already has its part of the chance.
            let part = to.saturating_sub(from) as f32 / (to - start(at)) as f32;
            let after = staying * (1.0 - hazard * part);
            if 1.0 - after >= share {
                let within = (staying - (1.0 - share)) / (staying - after).max(f32::EPSILON);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a part of a span below 2^24 s"
                )]
                let seconds = (within.clamp(0.0, 1.0) * to.saturating_sub(from) as f32) as u64;
                return from - lived_s + seconds;
            }
            staying = after;
        }
        start(BUCKETS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ended(learner: &mut Learner, labels: &Labels, seconds: u64) {
        learner.note(labels, 0, bucket(seconds), true);
    }

    #[test]
    fn the_median_of_a_label_is_found_and_who_outlives_it_stays_longer() {
        let (mut learner, short, long) =
            (Learner::default(), Labels::default().with("ci"), Labels::default().with("db"));
        for n in 0..300 {
            ended(&mut learner, &short, 500 + n);
            ended(&mut learner, &long, 80_000 + n * 100);
        }
        let median = learner.remaining(&short, 0, 0.5);
        assert!((450..1100).contains(&median), "{median}");
        let median = learner.remaining(&long, 0, 0.5);
        assert!((70_000..120_000).contains(&median), "{median}");
        // Of both together, who is still there after 2,000 s is one of those that stay.
        let both = learner.remaining(&Labels::default(), 2000, 0.5);
        assert!(both > 60_000, "{both}");
    }

    #[test]
    fn guests_that_are_still_there_count() {
        let (mut learner, labels) = (Learner::default(), Labels::default().with("x"));
        for _ in 0..50 {
            ended(&mut learner, &labels, 600);
            learner.note(&labels, 0, bucket(500_000), false);
        }
        let cautious = learner.remaining(&labels, 0, 0.8);
        assert!(cautious > 500_000, "half of them have stayed for days: {cautious}");
    }

    #[test]
    fn an_unknown_label_is_told_what_the_known_one_before_it_says() {
        let (mut learner, labels) = (Learner::default(), Labels::default().with("flavor"));
        (0..200).for_each(|_| ended(&mut learner, &labels, 7200));
        let new = labels.with("new tenant");
        assert_eq!(learner.remaining(&new, 0, 0.5), learner.remaining(&labels, 0, 0.5));
    }

    #[test]
    fn labels_without_end_take_no_memory_without_end() {
        let mut learner = Learner::default();
        let kept = Labels::default().with("kept");
        for n in 0..3 * KEYS_MAX {
            ended(&mut learner, &Labels::default().with(&n.to_string()), 60);
            ended(&mut learner, &kept, 90_000);
        }
        assert!(learner.len() <= KEYS_MAX);
        assert!(learner.remaining(&kept, 0, 0.5) > 50_000);
    }

    #[test]
    fn what_changed_is_learnt_anew() {
        let (mut learner, labels) = (Learner::default(), Labels::default().with("x"));
        (0..20_000).for_each(|_| ended(&mut learner, &labels, 100_000));
        (0..5000).for_each(|_| ended(&mut learner, &labels, 600));
        assert!(learner.remaining(&labels, 0, 0.5) < 1000);
    }

    proptest! {
        #[test]
        fn a_larger_share_takes_longer_and_nothing_overflows(
            stays in prop::collection::vec((0..3u8, any::<u64>()), 0..60), lived in any::<u64>(), small in 0..3_000_000u64,
        ) {
            let mut learner = Learner::default();
            for (label, stay) in stays {
                ended(&mut learner, &Labels::default().with(&label.to_string()), stay >> (label * 20));
            }
            for lived in [lived, small] {
                let shares = [0.1, 0.5, 0.8, 1.0];
                let labels = Labels::default().with("1");
                let spans = shares.map(|share| learner.remaining(&labels, lived, share));
                prop_assert!(spans.is_sorted(), "{spans:?}");
            }
        }
    }
}
