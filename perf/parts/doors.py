"""What `perf/compare` measures over TLS and WebSocket, in front of a server that has neither.

Both proxies end TLS, with the same certificate of ECDSA P-256 and the same clients, which speak
TLS 1.3 and make a full handshake for every connection. HAProxy does not know Bolt over WebSocket:
there boltmux stands beside itself.
"""

import rounds
from record import Part, spread, table
from remaining import Planned
from rounds import BASE, TWIN, Group, cpu, p50, p99, rate
from shapes import BULK_QUERY, POOL, gib_factor, idle_cost

CLIENTS, CPU_GOAL, P99_GOAL = 64, 1.0, 1.1
HANDSHAKES_GOAL = 0.9
STREAMS = 8
IDLE_CLIENTS, IDLE_CLIENTS_QUICK, IDLE_BYTES_GOAL = 5000, 500, 16384
# What has no goal needs no narrow spread.
REPORTED_ROUNDS = 12
LOGIN = ", with login and query"


def tls_auto(plan):
    """One small query at a time over TLS 1.3, ended in the proxy."""
    part, title = Part(f"tls-{CLIENTS}"), f"auto over TLS 1.3, {CLIENTS} clients"
    tls = plan.tls
    group = Group([tls.haproxy, tls.twin, tls.session, tls.transaction], plan.threads(CLIENTS))
    samples = rounds.measure([group], plan, title)
    for what, value, goal in (("CPU per request", cpu, CPU_GOAL), ("p99", p99, P99_GOAL)):
        part.goal(f"{title}, session mode: {what}", f"at most {goal:.2f} ×",
                  samples.ratios(tls.session.name, value), samples.ratios(TWIN, value), limit=goal)
    part.line(f"{title}, session mode: p50", "reported",
              spread(samples.ratios(tls.session.name, p50)),
              noise=spread(samples.ratios(TWIN, p50)))
    part.table(title, samples)
    return part


def tls_handshakes(plan):
    """Full TLS 1.3 handshakes: alone, and with a login and a query behind each."""
    part, title = Part("tls-handshakes"), f"full TLS 1.3 handshakes, {CLIENTS} clients"
    tls, threads = plan.tls, plan.threads(CLIENTS)
    alone = Group([tls.haproxy, tls.twin, tls.session], [*threads, "--shape", "handshake"])
    login = Group([tls.haproxy, tls.session, tls.transaction], [*threads, "--shape", "login"],
                  LOGIN)
    samples = rounds.measure([alone, login], plan, title)
    part.goal(f"{title}: rate", f"at least {HANDSHAKES_GOAL:.2f} ×",
              samples.ratios(tls.session.name, rate), samples.ratios(TWIN, rate),
              is_at_least=True, limit=HANDSHAKES_GOAL)
    part.line(f"{title}: CPU of one", "reported", spread(samples.ratios(tls.session.name, cpu)),
              noise=spread(samples.ratios(TWIN, cpu)))
    for contender in (tls.session, tls.transaction):
        part.line(f"{title}{LOGIN}: rate, {contender.name}", "reported",
                  spread(samples.ratios(contender.name + LOGIN, rate, BASE + LOGIN)))
    bases = {name: BASE + (LOGIN if name.endswith(LOGIN) else "") for name in samples.names}
    part.table(title, samples, bases=bases)
    return part


def tls_idle(plan):
    """Clients that are logged in over TLS and say nothing."""
    part = Part("tls-idle")
    clients = IDLE_CLIENTS_QUICK if plan.is_quick else IDLE_CLIENTS
    seconds = 2 if plan.is_quick else 10
    rows, each_bytes = [], 0
    for make in (lambda: plan.tls.new_haproxy("haproxy-idle"),
                 lambda: plan.tls.new_boltmux("boltmux-idle", f"pool.size={POOL}")):
        fresh = make()
        each_bytes, share = idle_cost(fresh, clients, seconds)
        rows.append([fresh.name, clients, f"{each_bytes:,.0f}", f"{share:.2%}"])
        plan.programs.stop(fresh)
    part.line(f"idle over TLS, {clients:,} clients, transaction mode: bytes each",
              f"at most {IDLE_BYTES_GOAL:,}", f"{each_bytes:,.0f}",
              is_met=each_bytes <= IDLE_BYTES_GOAL)
    head = ["", "clients", "resident bytes each", "share of a CPU"]
    part.text("Resident memory before and after handshakes and logins, divided by the clients; one "
              f"proxy at\na time, CPU over {seconds} s.\n\n{table(head, rows)}")
    return part


def tls_bulk(plan):
    """Large results over TLS: what a GiB costs. No goal, since the cipher is most of it."""
    part, title = Part("tls-bulk"), f"rows over TLS 1.3, {STREAMS} streams"
    tls = plan.tls
    group = Group([tls.haproxy, tls.twin, tls.buffers, tls.session, tls.transaction],
                  [*plan.threads(STREAMS), *BULK_QUERY])
    samples = rounds.measure([group], plan, title)
    for base in (BASE, tls.buffers.name):
        part.line(f"{title}: CPU per GiB against {base}, session mode", "reported",
                  spread(samples.ratios(tls.session.name, cpu, base)),
                  noise=spread(samples.ratios(TWIN, cpu)))
    part.table(title, samples, ("CPU s/GiB", gib_factor(plan)))
    return part


def websocket(plan):
    """One small query at a time over WebSocket, beside plain Bolt through the same program."""
    plain = plan.session
    contenders = [plan.haproxy, plan.twin, plain, plain.over("ws", "boltmux-websocket")]
    return beside(plan, Part(f"websocket-{CLIENTS}"), f"auto over WebSocket, {CLIENTS} clients",
                  contenders, "plain Bolt")


def websocket_tls(plan):
    """The same over TLS, beside Bolt over TLS through the same program."""
    plain = plan.tls.session
    contenders = [plan.tls.haproxy, plan.tls.twin, plain,
                  plain.over("wss+ssc", "boltmux-websocket")]
    return beside(plan, Part(f"wss-{CLIENTS}"), f"auto over WebSocket and TLS, {CLIENTS} clients",
                  contenders, "Bolt over TLS")


def beside(plan, part, title, contenders, other):
    """The last contender against the one before it, which does not speak WebSocket."""
    *_, plain, web = contenders
    samples = rounds.measure([Group(contenders, plan.threads(CLIENTS))], plan, title)
    for what, value in (("CPU per request", cpu), ("p50", p50), ("p99", p99)):
        part.line(f"{title}, session mode: {what} against {other}", "reported",
                  spread(samples.ratios(web.name, value, plain.name)),
                  noise=spread(samples.ratios(TWIN, value)))
    part.table(title, samples)
    return part


PARTS = {
    f"tls-{CLIENTS}": Planned(tls_auto, tls_auto.__doc__, 4),
    "tls-handshakes": Planned(tls_handshakes, tls_handshakes.__doc__, 6),
    "tls-idle": Planned(tls_idle, tls_idle.__doc__, 0, further_s=45, is_one_start=True),
    "tls-bulk": Planned(tls_bulk, tls_bulk.__doc__, 5, REPORTED_ROUNDS),
    f"websocket-{CLIENTS}": Planned(websocket, websocket.__doc__, 4, REPORTED_ROUNDS),
    f"wss-{CLIENTS}": Planned(websocket_tls, websocket_tls.__doc__, 4, REPORTED_ROUNDS),
}
