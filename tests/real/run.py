"""Runs the scenarios of every driver directly and through the proxy, and compares the outcomes.

    tests/real/run.py [--proxy BINARY | --direct-only] [--only NAMES] [--drivers NAMES]
                      [--schemes bolt,neo4j] [--shards 1,2] [--server PORT]

A scenario passes when it came to the same values and error codes both ways. Run it with the
Python of .cache/python-*, which has the official driver. With --direct-only the second run is
direct too: that shows whether the scenarios themselves are steady.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from catalogue import CORE
from outcome import failed, skipped
from proxy import Proxy
from server import Server
from support import CACHE, HOST, REPOSITORY, end_in_order_on_sigterm, end_with_parent

HERE = os.path.dirname(os.path.abspath(__file__))
# The matrix has all clients and servers; here all scenarios of the drivers most used run, on one
# shard and on several.
DRIVERS = {
    "python": [f"{CACHE}/python-6.4.1/bin/python", f"{HERE}/scenarios.py"],
    "python-4.4": [f"{CACHE}/python-4.4.12/bin/python", f"{HERE}/scenarios_44.py"],
    "javascript": ["node", f"{HERE}/node.mjs", f"{CACHE}/node-6.3.0"],
}
# What the older driver shares with the newer one is in the matrix.
ONLY = {"python-4.4": CORE}
# One pass of one driver takes 35 s directly; scenarios that hang give up by themselves.
PASS_LIMIT_S = 500
SHOWN_MAX = 1500  # Characters of an outcome that is shown when the two differ.
NOT_RUN = ({"failed": "it did not run"}, 0)


def run_pass(driver, scheme, port, direct_port, only, label):
    """{name: (outcome, seconds)} of one driver's scenarios against one port, and what is wrong with
    how the pass itself ended, or None."""
    argv = DRIVERS[driver] + [
        "--uri", f"{scheme}://{HOST}:{port}", "--direct", f"bolt://{HOST}:{direct_port}",
        "--only", only or ONLY.get(driver, "")]
    log_path = os.path.join(CACHE, "run", f"{driver}-{scheme}-{label}.log")
    with open(log_path, "w") as log:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=log, text=True, preexec_fn=end_with_parent)
        try:
            output, _ = child.communicate(timeout=PASS_LIMIT_S)
            problem = child.returncode and f"ended with {child.returncode}"
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            problem = f"not done after {PASS_LIMIT_S} s"
    # What stands behind the last end of a line was cut off.
    lines = [json.loads(line) for line in output.split("\n")[:-1] if line.startswith("{")]
    # Not every driver has the scenarios that were named.
    if not lines and not only:
        problem = problem or "no scenario ran"
    if problem:
        with open(log_path) as log:
            print(f"  {driver}: {problem}; the end of {log_path} says:\n{log.read()[-2000:]}")
    return {line["name"]: (line["outcome"], line["seconds"]) for line in lines}, problem


class Table:
    """Prints a line for each comparison and counts them."""

    def __init__(self):
        self.passed, self.failures = 0, []

    def take(self, what, came):
        """The outcomes of a pass; one that did not end in order is a failure by itself."""
        outcomes, problem = came
        if problem:
            self.line(False, what, problem)
        return outcomes

    def compare(self, place, direct, through):
        """Whatever ran one way must have run the other way, too."""
        for name in dict.fromkeys([*direct, *through]):
            expected, direct_s = direct.get(name, NOT_RUN)
            came, through_s = through.get(name, NOT_RUN)
            if skipped(expected) and skipped(came):
                continue
            # A scenario that ends in an error as a whole proves nothing, however equal it is.
            good = expected == came and not failed(expected)
            self.line(good, f"{place} {name}", f"{direct_s:6.2f} s direct {through_s:6.2f} s")
            if not good:
                print(f"    direct:  {json.dumps(expected)[:SHOWN_MAX]}")
                print(f"    through: {json.dumps(came)[:SHOWN_MAX]}", flush=True)

    def line(self, good, what, note=""):
        print(f"  {'PASS' if good else 'FAIL'} {what:64} {note}", flush=True)
        if good:
            self.passed += 1
        else:
            self.failures.append(what)


def run_directly(arguments, table, port, label):
    outcomes = {}
    for scheme in arguments.schemes.split(","):
        for driver in arguments.drivers.split(","):
            started = time.monotonic()
            outcomes[driver, scheme] = table.take(f"{driver} {scheme}:// {label}", run_pass(
                driver, scheme, port, port, arguments.only, label))
            print(f"  direct: {driver} over {scheme}://, {len(outcomes[driver, scheme])} scenarios"
                  f" in {time.monotonic() - started:.0f} s", flush=True)
    if not any(outcomes.values()):
        table.line(False, f"no scenario ran, {label}", f"--only {arguments.only}")
    return outcomes


def run_through(arguments, table, direct, server, shards):
    proxy = Proxy(arguments.proxy, server.port, {"pool.size": 4, "shards": shards},
                  name=f"boltmux-{shards}")
    with proxy:
        for (driver, scheme), expected in direct.items():
            place = f"{driver} {scheme}:// shards={shards}"
            through = table.take(place, run_pass(driver, scheme, proxy.port, server.port,
                                                 arguments.only, f"shards{shards}"))
            table.compare(place, expected, through)
        table.line(proxy.running(), f"shards={shards} boltmux is still running")
        table.line("boltmux_relayed_bytes_total" in str(proxy.metrics()),
                   f"shards={shards} boltmux shows its metrics")
        output = proxy.output()
        table.line("panicked" not in output, f"shards={shards} no panic in {proxy.log_path}")
        status = proxy.stop()
        table.line(status == 0, f"shards={shards} boltmux ends with 0 on SIGTERM", f"({status})")


class Running:
    """A server that somebody else started and ends."""

    def __init__(self, port):
        self.port = port

    def stop(self):
        pass


def main():
    end_in_order_on_sigterm()
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", default=f"{REPOSITORY}/target/release/boltmux")
    parser.add_argument("--direct-only", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--drivers", default=",".join(DRIVERS))
    parser.add_argument("--schemes", default="bolt,neo4j")
    parser.add_argument("--shards", default="1,2")
    parser.add_argument("--server", type=int, help="port of a server with both users")
    arguments = parser.parse_args()
    if not arguments.direct_only and not os.path.exists(arguments.proxy):
        sys.exit(f"expected the proxy at {arguments.proxy}: build it, or use --direct-only")
    table = Table()
    server = Running(arguments.server) if arguments.server else Server("scenarios").start()
    try:
        direct = run_directly(arguments, table, server.port, "direct")
        if arguments.direct_only:
            again = run_directly(arguments, table, server.port, "again")
            for (driver, scheme), expected in direct.items():
                table.compare(f"{driver} {scheme}:// direct", expected, again[driver, scheme])
        else:
            for shards in arguments.shards.split(","):
                run_through(arguments, table, direct, server, int(shards))
    finally:
        server.stop()
    for failure in table.failures:
        print(f"failed: {failure}")
    print(f"scenarios: {table.passed} passed, {len(table.failures)} failed")
    sys.exit(0 if table.passed and not table.failures else 1)


if __name__ == "__main__":
    main()
