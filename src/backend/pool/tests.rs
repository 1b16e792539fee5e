//! Cases that the simulation found first.

use super::*;
use crate::backend::identity::FingerprintKey;
use crate::backend::identity::samples::identity;

const NOW: Duration = Duration::from_secs(100);

fn pool(shard: usize, permits: &Arc<Permits>) -> Pool {
    let options = PoolOptions {
        acquisition_timeout: Duration::from_secs(60),
        max_lifetime: Duration::from_secs(3000),
        max_lifetime_jitter_percent: 10,
        idle_timeout: Duration::from_secs(600),
        liveness_check: Duration::from_secs(300),
        reauth: None,
        claim: 2,
    };
    Pool::new(shard, permits.clone(), options, 1)
}

fn orders(pool: &mut Pool) -> Vec<Order> {
    std::iter::from_fn(|| pool.next_order()).collect()
}

fn dial(pool: &mut Pool) -> ServerId {
    match orders(pool).as_slice() {
        [Order::Dial(id, _)] => *id,
        other => panic!("expected a dial, got {other:?}"),
    }
}

fn failure(code: &'static str) -> Box<Failure> {
    Box::new(Failure::new(code, "42NFF", "no"))
}

#[test]
fn a_login_refused_during_its_dial_is_not_told_twice() {
    let mut pool = pool(0, &Arc::new(Permits::new(1)));
    pool.acquire(&identity("alice"), Want::Login, NOW);
    let id = dial(&mut pool);
    pool.tick(NOW + Duration::from_secs(61));
    assert!(matches!(orders(&mut pool)[..], [Order::Refuse(_, Refusal::TimedOut)]));
    pool.dialed(id, NOW + Duration::from_secs(62));
    assert!(orders(&mut pool).is_empty());
    assert_eq!(pool.census(), (0, 1, 0));
}

#[test]
fn a_pause_that_is_over_is_no_deadline() {
    let mut pool = pool(0, &Arc::new(Permits::new(2)));
    let alice = identity("alice");
    pool.acquire(&alice, Want::Lease, NOW);
    let first = dial(&mut pool);
    pool.acquire(&alice, Want::Lease, NOW);
    dial(&mut pool);
    pool.dial_failed(first, DialFailure::Unreachable("down".into()), NOW);
    pool.acquire(&alice, Want::Lease, NOW);
    let pause = pool.next_deadline().expect("a pause");
    pool.tick(pause);
    assert!(pool.next_deadline().is_none_or(|due| due > pause));
}

#[test]
fn revoking_leaves_a_fresh_login_in_line() {
    let mut pool = pool(0, &Arc::new(Permits::new(1)));
    let (alice, bob) = (identity("alice"), identity("bob"));
    pool.acquire(&bob, Want::Lease, NOW);
    let busy = dial(&mut pool);
    pool.dialed(busy, NOW);
    pool.acquire(&alice, Want::Login, NOW);
    pool.acquire(&alice, Want::Lease, NOW);
    orders(&mut pool);
    let expired = failure("Neo.ClientError.Security.AuthorizationExpired");
    pool.revoke(alice.fingerprint, expired, NOW);
    assert!(matches!(orders(&mut pool)[..], [Order::Refuse(_, Refusal::Server(_))]));
    assert_eq!(pool.waiters(), 1);
}

#[test]
fn an_approval_from_before_a_refusal_says_nothing() {
    let mut pool = pool(0, &Arc::new(Permits::new(1)));
    let alice = identity("alice");
    pool.acquire(&alice, Want::Lease, NOW);
    let refused = failure("Neo.ClientError.Security.Unauthorized");
    pool.revoke(alice.fingerprint, refused, NOW);
    let is_refused = |pool: &mut Pool| {
        let acquired = pool.acquire(&alice, Want::Lease, NOW);
        matches!(acquired, Acquired::Refused(Refusal::Server(_)))
    };
    pool.forgive(&alice, NOW - Duration::from_secs(1));
    assert!(is_refused(&mut pool));
    pool.forgive(&alice, NOW);
    assert!(!is_refused(&mut pool));
}

