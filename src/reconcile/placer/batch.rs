//! One batch: everybody who waits is decided on in the order of the queue, and what was decided is claimed in a few statements.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

use super::room::Room;
use super::{BATCH, Context, Placed};
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::event::{Actor, NewEvent, Outcome};
use crate::domain::id::{GroupId, HostId, InstanceId, ReservationId};
use crate::domain::instance::Unplaced;
use crate::domain::queue::size;
use crate::domain::reservation::OpenSlot;
use crate::placement::{self, FlavorSize, Kept, Policy, Request, Stay};
use crate::store::groups::Members;
use crate::store::incarnations::Claim;
use crate::store::queue::Refused;
use crate::store::reservations::Slot;
use crate::store::work::{self, Kind};
use crate::store::{self};

/// How often those are decided on again whose room another placer took between the look and the claim.
const ROUNDS: usize = 8;
/// How often, and after which pause, it is looked whether another replica has placed its batch; one that stands still holds up the
/// others for no longer.
const TURN_LOOKS: usize = 200;
const TURN_PAUSE: Duration = Duration::from_millis(5);
/// Most different requests whose refusal is explained anew in one batch.
const ACCOUNTS: usize = 64;

/// Places `ids`, and whoever else waits and fits.
pub async fn place(
    ctx: &Context,
    ids: &[InstanceId],
    room: &mut Room,
) -> Result<HashMap<InstanceId, Placed>> {
    let mut outcome = HashMap::new();
    let mut again: Vec<InstanceId> = ids.to_vec();
    for _ in 0..ROUNDS {
        let round = Box::pin(round(ctx, &again, ids, room)).await?;
        outcome.extend(round.outcome);
        if round.lost.is_empty() {
            break;
        }
        metrics::counter!(crate::domain::metric::CLAIMS_LOST).increment(round.lost.len() as u64);
        again = round.lost;
    }
    Ok(outcome)
}

struct Round {
    outcome: HashMap<InstanceId, Placed>,
    /// Another placer took their room.
    lost: Vec<InstanceId>,
}

/// One transaction.
async fn round(
    ctx: &Context,
    ids: &[InstanceId],
    asked: &[InstanceId],
    room: &mut Room,
) -> Result<Round> {
    let now = ctx.clock.now();
    let mut tx = store::begin(&ctx.db).await?;
    for _ in 0..TURN_LOOKS {
        if store::queue::is_our_turn(&mut tx).await? {
            break;
        }
        tokio::time::sleep(TURN_PAUSE).await;
    }
    let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
    let mut waiting = store::queue::waiting(&mut tx, ids, limit).await?;
    let moment = Box::pin(room.refresh(&mut tx, &ctx.compared, now)).await?;
    let tags = in_turn(&mut tx, &mut waiting).await?;
    let groups: BTreeSet<GroupId> = waiting.iter().filter_map(|who| who.group_id).collect();
    let groups: Vec<_> = groups.into_iter().collect();
    let groups = store::groups::hold(&mut tx, &groups).await?;
    let slots: BTreeSet<ReservationId> =
        waiting.iter().filter_map(|who| who.reservation_id).collect();
    let slots: Vec<_> = slots.into_iter().collect();
    let slots = store::reservations::hold_free(&mut tx, &slots, limit).await?;
    let mut decide = Decide {
        room,
        groups,
        slots,
        default: ctx.config.placement_policy.parse().unwrap_or(Policy::BestFit),
        kept: Kept::in_turn(
            &waiting,
            now,
            TimeDelta::from_std(ctx.config.queue_hold).unwrap_or(TimeDelta::MAX),
        ),
    };
    let mut claims = Vec::new();
    let mut refused = Vec::new();
    let mine: HashSet<_> = asked.iter().copied().collect();
    let mut line = Vec::with_capacity(waiting.len());
    for (who, tag) in waiting.iter().zip(tags) {
        let by_stay = who.policy.unwrap_or(decide.default) == Policy::LifetimeFit;
        let stay = if by_stay { Some(decide.room.stay(&mut tx, who, now).await?) } else { None };
        line.push((who, tag, stay));
    }
    // Nobody has waited: who comes at the same time may be packed in the order that packs best.
    if waiting.iter().all(|who| who.queue_tag.is_none()) {
        line.sort_by_key(|(who, _, stay)| {
            stay.map(|stay| placement::longest_first(stay, who.vcpus.into(), who.memory_mib))
        });
    }
    for (who, tag, stay) in line {
        match decide.one(who, stay)? {
            Choice::Host(host, slot) => {
                let zone = decide.room.index.zone(host);
                claims.push((Uuid::new_v4(), Claim::of(who, host, slot, zone)));
            }
            // Those that only wait along are told when they are looked at themselves.
            _ if who.queue_tag.is_some() && !mine.contains(&who.id) => {
                refused.push((who, tag, None));
            }
            none => refused.push((who, tag, Some(none))),
        }
    }
    let refused = accounts(&mut tx, &decide, refused).await?;
    let (round, whole) = Box::pin(write(ctx, tx, &waiting, claims, refused, &mine, now)).await?;
    if whole {
        room.keep(moment);
    }
    Ok(round)
}

