"""What the proxy does when things go wrong around it, with a real server and real drivers.

    tests/real/faults.py [--proxy BINARY | --direct-only] [--only NAMES] [--shards 2]

Each fault has its own proxy, all share one server. With --direct-only the drivers talk to the
server itself, which shows what the faults do without a proxy; what only a proxy can promise is
not asserted then.
"""

import argparse
import collections
import logging
import os
import sys
import threading
import time
import traceback

import neo4j
from neo4j.exceptions import DriverError, IncompleteCommit, Neo4jError

from proxy import Proxy
from server import Server
from support import HOST, PASSWORDS, REPOSITORY, end_in_order_on_sigterm, wait_until
from turnstile import Turnstile

FAULTS = {}
POOL_SIZE = 4
# The server's answer to a commit of which nobody knows the end: not retryable, not a refusal.
OUTCOME_UNKNOWN = "Neo.DatabaseError.Transaction.TransactionCommitFailed"


def fault(function):
    FAULTS[function.__name__] = function
    return function


def check(truth, what):
    if not truth:
        raise AssertionError(what)


class Place:
    """One server and, unless all is direct, one proxy in front of it."""

    def __init__(self, server, binary, **options):
        self.server = server
        self.proxy = Proxy(binary, server.port, options, name="faults") if binary else None

    def __enter__(self):
        if self.proxy:
            self.proxy.start()
        return self

    def __exit__(self, kind, *_):
        if self.proxy and kind is None:
            self.proxy.end_in_order()
        elif self.proxy:
            self.proxy.stop()

    def driver(self, user="neo4j", password=None, **options):
        uri = self.proxy.uri if self.proxy else self.server.uri
        # Waits grow slowly, so that clients are back soon after the server is.
        settings = {"max_transaction_retry_time": 90, "retry_delay_multiplier": 1.1, **options}
        return neo4j.GraphDatabase.driver(
            uri, auth=(user, password or PASSWORDS[user]), **settings)


def start_all(functions):
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def join_all(threads, limit_s, what):
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    left = sum(thread.is_alive() for thread in threads)
    check(left == 0,
          f"expected all {what} to end within {limit_s} s, {left} of {len(threads)} hang")


def name_of(error):
    return error.code if isinstance(error, Neo4jError) else type(error).__name__


def is_unknown(error):
    """Whether the driver's user is told that the commit may or may not have happened."""
    return isinstance(error, IncompleteCommit) or name_of(error) == OUTCOME_UNKNOWN


class Writer:
    """One client that writes unique ids in managed transactions and keeps what it was told."""

    def __init__(self, number, driver):
        self.number, self.driver = number, driver
        self.acknowledged, self.unknown, self.refused = [], [], []
        self.errors = collections.Counter()
        self.last_success = 0.0

    def work(self, stop):
        step = 0
        while not stop.is_set():
            step += 1
            identity = f"{self.number}-{step}"
            try:
                with self.driver.session() as session:
                    session.execute_write(create_written, identity)
                self.acknowledged.append(identity)
                self.last_success = time.monotonic()
            except (Neo4jError, DriverError) as error:
                self.errors[name_of(error)] += 1
                (self.unknown if is_unknown(error) else self.refused).append(identity)


def create_written(tx, identity):
    tx.run("CREATE (:Written {id: $id})", id=identity).consume()
    tx.run("MATCH (n:Written {id: $id}) RETURN count(n) AS n", id=identity).single()


def assert_written_once(server, writers):
    """Acknowledged: once. Unknown: at most once. Refused: never. Nothing else is there."""
    with server.driver() as driver:
        driver.execute_query("CREATE INDEX written IF NOT EXISTS FOR (n:Written) ON n.id")
        rows = driver.execute_query(
            "MATCH (n:Written) RETURN n.id AS id, count(*) AS n").records
    found = {row["id"]: row["n"] for row in rows}
    acknowledged = {identity for writer in writers for identity in writer.acknowledged}
    unknown = {identity for writer in writers for identity in writer.unknown}
    refused = {identity for writer in writers for identity in writer.refused}
    lost = sorted(identity for identity in acknowledged if identity not in found)
    twice = sorted(identity for identity, count in found.items() if count > 1)
    secret = sorted(identity for identity in found if identity in refused)
    check(not lost, f"acknowledged, but not in the store: {lost[:10]} ({len(lost)} in all)")
    check(not twice, f"written more than once: {twice[:10]} ({len(twice)} in all)")
    check(not secret, f"refused, but in the store: {secret[:10]} ({len(secret)} in all)")
    check(set(found) <= acknowledged | unknown, "expected nothing else in the store")
    return len(acknowledged), len(unknown), len(refused)