#[test]
fn a_bell_that_rang_while_all_was_in_use_is_heard_later() {
    let permits = Arc::new(Permits::new(2));
    let (mut here, mut there) = (pool(0, &permits), pool(1, &permits));
    let (alice, bob) = (identity("alice"), identity("bob"));
    here.acquire(&alice, Want::Lease, NOW);
    let first = dial(&mut here);
    here.dialed(first, NOW);
    here.acquire(&bob, Want::Lease, NOW);
    let dialing = match orders(&mut here).as_slice() {
        [Order::Grant(..), Order::Dial(id, _)] => *id,
        other => panic!("{other:?}"),
    };
    there.acquire(&identity("carol"), Want::Lease, NOW);
    assert!(matches!(orders(&mut there)[..], [Order::RingOthers]));
    here.others_wait();
    here.checkin(first, NOW);
    here.dialed(dialing, NOW);
    let given_up = |order: &Order| matches!(order, Order::Close(id, _) if *id == first);
    assert!(orders(&mut here).iter().any(given_up), "the idle connection is given up");
}

#[test]
fn a_probe_does_not_put_off_the_idle_limit() {
    let mut pool = pool(0, &Arc::new(Permits::new(2)));
    let alice = identity("alice");
    let after = |seconds| NOW + Duration::from_secs(seconds);
    for _ in 0..2 {
        pool.acquire(&alice, Want::Lease, NOW);
    }
    for order in orders(&mut pool) {
        let Order::Dial(id, _) = order else { panic!("expected a dial, got {order:?}") };
        pool.dialed(id, NOW);
    }
    let [Order::Grant(_, first), Order::Grant(_, second)] = orders(&mut pool)[..] else {
        panic!("two waiters, two connections");
    };
    pool.checkin(first, NOW);
    pool.checkin(second, after(200));
    pool.tick(after(300));
    assert!(matches!(orders(&mut pool)[..], [Order::Probe(id)] if id == first));
    pool.checkin(first, after(301));
    assert_eq!(pool.idle().collect::<Vec<_>>(), [first, second], "least recently used first");
    pool.tick(after(599));
    assert!(matches!(orders(&mut pool)[..], [Order::Probe(id)] if id == second));
    pool.tick(after(600));
    assert!(
        matches!(orders(&mut pool)[..], [Order::Close(id, Discard::IdleTimeout)] if id == first)
    );
}

#[test]
fn a_failed_dial_refuses_nobody_while_a_connection_is_turned_over() {
    let permits = Arc::new(Permits::new(2));
    let mut pool = pool(0, &permits);
    pool.options.reauth = Some(Duration::from_secs(60));
    let (alice, bob) = (identity("alice"), identity("bob"));
    pool.acquire(&alice, Want::Lease, NOW);
    let first = dial(&mut pool);
    pool.dialed(first, NOW);
    pool.checkin(first, NOW);
    orders(&mut pool);
    pool.acquire(&identity("carol"), Want::Lease, NOW);
    let second = dial(&mut pool);
    pool.forgive(&bob, NOW);
    pool.acquire(&bob, Want::Lease, NOW);
    assert!(matches!(orders(&mut pool)[..], [Order::TurnOver(id, _)] if id == first));
    pool.dial_failed(second, DialFailure::Unreachable("down".into()), NOW);
    assert!(orders(&mut pool).is_empty(), "who waits for the open connection goes on waiting");
    pool.dialed(first, NOW);
    assert!(matches!(orders(&mut pool)[..], [Order::Grant(_, id), Order::Dial(..)] if id == first));
}

