//! Seats: how many items are worked on at a time. Who waits for a host leaves its seat, so that hosts that hang, and uploads that
//! take hours, keep nobody else from being worked on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who has waited this long is not about to come back.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many times the seats may be held in all, by those at work and those who wait.
const CROWD: usize = 16;

tokio::task_local! {
    static SEAT: Seat;
}

#[derive(Debug, Clone)]
pub struct Seats {
    seats: Arc<Semaphore>,
    /// Every item that is held, seated or not.
    crowd: Arc<Semaphore>,
}

/// Until it is left or dropped.
#[derive(Debug)]
pub struct Seat {
    seat: Mutex<Option<OwnedSemaphorePermit>>,
    _place: OwnedSemaphorePermit,
}

impl Seats {
    pub fn new(seats: usize) -> Self {
        let crowd = Arc::new(Semaphore::new(seats.saturating_mul(CROWD)));
        Self { seats: Arc::new(Semaphore::new(seats)), crowd }
    }

    /// How many may sit down now.
    pub fn free(&self) -> usize {
        self.seats.available_permits().min(self.crowd.available_permits())
    }

    /// Waits until somebody may sit down.
    pub async fn wait(&self) {
        // Neither is ever closed; both are given back at once.
        let _free = (self.crowd.acquire().await, self.seats.acquire().await);
    }

    pub async fn take(&self) -> Option<Seat> {
        let place = Arc::clone(&self.crowd).acquire_owned().await.ok()?;
        let seat = Arc::clone(&self.seats).acquire_owned().await.ok()?;
        Some(Seat { seat: Mutex::new(Some(seat)), _place: place })
    }
}

impl Seat {
    /// Works on an item from this seat.
    pub async fn hold<T>(self, work: impl Future<Output = T>) -> T {
        SEAT.scope(self, work).await
    }
}

/// Waits for a host, or for who waits for one: if that takes long, the seat of this task is somebody else's. It goes on without
/// one afterwards.
pub async fn away<T>(wait: impl Future<Output = T>) -> T {
    let mut wait = std::pin::pin!(wait);
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut wait).await {
        return done;
    }
    // No task of the pace's: then there is none.
    let _ = SEAT.try_with(|seat| seat.seat.lock().unwrap_or_else(PoisonError::into_inner).take());
    wait.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_long_leaves_the_seat_and_not_the_crowd() {
        let seats = Seats::new(1);
        let seat = seats.take().await.unwrap();
        assert_eq!(seats.free(), 0);
        let (quick, slow) = (PATIENCE / 2, PATIENCE * 2);
        let held = tokio::spawn({
            let seats = seats.clone();
            seat.hold(async move {
                away(tokio::time::sleep(quick)).await;
                assert_eq!(seats.free(), 0, "a short call keeps the seat");
                away(tokio::time::sleep(slow)).await;
            })
        });
        tokio::time::timeout(quick + slow, seats.wait()).await.expect("the seat is free");
        let mut others = Vec::new();
        for _ in 1..CROWD {
            let seat = seats.take().await.unwrap();
            drop(seat.seat.lock().unwrap().take());
            others.push(seat);
        }
        assert_eq!(seats.free(), 0, "the crowd is bounded");
        held.await.unwrap();
        assert_eq!(seats.free(), 1);
    }
}
