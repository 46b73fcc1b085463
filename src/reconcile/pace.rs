//! The pace: due work is leased, looked at until it settles, and given back with the time of the next look.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt;
use metrics::{counter, gauge, histogram};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

use super::context::in_time;
use super::seats::Seats;
use super::{Context, Outcome, Run, Trouble, reconcile};
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::event::{Outcome as EventOutcome, Subject};
use crate::domain::{metric, trace};
use crate::hypervisor::{Fault, FaultKind};
use crate::store;
use crate::store::work::{self, Claimed, Failure, Hold, Kind, Lease, Settled};

/// Longer than any pause that a look asks for.
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(10);
/// Looks in a row under one lease; an item that is not done by then waits for its next turn.
const LOOKS: usize = 32;
/// The pause after what will not pass by itself is at least this long.
const PERMANENT_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// Runs until `shutdown`, then waits for the steps that are under way.
pub async fn run(Run { ctx, beats, shutdown }: Run) {
    let beat = beats.register("pace", Duration::from_secs(60), ctx.clock.now());
    let seats = Seats::new(ctx.config.reconcile_workers as usize);
    let tasks = TaskTracker::new();
    while !shutdown.is_cancelled() {
        let claimed =
            claim_and_spawn(&ctx, &seats, &tasks, &shutdown).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "due work could not be claimed; trying again");
                0
            });
        beat.alive(ctx.clock.now());
        // A full house is asked again as soon as one leaves, an empty one when somebody wakes us or the next item is due.
        if claimed == 0 && seats.free() > 0 {
            let pause = pause(&ctx).await;
            tokio::select! {
                () = ctx.changes.work(), if ctx.config.reconcile_wake => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        } else if seats.free() == 0 {
            tokio::select! {
                () = seats.wait() => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
    tasks.close();
    // Each stops after the look that it is at. What hangs on a host has until half the deadline.
    let patience = ctx.config.shutdown_deadline / 2;
    if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
        tracing::warn!(
            steps = tasks.len(),
            "steps did not end in time; their items are given back"
        );
    }
    if let Err(error) = give_back(&ctx).await {
        tracing::warn!(%error, "leases could not be given back; they run out by themselves");
    }
}

/// Another process may take at once what this one still holds; whatever is still at work here can write nothing any more.
async fn give_back(ctx: &Context) -> Result<()> {
    let given = work::give_back(&mut *ctx.conn().await?, ctx.owner, ctx.clock.now()).await?;
    if given > 0 {
        tracing::info!(given, "leases were given back");
    }
    Ok(())
}

/// Leases as much due work as there are free seats, and sets them to it; gives how much.
async fn claim_and_spawn(
    ctx: &Context,
    seats: &Seats,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<usize> {
    let free = seats.free();
    if free == 0 {
        return Ok(0);
    }
    let leases =
        in_time(ctx.config.database_patience, claim(ctx, i64::try_from(free).unwrap_or(i64::MAX)))
            .await?;
    let count = leases.len();
    for claimed in leases {
        let Some(seat) = seats.take().await else { break };
        let (ctx, stop) = (ctx.clone(), stop.clone());
        tasks.spawn(seat.hold(async move { work_off(&ctx, claimed, &stop).await }));
    }
    Ok(count)
}

/// Until the next item is due, but at most the poll's pause.
async fn pause(ctx: &Context) -> Duration {
    let poll = ctx.config.reconcile_poll;
    let now = ctx.clock.now();
    let due = async { work::next_due(&mut *ctx.conn().await?, now).await };
    match in_time(ctx.config.database_patience, due).await {
        Ok(Some(due)) => (due - now).to_std().unwrap_or(Duration::from_millis(5)).min(poll),
        Ok(None) | Err(_) => poll,
    }
}

async fn claim(ctx: &Context, limit: i64) -> Result<Vec<Claimed>> {
    let length = TimeDelta::from_std(ctx.config.reconcile_lease).unwrap_or(TimeDelta::seconds(30));
    let longest = TimeDelta::from_std(ctx.config.backoff_max * 2).unwrap_or(LONGEST_PAUSE);
    let (longest, now) = (longest.max(LONGEST_PAUSE), ctx.clock.now());
    work::claim(&mut *ctx.conn().await?, ctx.owner, limit, length, longest, now).await
}

/// Leases what is due and works it off, one after the other; gives how much. For tests that turn the crank by hand.
pub async fn run_due(ctx: &Context, limit: i64) -> Result<usize> {
    let leases = claim(ctx, limit).await?;
    let count = leases.len();
    for claimed in leases {
        work_off(ctx, claimed, &CancellationToken::new()).await;
    }
    Ok(count)
}

/// What every log line about the item says: what it is, the attempt, who asked, and as soon as it is known, the host.
fn span(Claimed { lease, asked }: &Claimed) -> Span {
    let span = tracing::info_span!(
        "reconcile",
        kind = lease.kind.as_str(),
        item = %lease.item,
        attempt = lease.attempts + 1,
        request_id = asked.request_id,
        instance = Empty,
        host = Empty
    );
    if let Some(parent) = &asked.traceparent {
        trace::follow(&span, parent);
    }
    if lease.kind == Kind::Instance {
        span.record("instance", display(lease.item));
    }
    span
}

/// Looks at the item until it settles, keeps the lease meanwhile, and gives it back.
async fn work_off(ctx: &Context, claimed: Claimed, stop: &CancellationToken) {
    let span = span(&claimed);
    hold(ctx, claimed.lease, stop).instrument(span).await;
}

async fn hold(ctx: &Context, lease: Lease, stop: &CancellationToken) {
    let (begun, busy) = (Instant::now(), gauge!(metric::WORKERS_BUSY));
    busy.increment(1);
    let outcome = tokio::select! {
        outcome = look_until_settled(ctx, &lease, stop) => outcome,
        () = keep(ctx, &lease) => Err(Trouble::LeaseLost),
    };
    busy.decrement(1);
    measure(&lease, begun, &outcome);
    if let Err(error) = in_time(ctx.config.database_patience, settle(ctx, &lease, outcome)).await {
        // The lease runs out by itself, and the next holder looks anew.
        tracing::warn!(%error, "an outcome could not be stored");
    }
}

fn measure(lease: &Lease, begun: Instant, outcome: &Result<Outcome, Trouble>) {
    let kind = lease.kind.as_str();
    histogram!(metric::RECONCILE_SECONDS, "kind" => kind).record(begun.elapsed());
    let outcome = match outcome {
        Ok(Outcome::Again | Outcome::Settled { next: Some(_), .. }) => "later",
        Ok(Outcome::Settled { next: None, .. }) => "settled",
        Ok(Outcome::Gone) => "gone",
        Err(trouble) => trouble.kind(),
    };
    counter!(metric::RECONCILES, "kind" => kind, "outcome" => outcome).increment(1);
}

async fn look_until_settled(
    ctx: &Context,
    lease: &Lease,
    stop: &CancellationToken,
) -> Result<Outcome, Trouble> {
    for _ in 0..LOOKS {
        // On the heap: it is as large as the largest step, and is moved about with all that holds it.
        match Box::pin(caught(reconcile(ctx, lease))).await? {
            // The next step is another process's.
            Outcome::Again if stop.is_cancelled() => break,
            Outcome::Again => {}
            done @ (Outcome::Settled { .. } | Outcome::Gone) => return Ok(done),
        }
    }
    if stop.is_cancelled() {
        return Ok(Outcome::Again);
    }
    Err(Fault::transient(format!(
        "{LOOKS} steps in a row did not settle it: something changes it as fast as it is set right"
    ))
    .into())
}

/// One look. A fault of our own ends it like any other: told, counted, and tried again after a pause.
async fn caught(look: impl Future<Output = Result<Outcome, Trouble>>) -> Result<Outcome, Trouble> {
    // Nothing of a look outlives it but what is committed, and locks that panics poison are taken all the same.
    match AssertUnwindSafe(look).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
            tracing::error!(said = said.unwrap_or_default(), "a look ended in a panic");
            Err(Trouble::Ours)
        }
    }
}