#[test]
fn only_a_live_approval_turns_a_connection_over() {
    for (approved, is_turned) in [(None, false), (Some(59), true), (Some(60), false)] {
        let mut pool = pool(0, &Arc::new(Permits::new(1)));
        pool.options.reauth = Some(Duration::from_secs(60));
        pool.acquire(&identity("alice"), Want::Lease, NOW);
        let id = dial(&mut pool);
        pool.dialed(id, NOW);
        pool.checkin(id, NOW);
        orders(&mut pool);
        let bob = identity("bob");
        if let Some(seconds) = approved {
            pool.forgive(&bob, NOW - Duration::from_secs(seconds));
        }
        pool.acquire(&bob, Want::Lease, NOW);
        match orders(&mut pool).as_slice() {
            [Order::TurnOver(..)] => assert!(is_turned, "{approved:?}"),
            [Order::Close(_, Discard::Evicted)] => assert!(!is_turned, "{approved:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_private_connection_is_the_last_to_go() {
    let mut pool = pool(0, &Arc::new(Permits::new(2)));
    pool.options.reauth = Some(Duration::from_secs(60));
    let alice = identity("alice");
    let Identity { profile, auth, .. } = &*alice;
    let own = FingerprintKey::new(&[7; 32]).identity(profile.clone(), auth.clone(), Some(1));
    let own = Rc::new(own);
    let mut ids = Vec::new();
    for identity in [&own, &alice] {
        pool.acquire(identity, Want::Lease, NOW);
        ids.push(dial(&mut pool));
        pool.dialed(ids[ids.len() - 1], NOW);
        pool.checkin(ids[ids.len() - 1], NOW);
        orders(&mut pool);
    }
    let bob = identity("bob");
    pool.acquire(&bob, Want::Login, NOW);
    assert!(matches!(orders(&mut pool)[..], [Order::Close(id, Discard::Evicted)] if id == ids[1]));
}

#[test]
fn a_slow_login_pauses_its_own_user_alone() {
    let mut pool = pool(0, &Arc::new(Permits::new(4)));
    pool.acquire(&identity("alice"), Want::Lease, NOW);
    let slow = dial(&mut pool);
    pool.dial_failed(slow, DialFailure::Slow("too slow".into()), NOW);
    assert!(orders(&mut pool).is_empty(), "nobody is refused, and alice is tried again later");
    pool.acquire(&identity("bob"), Want::Lease, NOW);
    let quick = dial(&mut pool);
    pool.dialed(quick, NOW);
    assert!(matches!(orders(&mut pool)[..], [Order::Grant(_, id)] if id == quick));
    pool.tick(NOW + Duration::from_secs(1));
    assert!(matches!(orders(&mut pool)[..], [Order::Dial(..)]));
    pool.acquire(&identity("carol"), Want::Login, NOW);
    let login = dial(&mut pool);
    pool.dial_failed(login, DialFailure::Slow("too slow".into()), NOW);
    assert!(matches!(orders(&mut pool)[..], [Order::Refuse(_, Refusal::Unanswered(_))]));
}

#[test]
fn who_was_granted_a_connection_that_had_ended_keeps_the_place() {
    let mut pool = pool(0, &Arc::new(Permits::new(1)));
    let alice = identity("alice");
    let first = pool.acquire(&alice, Want::Lease, NOW);
    let id = dial(&mut pool);
    let second = pool.acquire(&alice, Want::Lease, NOW);
    pool.dialed(id, NOW);
    let later = NOW + Duration::from_secs(30);
    pool.close(id, Discard::ServerClosed);
    pool.grant_lost(id, later);
    let Acquired::Waiting(first) = first else { panic!("the first waits for a dial") };
    let grants = |orders: Vec<Order>| -> Vec<Ticket> {
        let granted = |order: &Order| match order {
            Order::Grant(ticket, _) => Some(*ticket),
            _ => None,
        };
        orders.iter().filter_map(granted).collect()
    };
    assert_eq!(grants(orders(&mut pool)), [first]);
    pool.closed(id, later);
    let next = dial(&mut pool);
    pool.dialed(next, later);
    assert_eq!(grants(orders(&mut pool)), [first], "once more, and before the second");
    // Its deadline was the first one's, not a new one.
    pool.close(next, Discard::ServerClosed);
    pool.grant_lost(next, later);
    orders(&mut pool);
    assert_eq!(pool.next_deadline(), Some(NOW + Duration::from_secs(60)));
    pool.tick(NOW + Duration::from_secs(60));
    let refused = orders(&mut pool);
    let is_refused = |order: &Order| matches!(order, Order::Refuse(_, Refusal::TimedOut));
    assert_eq!(refused.iter().filter(|order| is_refused(order)).count(), 2, "{second:?}");
}

#[test]
fn a_user_with_slow_logins_leaves_dials_to_others() {
    let mut pool = pool(0, &Arc::new(Permits::new(64)));
    let alice = identity("alice");
    for _ in 0..DIALS_MAX {
        pool.acquire(&alice, Want::Lease, NOW);
    }
    let dials = orders(&mut pool);
    assert_eq!(dials.len(), DIALS_OF_KEY_MAX);
    pool.acquire(&identity("bob"), Want::Lease, NOW);
    dial(&mut pool);
    pool.acquire(&identity("carol"), Want::Login, NOW);
    dial(&mut pool);
    let Order::Dial(first, _) = dials[0] else { panic!("{dials:?}") };
    pool.dialed(first, NOW);
    let next = orders(&mut pool);
    assert!(matches!(next[..], [Order::Grant(..), Order::Dial(..)]), "{next:?}");
}
