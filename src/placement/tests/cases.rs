//! Single cases, each with the answer that is due.

use chrono::{DateTime, TimeDelta};

use super::*;
use crate::domain::id::{InstanceId, TenantId};
use crate::domain::instance::{Size, Unplaced};
use crate::placement::{Kept, NoFit, WouldFit};

fn summary(index: &Index, request: &Request) -> (String, String) {
    let account = index.explain(request, &RoundRobin::default());
    (account.summary.clone(), account.redacted().summary)
}

#[test]
fn a_refusal_names_the_closest_host_what_it_lacks_and_what_would_do() {
    let limit = Resources::new(32, 65_536, 1000);
    let hosts = (1..=3).map(|n| {
        let used = Resources::new(if n == 2 { 8 } else { 20 }, 1024, 100);
        plain(n, limit, used)
    });
    let index = index(hosts);
    let request = Request::new(Resources::new(64, 2048, 10), Policy::BestFit);
    let (told, redacted) = summary(&index, &request);
    assert_eq!(
        told,
        "no host has room: need 64 vCPU, 2048 MiB, 10 GiB; the closest of 3 hosts, node-2, lacks 40 vCPU; \
         no host that may be used is so large, even when empty; it would fit if it needed 24 vCPU, 2048 MiB, 10 GiB"
    );
    assert_eq!(redacted, told.replace(", node-2,", ""));
}

#[test]
fn a_disabled_host_with_room_is_told_as_the_one_that_would_do() {
    let limit = Resources::new(8, 8192, 100);
    let full = plain(1, limit, Resources::new(8, 8192, 0));
    let disabled = HostView { state: HostState::Disabled, ..plain(2, limit, Resources::ZERO) };
    let request = Request::new(Resources::new(2, 512, 10), Policy::BestFit);
    let account = index([full, disabled]).explain(&request, &RoundRobin::default());
    let change = crate::placement::WouldFit::HostReady {
        state: HostState::Disabled,
        hosts: 1,
        host: Some(crate::placement::NamedHost { id: id(2), name: "node-2".into() }),
    };
    assert!(account.would_fit_if.contains(&change), "{account:?}");
    assert_eq!(account.fitting_when_empty, 1);
}

#[test]
fn an_empty_cloud_says_so() {
    let request = Request::new(Resources::new(1, 1, 1), Policy::BestFit);
    let (told, _) = summary(&Index::new(), &request);
    assert_eq!(told, "no host has room: need 1 vCPU, 1 MiB, 1 GiB; the cloud has no hosts");
}

#[test]
fn an_explanation_stays_small_whatever_the_fleet_and_the_names() {
    let long = "x".repeat(300);
    let hosts = (0..100u32).map(|n| {
        let mut host =
            plain(u64::from(n), Resources::new(8, 8192 + n, 100), Resources::new(8, n, 0));
        host.name = format!("{long}{n}");
        host.zone = Some(format!("{long}{n}"));
        host.traits = (0..100).map(|t| format!("{t}{long}")).collect();
        host
    });
    let mut request = Request::new(Resources::new(2, 512, 10), Policy::Spread);
    request.zone = Some(long.clone());
    request.required = (0..100).map(|t| format!("no{t}{long}")).collect();
    let account = index(hosts).explain(&request, &RoundRobin::default());
    let size = serde_json::to_vec(&account).unwrap().len();
    assert!(size < 20_000, "{size} bytes");
    assert!(account.summary.len() < 1000, "{}", account.summary);
    assert_eq!(account.classes_left_out, 100 - 8);
}

#[test]
fn round_robin_goes_around_and_skips_the_full() {
    let limit = Resources::new(1, 1, 1);
    let index =
        index((0..4).map(|n| plain(n, limit, if n == 2 { limit } else { Resources::ZERO })));
    let request = Request::new(limit, Policy::RoundRobin);
    let mut cursor = RoundRobin::default();
    let order: Vec<_> = (0..5).map(|_| index.place(&request, &mut cursor).unwrap()).collect();
    assert_eq!(order, [0, 1, 3, 0, 1].map(id));
}

