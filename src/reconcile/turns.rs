//! Turns: who works on the same key waits for the one before, in this process, without holding a database connection; and who
//! finds that one began after them and was done has nothing left to do.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Cheap to clone; all clones are one.
#[derive(Debug)]
pub struct Turns<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    /// The ticket under which the last that was done had begun.
    keys: Mutex<HashMap<K, Arc<AsyncMutex<u64>>>>,
    /// Orders who asks and who begins.
    tickets: AtomicU64,
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    last: OwnedMutexGuard<u64>,
    begun: u64,
}

impl Turn {
    /// What was to be done is done.
    pub fn done(mut self) {
        *self.last = self.begun;
    }
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Arc::new(Inner { keys: Mutex::default(), tickets: AtomicU64::new(1) }))
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Waits for the turn of `key`. `None`: another that began after this call has done it.
    pub async fn take(&self, key: K) -> Option<Turn> {
        let asked = self.ticket();
        let turn = {
            let mut turns = self.0.keys.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody holds or waits for these any more.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key).or_default())
        };
        let last = turn.lock_owned().await;
        (*last < asked).then(|| Turn { last, begun: self.ticket() })
    }

    fn ticket(&self) -> u64 {
        self.0.tickets.fetch_add(1, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_key_is_one_turn_and_others_do_not_wait() {
        let turns = Turns::default();
        let first = turns.take(1).await;
        let _other = turns.take(2).await;
        assert!(turns.take(1).now_or_never().is_none());
        drop(first);
        assert!(turns.take(1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_was_begun_after_one_asked_and_is_done_is_not_done_again() {
        let turns = Turns::default();
        let first = turns.take(1).await.unwrap();
        // They ask while the first is at it, whose beginning was before them.
        let (mut second, mut third) = (Box::pin(turns.take(1)), Box::pin(turns.take(1)));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        first.done();
        second.await.expect("the first does not count").done();
        assert!(third.await.is_none(), "the second began after the third had asked");
        // A later one is on its own, and so is one after a failure.
        let (fourth, mut fifth) = (turns.take(1).await.unwrap(), Box::pin(turns.take(1)));
        assert!(fifth.as_mut().now_or_never().is_none());
        drop(fourth);
        assert!(fifth.await.is_some());
    }
}
