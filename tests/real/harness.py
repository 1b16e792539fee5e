"""Runs named scenarios against one URI and prints what came of each as one line of JSON.

The same scenario is run against the server itself and through the proxy; the caller compares.
So an outcome holds values and error codes only: nothing that depends on time, ports or order of
threads. Works with every version of the Python driver that the tests use; what an older one or a
server lacks is left out, as `needs` says.
"""

import argparse
import json
import os
import sys
import threading
import time
import uuid

import neo4j
from neo4j.exceptions import Neo4jError

from support import PASSWORDS, wait_until

SCENARIOS = {}
NEEDS = {}
DRIVER_MAJOR = int(neo4j.__version__.split(".")[0])
SCENARIO_LIMIT_S = 90  # The slowest takes 5 s directly; what takes longer than this hangs.
HUNG_MAX = 3  # After so many that hang, the others would only cost time.
STILL_RUNNING = f"still running after {SCENARIO_LIMIT_S} s"


def scenario(function):
    """Registers a function of one Context that returns its outcome as plain values."""
    SCENARIOS[function.__name__] = function
    return function


def needs(driver=0, server=""):
    """What the decorated scenario needs: a driver since then, a server whose name begins so."""
    def remember(function):
        NEEDS[function.__name__] = (driver, server)
        return function
    return remember


def left_out(name, server):
    """The outcome of a scenario that cannot run here, or None."""
    driver_major, server_prefix = NEEDS.get(name, (0, ""))
    if DRIVER_MAJOR < driver_major:
        return {"skipped": f"the driver {driver_major} or newer has it"}
    return None if server.startswith(server_prefix) else {"skipped": "this server has it not"}


def use_newer_names():
    """Gives the sessions of the driver 4.4 the names that the scenarios use."""
    if DRIVER_MAJOR < 5:
        neo4j.Session.execute_write = neo4j.Session.write_transaction
        neo4j.Session.execute_read = neo4j.Session.read_transaction


def check(truth, what):
    """What must hold whoever stands between: it fails the scenario, also directly."""
    if not truth:
        raise AssertionError(what)


def one(runner, query, **parameters):
    """The only value of the only record, from a session or a transaction."""
    records = list(runner.run(query, parameters))
    check(len(records) == 1 and len(records[0]) == 1, f"expected one value: {records}")
    return records[0][0]


def attempt(function, *arguments, **options):
    """The value of the call, or its error in the form that outcomes have."""
    try:
        return function(*arguments, **options)
    except Exception as error:  # noqa: every error is an outcome here
        return error_of(error)


def error_of(error):
    if isinstance(error, Neo4jError):
        return {"error": error.code, "gql_status": getattr(error, "gql_status", None),
                "class": type(error).__name__}
    if isinstance(error, AssertionError):
        raise error
    return {"error": type(error).__name__}


def in_threads(functions, limit_s=60):
    """Runs all at once and returns their outcomes in the order given."""
    outcomes = [{"error": "still running"}] * len(functions)

    def run(index):
        try:
            outcomes[index] = attempt(functions[index])
        except AssertionError as error:
            outcomes[index] = {"failed": str(error)}

    threads = [threading.Thread(target=run, args=(index,), daemon=True)
               for index in range(len(functions))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return outcomes


class Context:
    """Where a scenario runs: drivers for the URI under test, and a direct view of the server."""

    def __init__(self, uri, direct_uri):
        self.uri = uri
        self.tag = uuid.uuid4().hex
        self._observer = neo4j.GraphDatabase.driver(
            direct_uri, auth=("neo4j", PASSWORDS["neo4j"]), user_agent="observer/1")

    def driver(self, user="neo4j", password=None, uri=None, **options):
        options.setdefault("max_transaction_retry_time", 20)
        return neo4j.GraphDatabase.driver(
            uri or self.uri, auth=(user, password or PASSWORDS[user]), **options)

    def direct(self, query, database=None, **parameters):
        """Asks the server without anything between; a list of maps."""
        with self._observer.session(database=database) as session:
            return session.run(query, parameters).data()

    def until_no_transaction(self, tag, limit_s=20):
        """Waits until the server has no open transaction whose metadata carries this tag."""
        wait_until(lambda: not self.direct(
            "SHOW TRANSACTIONS YIELD metaData WHERE metaData['tag'] = $tag RETURN metaData",
            tag=tag), limit_s, "the server to have ended the abandoned transaction")

    def find_transaction(self):
        """The ids that the server gave to the transaction with our tag, and its connection."""
        query = ("SHOW TRANSACTIONS YIELD transactionId, connectionId, metaData"
                 " WHERE metaData['tag'] = $tag RETURN transactionId, connectionId")
        return wait_until(lambda: self.direct(query, tag=self.tag), 20,
                          "the server to show the transaction")[0]

    def reset(self):
        self.direct("MATCH (n) DETACH DELETE n")

    def close(self):
        self._observer.close()


def run_one(function, uri, direct_uri):
    """The outcome of one scenario on an empty store, with the limit of time."""
    context = Context(uri, direct_uri)
    outcome = {"failed": STILL_RUNNING}

    def run():
        nonlocal outcome
        try:
            context.reset()
            outcome = attempt(function, context)
        except AssertionError as error:
            outcome = {"failed": str(error)}

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SCENARIO_LIMIT_S)
    if not thread.is_alive():
        context.close()
    return outcome


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--uri", required=True, help="what is under test")
    parser.add_argument("--direct", required=True, help="bolt:// of the server itself")
    parser.add_argument("--only", default="", help="names of scenarios, with commas")
    parser.add_argument("--server", default="neo4j-5.26", help="which server it is")
    arguments = parser.parse_args()
    use_newer_names()
    wanted = [name for name in arguments.only.split(",") if name]
    hung = 0
    for name, function in SCENARIOS.items():
        if wanted and name not in wanted:
            continue
        started = time.monotonic()
        outcome = left_out(name, arguments.server) or run_one(
            function, arguments.uri, arguments.direct)
        line = {"name": name, "outcome": outcome, "seconds": time.monotonic() - started}
        # What a server accepts that others refuse comes as an object of the driver.
        print(json.dumps(line, sort_keys=True, default=lambda value: type(value).__name__),
              flush=True)
        hung += outcome == {"failed": STILL_RUNNING}
        if hung == HUNG_MAX:
            break
    # A scenario that hangs left its thread behind, which must not keep this process.
    sys.stdout.flush()
    os._exit(0)