#[test]
fn among_hosts_that_differ_in_constraints_only_the_smallest_id_goes_first() {
    let limit = Resources::new(8, 8192, 100);
    let hosts = [7, 2, 9, 4, 1, 8, 3, 6, 5].map(|n| {
        let mut host = plain(n, limit, Resources::ZERO);
        host.traits = BTreeSet::from([TRAITS[(n * 7 % 3) as usize].to_owned()]);
        host.zone = Some(format!("zone-{}", n % 2));
        host
    });
    for policy in [Policy::BestFit, Policy::LifetimeFit, Policy::BestFitSum, Policy::Spread] {
        let mut index = index(hosts.clone());
        // Each takes a whole host, so that the next goes to the next id.
        let request = Request::new(limit, policy);
        let order: Vec<_> =
            (0..9).map(|_| index.claim(&request, &mut RoundRobin::default()).unwrap()).collect();
        assert_eq!(order, (1..=9).map(id).collect::<Vec<_>>(), "{policy}");
    }
}

#[test]
fn deltas_that_cannot_be_true_are_refused_and_change_nothing() {
    let limit = Resources::new(4, 4, 4);
    let mut index = index([plain(1, limit, Resources::new(1, 1, 1))]);
    let before = index.host(id(1));
    assert_eq!(index.take(id(1), limit), Err(crate::placement::IndexError::NoRoom(id(1))));
    assert_eq!(index.give(id(1), limit), Err(crate::placement::IndexError::NotTaken(id(1))));
    assert_eq!(index.take(id(9), limit), Err(crate::placement::IndexError::UnknownHost(id(9))));
    let huge = Resources::new(u32::MAX, 0, 0);
    assert_eq!(index.take(id(1), huge), Err(crate::placement::IndexError::NoRoom(id(1))));
    assert_eq!(index.host(id(1)), before);
}

/// One of a tenant of its own.
fn whose(n: u128) -> Unplaced {
    let size = Size { vcpus: 1, memory_mib: 1, disk_gib: 1 };
    Unplaced {
        id: InstanceId(Uuid::from_u128(n)),
        ..Unplaced::of_size(TenantId(Uuid::from_u128(n)), size)
    }
}

const HOLD: TimeDelta = TimeDelta::seconds(10);

/// What is kept after the line has waited for so long, its members by number and tenant.
fn in_turn(line: &[Unplaced], waited: i64) -> Kept {
    let now = DateTime::UNIX_EPOCH + TimeDelta::seconds(waited);
    Kept::in_turn(line, now, HOLD)
}

/// It waits since the beginning.
fn waits(n: u128, tenant: u128) -> Unplaced {
    let tenant_id = TenantId(Uuid::from_u128(tenant));
    Unplaced { tenant_id, queued_at: Some(DateTime::UNIX_EPOCH), ..whose(n) }
}

#[test]
fn a_tenant_has_one_host_kept_and_only_in_its_turn() {
    let (limit, used) = (Resources::new(8, 1024, 10), Resources::new(4, 0, 0));
    let mut index = index([1, 2, 3].map(|n| plain(n, limit, used)));
    let [one, two, other] = [waits(1, 1), waits(2, 1), whose(3)];
    let mut kept = in_turn(&[one.clone(), two.clone()], 0);
    let mut cursor = RoundRobin::default();
    let mut serve = |vcpus, who: &Unplaced| {
        let wishes = vec![Request::new(Resources::new(vcpus, 1, 1), Policy::BestFit)];
        kept.serve(&mut index, &mut cursor, wishes, who)
    };
    assert_eq!(serve(8, &other), Err(NoFit), "and nothing is kept for it");
    assert_eq!(serve(8, &one), Err(NoFit));
    assert_eq!(serve(8, &two), Err(NoFit), "one host is kept for its tenant already");
    // That is the first; what fits goes to the others.
    assert_eq!([serve(4, &other), serve(4, &other)], [Ok(id(2)), Ok(id(3))]);
    assert_eq!(serve(4, &other), Err(NoFit));
}