@fault
def server_killed_under_load(place):
    """kill -9 and restart, twice, under 20 writers. The proxy is not restarted."""
    stop, drivers = threading.Event(), [place.driver() for _ in range(20)]
    writers = [Writer(number, driver) for number, driver in enumerate(drivers)]
    threads = start_all([lambda writer=writer: writer.work(stop) for writer in writers])
    for _ in range(2):
        wait_until(lambda: all(writer.acknowledged for writer in writers), 60,
                   "every writer to have written once")
        time.sleep(2)
        place.server.kill()
        time.sleep(1)
        place.server.start()
        ready = time.monotonic()
        wait_until(lambda: all(writer.last_success > ready for writer in writers), 60,
                   "every writer to write again after the server's return")
        print(f"    all 20 write again {time.monotonic() - ready:.1f} s after the server is ready")
    stop.set()
    join_all(threads, 120, "writers")
    for driver in drivers:
        driver.close()
    errors = sum((writer.errors for writer in writers), collections.Counter())
    counts = assert_written_once(place.server, writers)
    print("    %d acknowledged, %d unknown, %d refused; %s" % (*counts, dict(errors)))


@fault
def wrong_passwords_storm(place):
    """50 clients with wrong passwords do not disturb 20 that are in."""
    stop, errors, done = threading.Event(), collections.Counter(), collections.Counter()

    def honest(driver, number):
        while not stop.is_set():
            try:
                with driver.session() as session:
                    session.run("RETURN 1").consume()
                done[number] += 1
            except (Neo4jError, DriverError) as error:
                errors[name_of(error)] += 1
            time.sleep(0.01)

    def storm(refusals):
        while not stop.is_set():
            try:
                with place.driver("alice", "wrongpass") as driver:
                    driver.verify_connectivity()
                refusals["let in"] += 1
            except (Neo4jError, DriverError) as error:
                refusals[name_of(error)] += 1

    drivers = [place.driver("alice" if number % 2 else "neo4j") for number in range(20)]
    for driver in drivers:
        driver.verify_connectivity()
    refusals = [collections.Counter() for _ in range(50)]
    threads = start_all([lambda d=driver, n=number: honest(d, n)
                         for number, driver in enumerate(drivers)])
    wait_until(lambda: len(done) == 20, 30, "every honest client to have worked")
    threads += start_all([lambda counter=counter: storm(counter) for counter in refusals])
    time.sleep(6)
    done.clear()
    time.sleep(4)
    stop.set()
    join_all(threads, 60, "clients")
    for driver in drivers:
        driver.close()
    total = sum(refusals, collections.Counter())
    print(f"    honest: {sum(done.values())} in the last 4 s, errors {dict(errors)};"
          f" storm: {dict(total)}")
    check(total["let in"] == 0, "expected nobody in with a wrong password")
    check(sum(total.values()) >= 50, "expected 50 refusals at least")
    check(all(name.startswith("Neo.ClientError.Security.") for name in total
              if name.startswith("Neo.ClientError")), f"expected security errors: {dict(total)}")
    if place.proxy:
        check(not errors, f"expected no error at the clients that are in: {dict(errors)}")
        check(len(done) == 20, f"expected all 20 to go on, {len(done)} did")
    time.sleep(6)  # The server locks a user out for 5 s after three wrong passwords.


class ConnectionCounter:
    """Samples how many connections the server lists, without those of its own driver.

    It lists some for a while after it has ended them: a bound of what it has only when at rest.
    """

    QUERY = ("CALL dbms.listConnections() YIELD userAgent WHERE userAgent IS NULL OR"
             " userAgent <> 'observer/1' RETURN count(*) AS n")

    def __init__(self, server):
        self.driver = server.driver(user_agent="observer/1")
        self.samples, self.stop = [], threading.Event()
        self.threads = []

    def now(self):
        return self.driver.execute_query(self.QUERY).records[0]["n"]

    def __enter__(self):
        def sample():
            while not self.stop.is_set():
                self.samples.append(self.now())
                time.sleep(0.02)
        self.threads = start_all([sample])
        return self

    def __exit__(self, *_):
        self.stop.set()
        join_all(self.threads, 30, "samplers")


@fault
def connections_at_the_server(place):
    """Never more than pool.size, counted before the server, with two users and 60 clients."""
    def work(user, number, outcomes):
        try:
            with place.driver(user) as driver:
                for step in range(20):
                    with driver.session() as session:
                        session.execute_read(lambda tx: tx.run("RETURN $n", n=step).consume())
                        session.run("UNWIND range(1, 100) AS x RETURN x").consume()
            outcomes[number] = "done"
        except (Neo4jError, DriverError) as error:
            outcomes[number] = name_of(error)

    outcomes = {}
    with ConnectionCounter(place.server) as counter, Turnstile(place.server.port) as turnstile:
        if place.proxy:
            place.proxy.stop()
            place.proxy.server_port = turnstile.port
            place.proxy.start()
        threads = start_all([
            lambda user=user, n=number: work(user, n, outcomes)
            for number, user in enumerate(["neo4j", "alice"] * 30)])
        join_all(threads, 120, "clients")
        time.sleep(1)
        after = counter.now()
        most = turnstile.most()
    counter.driver.close()
    print(f"    most {most}; the server listed at most {max(counter.samples)}, after the load"
          f" {after}, {len(counter.samples)} samples")
    check(set(outcomes.values()) == {"done"}, f"expected all done: {set(outcomes.values())}")
    check(max(counter.samples) > 0, "expected to have seen connections")
    if place.proxy:
        check(0 < most <= POOL_SIZE, f"expected {POOL_SIZE} connections at most")
        check(after <= POOL_SIZE, f"expected {POOL_SIZE} connections at most after the load")
    else:
        check(after == 0, "expected no connection left after the load")


