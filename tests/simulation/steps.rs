//! One step after another: who moves next, what breaks, and what must be true after each.

use super::*;

/// How a run ended.
pub struct Violation {
    pub step: usize,
    pub text: String,
}

impl World {
    /// Runs `steps`, then lets everybody finish. `Err` is the first thing that was wrong.
    pub fn run(&mut self, steps: usize) -> Result<(), Violation> {
        for step in 0..steps {
            self.step().map_err(|text| Violation { step, text })?;
        }
        self.is_settling = true;
        for client in self.clients.iter_mut().flatten() {
            client.peer.grow_weary();
        }
        for step in steps..steps + SETTLE_STEPS_MAX {
            if self.is_settled() {
                return self.balances().map_err(|text| Violation { step, text });
            }
            self.step().map_err(|text| Violation { step, text })?;
        }
        let text = format!("it does not settle: {}", self.describe());
        Err(Violation { step: steps + SETTLE_STEPS_MAX, text })
    }

    fn describe(&self) -> String {
        let clients = self.clients.iter().flatten().map(|client| client.peer.describe());
        let servers = self.links.iter().flatten().map(|link| link.server.describe());
        let shards = self.shards.iter().map(|shard| {
            let pool = shard.pool.borrow();
            format!("{:?} {} wait, logins {:?}", pool.census(), pool.waiters(), shard.logins.keys())
        });
        let owners = self.links.iter().flatten().map(|link| {
            let owner = match link.owner {
                Owner::Dialing { .. } => "dialing",
                Owner::Pooled => "pooled",
                Owner::Client(_) => "leased",
                Owner::Cleaning(_) => "cleaning",
                Owner::Lending { .. } => "lending",
                Owner::Turning { .. } => "turning",
                Owner::Closing => "closing",
            };
            let (up, down) = (link.up.bytes.len(), link.down.bytes.len());
            format!("{owner} up {up} down {down} stalled until {:?}", link.stalled_until)
        });
        let all = clients.chain(servers).chain(shards).chain(owners).collect::<Vec<_>>();
        format!("{:?} {}", self.now, all.join("; "))
    }

    fn step(&mut self) -> Result<(), String> {
        self.clock.set(self.now);
        self.faults();
        let has_news = self.has_news();
        match self.random.below(100) {
            0..25 => self.act()?,
            25..50 if has_news => self.move_client()?,
            50..94 if has_news => self.move_link(),
            _ => self.advance(),
        }
        if self.random.chance(400) || self.is_settling {
            self.report_closed();
        }
        self.run_orders();
        self.check()
    }

    /// Sockets that have ended are told to their pools.
    fn report_closed(&mut self) {
        loop {
            let Some((shard, id)) = self.ripe.borrow_mut().pop() else { return };
            self.shards[shard].pool.borrow_mut().closed(id, self.now);
        }
    }

    fn has_news(&self) -> bool {
        let client = |client: &Client| client.up.has_news() || client.down.has_news();
        let link = |link: &Link| {
            link.stalled_until <= self.now
                && (link.up.has_news() || link.server.has_work() || link.down.has_news())
        };
        self.clients.iter().flatten().any(client) || self.links.iter().flatten().any(link)
    }

    fn act(&mut self) -> Result<(), String> {
        if self.clients.is_empty() {
            return Ok(());
        }
        let slot = self.random.below(self.clients.len());
        let Some(client) = self.clients[slot].as_mut() else { return Ok(()) };
        if client.has_vanished {
            return Ok(());
        }
        match client.peer.act(&self.plan.habits, &self.base, &mut self.random) {
            Step::Nothing => {}
            Step::Send(bytes) => client.up.push(&bytes),
            Step::Vanish => {
                client.has_vanished = true;
                client.up.die(&mut self.random);
            }
        }
        Ok(())
    }

    fn move_client(&mut self) -> Result<(), String> {
        let count = self.clients.len();
        let start = self.random.below(count);
        for slot in (start..count).chain(0..start) {
            let Some(client) = self.clients[slot].as_mut() else { continue };
            let goes_up = self.random.chance(500);
            if client.up.has_news() && (goes_up || !client.down.has_news()) {
                self.client_up(slot);
                return Ok(());
            }
            if client.down.has_news() {
                return self.client_down(slot);
            }
        }
        Ok(())
    }

    fn client_up(&mut self, slot: usize) {
        let Some(client) = self.clients[slot].as_mut() else { return };
        match client.up.take(&mut self.random) {
            Some(bytes) => self.with_exchange(slot, &bytes, |exchange, cx, hands| {
                exchange.client_bytes(&bytes, cx, hands);
            }),
            None => self.with_exchange(slot, &[], |exchange, cx, hands| {
                exchange.session.close(CloseReason::ClientGone);
                exchange.after(cx, hands);
            }),
        }
    }

