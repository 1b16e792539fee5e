"""boltmux speaks TLS to a real Neo4j that takes nothing else, in transaction mode.

    tests/real/uplink.py [--proxy BINARY] [--only NAMES]

The server's certificate is of the tests' own authority, which boltmux learns from uplink.ca_file.
The scenarios of the official Python driver run directly, over bolt+s, and through boltmux, which
the driver reaches over plain TCP and over TLS; both must come to the same. Then what must not work:
an authority that boltmux does not know, and a plain connection.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

import prepare
from catalogue import CERTIFICATES, CORE
from outcome import failed, skipped
from proxy import Proxy
from server import Server
from support import CACHE, HOST, PASSWORDS, REPOSITORY, end_in_order_on_sigterm, end_with_parent

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVER = (f"{CACHE}/python-6.4.1/bin/python", f"{HERE}/scenarios.py")
PASS_LIMIT_S = 300  # It takes 5 s on an idle machine.
REFUSED_LIMIT_S = 20  # What cannot work must be said in a moment, not after the driver's minute.
# (the scheme that boltmux uses, whether it gets the authority, the driver's scheme)
WAYS = (("bolt+s", True, "bolt"), ("bolt+s", True, "bolt+s"), ("neo4j+s", True, "neo4j"),
        ("bolt+ssc", False, "bolt"))
# (why it cannot work, the scheme that boltmux uses, what its log must say)
REFUSALS = (("the authority is unknown", "bolt+s", "certificate"),
            ("the server takes no plain connection", "bolt", "closed"))


def server_with_tls():
    """A Neo4j that closes plain connections, with a certificate for the loopback names."""
    folder = os.path.join(CERTIFICATES, "neo4j")
    os.makedirs(folder, exist_ok=True)
    for ours, its in (("boltmux.crt", "public.crt"), ("boltmux.key", "private.key")):
        shutil.copy(os.path.join(CERTIFICATES, ours), os.path.join(folder, its))
    return Server("uplink", scheme="bolt+s", settings=(
        "server.bolt.tls_level=REQUIRED", "dbms.ssl.policy.bolt.enabled=true",
        f"dbms.ssl.policy.bolt.base_directory={folder}", "dbms.ssl.policy.bolt.client_auth=NONE",
        # Nobody is locked out for the next client.
        "dbms.security.auth_max_failed_attempts=0"))


def start(server):
    """This process's own driver believes the authority by the environment; boltmux must not."""
    before = dict(os.environ)
    os.environ.update(prepare.trust())
    try:
        server.start()
    finally:
        os.environ.clear()
        os.environ.update(before)


def outcomes_of(uri, direct_uri, only):
    """{name: outcome} of the driver's scenarios at this URI."""
    done = subprocess.run(
        [*DRIVER, "--uri", uri, "--direct", direct_uri, "--only", only], capture_output=True,
        text=True, timeout=PASS_LIMIT_S, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent,
        env={**os.environ, **prepare.trust()})
    lines = [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]
    if not lines:
        print(f"    nothing ran at {uri}: {done.stderr[-1500:]}")
    return {line["name"]: line["outcome"] for line in lines}


class Results:
    """Prints a line for each check and counts them."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def line(self, good, what, note=""):
        print(f"  {'PASS' if good else 'FAIL'} {what} {note}".rstrip(), flush=True)
        self.passed += bool(good)
        self.failed += not good

    def compare(self, what, direct, through):
        ran = [name for name, outcome in direct.items()
               if not skipped(outcome) and not failed(outcome)]
        wrong = [name for name in direct if direct[name] != through.get(name)]
        self.line(len(ran) == len(direct) > 0 and not wrong, what,
                  f"{len(ran) - len(wrong)} of {len(direct)} scenarios equal")
        for name in wrong:
            print(f"    {name}\n      direct:  {json.dumps(direct[name])[:1000]}\n"
                  f"      through: {json.dumps(through.get(name))[:1000]}")


def start_proxy(binary, server, scheme, name, knows_authority):
    options = {"pool.mode": "transaction", "pool.size": 4, "shards": 2}
    if knows_authority:
        options["uplink.ca_file"] = prepare.AUTHORITY
    flags = ["--cert", os.path.join(CERTIFICATES, "boltmux.crt"),
             "--key", os.path.join(CERTIFICATES, "boltmux.key")]
    return Proxy(binary, server.port, options, name=name, flags=flags, scheme=scheme)


def work_as_directly(binary, server, only, results):
    direct = outcomes_of(server.uri, server.uri, only)
    for scheme, knows_authority, clients in WAYS:
        proxy = start_proxy(binary, server, scheme, f"uplink-{scheme}", knows_authority)
        with proxy:
            uri = f"{clients}://{HOST}:{proxy.port}"
            through = outcomes_of(uri, server.uri, only)
            what = f"{scheme}:// to the server, {clients}:// to boltmux:"
            results.compare(what, direct, through)
            output, status = proxy.output(), proxy.stop()
            results.line("panicked" not in output and status == 0, f"{what} ends with 0")


def refuse(binary, server, results):
    for why, scheme, said in REFUSALS:
        proxy = start_proxy(binary, server, scheme, f"uplink-refused-{scheme}", False)
        with proxy:
            started = time.monotonic()
            try:
                with neo4j.GraphDatabase.driver(
                        proxy.uri, auth=("neo4j", PASSWORDS["neo4j"]), connection_timeout=10,
                        connection_acquisition_timeout=10, max_transaction_retry_time=0) as driver:
                    driver.execute_query("RETURN 1")
                outcome = "an answer"
            except (Neo4jError, DriverError) as error:
                outcome = getattr(error, "code", None) or type(error).__name__
            took_s = time.monotonic() - started
            good = outcome != "an answer" and took_s < REFUSED_LIMIT_S and said in proxy.output()
            results.line(good, f"{why}:", f"came {outcome} after {took_s:.1f} s")
            if not good:
                print(proxy.output()[-1500:])


def main():
    end_in_order_on_sigterm()
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", default=f"{REPOSITORY}/target/release/boltmux")
    parser.add_argument("--only", default=CORE)
    arguments = parser.parse_args()
    prepare.certificates()
    results = Results()
    server = server_with_tls()
    try:
        start(server)
        work_as_directly(arguments.proxy, server, arguments.only, results)
        refuse(arguments.proxy, server, results)
    finally:
        server.stop()
    print(f"uplink on {HOST}: {results.passed} passed, {results.failed} failed")
    sys.exit(0 if results.passed and not results.failed else 1)


if __name__ == "__main__":
    main()