#[test]
fn a_host_is_kept_again_and_again_and_for_each_of_a_tenant_in_turn() {
    let whole = |n| plain(n, Resources::new(8, 1024, 10), Resources::new(4, 0, 0));
    // For which of two in a line, each of which could have a host of its own.
    let whom = |line: &[Unplaced], waited| {
        let mut kept = in_turn(line, waited);
        let mut index = index([whole(1), whole(2)]);
        for (n, who) in (1..).zip(line) {
            let mut wish = Request::new(Resources::new(8, 1, 1), Policy::BestFit);
            wish.together = Some([id(n)].into());
            assert_eq!(
                kept.serve(&mut index, &mut RoundRobin::default(), vec![wish], who),
                Err(NoFit)
            );
        }
        // Somebody else finds what is left.
        let wish = Request::new(Resources::new(1, 1, 1), Policy::BestFit);
        let mut find = || {
            kept.serve(&mut index, &mut RoundRobin::default(), vec![wish.clone()], &whose(9)).ok()
        };
        let free: BTreeSet<_> = (0..8).filter_map(|_| find()).collect();
        [1, 2].into_iter().filter(|n| !free.contains(&id(*n))).collect::<Vec<_>>()
    };
    let line = [waits(1, 1), waits(2, 1)];
    let times = [0, 9, 10, 19, 20, 29, 30, 40, 50, 60];
    let kept: Vec<_> = times.iter().map(|waited| whom(&line, *waited)).collect();
    let (first, second, none) = (vec![1], vec![2], vec![]);
    let wanted = [&first, &first, &none, &none, &second, &second, &none, &first, &none, &second];
    assert_eq!(kept.iter().collect::<Vec<_>>(), wanted);
    let apart = [waits(1, 1), waits(2, 2)];
    assert_eq!(whom(&apart, 0), [1, 2], "each tenant has its own");
    // Whose turn it is and who needs none passes it on; one who has just come is the last.
    let mut kept = in_turn(&line, 0);
    let mut index = index([whole(1)]);
    let mut serve = |kept: &mut Kept, vcpus, who: &Unplaced| {
        let wish = Request::new(Resources::new(vcpus, 1, 1), Policy::BestFit);
        kept.serve(&mut index, &mut RoundRobin::default(), vec![wish], who)
    };
    assert_eq!(serve(&mut kept, 1, &line[0]), Ok(id(1)));
    assert_eq!(serve(&mut kept, 8, &line[1]), Err(NoFit));
    assert_eq!(serve(&mut kept, 1, &whose(9)), Err(NoFit), "it is kept for the second");
    let mut never = Kept::in_turn(&line, DateTime::UNIX_EPOCH, TimeDelta::zero());
    assert_eq!(serve(&mut never, 8, &line[0]), Err(NoFit));
    assert_eq!(serve(&mut never, 1, &whose(9)), Ok(id(1)));
}

#[test]
fn none_is_kept_where_its_own_group_is_in_the_way() {
    for (filled, is_kept) in [(true, false), (false, true)] {
        let mut index = index([plain(1, Resources::new(8, 1024, 10), Resources::new(6, 0, 0))]);
        let mut wish = Request::new(Resources::new(4, 1, 1), Policy::BestFit);
        wish.together = Some([id(1)].into());
        wish.filled = if filled { [id(1)].into() } else { BTreeSet::new() };
        let mut kept = in_turn(&[waits(1, 1)], 0);
        let mut serve = |wish, who: &Unplaced| {
            kept.serve(&mut index, &mut RoundRobin::default(), vec![wish], who)
        };
        assert_eq!(serve(wish, &waits(1, 1)), Err(NoFit));
        let small = Request::new(Resources::new(1, 1, 1), Policy::BestFit);
        assert_eq!(serve(small, &whose(9)).is_err(), is_kept);
    }
}

#[test]
fn what_is_carried_over_a_limit_has_to_come_free_too() {
    let limit = Resources::new(8, 1024, 10);
    let index = index([
        plain(1, limit, Resources::new(16, 0, 0)),
        plain(2, limit, Resources::new(8, 0, 0)),
    ]);
    let wish = Request::new(Resources::new(8, 1, 1), Policy::BestFit);
    let explanation = index.explain(&wish, &RoundRobin::default());
    let freed = explanation.would_fit_if.iter().find_map(|change| match change {
        WouldFit::Freed { amount, host } => Some((*amount, host.clone().map(|host| host.id))),
        _ => None,
    });
    assert_eq!(freed, Some((Resources::new(8, 0, 0), Some(id(2)))));
}