    fn client_down(&mut self, slot: usize) -> Result<(), String> {
        let Some(client) = self.clients[slot].as_mut() else { return Ok(()) };
        if let Some(bytes) = client.down.take(&mut self.random) {
            if client.has_vanished {
                return Ok(());
            }
            return client.peer.arrive(&bytes, &mut self.base, &self.plan.habits);
        }
        let why = client.closed.expect("only a closed client's stream ends");
        if !client.has_vanished {
            client.peer.ended(why)?;
        }
        self.clients[slot] = None;
        let delay = self.random.millis(0, 200);
        self.at(delay, Event::Birth(slot));
        Ok(())
    }

    fn move_link(&mut self) {
        let count = self.links.len();
        let start = self.random.below(count);
        for slot in (start..count).chain(0..start) {
            let Some(link) = self.links[slot].as_mut() else { continue };
            if link.stalled_until > self.now && !link.down.has_ended {
                continue;
            }
            let is_able = [link.up.has_news(), link.server.has_work(), link.down.has_news()];
            let first = self.random.below(3);
            let Some(kind) = (first..first + 3).map(|n| n % 3).find(|&n| is_able[n]) else {
                continue;
            };
            return self.move_one(slot, kind);
        }
    }

    fn move_one(&mut self, slot: usize, kind: usize) {
        let link = self.links[slot].as_mut().expect("the caller has looked");
        match kind {
            0 => match link.up.take(&mut self.random) {
                Some(bytes) => link.server.arrive(&bytes),
                None => link.server.end(),
            },
            1 => {
                link.server.work(&mut self.base, &mut self.random, self.now);
                if self.random.chance(self.plan.stray_noops) && link.server.is_ready() {
                    link.server.out.extend_from_slice(&[0, 0]);
                }
            }
            _ => {
                let bytes = link.down.take(&mut self.random);
                return self.server_says(slot, bytes);
            }
        }
        let out = std::mem::take(&mut link.server.out);
        link.down.push(&out);
        link.down.has_ended |= link.server.is_closed;
    }

    /// To the next thing that is due, or a bit towards it.
    fn advance(&mut self) {
        let event = self.events.peek().map(|Reverse(Timed(time, ..))| *time);
        let deadlines = self.clients.iter().flatten().filter_map(|client| client.deadline);
        let pools = self.shards.iter().filter_map(|shard| shard.pool.borrow().next_deadline());
        let Some(next) = deadlines.chain(pools).chain(event).min() else { return };
        if next > self.now {
            let whole = next - self.now;
            let is_whole = self.random.chance(700);
            self.now += if is_whole { whole } else { whole.min(self.random.millis(0, 100)) };
            self.clock.set(self.now);
        }
        if let Some(Reverse(Timed(_, _, event))) = self.events.pop_if_due(self.now) {
            self.happen(event);
        }
        for slot in 0..self.clients.len() {
            let due = self.clients[slot].as_ref().and_then(|client| client.deadline);
            if due.is_some_and(|due| due <= self.now) {
                self.client_deadline(slot);
            }
        }
        for shard in 0..2 {
            let due = self.shards[shard].pool.borrow().next_deadline();
            if due.is_some_and(|due| due <= self.now) {
                let mut pool = self.shards[shard].pool.borrow_mut();
                pool.tick(self.now);
                if pool.next_deadline().is_some_and(|due| due <= self.now) {
                    self.base.violate("a pool's deadline stays in the past".into());
                }
            }
        }
    }