/// Sorts those that wait by whose turn it is; gives their tags.
async fn in_turn(tx: &mut store::Tx, waiting: &mut Vec<Unplaced>) -> Result<Vec<f64>> {
    let queued = waiting.iter().any(|who| who.queue_tag.is_some());
    let mut backlog = if queued {
        store::queue::backlog(tx).await?
    } else {
        crate::domain::queue::Backlog::default()
    };
    let mut tagged: Vec<_> = std::mem::take(waiting)
        .into_iter()
        .map(|who| {
            let enter = || backlog.enter(who.tenant_id, size(who.vcpus, who.memory_mib));
            (who.queue_tag.unwrap_or_else(enter), who)
        })
        .collect();
    tagged.sort_by(|(a, one), (b, other)| a.total_cmp(b).then(one.id.cmp(&other.id)));
    let tags = tagged.iter().map(|(tag, _)| *tag).collect();
    waiting.extend(tagged.into_iter().map(|(_, who)| who));
    Ok(tags)
}

enum Choice {
    Host(HostId, Option<Uuid>),
    /// No host has room for it.
    NoHost(Box<Request>),
    /// Its reservation has no slot for it, of which so many are free.
    NoSlot(usize),
}

type Refusals<'a, Why> = Vec<(&'a Unplaced, f64, Option<Why>)>;

/// Why each found none, and what would do; the same for equal requests of a batch.
async fn accounts<'a>(
    tx: &mut store::Tx,
    decide: &Decide<'_>,
    refused: Refusals<'a, Choice>,
) -> Result<Refusals<'a, (String, Value)>> {
    let tenants = refused.iter().filter_map(|(who, _, why)| match why {
        Some(Choice::NoHost(_)) => Some(who.tenant_id),
        _ => None,
    });
    let tenants: Vec<_> = tenants.collect::<BTreeSet<_>>().into_iter().collect();
    let mut others = Others::default();
    if !tenants.is_empty() {
        others.flavors = placement::sizes(store::flavors::first(tx).await?)?;
        others.slots = store::reservations::open(tx, &tenants).await?;
    }
    let mut known: Vec<(Request, String, Value)> = Vec::new();
    let mut told = Vec::with_capacity(refused.len());
    for (who, tag, choice) in refused {
        let why = match choice {
            Some(Choice::NoHost(request)) => {
                let request = decide.kept.beside(&request, who);
                let same = known.iter().find(|(of, ..)| *of == request);
                if let Some((_, summary, fit)) = same {
                    Some((summary.clone(), fit.clone()))
                } else {
                    let (summary, fit) = decide.account(&request, &others);
                    if known.len() < ACCOUNTS {
                        known.push((request, summary.clone(), fit.clone()));
                    }
                    Some((summary, fit))
                }
            }
            Some(Choice::NoSlot(free)) => Some((placement::no_slot(free), json!([]))),
            Some(Choice::Host(..)) | None => None,
        };
        told.push((who, tag, why));
    }
    Ok(told)
}

/// What those who find no room might take instead.
#[derive(Default)]
struct Others {
    flavors: Vec<FlavorSize>,
    slots: Vec<OpenSlot>,
}

/// The decisions of a batch, each on what the ones before it left.
struct Decide<'a> {
    room: &'a mut Room,
    groups: BTreeMap<GroupId, Members>,
    slots: BTreeMap<ReservationId, Vec<Slot>>,
    default: Policy,
    kept: Kept,
}

