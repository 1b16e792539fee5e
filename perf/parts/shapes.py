"""What `perf/compare` measures: each part is a function of the plan that returns what it found.

A part is a set of interleaved rounds of its own that takes less than five minutes, so that a
machine that others use can be had for one part at a time. The goals stand beside what they judge.
"""

import subprocess
import time

import bolt
import machine
import plot
import programs
import rounds
from record import Part, number, spread, table
from remaining import Planned
from rounds import BASE, TWIN, Group, cpu, p50, p99, rate

AUTO_CPU_GOALS = {1: 1.0, 16: 0.90, 128: 0.90, 1024: 0.85}
POOL, POOL_CLIENTS, POOL_CPU_GOAL = 32, 1000, 0.90
P50_GOAL, P99_GOAL = 0.95, 1.0
OPEN_RATE, OPEN_CLIENTS, OPEN_CPU_GOAL = 15000, 64, 0.95
# 10 MB each: long against a buffer, short against a round.
BULK_ROWS, BULK_ROW_BYTES = 10000, 1000
BULK_QUERY = ["--shape", f"rows:{BULK_ROWS}", "--query", f"ROWS {BULK_ROWS} {BULK_ROW_BYTES}",
              "--fetch-size", "-1"]
BULK_GOALS = {BASE: 0.6, "haproxy-splice": 1.0}
LOGIN_CLIENTS = 64
IDLE_CLIENTS, IDLE_BYTES_GOAL, IDLE_CPU_GOAL = 10000, 2048, 0.01
GROWTH_CLIENTS, GROWTH_GOAL = [100, 1000, 4000, 8000], 1.5
# A round has three contenders at every number of clients: fewer of them fill five minutes.
GROWTH_ROUNDS, CORES_ROUNDS = 7, 9
CORES_CLIENTS = 256
COPIED_GOAL = 0.01
# Descriptors of a process that are not connections.
FILES_RESERVED = 500


def auto(plan, clients):
    """One small query at a time, a server connection for each client."""
    part = Part(f"auto-{clients}")
    contenders = [plan.haproxy, plan.twin, plan.session, plan.transaction]
    title = f"auto, {clients} client{'s' if clients > 1 else ''}"
    samples = rounds.measure([Group(contenders, plan.threads(clients))], plan, title)
    judge(part, samples, f"{title}, session mode", plan.session.name, AUTO_CPU_GOALS[clients])
    part.table(title, samples)
    return part


def judge(part, samples, title, name, cpu_goal):
    for what, value, goal in (("CPU per request", cpu, cpu_goal), ("p50", p50, P50_GOAL),
                              ("p99", p99, P99_GOAL)):
        part.goal(f"{title}: {what}", f"at most {goal:.2f} ×", samples.ratios(name, value),
                  samples.ratios(TWIN, value), limit=goal)


def transaction(plan):
    """Many clients on few server connections."""
    part = Part("transaction")
    contenders = [plan.haproxy, plan.twin, plan.transaction]
    title = f"auto, {POOL_CLIENTS} clients on {POOL} connections"
    samples = rounds.measure([Group(contenders, plan.threads(POOL_CLIENTS))], plan, title)
    judge(part, samples, f"{title}, transaction mode", plan.transaction.name, POOL_CPU_GOAL)
    part.table(title, samples)
    return part


def open_loop(plan):
    """A steady rate, whether answers come or not."""
    part = Part("open")
    title = f"auto, {OPEN_RATE} requests/s over {OPEN_CLIENTS} clients"
    contenders = [plan.haproxy, plan.twin, plan.session, plan.transaction]
    options = [*plan.threads(OPEN_CLIENTS), "--rate", str(OPEN_RATE)]
    samples = rounds.measure([Group(contenders, options)], plan, title)
    judge(part, samples, f"{title}, session mode", plan.session.name, OPEN_CPU_GOAL)
    part.table(title, samples)
    return part


def bulk(plan, streams):
    """Large results: what a GiB costs."""
    part = Part(f"bulk-{streams}")
    contenders = [plan.haproxy, plan.twin, plan.splice, plan.session, plan.transaction]
    title = f"rows, {streams} stream{'s' if streams > 1 else ''}"
    samples = rounds.measure([Group(contenders, [*plan.threads(streams), *BULK_QUERY])], plan,
                             title)
    for base, goal in BULK_GOALS.items():
        part.goal(f"{title}: CPU per GiB against {base}, session mode", f"at most {goal:.2f} ×",
                  samples.ratios(plan.session.name, cpu, base), samples.ratios(TWIN, cpu),
                  limit=goal)
    part.table(title, samples, ("CPU s/GiB", gib_factor(plan)))
    return part


