//! The shell: carries out what sessions and pools order.

use super::*;
use boltmux::transport::buffer::Chunk;
use boltmux::wire::chunk;

/// Of the requests that wait, so many are copied at once, the others stay in their buffers; and as
/// often those are copied later. By number and time, so that no seed means something else by it.
const COPIED_ONE_IN: u128 = 3;

/// What one exchange may do to the world.
pub struct Hands<'a> {
    world: &'a mut World,
    client: usize,
    input: &'a [u8],
    /// The same, as what lends it its buffer.
    chunk: Chunk,
}

impl World {
    pub(super) fn at(&mut self, after: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse(Timed(self.now + after, self.order, event)));
    }

    /// From core to core, in order.
    fn message(&mut self, from: usize, to: usize, event: Event) {
        let delay = match from == to {
            true => Duration::ZERO,
            false if self.plan.late_shards => self.random.millis(0, 100),
            false => self.random.millis(0, 1),
        };
        let time = (self.now + delay).max(self.last_message[from][to]);
        self.last_message[from][to] = time;
        self.at(time - self.now, event);
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:?} {}", self.now, text()));
        }
    }

    fn client_by(&self, shard: usize, serial: u64) -> Option<usize> {
        let is_it = |client: &Option<Client>| {
            client.as_ref().is_some_and(|client| client.serial == serial && client.shard == shard)
        };
        self.clients.iter().position(is_it)
    }

    fn client(&mut self, slot: usize) -> &mut Client {
        self.clients[slot].as_mut().expect("the slot is in use")
    }

    pub(super) fn link(&mut self, slot: usize) -> &mut Link {
        self.links[slot].as_mut().expect("the slot is in use")
    }

    pub(super) fn with_exchange(
        &mut self,
        slot: usize,
        input: &[u8],
        work: impl FnOnce(&mut Exchange, Context<'_>, &mut Hands<'_>),
    ) {
        let now = self.now;
        let client = self.client(slot);
        let shard = client.shard;
        let Some(mut exchange) = client.exchange.take() else { return };
        let env = self.env.clone();
        let cx = Context {
            now,
            server: Some(&env.known),
            limits: &env.limits,
            own_address: "own:7687",
            routes: &env.routes[shard],
        };
        if now.as_micros().is_multiple_of(COPIED_ONE_IN) {
            exchange.copy_kept();
        }
        let chunk = Chunk::from(Bytes::copy_from_slice(input));
        work(&mut exchange, cx, &mut Hands { world: self, client: slot, input, chunk });
        if exchange.held_bytes() > 400_000 {
            self.base.violate("a client holds more than its requests".into());
        }
        let client = self.clients[slot].as_mut().expect("the slot is in use");
        if client.closed.is_some() {
            client.down.has_ended = true;
            client.deadline = None;
            if client.lease.is_some() || client.ticket.is_some() {
                self.base.violate("a client is closed, but still has or waits for a lease".into());
            }
            return;
        }
        client.deadline = exchange.session.deadline(&env.limits);
        client.exchange = Some(exchange);
    }

    /// Until nobody has anything to say any more.
    pub(super) fn run_orders(&mut self) {
        loop {
            let next = |shard: &Shard| shard.pool.borrow_mut().next_order();
            let order = match next(&self.shards[0]) {
                Some(order) => (0, order),
                None => match next(&self.shards[1]) {
                    Some(order) => (1, order),
                    None => return,
                },
            };
            self.note(|| format!("shard {} {:?}", order.0, order.1));
            self.seen.insert(kind(&order.1));
            self.carry_out(order.0, order.1);
        }
    }

    fn slot_of(&mut self, shard: usize, id: ServerId) -> Option<usize> {
        self.shards[shard].links.get(&id).copied()
    }

    fn carry_out(&mut self, shard: usize, order: Order) {
        match order {
            Order::Dial(id, identity) => {
                self.shards[shard].dials += 1;
                let delay = match self.plan.slow_dials {
                    true => self.random.millis(0, 3000),
                    false => self.random.millis(0, 5),
                };
                self.at(delay, Event::Connect(shard, id, identity, None));
            }
            Order::TurnOver(id, identity) => self.turn_over(shard, id, identity),
            Order::Grant(ticket, id) => self.grant(shard, ticket, id),
            Order::LoggedIn(ticket) => self.login_ended(shard, ticket, LoginOutcome::Accepted),
            Order::Refuse(ticket, refusal) => self.refuse(shard, ticket, refusal),
            Order::Probe(id) => {
                let slot = self.slot_of(shard, id).expect("a probed connection has a link");
                self.clean(slot, Cleaner::new(Scanner::default(), None, 0));
            }
            Order::Close(id, _) => {
                let slot = self.slot_of(shard, id).expect("a closing connection has a link");
                let link = self.link(slot);
                link.owner = Owner::Closing;
                link.up.push(GOODBYE);
                link.up.has_ended = true;
                if link.down.is_end_seen {
                    return self.socket_ended(slot);
                }
                self.at(Duration::from_secs(1), Event::LinkTimeout(shard, id, Stage::Closing));
            }
            Order::Lend(id, to) => {
                let slot = self.slot_of(shard, id).expect("a lent connection has a link");
                self.link(slot).owner = Owner::Lending { to };
                let delay = self.random.millis(0, 5);
                self.at(delay, Event::Detach(shard, id));
            }
            Order::PassPermit(to) => {
                self.travelling += 1;
                self.message(shard, to, Event::Permit(to));
            }
            Order::RingOthers => self.message(shard, 1 - shard, Event::Ring(1 - shard)),
        }
    }

    /// LOGOFF and LOGON on an idle connection: for whom, is looked at here.
    fn turn_over(&mut self, shard: usize, id: ServerId, identity: Rc<Identity>) {
        let fingerprint = identity.fingerprint;
        let accepted = |shard: &Shard| shard.accepted_at.get(&fingerprint).copied();
        let accepted_at = self.shards.iter().filter_map(accepted).max();
        let until = accepted_at.map(|at| at + self.approval_ttl);
        if until.is_none_or(|until| until < self.now) {
            self.base.violate("turned over to a user who was not accepted lately".into());
        }
        let slot = self.slot_of(shard, id).expect("a connection that is turned over has a link");
        self.must_be_ready(slot);
        self.shards[shard].dials += 1;
        let link = self.link(slot);
        if !matches!(link.owner, Owner::Pooled) {
            return self.base.violate("a connection that is not idle was turned over".into());
        }
        link.identity = identity.clone();
        link.up.push(LOGOFF);
        link.up.push(&encode_logon(&identity.auth));
        link.owner = Owner::Turning { identity, due: 2, raw: Vec::new() };
        self.at(Duration::from_secs(5), Event::LinkTimeout(shard, id, Stage::Turning));
    }

    /// A connection that was to be turned over is of no use.
    fn turn_lost(&mut self, shard: usize, id: ServerId) {
        self.drop_link(shard, id);
        self.shards[shard].dials -= 1;
        self.seen.insert("turn_lost");
        self.shards[shard].pool.borrow_mut().dial_failed(id, DialFailure::Lost, self.now);
    }

    /// The socket is gone on both sides; its report to the pool comes later.
    pub(super) fn socket_ended(&mut self, slot: usize) {
        let mut link = self.links[slot].take().expect("the slot is in use");
        link.server.end();
        self.shards[link.shard].links.remove(&link.id);
        self.ripe.borrow_mut().push((link.shard, link.id));
    }

    fn clean(&mut self, slot: usize, cleaner: Cleaner) {
        let reset = self.env.limits.reset;
        let link = self.link(slot);
        link.owner = Owner::Cleaning(cleaner);
        link.up.push(RESET);
        let (shard, id) = (link.shard, link.id);
        self.at(reset, Event::LinkTimeout(shard, id, Stage::Cleaning));
    }

    /// A client gets a connection: everything that must be true of it is looked at here.
    fn hand_over(&mut self, slot: usize, client: usize) {
        let identity = self.client(client).identity.clone();
        let link = self.links[slot].as_mut().expect("the slot is in use");
        let fingerprint = link.identity.fingerprint;
        let is_same = identity.is_some_and(|identity| identity.fingerprint == fingerprint);
        if !is_same || !matches!(link.owner, Owner::Pooled) || !link.unread.is_empty() {
            self.base.violate("a connection of another, or not a quiet one, was handed out".into());
        }
        if self.shards[link.shard].refused.contains_key(&fingerprint) {
            self.base.violate("a lease of an identity that the server refuses".into());
        }
        link.owner = Owner::Client(client);
        self.client(client).lease = Some(slot);
    }

    fn grant(&mut self, shard: usize, ticket: Ticket, id: ServerId) {
        let waiter = self.shards[shard].tickets.remove(&ticket);
        let client = match waiter {
            Some(Waiter::Client(serial)) => self.client_by(shard, serial),
            _ => None,
        };
        let client = client.filter(|&slot| self.client(slot).ticket == Some(ticket));
        let slot = self.slot_of(shard, id).expect("a granted connection has a link");
        let Some(client) = client else {
            let now = self.now;
            return self.shards[shard].pool.borrow_mut().checkin(id, now);
        };
        // Its end, or bytes that nobody asked for, may have come since it was given back.
        if self.link(slot).down.has_news() && self.random.chance(500) {
            let serial = self.client(client).serial;
            self.shards[shard].tickets.insert(ticket, Waiter::Client(serial));
            let now = self.now;
            let mut pool = self.shards[shard].pool.borrow_mut();
            pool.close(id, Discard::ServerClosed);
            pool.grant_lost(id, now);
            drop(pool);
            self.seen.insert("grant_lost");
            return;
        }
        self.client(client).ticket = None;
        self.hand_over(slot, client);
        self.with_exchange(client, &[], |exchange, cx, hands| exchange.granted(cx, hands));
    }

    fn refuse(&mut self, shard: usize, ticket: Ticket, refusal: Refusal) {
        match self.shards[shard].tickets.get(&ticket) {
            Some(Waiter::Login(_)) => {
                self.login_ended(shard, ticket, LoginOutcome::Failed(refusal));
            }
            Some(&Waiter::Client(serial)) => {
                self.shards[shard].tickets.remove(&ticket);
                let Some(client) = self.client_by(shard, serial) else { return };
                if self.client(client).ticket.take_if(|mine| *mine == ticket).is_some() {
                    self.with_exchange(client, &[], |exchange, cx, hands| {
                        exchange.refused(&refusal, cx, hands);
                    });
                }
            }
            None => {}
        }
    }

    fn login_ended(&mut self, shard: usize, ticket: Ticket, outcome: LoginOutcome) {
        let Some(Waiter::Login(serial)) = self.shards[shard].tickets.remove(&ticket) else {
            return self.base.violate("a login that nobody waits for".into());
        };
        self.tell_outcome(Asker { shard, client: serial }, outcome);
    }

    fn tell_outcome(&mut self, asker: Asker, outcome: LoginOutcome) {
        let identity = self.shards[asker.shard].logins[&asker.client].clone();
        let owner = self.shares.owner(identity.fingerprint);
        self.message(asker.shard, owner, Event::Outcome(identity, asker, outcome));
    }

    pub(super) fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Connect(shard, id, identity, None) => self.connect(shard, id, identity),
            Event::Connect(shard, id, _, Some(_)) => self.dial_failed(shard, id, "gone"),
            Event::LinkTimeout(shard, id, stage) => self.link_timeout(shard, id, stage),
            Event::Detach(shard, id) => self.detach(shard, id),
            Event::Borrowed { slot, born, expires } => self.borrowed(slot, born, expires),
            Event::Permit(shard) => {
                self.travelling -= 1;
                self.shards[shard].pool.borrow_mut().permit_arrived(now);
            }
            Event::Ring(shard) => self.shards[shard].pool.borrow_mut().others_wait(),
            Event::Ask(identity, asker) => self.ask(identity, asker),
            Event::LogIn(asker) => self.log_in(asker),
            Event::Outcome(identity, asker, outcome) => self.outcome(&identity, asker, outcome),
            Event::Done(asker, outcome, at) => self.login_done(asker, &outcome, at),
            Event::Renew(fingerprint) => {
                let owner = self.shares.owner(fingerprint);
                self.shards[owner].approvals.renew(fingerprint, now);
            }
            Event::Revoke(shard, fingerprint, failure) => self.revoke(shard, fingerprint, failure),
            Event::Tick => self.tick(),
            Event::Birth(slot) => self.birth(slot),
            Event::Nothing => {}
        }
    }

    fn tick(&mut self) {
        for shard in &mut self.shards {
            shard.pool.borrow_mut().tick(self.now);
            shard.approvals.forget_expired(self.now);
        }
        self.at(Duration::from_millis(500), Event::Tick);
    }

    fn birth(&mut self, slot: usize) {
        let shard = self.random.below(2);
        if self.is_settling || self.shards[shard].is_draining {
            return;
        }
        self.serial += 1;
        let peer = Peer::new(&self.plan.habits, &mut self.random);
        let mut session = Session::new(peer.version, false, self.serial);
        session.planted = self.planted;
        self.clients[slot] = Some(Client {
            serial: self.serial,
            shard,
            exchange: Some(Exchange::new(session)),
            peer,
            up: Pipe::default(),
            down: Pipe::default(),
            identity: None,
            lease: None,
            ticket: None,
            closed: None,
            deadline: None,
            has_vanished: false,
        });
    }

    fn connect(&mut self, shard: usize, id: ServerId, identity: Rc<Identity>) {
        let is_failing = self.random.chance(self.plan.failed_dials);
        if self.now < self.down_until || is_failing && self.random.chance(700) {
            return self.dial_failed(shard, id, "connection refused");
        }
        self.servers += 1;
        let version = identity.profile.version;
        let hello = ServerHello {
            user_agent: "boltmux",
            bolt_agent: "boltmux",
            routing: identity.profile.routing.as_deref().map(|entries| ("inner:7687", entries)),
            utc_patch: false,
            notifications: &identity.profile.notifications,
            auth: Some(&identity.auth),
        };
        let mut up = Pipe::default();
        up.push(&encode_hello(version, &hello));
        if version.has_logon() {
            up.push(&encode_logon(&identity.auth));
        }
        let due = 1 + usize::from(version.has_logon());
        let link = Link {
            shard,
            id,
            identity: identity.clone(),
            owner: Owner::Dialing { identity, due, raw: Vec::new() },
            up,
            down: Pipe::default(),
            server: Connection::new(version, self.servers),
            stalled_until: self.now + Duration::from_secs(if is_failing { 6 } else { 0 }),
            unread: Vec::new(),
        };
        let slot = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        if slot == self.links.len() {
            self.links.push(None);
        }
        self.links[slot] = Some(link);
        self.shards[shard].links.insert(id, slot);
        self.at(Duration::from_secs(5), Event::LinkTimeout(shard, id, Stage::Dialing));
    }

    fn dial_failed(&mut self, shard: usize, id: ServerId, text: &str) {
        self.dial_ended(shard, id, DialFailure::Unreachable(text.to_owned()));
    }

    fn dial_ended(&mut self, shard: usize, id: ServerId, failure: DialFailure) {
        self.drop_link(shard, id);
        self.shards[shard].dials -= 1;
        self.shards[shard].paused_until = self.now + Duration::from_millis(2500);
        self.shards[shard].pool.borrow_mut().dial_failed(id, failure, self.now);
    }

    fn drop_link(&mut self, shard: usize, id: ServerId) {
        if let Some(slot) = self.shards[shard].links.remove(&id) {
            self.links[slot] = None;
        }
    }

    fn link_timeout(&mut self, shard: usize, id: ServerId, stage: Stage) {
        let Some(slot) = self.slot_of(shard, id) else { return };
        match (stage, &self.link(slot).owner) {
            (Stage::Dialing, Owner::Dialing { .. }) => {
                let failure = DialFailure::Slow("timed out".into());
                self.dial_ended(shard, id, failure);
            }
            (Stage::Turning, Owner::Turning { .. }) => self.turn_lost(shard, id),
            (Stage::Cleaning, Owner::Cleaning(_)) => {
                self.shards[shard].pool.borrow_mut().close(id, Discard::ResetFailed);
            }
            (Stage::Closing, Owner::Closing) => self.socket_ended(slot),
            _ => {}
        }
    }

    fn detach(&mut self, shard: usize, id: ServerId) {
        let Some(slot) = self.slot_of(shard, id) else { return };
        let Owner::Lending { to } = self.link(slot).owner else { return };
        let link = self.link(slot);
        let is_quiet = link.unread.is_empty() && !link.down.is_end_seen;
        let mut pool = self.shards[shard].pool.borrow_mut();
        let (_, born, expires) = pool.passport(id).expect("a lent connection is known");
        let is_lent = pool.detached(id, is_quiet);
        drop(pool);
        if !is_lent {
            return;
        }
        if !is_quiet {
            self.base.violate("lent although something is unread".into());
        }
        self.shards[shard].links.remove(&id);
        self.travelling += 1;
        self.message(shard, to, Event::Borrowed { slot, born, expires });
        self.link(slot).shard = to;
    }

    fn borrowed(&mut self, slot: usize, born: Duration, expires: Duration) {
        self.travelling -= 1;
        let now = self.now;
        let link = self.links[slot].as_ref().expect("a connection under way has a link");
        let shard = &mut self.shards[link.shard];
        let is_quiet = link.unread.is_empty() && !link.down.is_end_seen;
        let fingerprint = link.identity.fingerprint;
        let mut pool = shard.pool.borrow_mut();
        let id = match is_quiet {
            true => pool.borrowed(fingerprint, born, expires),
            false => None,
        };
        match id {
            Some(id) => {
                pool.checkin(id, now);
                drop(pool);
                shard.links.insert(id, slot);
                let link = self.link(slot);
                (link.id, link.owner) = (id, Owner::Pooled);
            }
            None => {
                pool.permit_arrived(now);
                drop(pool);
                self.links[slot] = None;
            }
        }
    }

    fn ask(&mut self, identity: Rc<Identity>, asker: Asker) {
        let owner = self.shares.owner(identity.fingerprint);
        let verdict = self.shards[owner].approvals.ask(identity.fingerprint, asker, self.now);
        let event = match verdict {
            Verdict::Approved(at) => Event::Done(asker, LoginOutcome::Accepted, at),
            Verdict::LogIn => Event::LogIn(asker),
            Verdict::Wait => return,
        };
        self.message(owner, asker.shard, event);
    }

    fn log_in(&mut self, asker: Asker) {
        let now = self.now;
        let shard = &mut self.shards[asker.shard];
        let identity = shard.logins[&asker.client].clone();
        let acquired = shard.pool.borrow_mut().acquire(&identity, Want::Login, now);
        match acquired {
            Acquired::Waiting(ticket) => {
                shard.tickets.insert(ticket, Waiter::Login(asker.client));
            }
            Acquired::Refused(refusal) => {
                self.tell_outcome(asker, LoginOutcome::Failed(refusal));
            }
            Acquired::Now(_) => self.base.violate("a login got a lease".into()),
        }
    }

    fn outcome(&mut self, identity: &Rc<Identity>, asker: Asker, outcome: LoginOutcome) {
        let owner = self.shares.owner(identity.fingerprint);
        let approvals = &mut self.shards[owner].approvals;
        let waiting = approvals.outcome(identity.fingerprint, &outcome, self.now);
        for asker in waiting.into_iter().chain([asker]) {
            self.message(owner, asker.shard, Event::Done(asker, outcome.clone(), self.now));
        }
        while let Some((_, next)) = self.shards[owner].approvals.next_login() {
            self.message(owner, next.shard, Event::LogIn(next));
        }
    }

    fn login_done(&mut self, asker: Asker, outcome: &LoginOutcome, at: Duration) {
        let identity = self.shards[asker.shard].logins.remove(&asker.client);
        let identity = identity.expect("a login is known until it is done");
        let Some(client) = self.client_by(asker.shard, asker.client) else { return };
        if self.client(client).exchange.is_none() {
            return;
        }
        let fingerprint = identity.fingerprint;
        if *outcome == LoginOutcome::Accepted {
            let accepted = |shard: &Shard| shard.accepted_at.get(&fingerprint).copied();
            let accepted_at = self.shards.iter().filter_map(accepted).max();
            let until = accepted_at.map(|at| at + self.approval_ttl + Duration::from_secs(2));
            if until.is_none_or(|until| until < self.now) {
                self.base.violate("an approval older than pool.approval_ttl".into());
            }
            self.shards[asker.shard].pool.borrow_mut().forgive(&identity, at);
            self.shards[asker.shard].refused.remove(&fingerprint);
            self.client(client).identity = Some(identity.clone());
        }
        self.with_exchange(client, &[], |exchange, cx, hands| {
            exchange.session.login_done(identity, outcome, cx);
            exchange.after(cx, hands);
        });
    }

    fn revoke(&mut self, shard: usize, fingerprint: Fingerprint, failure: Box<Failure>) {
        let now = self.now;
        let world = &mut self.shards[shard];
        world.pool.borrow_mut().revoke(fingerprint, failure, now);
        world.approvals.revoke(fingerprint);
        world.refused.insert(fingerprint, ());
        self.env.routes[shard].borrow_mut().revoke(fingerprint);
    }

    /// Bytes of a server, or its end.
    pub(super) fn server_says(&mut self, slot: usize, bytes: Option<Vec<u8>>) {
        let now = self.now;
        let link = self.links[slot].as_mut().expect("the slot is in use");
        let (shard, id) = (link.shard, link.id);
        let pool = self.shards[shard].pool.clone();
        match (&mut link.owner, bytes) {
            (Owner::Dialing { .. }, None) => self.dial_failed(shard, id, "ended"),
            (Owner::Turning { .. }, None) => self.turn_lost(shard, id),
            (Owner::Dialing { .. } | Owner::Turning { .. }, Some(bytes)) => {
                self.dialing(slot, &bytes);
            }
            (Owner::Pooled, None) => _ = pool.borrow_mut().noticed(id, Discard::ServerClosed),
            (Owner::Pooled, Some(_)) => _ = pool.borrow_mut().noticed(id, Discard::Unread),
            (&mut Owner::Client(client), bytes) => self.feed_exchange(client, bytes),
            (Owner::Cleaning(_), None) => pool.borrow_mut().close(id, Discard::ServerClosed),
            (Owner::Cleaning(cleaner), Some(bytes)) => match cleaner.feed(&bytes) {
                Cleaned::NotYet => {}
                Cleaned::Broken(why) => pool.borrow_mut().close(id, why),
                Cleaned::Clean => {
                    link.owner = Owner::Pooled;
                    self.must_be_ready(slot);
                    pool.borrow_mut().checkin(id, now);
                }
            },
            (Owner::Lending { .. }, Some(bytes)) => link.unread.extend(bytes),
            (Owner::Lending { .. }, None) => {}
            (Owner::Closing, Some(_)) => {}
            (Owner::Closing, None) => self.socket_ended(slot),
        }
    }

    fn feed_exchange(&mut self, client: usize, bytes: Option<Vec<u8>>) {
        let Some(bytes) = bytes else {
            self.client(client).peer.has_lost = true;
            return self.with_exchange(client, &[], |exchange, cx, hands| {
                exchange.server_lost(Discard::ServerClosed, cx, hands);
            });
        };
        let mut broken = None;
        self.with_exchange(client, &bytes, |exchange, cx, hands| {
            if let Err(why) = exchange.server_bytes(&bytes, cx, hands) {
                broken = Some(why);
                exchange.server_lost(why, cx, hands);
            }
        });
        if broken.is_some() {
            self.base.violate(format!("the server's bytes were misread: {broken:?}"));
        }
    }

    fn dialing(&mut self, slot: usize, bytes: &[u8]) {
        let now = self.now;
        let link = self.link(slot);
        let (shard, id) = (link.shard, link.id);
        let (Owner::Dialing { due, raw, identity } | Owner::Turning { due, raw, identity }) =
            &mut link.owner
        else {
            return;
        };
        raw.extend_from_slice(bytes);
        let mut at = 0;
        let mut failure = None;
        loop {
            let mut scanner = Scanner::default();
            let Some(span) = scanner.next(&raw[at..]) else { break };
            if let Kind::Message { ends: false, .. } = span.kind {
                break;
            }
            let message = &raw[at..at + span.length];
            at += span.length;
            if span.kind == Kind::Noop {
                continue;
            }
            let mut scratch = Vec::new();
            if scanner.head().is_some_and(|head| head.tag == tag::SUCCESS) {
                *due -= 1;
            } else {
                failure = Failure::parse(chunk::payload(message, &mut scratch)).ok();
            }
        }
        raw.drain(..at);
        let (due, is_quiet) = (*due, raw.is_empty());
        let fingerprint = identity.fingerprint;
        if let Some(failure) = failure {
            return self.login_refused(shard, id, fingerprint, failure);
        }
        if due == 0 && is_quiet {
            self.link(slot).owner = Owner::Pooled;
            self.shards[shard].refused.remove(&fingerprint);
            self.shards[shard].accepted_at.insert(fingerprint, now);
            self.shards[shard].dials -= 1;
            self.shards[shard].pool.borrow_mut().dialed(id, now);
            let owner = self.shares.owner(fingerprint);
            self.message(shard, owner, Event::Renew(fingerprint));
        }
    }

    fn login_refused(
        &mut self,
        shard: usize,
        id: ServerId,
        fingerprint: Fingerprint,
        failure: Failure,
    ) {
        self.drop_link(shard, id);
        self.shards[shard].dials -= 1;
        if failure.code.ends_with("Unauthorized") {
            self.shards[shard].refused.insert(fingerprint, ());
            self.shards[shard].approvals.revoke(fingerprint);
            let event = Event::Revoke(1 - shard, fingerprint, Box::new(failure.clone()));
            self.message(shard, 1 - shard, event);
        }
        let refused = DialFailure::Refused(Box::new(failure));
        // A server that says "not now" is left alone for a second.
        let until = self.now + Duration::from_millis(1100);
        let paused = &mut self.shards[shard].paused_until;
        *paused = until.max(*paused);
        self.shards[shard].pool.borrow_mut().dial_failed(id, refused, self.now);
    }

    /// An idle backend is READY with nothing unread.
    pub(super) fn must_be_ready(&mut self, slot: usize) {
        let link = self.links[slot].as_ref().expect("the slot is in use");
        let is_quiet = link.up.bytes.is_empty()
            && link.server.is_ready()
            && link.down.bytes.iter().all(|&byte| byte == 0);
        if !is_quiet && !link.server.is_closed && !link.down.has_ended {
            let text = link.server.describe();
            let (up, down) = (&link.up.bytes, &link.down.bytes);
            self.base.violate(format!("given back, but not READY: {text}, {up:?}, {down:?}"));
        }
    }
}

