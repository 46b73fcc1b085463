//! One change: a transaction with its time, its author, its events, its wake-ups and its kept answer.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::App;
use crate::domain::caller::Caller;
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::event::{Actor, NewEvent, Outcome, Subject};
use crate::domain::id::UserId;
use crate::domain::trace;
use crate::store::work::{self, Asked};
use crate::store::{self, Tx};

/// A transaction to write in, or the answer that the same request got before.
pub enum Begin<T> {
    Fresh(Write),
    Replay(T),
}

/// An open change. Dropped without `commit`, it leaves nothing.
pub struct Write {
    tx: Tx,
    app: App,
    pub now: Time,
    actor: Actor,
    key: Option<(UserId, String)>,
    changed: Vec<Uuid>,
    wake: bool,
    wake_queue: bool,
}

impl App {
    /// Opens a change for many callers, of whom `first` is one; their idempotency keys are their own business.
    pub async fn begin_for_many(&self, first: &Caller) -> Result<Write> {
        Ok(Write {
            tx: store::flush::begin_softly(&self.db).await?,
            app: self.clone(),
            now: self.clock.now(),
            actor: first.into(),
            key: None,
            changed: Vec::new(),
            wake: false,
            wake_queue: false,
        })
    }

    /// Opens a change for `caller`. `operation` is the OpenAPI operation id; `input` all that tells this request from another
    /// (path parameters included): with an `Idempotency-Key`, the same input gets the same answer.
    pub async fn begin<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        operation: &'static str,
        input: &impl Serialize,
    ) -> Result<Begin<T>> {
        let mut write = self.begin_for_many(caller).await?;
        write.key = caller.idempotency_key.clone().map(|key| (caller.user, key));
        let Some((user, key)) = write.key.clone() else { return Ok(Begin::Fresh(write)) };
        let fingerprint = fingerprint(caller, operation, input)?;
        let now = write.now;
        let kept = store::idempotency::take(write.conn(), user, &key, operation, &fingerprint, now)
            .await?;
        match kept {
            None => Ok(Begin::Fresh(write)),
            Some(answer) => {
                Ok(Begin::Replay(serde_json::from_value(answer).map_err(Error::internal)?))
            }
        }
    }
}

impl Write {
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Records an accepted wish.
    pub async fn accepted(
        &mut self,
        kind: &'static str,
        subject: Subject,
        detail: Value,
    ) -> Result<()> {
        self.event(kind, subject, Outcome::Accepted, detail).await
    }

    /// Records a change that needs nothing more.
    pub async fn done(
        &mut self,
        kind: &'static str,
        subject: Subject,
        detail: Value,
    ) -> Result<()> {
        self.event(kind, subject, Outcome::Done, detail).await
    }

    /// Records an attempt that failed; the transaction then holds nothing else.
    pub async fn failed(
        &mut self,
        kind: &'static str,
        subject: Subject,
        detail: Value,
    ) -> Result<()> {
        self.event(kind, subject, Outcome::Failed, detail).await
    }

    async fn event(
        &mut self,
        kind: &'static str,
        subject: Subject,
        outcome: Outcome,
        detail: Value,
    ) -> Result<()> {
        self.changed.push(subject.id);
        let event = NewEvent { kind, subject, actor: self.actor.clone(), outcome, detail };
        store::events::insert(&mut self.tx, &event, self.now).await
    }

    /// A statement of the caller's wrote an event about `subject`, and put it on the work list: those who wait for it are told at
    /// commit, and the loop is woken.
    pub fn wished(&mut self, subject: Uuid) {
        self.changed.push(subject);
        self.wake = true;
    }

    /// Puts the item on the work list, its failures forgotten; the loop is woken at commit.
    pub async fn touch(&mut self, kind: work::Kind, item: Uuid) -> Result<()> {
        self.wake = true;
        let asked = asked(self.actor.request_id.as_deref());
        work::touch_afresh(&mut self.tx, kind, item, self.now, &asked).await
    }

    /// Perhaps there is room at commit for one who waits.
    pub fn wake_queue(&mut self) {
        self.wake_queue = true;
    }

    /// Keeps `answer` for the idempotency key, commits, and tells the process. Returns when all of it is on the disk; whoever
    /// waited for its locks, and the reconciler, do not wait for that.
    pub async fn commit(mut self, answer: &impl Serialize) -> Result<()> {
        if let Some((user, key)) = &self.key {
            let answer = serde_json::to_value(answer).map_err(Error::internal)?;
            store::idempotency::keep(&mut self.tx, *user, key, &answer).await?;
        }
        let app = self.app.clone();
        self.commit_softly().await?;
        app.changes.durable(&app.db).await
    }

    /// Commits, and tells the process. It is not yet on the disk; an answer to keep was kept before.
    pub async fn commit_softly(self) -> Result<()> {
        self.tx.commit().await?;
        tracing::debug!("committed");
        for id in self.changed {
            self.app.changes.changed(id);
        }
        if self.wake_queue {
            // Not under our locks, for which the worker of who waits may wait. Lost in a crash, it looks again by itself.
            let woken = async { store::queue::wake(&mut *self.app.conn().await?, self.now).await };
            if let Err(error) = woken.await {
                tracing::warn!(%error, "who waits for room could not be woken, and looks by itself later");
            }
        }
        if self.wake || self.wake_queue {
            self.app.changes.wake();
        }
        Ok(())
    }
}

/// What tells the caller's request from others that may come under its key.
pub fn fingerprint(
    caller: &Caller,
    operation: &'static str,
    input: &impl Serialize,
) -> Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    hasher.update(operation);
    hasher.update(serde_json::to_vec(&(caller.tenant, input)).map_err(Error::internal)?);
    Ok(hasher.finalize().to_vec())
}

/// By which request an item comes on the work list, said by the request itself.
pub fn asked(request_id: Option<&str>) -> Asked {
    let request_id = request_id.filter(|id| !id.is_empty()).map(str::to_owned);
    Asked { request_id, traceparent: trace::parent() }
}