impl Decide<'_> {
    fn account(&self, request: &Request, others: &Others) -> (String, Value) {
        let Room { index, cursor, .. } = &*self.room;
        let mut explanation = index.explain_among(request, cursor, &others.flavors).redacted();
        if let Some(change) = index.in_reservation(request, &others.slots) {
            explanation.offer(change);
        }
        (explanation.summary, json!(explanation.would_fit_if))
    }

    fn one(&mut self, who: &Unplaced, stay: Option<Stay>) -> Result<Choice> {
        let members = who.group_id.and_then(|id| self.groups.get(&id));
        let members = members.map(|members| (&members.group, &members.on_hosts));
        let wishes = placement::wishes(who, self.default, members, stay, &self.room.index)?;
        let choice = match who.reservation_id {
            Some(id) => self.in_slot(id, &wishes),
            None => self.on_host(who, wishes),
        };
        if let Choice::Host(host, _) = &choice
            && let Some(members) = who.group_id.and_then(|id| self.groups.get_mut(&id))
        {
            members.on_hosts.entry(*host).or_default().add(who.size());
        }
        Ok(choice)
    }

    fn on_host(&mut self, who: &Unplaced, wishes: Vec<Request>) -> Choice {
        // Of a soft group's wishes the last: it asks for the least, and what it lacks is what is lacking.
        let least = wishes[wishes.len() - 1].clone();
        let Room { index, cursor, .. } = &mut *self.room;
        match self.kept.serve(index, cursor, wishes, who) {
            Ok(host) => Choice::Host(host, None),
            Err(placement::NoFit) => Choice::NoHost(Box::new(least)),
        }
    }

    /// A slot of its reservation on a host that its group allows.
    fn in_slot(&mut self, id: ReservationId, wishes: &[Request]) -> Choice {
        let free = self.slots.entry(id).or_default();
        let index = &self.room.index;
        let hosts: Vec<_> = free.iter().map(|slot| slot.host_id).collect();
        let Some(at) = wishes.iter().find_map(|wish| index.first_admitted(wish, &hosts)) else {
            return Choice::NoSlot(free.len());
        };
        let slot = free.swap_remove(at);
        Choice::Host(slot.host_id, Some(slot.id))
    }
}

/// What was decided is claimed; those that another placer has locked, or whose room is gone, are left to another round. Gives, too,
/// whether all that was decided was claimed.
async fn write(
    ctx: &Context,
    mut tx: store::Tx,
    waiting: &[Unplaced],
    mut claims: Vec<(Uuid, Claim)>,
    refused: Refusals<'_, (String, Value)>,
    mine: &HashSet<InstanceId>,
    now: Time,
) -> Result<(Round, bool)> {
    let mut outcome: HashMap<InstanceId, Placed> = HashMap::new();
    let chosen: Vec<_> = claims.iter().map(|(_, claim)| claim.instance).collect();
    let mut made = HashSet::new();
    if !chosen.is_empty() {
        let locked: HashSet<_> =
            store::incarnations::lock_unplaced(&mut tx, &chosen).await?.into_iter().collect();
        claims.retain(|(_, claim)| locked.contains(&claim.instance));
        let done = store::incarnations::claim(&mut tx, &claims, now).await?;
        made = done.into_iter().map(|(instance, _)| instance).collect();
    }
    let by_id: HashMap<_, _> = waiting.iter().map(|who| (who.id, who)).collect();
    let lost: Vec<_> = claims
        .iter()
        .map(|(_, claim)| claim.instance)
        .filter(|instance| !made.contains(instance))
        .collect();
    let placed = || claims.iter().filter(|(_, claim)| made.contains(&claim.instance));
    let mut events = Vec::new();
    for (_, claim) in placed() {
        outcome.insert(claim.instance, Placed::On(claim.host));
        let who = by_id[&claim.instance];
        events.push(event("instance.placed", who, Outcome::Done, json!(who.size())));
    }
    let mut fresh = Vec::new();
    for (position, (who, tag, why)) in (1..).zip(refused) {
        let Some((summary, account)) = why else { continue };
        if who.queue_tag.is_none() {
            let detail = json!({ "reason": summary, "position": position });
            events.push(event("instance.queued", who, Outcome::Seen, detail));
        }
        let account = json!({ "summary": summary, "would_fit_if": account });
        fresh.push(Refused { id: who.id, tag, account });
        outcome.insert(who.id, Placed::NoRoom { summary, position });
    }
    if !fresh.is_empty() {
        store::queue::enter(&mut tx, &fresh, now).await?;
    }
    let left: Vec<_> = placed()
        .map(|(_, claim)| claim.instance)
        .filter(|id| by_id[id].queue_tag.is_some())
        .collect();
    if !left.is_empty() {
        store::queue::leave(&mut tx, &left).await?;
    }
    store::events::insert_all(&mut tx, &events, now).await?;
    tx.commit().await?;
    // Not under the instances' locks: whoever works on them has their items first.
    let others: Vec<_> = made.iter().filter(|id| !mine.contains(id)).map(|id| id.0).collect();
    if !others.is_empty() {
        work::touch_all(&mut *ctx.conn().await?, Kind::Instance, &others, now).await?;
        ctx.changes.wake();
    }
    Ok((Round { outcome, lost }, made.len() == chosen.len()))
}

fn event(kind: &'static str, who: &Unplaced, outcome: Outcome, detail: Value) -> NewEvent {
    let actor = Actor { name: "reconciler".into(), ..Actor::default() };
    NewEvent { kind, subject: who.subject(), actor, outcome, detail }
}