@fault
def server_away_at_start(place):
    """The proxy starts without its server, says so in a way that is retried, and then works."""
    place.server.stop()
    if place.proxy:
        place.proxy.stop()
        place.proxy.start()
    with place.driver(max_transaction_retry_time=0, connection_acquisition_timeout=10) as driver:
        try:
            driver.execute_query("RETURN 1")
            outcome = None
        except (Neo4jError, DriverError) as error:
            outcome = error
        check(outcome is not None, "expected an error while the server is away")
        print(f"    away: {name_of(outcome)}")
        check(outcome.is_retryable(), f"expected an error that is retried: {outcome!r}")
    with place.driver() as driver:
        answers = []
        threads = start_all([lambda: answers.append(
            driver.execute_query("RETURN 7 AS x").records[0]["x"])] * 5)
        time.sleep(2)
        place.server.start()
        ready = time.monotonic()
        join_all(threads, 60, "clients that wait for the server")
        print(f"    answered {time.monotonic() - ready:.1f} s after the server is ready")
        check(answers == [7] * 5, f"expected five answers, came {answers}")


@fault
def sessions_500_at_once(place):
    """500 sessions with transactions that think: too many for this server, not for the proxy.

    Directly it only reports: the server runs out of threads and closes connections, and now and
    then leaves one of the clients without an answer.
    """
    driver = place.driver(max_connection_pool_size=500, connection_acquisition_timeout=120)
    go, arrived, outcomes = threading.Event(), set(), [None] * 500

    def transactions(number):
        with driver.session() as session:
            session.run("RETURN 1").consume()
            arrived.add(number)
            go.wait()
            for _ in range(2):
                with session.begin_transaction() as tx:
                    tx.run("RETURN $n AS n", n=number).consume()
                    time.sleep(0.02)
                    back = tx.run("RETURN $n AS n", n=number).single()["n"]
                    tx.commit()
            return "done" if back == number else f"got {back}"

    def work(number):
        try:
            outcomes[number] = transactions(number)
        except (Neo4jError, DriverError) as error:
            arrived.add(number)
            outcomes[number] = name_of(error)

    started = time.monotonic()
    threads = start_all([lambda n=number: work(n) for number in range(500)])
    wait_until(lambda: len(arrived) == 500, 120, "500 sessions to have begun")
    go.set()
    give_up = time.monotonic() + (180 if place.proxy else 30)
    for thread in threads:
        thread.join(max(0, give_up - time.monotonic()))
    counts = collections.Counter(str(outcome) for outcome in outcomes)
    print(f"    {dict(counts)} in {time.monotonic() - started:.1f} s")
    if place.proxy:
        check(counts == {"done": 500}, "expected 500 done")
        driver.close()


def run(name, function, server, arguments):
    print(f"  {name}", flush=True)
    started = time.monotonic()
    binary = None if arguments.direct_only else arguments.proxy
    options = {"pool.size": POOL_SIZE, "shards": arguments.shards}
    try:
        if server.process is None:
            server.start()
        with server.driver() as driver:
            driver.execute_query("MATCH (n) DETACH DELETE n")
        with Place(server, binary, **options) as place:
            function(place)
        good = True
    except Exception as error:  # noqa: any error fails the fault's test, and the others go on
        detail = str(error) if isinstance(error, (AssertionError, TimeoutError)) else ""
        print("    " + (detail or traceback.format_exc()))
        good = False
    verdict = "PASS" if good else "FAIL"
    print(f"  {verdict} {name} in {time.monotonic() - started:.0f} s", flush=True)
    return good


def main():
    end_in_order_on_sigterm()
    # Every retry would be a line; the faults print the sums themselves.
    logging.getLogger("neo4j").addHandler(logging.NullHandler())
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", default=f"{REPOSITORY}/target/release/boltmux")
    parser.add_argument("--direct-only", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--shards", type=int, default=2)
    arguments = parser.parse_args()
    if not arguments.direct_only and not os.path.exists(arguments.proxy):
        sys.exit(f"expected the proxy at {arguments.proxy}: build it, or use --direct-only")
    wanted = [name for name in arguments.only.split(",") if name] or list(FAULTS)
    server = Server("faults", heap="512m")
    try:
        results = [run(name, FAULTS[name], server, arguments) for name in wanted]
    finally:
        server.stop()
    print(f"faults on {HOST}: {sum(results)} passed, {len(results) - sum(results)} failed")
    sys.stdout.flush()
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