def gib_factor(plan):
    """From microseconds per large result to seconds per GiB."""
    client = bolt.Client(plan.server.port, programs.USER, programs.PASSWORD)
    one, many = (client.query_bytes(f"ROWS {rows} {BULK_ROW_BYTES}") for rows in (1, 101))
    client.close()
    request_bytes = one + (BULK_ROWS - 1) * (many - one) // 100
    return (1 << 30) / request_bytes / 1e6


def connects(plan):
    """Connect, log in, one query, leave."""
    part = Part("connects")
    title = f"login, {LOGIN_CLIENTS} clients"
    contenders = [plan.haproxy, plan.twin, plan.session, plan.transaction]
    options = [*plan.threads(LOGIN_CLIENTS), "--shape", "login"]
    samples = rounds.measure([Group(contenders, options)], plan, title)
    for contender in (plan.session, plan.transaction):
        part.goal(f"{title}: connects per second, {contender.name}", "at least 1.00 ×",
                  samples.ratios(contender.name, rate), samples.ratios(TWIN, rate),
                  is_at_least=True, limit=1.0)
    part.table(title, samples)
    return part


def idle(plan):
    """Clients that are logged in and say nothing."""
    part, seconds = Part("idle"), 5 if plan.is_quick else 20
    rows = []
    # HAProxy has a descriptor on either side of each client.
    for kind, files_each in (("haproxy", 2), ("boltmux", 1)):
        clients = min(IDLE_CLIENTS, (plan.files - FILES_RESERVED) // files_each)
        fresh = (plan.programs.haproxy("haproxy-idle", plan.server) if kind == "haproxy" else
                 plan.programs.boltmux("boltmux-idle", plan.server, [f"pool.size={POOL}"]))
        each_bytes, share = idle_cost(fresh, clients, seconds)
        rows.append([fresh.name, clients, f"{each_bytes:,.0f}", f"{share:.2%}"])
        plan.programs.stop(fresh)
    title = f"idle, {clients:,} clients, transaction mode"
    part.line(f"{title}: bytes each", f"at most {IDLE_BYTES_GOAL:,}", f"{each_bytes:,.0f}",
              is_met=each_bytes <= IDLE_BYTES_GOAL)
    part.line(f"{title}: CPU", f"at most {IDLE_CPU_GOAL:.0%} of a core", f"{share:.2%}",
              is_met=share <= IDLE_CPU_GOAL)
    head = ["", "clients", "resident bytes each", "share of a CPU"]
    part.text("Resident memory before and after the logins, divided by the clients; one proxy at a "
              f"time,\nCPU over {seconds} s.\n\n{table(head, rows)}")
    return part


def idle_cost(contender, clients, seconds):
    """Resident bytes per client, and the share of a CPU that all of them take."""
    login = (contender.port, programs.USER, programs.PASSWORD, contender.scheme != "bolt")
    for warm in [bolt.Client(*login) for _ in range(100)]:
        warm.close()
    time.sleep(0.5)
    before = machine.resident_bytes(contender.pid)
    connected = [bolt.Client(*login) for _ in range(clients)]
    after = machine.resident_bytes(contender.pid)
    time.sleep(0.5)
    start, ticks = time.monotonic(), machine.process_ticks(contender.pid)
    time.sleep(seconds)
    used = (machine.process_ticks(contender.pid) - ticks) / machine.TICKS_PER_SECOND
    share = used / (time.monotonic() - start)
    for client in connected:
        client.close()
    print(f"idle: {contender.name} with {clients} clients", flush=True)
    return (after - before) / clients, share


def growth(plan):
    """What a request costs when more clients are connected."""
    part = Part("clients")
    most = (plan.files - FILES_RESERVED) // 2
    counts = sorted({min(count, most) for count in GROWTH_CLIENTS})
    if plan.is_quick:
        counts = [counts[0], counts[-1]]
    contenders = [plan.haproxy, plan.session, plan.transaction]
    # One contender at a time: the load generator may not have files for all of them.
    groups = [Group([contender], plan.threads(count), f", {count} clients")
              for count in counts for contender in contenders]
    samples = rounds.measure(groups, plan, "growth with clients")
    few, many = (f", {count} clients" for count in (counts[0], counts[-1]))
    for contender in contenders:
        ratios = samples.ratios(contender.name + many, cpu, contender.name + few)
        what = (f"growth from {counts[0]} to {counts[-1]:,} clients: CPU per request, "
                f"{contender.name}")
        if contender is plan.haproxy:
            part.line(what, "beside it", spread(ratios))
        else:
            part.goal(what, f"at most {GROWTH_GOAL:.2f} ×", ratios, limit=GROWTH_GOAL)
    bases = {name: BASE + name[name.index(","):] for name in samples.names}
    part.table("growth with clients", samples, bases=bases)
    lines = [(contender.name, [(count, samples.median(f"{contender.name}, {count} clients", cpu))
                               for count in counts], False) for contender in contenders]
    part.draw("clients", plot.drawn("CPU per request by number of clients", "clients",
                                    "µs per request", lines, is_log=True))
    return part


def shard_counts(cpus):
    """1, 2, 4 and so on; all but one; all."""
    counts = {1 << power for power in range(8) if 1 << power <= cpus}
    return sorted(counts | {max(cpus - 1, 1), cpus})


def cores(plan):
    """What more shards bring: rates, and what a request costs then."""
    part, cpus = Part("cores"), machine.allowed_cpus()
    groups, places = [], []
    for shards in shard_counts(len(cpus)):
        place = machine.Spread.of(cpus, shards)
        server = plan.programs.synthetic(place.server)
        pair = [plan.programs.haproxy(f"haproxy-{shards}", server, cpus=place.proxies),
                plan.programs.boltmux(f"boltmux-{shards}", server, [f"pool.size={POOL * shards}"],
                                      cpus=place.proxies)]
        threads = ["--clients", str(CORES_CLIENTS), "--threads", str(len(place.load))]
        groups.append(Group(pair, threads, load=tuple(place.load)))
        places.append((shards, place))
    samples = rounds.measure(groups, plan, "growth with cores", proxy_cpu=False)
    bases = {each.name: group.contenders[0].name for group in groups for each in group.contenders}
    part.table("growth with cores", samples, bases=bases)
    report_cores(part, samples, places, cpus)
    return part


def report_cores(part, samples, places, cpus):
    rows, lines = [], {"boltmux": [], "haproxy": []}
    for shards, place in places:
        rates = {kind: samples.median(f"{kind}-{shards}", rate) for kind in lines}
        costs = {kind: samples.median(f"{kind}-{shards}", cpu) for kind in lines}
        for kind, line in lines.items():
            line.append((shards, rates[kind]))
        busy = {kind: (rates[kind] or 0) * (costs[kind] or 0) / 1e6 / shards for kind in lines}
        rows.append([shards, place.describe(), number(rates["boltmux"], 0),
                     number(costs["boltmux"], 2), f"{busy['boltmux']:.0%}",
                     number(rates["haproxy"], 0), number(costs["haproxy"], 2),
                     f"{busy['haproxy']:.0%}"])
        if shards > 1:
            part.line(f"growth from 1 to {shards} shards: rate, transaction mode", "reported",
                      spread(samples.ratios(f"boltmux-{shards}", rate, "boltmux-1")),
                      noise=f"HAProxy's threads: "
                            f"{spread(samples.ratios(f'haproxy-{shards}', rate, 'haproxy-1'))}")
            part.line(f"growth from 1 to {shards} shards: CPU per request", "reported",
                      spread(samples.ratios(f"boltmux-{shards}", cpu, "boltmux-1")))
    head = ["shards", "where", "requests/s", "CPU µs/request", "its CPUs' use",
            "HAProxy requests/s", "CPU µs/request", "its CPUs' use"]
    limits = [f"{shards} shards" for shards, place in places
              if len(place.server) + len(place.load) < 2 * shards or
              set(place.server) & set(place.load)]
    part.text(f"### by shards\n\n{table(head, rows)}")
    if limits:
        part.text(f"**What {len(cpus)} CPUs cannot show**: with {', '.join(limits)} server and "
                  "load have fewer CPUs than\nthey need to keep the shards busy, or share them. "
                  "Where a proxy's CPUs were not in full use the\nrate is that of server and load; "
                  "what carries over is the CPU per request.")
    first = lines["boltmux"][0][1]
    even = [(shards, first * shards) for shards, _ in places] if first else []
    part.draw("cores", plot.drawn(
        f"requests/s by number of shards, {CORES_CLIENTS} clients", "shards, threads of HAProxy",
        "requests/s", [("boltmux", lines["boltmux"], False), ("haproxy", lines["haproxy"], False),
                       ("boltmux with one shard, times shards", even, True)]))


def steady(plan):
    """Allocations per message in memory, and the share of relayed bytes that were copied."""
    part = Part("steady")
    rows = []
    for path in programs.bench_programs(programs.BENCHES):
        done = subprocess.run([path], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        # A case: its name, then "N allocations for M messages".
        for line in done.stdout.splitlines():
            words = line.split()
            if "allocations" in words and "for" in words:
                at = words.index("allocations")
                rows.append((" ".join(words[:at - 1]), int(words[at - 1]),
                             " ".join(words[at + 2:])))
    steady_cases = [row for row in rows if row[0] in ("exchange: auto", "exchange: rows")]
    worst = max((row[1] for row in steady_cases), default=None)
    part.line("steady state of auto and rows: allocations", "0 per message",
              "no numbers" if worst is None else str(worst), is_met=worst == 0)
    part.text("### allocations\n\nOf warm passes in memory, counted by the benches.\n\n"
              + table(["case", "allocations", "of"], rows))
    copied_rows = []
    for clients, title, query in ((16, "auto, 16 clients", []), (128, "auto, 128 clients", []),
                                  (8, "rows, 8 streams", BULK_QUERY)):
        for contender in (plan.session, plan.transaction):
            options = [*plan.threads(clients), *query]
            copied_rows.append(copied(plan, part, contender, title, options))
    head = ["", "relayed MiB", "copied MiB", "share"]
    part.text("### copies\n\nOf boltmux's own metrics, around one round. In transaction mode 128 "
              f"clients share {POOL} connections:\nmost requests wait for one, in the buffers they "
              "came in.\n\n" + table(head, copied_rows))
    return part


def copied(plan, part, contender, title, options):
    names = ("boltmux_relayed_bytes_total", "boltmux_copied_bytes_total")
    before = [contender.metric(name) for name in names]
    programs.boltload([contender], [*options, *plan.times], plan.layout.load, plan.folder)
    # Metrics are gathered from the shards a few times a second.
    time.sleep(1)
    relayed, copies = (contender.metric(name) - old for name, old in zip(names, before))
    share = copies / relayed if relayed else None
    mode = contender.name.removeprefix("boltmux-")
    part.line(f"{title}, {mode} mode: share of relayed bytes that was copied",
              f"at most {COPIED_GOAL:.0%}", "no numbers" if share is None else f"{share:.3%}",
              is_met=share is not None and share <= COPIED_GOAL)
    mebibytes = [f"{value / (1 << 20):,.2f}" for value in (relayed, copies)]
    return [f"{title}, {mode} mode", *mebibytes, "-" if share is None else f"{share:.3%}"]


def of(function, *values):
    return lambda plan: function(plan, *values)


# By name, in the order of a whole record. What is done once was timed: the logins of *idle* are
# made one by one, its rest is silence; *clients* connects 8,000; *steady* runs the benches.
PARTS = {
    **{f"auto-{clients}": Planned(of(auto, clients), auto.__doc__, 4)
       for clients in AUTO_CPU_GOALS},
    "transaction": Planned(transaction, transaction.__doc__, 3),
    "open": Planned(open_loop, open_loop.__doc__, 4),
    **{f"bulk-{streams}": Planned(of(bulk, streams), bulk.__doc__, 5) for streams in (1, 8)},
    "connects": Planned(connects, connects.__doc__, 4),
    "idle": Planned(idle, idle.__doc__, 0, further_s=60, is_one_start=True),
    # Each of 8,000 clients asks only some five times a second, and all of them at once at first.
    "clients": Planned(growth, growth.__doc__, 3 * len(GROWTH_CLIENTS), GROWTH_ROUNDS, 56,
                       is_one_start=True, stretch=2.0),
    "cores": Planned(cores, cores.__doc__, 2 * len(shard_counts(len(machine.allowed_cpus()))),
                     CORES_ROUNDS, is_one_start=True),
    "steady": Planned(steady, steady.__doc__, 6, 1, 15, is_one_start=True),
}
