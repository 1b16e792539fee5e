"""Who a client is, with a real server: connections that go from user to user, passwords that must
be changed, old Bolt versions and the versions that clients are steered to.

    tests/real/identities.py [--proxy BINARY] [--only NAMES] [--shards 1]
    tests/real/identities.py --old VERSION URI      what an old driver sees, as JSON (for itself)

Each case has proxies of its own, all share one server.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import time
import traceback

import neo4j

from support import CACHE, HOST, PASSWORDS, REPOSITORY, end_in_order_on_sigterm

CASES = {}
OLD_PYTHON = f"{CACHE}/python-4.4.12/bin/python"
ROUNDS = 20
EXPIRED = "Neo.ClientError.Security.CredentialsExpired"
UNAUTHORIZED = "Neo.ClientError.Security.Unauthorized"


def case(function):
    CASES[function.__name__] = function
    return function


def check(truth, what):
    if not truth:
        raise AssertionError(what)


def equal(came, expected, what):
    check(came == expected, f"{what}: expected {expected}, got {came}")


def total(proxy, name):
    """The sum of a counter over its labels."""
    metrics = proxy.metrics()
    return int(sum(value for key, value in metrics.items()
                   if key.split("{")[0] == f"boltmux_{name}_total"))


def driver_of(uri, user, password=None, **options):
    auth = (user, password or PASSWORDS[user])
    return neo4j.GraphDatabase.driver(uri, auth=auth, max_transaction_retry_time=5, **options)


def who(driver, **options):
    """Whom the server takes a session for, or the code of its refusal."""
    try:
        with driver.session(**options) as session:
            return session.run("SHOW CURRENT USER YIELD user").single()["user"]
    except neo4j.exceptions.Neo4jError as error:
        return error.code


@case
def turned_over(place):
    """Two users, one connection: each query runs as its own user."""
    # On one shard: from shard to shard permits go, and connections of the same user only.
    with place(**{"shards": 1, "pool.size": 1, "pool.reauth": "true"}) as proxy:
        with driver_of(proxy.uri, "neo4j") as first, driver_of(proxy.uri, "alice") as second:
            for _ in range(ROUNDS):
                equal(who(first), "neo4j", "the first driver's user")
                equal(who(second), "alice", "the second driver's user")
            turned, opened = total(proxy, "server_turned_over"), total(proxy, "server_opened")
            print(f"    {turned} turned over, {opened} opened for {2 * ROUNDS} queries")
            check(turned >= 2 * ROUNDS - 4, f"expected nearly every query to turn, {turned} did")
            check(opened <= 4, f"expected few connections, {opened} were opened")
            refused = driver_of(proxy.uri, "alice", "wrong-password")
            equal(who(refused), UNAUTHORIZED, "a wrong password")
            refused.close()
            equal([who(first), who(second)], ["neo4j", "alice"], "those who are in")


@case
def turned_over_among_many(place):
    """Two users, few connections, many sessions at once on all shards."""
    with place(**{"pool.size": 3, "pool.reauth": "true"}) as proxy:
        with driver_of(proxy.uri, "neo4j") as first, driver_of(proxy.uri, "alice") as second:
            def work(driver, user):
                for _ in range(ROUNDS):
                    equal(who(driver), user, "the session's user")
                return True

            jobs = [(first, "neo4j"), (second, "alice")] * 4
            with concurrent.futures.ThreadPoolExecutor(len(jobs)) as threads:
                done = list(threads.map(lambda job: work(*job), jobs))
            check(all(done), "expected all to end")
            turned, opened = total(proxy, "server_turned_over"), total(proxy, "server_opened")
            print(f"    {turned} turned over, {opened} opened for {len(jobs) * ROUNDS} queries")


@case
def turned_over_after_a_change(place):
    """The server refuses LOGON on a connection that was to be turned over."""
    place.server_query("CREATE USER carol SET PASSWORD 'carolpass' CHANGE NOT REQUIRED")
    with place(**{"pool.size": 1, "pool.reauth": "true"}) as proxy:
        with driver_of(proxy.uri, "neo4j") as first, \
                driver_of(proxy.uri, "carol", "carolpass") as second:
            equal([who(second), who(first)], ["carol", "neo4j"], "before the change")
            place.server_query("ALTER USER carol SET PASSWORD 'carolnew' CHANGE NOT REQUIRED")
            equal(who(second), UNAUTHORIZED, "the old password")
            equal(who(first), "neo4j", "the other user")
            with driver_of(proxy.uri, "carol", "carolnew") as third:
                equal([who(third), who(first)], ["carol", "neo4j"], "after the change")


@case
def must_change_the_password(place):
    """The same directly and through the proxy, whose other users do not notice."""
    def story(uri, name):
        place.server_query(f"CREATE USER {name} SET PASSWORD 'firstpass' CHANGE REQUIRED")
        seen = []
        with driver_of(uri, name, "firstpass") as driver:
            seen.append(who(driver))
            with driver.session(database="system") as session:
                session.run("ALTER CURRENT USER SET PASSWORD FROM 'firstpass' TO 'nextpass'")
        with driver_of(uri, name, "nextpass") as driver:
            seen.append(who(driver) == name)
        return seen

    direct = story(place.server.uri, "dora")
    equal(direct, [EXPIRED, True], "without a proxy")
    with place() as proxy, driver_of(proxy.uri, "alice") as other:
        equal(who(other), "alice", "another user before")
        equal(story(proxy.uri, "dorb"), direct, "through the proxy")
        equal(who(other), "alice", "another user after")


@case
def one_user_suspended_by_wrong_passwords(place):
    """Three wrong passwords lock the user out at the server; who is in stays in."""
    with place() as proxy, driver_of(proxy.uri, "alice") as inside:
        equal(who(inside), "alice", "before")
        for number in range(4):
            with driver_of(proxy.uri, "alice", f"wrong-{number}") as driver:
                code = who(driver)
                check(code.startswith("Neo.ClientError.Security."), f"let in: {code}")
        equal(who(inside), "alice", "while the user is locked")
        time.sleep(5.5)  # the server's `auth_lock_time` is 5 s


def old(version, uri):
    """The view of a driver that speaks this one version: run by the old driver's Python."""
    code = [OLD_PYTHON, os.path.abspath(__file__), "--old", version, uri]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60)
    check(done.returncode == 0, f"Bolt {version}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


@case
def old_versions_stay_on_the_proxy(place):
    """Bolt 4.0 to 4.2 ask a procedure for the routing table; 4.3 and 4.4 have ROUTE."""
    with place() as proxy:
        for version in ("4.0", "4.1", "4.2", "4.3", "4.4"):
            address = proxy.uri.split("://")[1]
            view = old(version, f"neo4j://{address}")
            print(f"    {view}")
            equal(view["version"], version, "the version")
            equal(set(view["addresses"]), {address}, f"the addresses of {version}")
            equal(view["user"], "neo4j", "the user")


@case
def steered(place):
    with place(**{"uplink.versions": "5.4, 4.4"}) as proxy:
        with driver_of(proxy.uri, "neo4j") as driver, driver.session() as session:
            server = session.run("RETURN 1").consume().server
            equal(server.protocol_version, (5, 4), "today's driver")
        equal(old("4.4", proxy.uri)["version"], "4.4", "an old driver")
        check(old_is_refused(proxy.uri), "expected no version for a driver that speaks 4.2 only")


def old_is_refused(uri):
    try:
        old("4.2", uri)
    except AssertionError as refusal:
        return "handshake" in str(refusal)
    return False


def see_as_old(version, uri):
    """In the old driver: only one version is proposed."""
    from neo4j.io import Bolt
    wanted = tuple(int(part) for part in version.split("."))
    handlers = Bolt.protocol_handlers()

    def only(cls, protocol_version=None):
        if protocol_version is None:
            return {wanted: handlers[wanted]}
        return {key: value for key, value in handlers.items() if key == protocol_version}

    Bolt.protocol_handlers = classmethod(only)
    with neo4j.GraphDatabase.driver(uri, auth=("neo4j", PASSWORDS["neo4j"])) as driver:
        with driver.session() as session:
            result = session.run("CALL dbms.showCurrentUser() YIELD username RETURN username")
            user = result.single()[0]
            summary = result.consume()
        tables = getattr(driver._pool, "routing_tables", {})
        addresses = [f"{address[0]}:{address[1]}" for table in tables.values()
                     for address in table.servers()]
    seen = ".".join(str(part) for part in summary.server.protocol_version)
    print(json.dumps({"user": user, "version": seen, "addresses": addresses}))


class Place:
    """The server, and how to have a proxy in front of it."""

    def __init__(self, server, binary, shards):
        self.server, self.binary, self.shards = server, binary, shards

    def __call__(self, **options):
        from proxy import Proxy
        options = {"shards": self.shards, **options}
        return Proxy(self.binary, self.server.port, options, name="identities")

    def server_query(self, query):
        with self.server.driver() as driver:
            driver.execute_query(query, database_="system")


def run(name, place):
    print(f"  {name}", flush=True)
    started = time.monotonic()
    try:
        CASES[name](place)
        good = True
    except Exception as error:  # noqa: any error fails the case, and the others go on
        is_ours = isinstance(error, AssertionError)
        print("    " + (str(error) if is_ours else traceback.format_exc()))
        good = False
    verdict = "PASS" if good else "FAIL"
    print(f"  {verdict} {name} in {time.monotonic() - started:.0f} s", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", default=f"{REPOSITORY}/target/release/boltmux")
    parser.add_argument("--only", default="")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--old", nargs=2)
    arguments = parser.parse_args()
    if arguments.old:
        return see_as_old(*arguments.old)
    from server import Server
    end_in_order_on_sigterm()
    wanted = [name for name in arguments.only.split(",") if name] or list(CASES)
    server = Server("identities", heap="512m")
    try:
        server.start()
        place = Place(server, arguments.proxy, arguments.shards)
        results = [run(name, place) for name in wanted]
    finally:
        server.stop()
    print(f"identities on {HOST}: {sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