/// Extends the lease at every third of its length; returns when it is lost, by the database's word or by our own watch.
async fn keep(ctx: &Context, lease: &Lease) {
    let length = ctx.config.reconcile_lease;
    let mut safe_until = Instant::now() + length;
    loop {
        tokio::time::sleep(length / 3).await;
        let until = ctx.clock.now() + TimeDelta::from_std(length).unwrap_or(TimeDelta::seconds(30));
        let asked = Instant::now();
        let extended = async { work::extend(&mut *ctx.conn().await?, lease, until).await };
        match tokio::time::timeout_at(safe_until, extended).await {
            Ok(Ok(Hold::Kept)) => safe_until = asked + length,
            Ok(Ok(Hold::Lost)) => return,
            // Mostly by ourselves, a moment ago: the look may tell others, and is bounded by the lease that it had.
            Ok(Ok(Hold::Gone)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a lease could not be extended; trying again"),
            Err(_elapsed) => return,
        }
        // A worker stops before its lease does.
        if Instant::now() + length / 6 >= safe_until {
            return;
        }
    }
}

async fn settle(ctx: &Context, lease: &Lease, outcome: Result<Outcome, Trouble>) -> Result<()> {
    let now = ctx.clock.now();
    let (settled, news) = match outcome {
        Ok(Outcome::Gone) => return Ok(()),
        Err(Trouble::LeaseLost) => {
            note_lost(lease);
            return Ok(());
        }
        Ok(Outcome::Again) => (Settled { next: Some(now), reason: None, failure: None }, None),
        Ok(Outcome::Settled { next, reason }) => {
            (Settled { next: next.map(|pause| now + pause), reason, failure: None }, None)
        }
        Err(trouble) => failed(ctx, lease, &trouble, now),
    };
    let Some((kind, detail)) = news else {
        if work::settle(&mut *ctx.conn().await?, lease, &settled, now).await? {
            ctx.changes.changed(lease.item);
        } else {
            note_lost(lease);
        }
        return Ok(());
    };
    let mut tx = store::begin(&ctx.db).await?;
    if work::settle(&mut tx, lease, &settled, now).await? {
        let tenant = work::tenant_of(&mut tx, lease.kind, lease.item).await?;
        let subject =
            Subject { kind: lease.kind.as_str(), id: lease.item, name: String::new(), tenant };
        ctx.event(&mut tx, kind, subject, EventOutcome::Failed, detail).await?;
        tx.commit().await?;
        ctx.changes.changed(lease.item);
    } else {
        note_lost(lease);
    }
    Ok(())
}

fn note_lost(lease: &Lease) {
    tracing::info!(kind = ?lease.kind, item = %lease.item, "the lease was lost: another worker has the item, or finished with it");
}

type News = (&'static str, serde_json::Value);

/// The account after one more failure, and the event where there is news: the first failure, and the stall.
fn failed(ctx: &Context, lease: &Lease, trouble: &Trouble, now: Time) -> (Settled, Option<News>) {
    let attempts = lease.attempts + 1;
    let failing_since = lease.failing_since.unwrap_or(now);
    let config = &ctx.config;
    let spent = attempts >= i64::from(config.stall_after_failures)
        || (now - failing_since).to_std().is_ok_and(|spent| spent >= config.stall_after);
    let stalled_at = lease.stalled_at.or(spent.then_some(now));
    let pause = backoff(config.backoff_min, config.backoff_max, attempts, rand::random::<f64>());
    let lasting = matches!(trouble, Trouble::Host(fault) if matches!(fault.kind, FaultKind::Permanent | FaultKind::Conflict));
    let pause = if lasting { pause.max(PERMANENT_PAUSE) } else { pause };
    let error = match trouble {
        // Where the host is, which libvirt's words tell, is the admins' business: tenants read this.
        Trouble::Host(fault) if fault.kind == FaultKind::Unreachable => {
            tracing::info!(kind = ?lease.kind, item = %lease.item, %fault, "a host could not be asked");
            "the host does not answer".to_owned()
        }
        Trouble::Host(fault) => fault.message.clone(),
        Trouble::Store(Error::Unavailable { detail, .. }) => {
            tracing::warn!(%detail, "reconcile failed in the database");
            detail.trim_end_matches(": try again").to_owned()
        }
        // What the database said is for the log; people are told whose fault it is.
        Trouble::Store(error) => {
            tracing::error!(error = format!("{error:#}"), "reconcile failed in the database");
            "the database could not be read or written".to_owned()
        }
        Trouble::LeaseLost | Trouble::Ours => trouble.to_string(),
    };
    tracing::info!(attempts, stalled = stalled_at.is_some(), %error, "attempt failed");
    let kind = match (lease.stalled_at, stalled_at) {
        (None, Some(_)) => {
            counter!(metric::STALLS, "kind" => lease.kind.as_str()).increment(1);
            Some("reconcile.stalled")
        }
        _ if attempts == 1 => Some("reconcile.failed"),
        _ => None,
    };
    let detail = serde_json::json!({ "error": error, "kind": trouble.kind(), "attempts": attempts, "next_attempt_at": now + pause });
    let failure = Failure {
        error,
        kind: trouble.kind().into(),
        at: now,
        attempts,
        failing_since,
        stalled_at,
    };
    (
        Settled { next: Some(now + pause), reason: None, failure: Some(failure) },
        kind.map(|kind| (kind, detail)),
    )
}

/// Exponential backoff with jitter: `min * 2^(attempts-1)` up to `max`, times 0.5 to 1.
fn backoff(min: Duration, max: Duration, attempts: i64, chance: f64) -> TimeDelta {
    let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(16);
    let pause = min.saturating_mul(1 << doublings).min(max);
    TimeDelta::from_std(pause.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0))
        .unwrap_or(TimeDelta::seconds(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_like_any_other() {
        let broken = caught(async { Err(std::hint::black_box(None::<Trouble>).unwrap()) }).await;
        assert_eq!(broken.unwrap_err().kind(), "internal");
        assert_eq!(caught(async { Ok(Outcome::Gone) }).await.unwrap(), Outcome::Gone);
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_never_vanishes() {
        let (min, max) = (Duration::from_millis(200), Duration::from_secs(60));
        assert_eq!(backoff(min, max, 1, 1.0), TimeDelta::milliseconds(200));
        assert_eq!(backoff(min, max, 3, 1.0), TimeDelta::milliseconds(800));
        assert_eq!(backoff(min, max, 1000, 1.0), TimeDelta::seconds(60));
        assert_eq!(backoff(min, max, 1000, 0.0), TimeDelta::seconds(30));
    }
}