    fn client_deadline(&mut self, slot: usize) {
        let Some(client) = self.clients[slot].as_mut() else { return };
        // A RESET that is not answered in time loses the server, as far as the client can tell.
        client.peer.has_lost |= self.plan.habits.has_limits;
        self.with_exchange(slot, &[], |exchange, cx, hands| {
            exchange.session.deadline_passed(cx);
            exchange.after(cx, hands);
        });
        let client = self.clients[slot].as_ref().expect("the slot is in use");
        if client.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.base.violate("a client's deadline stays in the past".into());
        }
    }

    fn faults(&mut self) {
        if self.is_settling {
            return;
        }
        if self.random.chance(self.plan.deaths) {
            self.kill_one();
        }
        if self.random.chance(self.plan.stalls) && !self.links.is_empty() {
            let slot = self.random.below(self.links.len());
            let until = self.now + self.random.millis(100, 8000);
            if let Some(link) = self.links[slot].as_mut() {
                link.stalled_until = until;
                self.at(until - self.now, Event::Nothing);
            }
        }
        if self.random.chance(self.plan.restarts) {
            for slot in 0..self.links.len() {
                self.kill(slot);
            }
            self.down_until = self.now + self.random.millis(0, 3000);
        }
        if self.random.chance(self.plan.password_changes) {
            let user = self.random.below(2);
            let now = self.random.below(2);
            self.base.passwords[user].1 = ["first-password", "second-password"][now].into();
        }
        if self.random.chance(self.plan.drains) {
            self.drain();
        }
        let stray = self.plan.stray_noops / 5;
        if self.random.chance(stray) && !self.links.is_empty() {
            let slot = self.random.below(self.links.len());
            if let Some(link) = self.links[slot].as_mut()
                && link.server.is_ready()
            {
                link.down.push(&[0, 0]);
            }
        }
    }

    fn kill_one(&mut self) {
        if !self.links.is_empty() {
            let slot = self.random.below(self.links.len());
            self.kill(slot);
        }
    }

    fn kill(&mut self, slot: usize) {
        if let Some(link) = self.links[slot].as_mut() {
            link.server.end();
            link.down.die(&mut self.random);
            link.up.bytes.clear();
        }
    }

    fn drain(&mut self) {
        let shard = self.random.below(2);
        self.shards[shard].is_draining = true;
        self.shards[shard].pool.borrow_mut().drain();
        for slot in 0..self.clients.len() {
            if self.clients[slot].as_ref().is_some_and(|client| client.shard == shard) {
                self.with_exchange(slot, &[], |exchange, cx, hands| {
                    exchange.session.drain();
                    exchange.after(cx, hands);
                });
            }
        }
    }

    /// What must be true between any two steps.
    fn check(&mut self) -> Result<(), String> {
        if let Some(text) = self.base.violation.take() {
            return Err(text);
        }
        let open = self.links.iter().flatten().filter(|link| !link.server.is_closed).count();
        if open > self.plan.limit as usize {
            return Err(format!("{open} connections where {} are allowed", self.plan.limit));
        }
        let entries = |shard: &Shard| {
            let (leased, idle, others) = shard.pool.borrow().census();
            leased + idle + others
        };
        let held = self.shards.iter().map(entries).sum::<usize>() + self.travelling;
        if held != self.permits.open() as usize {
            return Err(format!("{held} connections hold {} permits", self.permits.open()));
        }
        if self.shards.iter().any(|shard| shard.pool.borrow().counters.double_returns > 0) {
            return Err("a connection was returned twice".into());
        }
        self.check_starving()
    }

    /// Nobody waits for long while a permit is free or a connection idle.
    fn check_starving(&mut self) -> Result<(), String> {
        let is_free = self.permits.open() < self.permits.limit();
        let idle: usize = self.shards.iter().map(|shard| shard.pool.borrow().census().1).sum();
        // A permit or a connection may be on its way to whoever waits.
        let is_moving = |link: &Link| matches!(link.owner, Owner::Closing | Owner::Lending { .. });
        let is_coming = self.travelling > 0
            || !self.ripe.borrow().is_empty()
            || self.links.iter().flatten().any(is_moving);
        for index in 0..2 {
            let shard = &mut self.shards[index];
            let waiters = shard.pool.borrow().waiters();
            let is_paused = self.now < shard.paused_until;
            if is_free && !is_coming && waiters > shard.dials && !is_paused {
                let (open, limit) = (self.permits.open(), self.permits.limit());
                let dials = shard.dials;
                return Err(format!(
                    "shard {index}: {waiters} wait, {dials} dials, only {open} of {limit} are open"
                ));
            }
            if waiters <= shard.dials || is_paused || !is_free && idle == 0 {
                shard.starving_since = None;
                continue;
            }
            let since = *shard.starving_since.get_or_insert(self.now);
            if self.now > since + Duration::from_millis(2500) {
                let open = self.permits.open();
                return Err(format!("shard {index}: {waiters} wait, {open} are open, {idle} idle"));
            }
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let is_resting = |link: &Link| matches!(link.owner, Owner::Pooled);
        let is_quiet = |shard: &Shard| {
            let pool = shard.pool.borrow();
            pool.waiters() == 0 && shard.logins.is_empty() && pool.census().2 == 0
        };
        self.clients.iter().all(Option::is_none)
            && self.links.iter().flatten().all(is_resting)
            && !self.has_news()
            && self.travelling == 0
            && self.ripe.borrow().is_empty()
            && self.shards.iter().all(is_quiet)
    }

    /// Everybody has gone: all connections are idle or closed, and the counters balance.
    fn balances(&mut self) -> Result<(), String> {
        for slot in 0..self.links.len() {
            if self.links[slot].is_some() {
                self.must_be_ready(slot);
            }
        }
        if let Some(text) = self.base.violation.take() {
            return Err(text);
        }
        for shard in &self.shards {
            let pool = shard.pool.borrow();
            let (leased, idle, _) = pool.census();
            let counters = &pool.counters;
            let came = counters.opened + counters.borrowed;
            let left = counters.closed + counters.lent;
            if leased > 0 || came != left + idle as u64 || counters.acquired != counters.returned {
                return Err(format!("{leased} leased, {idle} idle, {counters:?}"));
            }
        }
        Ok(())
    }
}

/// Steps that everybody needs to finish, and much more: long waits end by their deadlines within
/// them.
const SETTLE_STEPS_MAX: usize = 20_000;

trait PopIfDue {
    fn pop_if_due(&mut self, now: Duration) -> Option<Reverse<Timed>>;
}

impl PopIfDue for BinaryHeap<Reverse<Timed>> {
    fn pop_if_due(&mut self, now: Duration) -> Option<Reverse<Timed>> {
        self.peek().is_some_and(|Reverse(timed)| timed.0 <= now).then(|| self.pop())?
    }
}