impl Hands<'_> {
    fn client(&mut self) -> &mut Client {
        self.world.client(self.client)
    }

    fn send(&mut self, bytes: &[u8]) {
        let Some(slot) = self.client().lease else {
            return self.world.base.violate("bytes for a server without a lease".into());
        };
        self.world.link(slot).up.push(bytes);
    }
}

impl Effects for Hands<'_> {
    fn to_server(&mut self, range: Range<usize>) {
        let input = self.input;
        self.send(&input[range]);
    }

    fn to_server_copied(&mut self, bytes: Bytes) {
        self.send(&bytes);
    }

    fn keep(&mut self, range: Range<usize>) -> Option<Chunk> {
        let is_kept = !self.world.order.is_multiple_of(COPIED_ONE_IN as u64);
        self.world.seen.insert(if is_kept { "kept" } else { "copied" });
        is_kept.then(|| self.chunk.slice(range))
    }

    fn to_server_kept(&mut self, chunk: Chunk) {
        self.world.seen.insert("sent out of its buffer");
        self.send(&chunk);
    }

    fn to_client(&mut self, range: Range<usize>) {
        let input = self.input;
        self.client().down.push(&input[range]);
    }

    fn to_client_copied(&mut self, bytes: Bytes) {
        self.client().down.push(&bytes);
    }

    fn acquire(&mut self, identity: &Rc<Identity>) -> Leased {
        let client = self.client();
        let (shard, serial) = (client.shard, client.serial);
        if client.lease.is_some() || client.ticket.is_some() {
            self.world.base.violate("a second lease".into());
        }
        let now = self.world.now;
        let shard = &mut self.world.shards[shard];
        let acquired = shard.pool.borrow_mut().acquire(identity, Want::Lease, now);
        match acquired {
            Acquired::Now(id) => {
                let slot = shard.links[&id];
                self.world.hand_over(slot, self.client);
                Leased::Now
            }
            Acquired::Waiting(ticket) => {
                shard.tickets.insert(ticket, Waiter::Client(serial));
                self.client().ticket = Some(ticket);
                Leased::MustWait
            }
            Acquired::Refused(refusal) => Leased::Refused(refusal),
        }
    }

    fn release(&mut self, how: Release, remainder: Remainder<'_>) {
        let Some(slot) = self.client().lease.take() else {
            return self.world.base.violate("a lease was given back twice".into());
        };
        let world = &mut *self.world;
        let now = world.now;
        world.note(|| format!("release {how:?}"));
        world.seen.insert(match how {
            Release::Clean => "clean",
            Release::Dirty(_) => "dirty",
            Release::Broken(why) => why.name(),
        });
        let link = world.link(slot);
        link.owner = Owner::Pooled;
        let (shard, id) = (link.shard, link.id);
        let pool = world.shards[shard].pool.clone();
        match how {
            Release::Clean => {
                let is_even = remainder.bytes.len().is_multiple_of(2)
                    && remainder.scanner.is_between_messages()
                    && remainder.loose.is_none();
                if !is_even || remainder.bytes.iter().any(|&byte| byte != 0) {
                    world.base.violate("given back with something unread".into());
                }
                world.must_be_ready(slot);
                pool.borrow_mut().checkin(id, now);
            }
            Release::Dirty(due) => {
                pool.borrow_mut().begin_cleaning(id);
                let mut cleaner = Cleaner::new(remainder.scanner, remainder.loose, due);
                match cleaner.feed(remainder.bytes) {
                    Cleaned::Broken(why) => pool.borrow_mut().close(id, why),
                    Cleaned::NotYet => world.clean(slot, cleaner),
                    Cleaned::Clean => world.base.violate("clean before RESET".into()),
                }
            }
            Release::Broken(why) => pool.borrow_mut().close(id, why),
        }
    }

    fn act(&mut self, action: Action) {
        let client = self.client();
        let (shard, serial) = (client.shard, client.serial);
        let now = self.world.now;
        match action {
            Action::Withdraw => {
                let Some(ticket) = self.client().ticket.take() else { return };
                self.world.shards[shard].tickets.remove(&ticket);
                self.world.shards[shard].pool.borrow_mut().cancel(ticket, now);
            }
            Action::LogIn(login) => {
                let (profile, auth) = *login;
                let identity = self.world.fingerprints.identity(profile, auth, None);
                let fingerprint = identity.fingerprint;
                let known = self.world.shards[shard].identities.entry(fingerprint);
                let identity = known.or_insert_with(|| Rc::new(identity)).clone();
                self.world.shards[shard].logins.insert(serial, identity.clone());
                let asker = Asker { shard, client: serial };
                let owner = self.world.shares.owner(fingerprint);
                self.world.message(shard, owner, Event::Ask(identity, asker));
            }
            Action::LoggedOff => self.client().identity = None,
            Action::Revoke(failure, identity) => {
                let fingerprint = identity.fingerprint;
                self.world.revoke(shard, fingerprint, failure.clone());
                let event = Event::Revoke(1 - shard, fingerprint, failure);
                self.world.message(shard, 1 - shard, event);
            }
            Action::Close(why) => {
                self.client().closed = Some(why);
                self.world.seen.insert(why.name());
            }
            _ => {}
        }
    }
}

fn kind(order: &Order) -> &'static str {
    match order {
        Order::Dial(..) => "dial",
        Order::TurnOver(..) => "turn_over",
        Order::Grant(..) => "grant",
        Order::LoggedIn(_) => "logged_in",
        Order::Refuse(_, Refusal::TimedOut) => "refuse_timed_out",
        Order::Refuse(_, Refusal::Unreachable(_)) => "refuse_unreachable",
        Order::Refuse(_, Refusal::Server(_)) => "refuse_server",
        Order::Refuse(..) => "refuse",
        Order::Probe(_) => "probe",
        Order::Close(_, why) => why.name(),
        Order::Lend(..) => "lend",
        Order::PassPermit(_) => "pass_permit",
        Order::RingOthers => "ring",
    }
}
