//! Passwords hashed by argon2id: a bounded number at a time, with a bounded queue, on threads of their own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use tokio::sync::Semaphore;

use crate::domain::error::{Error, Result};
use crate::domain::password::Password;

/// Hashes that may wait for a slot; whoever comes after them is asked to come back. At some 30 ms each, the last one waits
/// for a second or two.
const QUEUE: usize = 64;

pub struct Passwords {
    slots: Arc<Semaphore>,
    queue: Semaphore,
}

impl Passwords {
    pub fn new(concurrency: u32) -> Self {
        let slots = usize::try_from(concurrency).unwrap_or(1).max(1);
        Self { slots: Arc::new(Semaphore::new(slots)), queue: Semaphore::new(slots + QUEUE) }
    }

    /// The PHC string to keep.
    pub async fn hash(&self, password: &Password) -> Result<String> {
        let password = password.clone();
        self.run(move || hash(&password)).await?
    }

    /// Whether `password` is the one of `kept`. Where there is none (no such user), the same work is done for nothing, so that
    /// the time of the answer does not tell.
    pub async fn verify(&self, password: &Password, kept: Option<String>) -> Result<bool> {
        let password = password.clone();
        self.run(move || verify(&password, kept.as_deref())).await?
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Ok(_place) = self.queue.try_acquire() else { return Err(busy()) };
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(Error::internal)?;
        let done = tokio::task::spawn_blocking(move || {
            // The slot is held by the work, not by the request, which may be dropped while the work goes on.
            let _slot = slot;
            work()
        });
        done.await.map_err(Error::internal)
    }
}

fn busy() -> Error {
    Error::Unavailable {
        detail: "too many passwords are being checked at this moment: try again".into(),
        retry_after: Duration::from_secs(2),
    }
}

/// OWASP's parameters for argon2id: 19 MiB, 2 passes, 1 lane.
fn argon2() -> Result<Argon2<'static>> {
    let params = Params::new(19 * 1024, 2, 1, None).map_err(Error::internal)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &Password) -> Result<String> {
    let salt: [u8; 16] = rand::random();
    let hash = argon2()?.hash_password_with_salt(password.expose().as_bytes(), &salt);
    Ok(hash.map_err(Error::internal)?.to_string())
}

fn verify(password: &Password, kept: Option<&str>) -> Result<bool> {
    static NOBODY: OnceLock<String> = OnceLock::new();
    // Made whoever comes first, so that not even the first unknown user takes longer.
    let nobody = if let Some(nobody) = NOBODY.get() {
        nobody
    } else {
        let random: [u8; 32] = rand::random();
        let made = hash(&Password::new(format!("{random:?}")))?;
        NOBODY.get_or_init(|| made)
    };
    let parsed = PasswordHash::new(kept.unwrap_or(nobody)).map_err(Error::internal)?;
    match argon2()?.verify_password(password.expose().as_bytes(), &parsed) {
        Ok(()) => Ok(kept.is_some()),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(other) => Err(Error::internal(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_argon2id_with_owasps_parameters_and_fits_its_password_alone() {
        let passwords = Passwords::new(1);
        let right = Password::new("correct horse battery");
        let kept = passwords.hash(&right).await.expect("hash");
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(passwords.verify(&right, Some(kept.clone())).await.expect("verify"));
        let wrong = Password::new("correct horse batterz");
        assert!(!passwords.verify(&wrong, Some(kept)).await.expect("verify"));
        assert!(!passwords.verify(&right, None).await.expect("verify"));
    }

    #[tokio::test]
    async fn a_flood_is_turned_away_at_once_with_a_time_to_come_back() {
        let passwords = Passwords::new(1);
        // No slot is given while this test holds it, so the queue fills to its end.
        let _held = Arc::clone(&passwords.slots).acquire_owned().await.expect("slot");
        let password = Password::new("whatever it is");
        let mut waiting: Vec<_> =
            (0..=QUEUE).map(|_| Box::pin(passwords.verify(&password, None))).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one).is_pending());
        }
        let refused = passwords.verify(&password, None).await;
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
        drop(waiting);
        let again = Box::pin(passwords.verify(&password, None));
        assert!(futures_util::poll!(again).is_pending(), "the queue is free again");
    }
}
