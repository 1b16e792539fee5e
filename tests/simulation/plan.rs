//! What a seed decides: sizes, habits, faults. Each run leaves some of them out.

use super::*;
use boltmux::wire::version::Version;

const USERS: [&str; 3] = ["alice", "bob", "carol"];

impl World {
    pub fn new(seed: u64, planted: Planted) -> World {
        let mut random = Random::new(seed);
        let plan = plan(&mut random);
        NONCES.with(|last| last.set(0));
        let permits = Arc::new(Permits::new(plan.limit));
        let ttl = random.pick(&[Duration::ZERO, Duration::from_secs(1), Duration::from_secs(60)]);
        let limits = limits(&mut random, plan.habits.has_limits);
        let options = options(&mut random, plan.limit, ttl);
        let shares = LoginShares::new(plan.limit, 2);
        let shard = |index: usize, seed: u64| {
            let mut pool = Pool::new(index, permits.clone(), options.clone(), seed);
            pool.planted = planted;
            Shard {
                pool: Rc::new(RefCell::new(pool)),
                approvals: Approvals::new(ttl, shares),
                identities: HashMap::new(),
                tickets: HashMap::new(),
                links: HashMap::new(),
                logins: HashMap::new(),
                refused: HashMap::new(),
                accepted_at: HashMap::new(),
                paused_until: Duration::ZERO,
                starving_since: None,
                dials: 0,
                is_draining: false,
            }
        };
        let shards = [shard(0, random.next()), shard(1, random.next())];
        let mut fingerprints = FingerprintKey::new(&[7; 32]);
        fingerprints.planted = planted;
        let base = Database {
            passwords: ["alice", "bob"].map(|user| (user.into(), "first-password".into())).into(),
            no_threads: if plan.habits.has_no_threads { 5 } else { 0 },
            noops: random.pick(&[0, 20, 100]),
            ..Database::default()
        };
        let env = env(&mut random, &plan, limits, ttl);
        let mut world = World {
            random,
            env: Rc::new(env),
            now: Duration::from_secs(100),
            events: BinaryHeap::new(),
            order: 0,
            last_message: [[Duration::ZERO; 2]; 2],
            permits,
            fingerprints,
            shards,
            clients: (0..plan.clients).map(|_| None).collect(),
            links: Vec::new(),
            base,
            down_until: Duration::ZERO,
            serial: 0,
            servers: 0,
            travelling: 0,
            ripe: Rc::default(),
            clock: Rc::default(),
            approval_ttl: ttl,
            shares,
            is_settling: false,
            planted,
            trace: None,
            seen: Default::default(),
            plan,
        };
        world.interleave();
        world.at(Duration::from_millis(500), Event::Tick);
        for slot in 0..world.plan.clients {
            world.at(Duration::ZERO, Event::Birth(slot));
        }
        world
    }

    #[cfg(not(debug_assertions))]
    fn interleave(&mut self) {
        unreachable!("without debug assertions all of this is ignored");
    }

    /// Lets closed connections of one shard give their permits back while the other says that it
    /// waits.
    #[cfg(debug_assertions)]
    fn interleave(&mut self) {
        for shard in 0..2 {
            let other = self.shards[1 - shard].pool.clone();
            let (ripe, clock) = (self.ripe.clone(), self.clock.clone());
            let hook = move || {
                let Ok(mut pool) = other.try_borrow_mut() else { return };
                ripe.borrow_mut().retain(|&(owner, id)| {
                    if owner == 1 - shard {
                        pool.closed(id, clock.get());
                    }
                    owner != 1 - shard
                });
            };
            self.shards[shard].pool.borrow_mut().interleave =
                boltmux::backend::planted::Interleave::new(Rc::new(hook));
        }
    }
}

fn some(random: &mut Random, share: u32, values: &[u32]) -> u32 {
    if random.chance(share) { random.pick(values) } else { 0 }
}

fn plan(random: &mut Random) -> Plan {
    let all = [Version::new(4, 4), Version::new(5, 0), Version::new(5, 4), Version::new(5, 8)];
    let versions = match random.below(3) {
        0 => all.to_vec(),
        1 => vec![random.pick(&all), random.pick(&all)],
        _ => vec![random.pick(&all)],
    };
    let users = match random.below(3) {
        0 => USERS.to_vec(),
        1 => USERS[..2].to_vec(),
        _ => USERS[..1].to_vec(),
    };
    let habits = Habits {
        versions,
        users,
        eagerness: random.pick(&[0, 300, 600, 900]),
        transactions: random.pick(&[0, 300, 600, 1000]),
        failures: some(random, 600, &[50, 200]),
        expiry: some(random, 300, &[100]),
        resets: some(random, 600, &[20, 150]),
        goodbyes: some(random, 500, &[10, 60]),
        vanishing: some(random, 600, &[3, 20]),
        logoffs: some(random, 500, &[50, 300]),
        routes: some(random, 500, &[50, 300]),
        illegal: some(random, 300, &[10]),
        long: some(random, 300, &[20]),
        wrong_passwords: some(random, 300, &[20, 100]),
        has_limits: random.chance(400),
        has_no_threads: random.chance(250),
    };
    Plan {
        habits,
        limit: 1 + random.below(5) as u32,
        clients: 2 + random.below(7),
        deaths: some(random, 500, &[2, 10]),
        stalls: some(random, 400, &[5]),
        restarts: some(random, 300, &[1]),
        password_changes: some(random, 300, &[2, 10]),
        slow_dials: random.chance(400),
        failed_dials: some(random, 400, &[50, 300]),
        late_shards: random.chance(500),
        drains: some(random, 150, &[1]),
        stray_noops: some(random, 500, &[5, 50]),
    }
}

fn limits(random: &mut Random, has_limits: bool) -> SessionLimits {
    let mut maybe =
        |seconds: u64| (has_limits && random.chance(600)).then_some(Duration::from_secs(seconds));
    SessionLimits {
        login_message: 8192,
        idle_in_transaction: maybe(1),
        transaction: maybe(5),
        query: maybe(2),
        reset: Duration::from_secs(5),
    }
}

fn options(random: &mut Random, limit: u32, ttl: Duration) -> PoolOptions {
    let reauth = random.chance(500).then_some(ttl);
    let mut seconds = |values: &[u64]| Duration::from_secs(random.pick(values));
    PoolOptions {
        acquisition_timeout: seconds(&[1, 10, 60]),
        max_lifetime: seconds(&[20, 3000]),
        max_lifetime_jitter_percent: 10,
        idle_timeout: seconds(&[5, 600]),
        liveness_check: seconds(&[2, 300]),
        reauth,
        claim: limit.div_ceil(2),
    }
}

fn env(random: &mut Random, plan: &Plan, limits: SessionLimits, ttl: Duration) -> Env {
    Env {
        known: KnownServer {
            agent: "Neo4j/5.26.0".into(),
            recv_timeout_seconds: random.chance(700).then_some(4),
            versions: plan.habits.versions.clone(),
        },
        limits,
        routes: [RefCell::new(RouteCache::new(ttl)), RefCell::new(RouteCache::new(ttl))],
    }
}
